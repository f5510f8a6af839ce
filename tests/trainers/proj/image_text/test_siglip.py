"""The trainer of image-text models, with tiny towers on random pairs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toy
from big_vision.models.proj.image_text import two_towers
from big_vision.trainers.proj.image_text import (
  _deprecated_contrastive,
  contrastive,
  siglip,
)
from big_vision.training import loop

pytestmark = pytest.mark.usefixtures("quick_compilation")

L, VOCAB = 4, 12
MODEL = dict(
  image=dict(patch_size=(4, 4), width=16, depth=1, num_heads=2,
             head_zeroinit=False),
  text=dict(width=16, depth=1, mlp_dim=32, num_heads=2, vocab_size=VOCAB),
  out_dim=8,
  temperature_init=10.0,
  bias_init=-10.0,
)  # fmt: skip


def batch_fn(step, size=16):
  """Each image shows, as brightness of its quarters, the tokens of its text."""
  r = np.random.default_rng([3, step])
  tokens = r.integers(VOCAB, size=(size, L))
  quarters = (tokens / VOCAB * 2 - 1).reshape(size, 2, 1, 2, 1, 1)
  image = np.broadcast_to(quarters, (size, 2, 4, 2, 4, 1))
  return {
    "image": image.reshape(size, 8, 8, 1).astype(np.float32),
    "labels": tokens.astype(np.int32),
  }


def make_setup(workdir=None, devices=None, **kw):
  default = dict(model_name="proj.image_text.two_towers", model=MODEL, lr=0.01)
  config = toy.config(**default | kw)
  out = toy.setup(config, workdir, devices, batch_fn=batch_fn)
  return dataclasses.replace(
    out, batch_shapes=jax.eval_shape(lambda: batch_fn(0))
  )


def plain_losses(params, batch, bias):
  """Both losses, from all pairs, in NumPy."""
  model = two_towers.Model(**MODEL)
  zimg, ztxt, out = jax.jit(model.apply)(
    {"params": params}, batch["image"], batch["labels"]
  )
  dots = np.asarray(zimg, np.float64) @ np.asarray(ztxt, np.float64).T
  logits = float(out["t"][0]) * dots
  signs = 2 * np.eye(len(dots)) - 1
  sigmoid = np.logaddexp(0, -signs * (logits + bias)).sum() / len(dots)
  own = np.diag(logits)
  lse = [np.log(np.exp(logits).sum(axis)) for axis in (0, 1)]
  return {"sigmoid": sigmoid, "softmax": np.mean([x - own for x in lse])}


@pytest.mark.parametrize(
  "loss", ["sigmoid", pytest.param("softmax", marks=pytest.mark.slow)]
)
def test_first_step(tmp_path, loss):
  s = make_setup(tmp_path / "w", total_steps=1, schedule={}, loss_fn=loss)
  recipe = siglip.build(s)
  key = jax.random.split(jax.random.PRNGKey(0))[1]
  params = jax.jit(recipe.init)(key, batch_fn(0))
  loop.run(s, recipe)
  row = toy.rows(tmp_path / "w")[1]
  want = plain_losses(params, batch_fn(0), bias=-10.0)
  assert row["training_loss"] == pytest.approx(want[loss], rel=1e-4)
  assert row["t"] == pytest.approx(10, rel=1e-5)
  assert row["t/parameter"] == pytest.approx(np.log(10), rel=1e-5)
  assert row["train/nimg"] > 0 and row["train/ntxt"] > 0
  if loss == "softmax":
    both = row["train/i2t_loss"] + row["train/t2i_loss"]
    assert both / 2 == pytest.approx(want[loss], rel=1e-4)
  else:
    low, avg, high = (
      row[f"train/pos_{x}_logit"] for x in ("min", "avg", "max")
    )
    assert low <= avg <= high


def curve(tmp_path, name, **kw):
  s = make_setup(tmp_path / name, **kw)
  loop.run(s, siglip.build(s))
  rows = toy.rows(tmp_path / name)
  names = ("training_loss", "l2_grads", "l2_params")
  return [[row[k] for k in names] for row in rows.values()]


@pytest.mark.multidevice
@pytest.mark.parametrize(
  "loss, kw",
  [
    pytest.param(
      "sigmoid", dict(devices=jax.devices()), marks=pytest.mark.slow
    ),
    (
      "softmax",
      dict(devices=jax.devices()[:2], grad_accum_steps=4, loss_chunk=3),
    ),
  ],
)
def test_curve_depends_neither_on_devices_nor_on_micro_batches(
  tmp_path, loss, kw
):
  want = curve(tmp_path, "one", total_steps=4, loss_fn=loss)
  got = curve(tmp_path, "other", total_steps=4, loss_fn=loss, **kw)
  np.testing.assert_allclose(got, want, rtol=2e-4)


@pytest.mark.slow
def test_learns_which_text_belongs_to_an_image(tmp_path):
  s = make_setup(
    tmp_path / "w",
    total_steps=200,
    input=dict(batch_size=32),
    loss_fn="softmax",
  )
  recipe = siglip.build(s)
  state = loop.run(s, recipe)
  test = batch_fn(10**6, 32)
  zimg, ztxt, _ = jax.jit(recipe.predict_fns["predict"])(state, test)
  hits = jnp.argmax(zimg @ ztxt.T, axis=1) == jnp.arange(32)
  assert np.mean(hits) > 0.7  # By chance: 0.03.
  # Each tower alone.
  got, none, _ = recipe.predict_fns["predict"](state, {"image": test["image"]})
  assert none is None
  np.testing.assert_allclose(got, zimg, atol=1e-4)
  none, got, _ = recipe.predict_fns["predict"](
    state, {"labels": test["labels"]}
  )
  assert none is None
  np.testing.assert_allclose(got, ztxt, atol=1e-4)


def test_lit_does_not_train_the_image_tower(tmp_path):
  s = make_setup(
    tmp_path / "w",
    total_steps=3,
    schedule=[("img/.*", None), (".*", dict(decay_type="cosine"))],
  )
  recipe = siglip.build(s)
  key = jax.random.split(jax.random.PRNGKey(0))[1]
  before = jax.jit(recipe.init)(key, batch_fn(0))
  after = loop.run(s, recipe)["params"]
  same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), before, after)
  assert all(jax.tree.leaves(same["img"]))
  assert not all(jax.tree.leaves(same["txt"]))
  assert not same["t"]


def test_older_entry_points(tmp_path):
  for module in (contrastive, _deprecated_contrastive):
    assert callable(module.main)
    recipe = module.build(make_setup())
    params = jax.jit(recipe.init)(jax.random.key(0), batch_fn(0))
    loss, measured = jax.jit(recipe.loss_fn)(
      params, batch_fn(0), jax.random.key(1), {}
    )
    want = plain_losses(params, batch_fn(0), bias=0.0)["softmax"]
    assert loss == pytest.approx(want, rel=1e-4)
    assert "train/i2t_acc" in measured


def test_bad_configs():
  with pytest.raises(ValueError, match="config.loss_fn.*'sigmod'.*'sigmoid'"):
    siglip.build(make_setup(loss_fn="sigmod"))
  with pytest.raises(ValueError, match="config.mixup"):
    siglip.build(make_setup(mixup=dict(p=0.5)))
