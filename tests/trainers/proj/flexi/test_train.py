"""FlexiViT's trainer on random images."""

import dataclasses

import jax
import numpy as np
import pytest

import toy
from big_vision.models.proj.flexi import vit
from big_vision.trainers.proj.flexi import common, train
from big_vision.training import loop

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZES = (2, 3, 4)
MODEL = dict(
  patch_size=(4, 4), posemb_size=(3, 3), width=16, depth=1, num_heads=2,
  head_zeroinit=False,
)  # fmt: skip

apply = jax.jit(vit.Model(2, **MODEL).apply, static_argnames="seqhw")


def batch_fn(step, size=16):
  """Images of two classes: a bright left or right half."""
  r = np.random.default_rng([3, step])
  labels = r.integers(2, size=size)
  image = r.normal(size=(size, 12, 12, 1)).astype(np.float32)
  image[..., :6, :] += np.where(labels, 1.0, -1.0)[:, None, None, None]
  return {"image": image, "labels": np.eye(2, dtype=np.float32)[labels]}


def make_setup(workdir=None, **kw):
  default = dict(
    num_classes=2,
    loss="softmax_xent",
    model_name="proj.flexi.vit",
    model=MODEL,
    flexi=dict(seqhw=dict(v=SIZES, p=(1, 1, 2))),
    lr=0.01,
    log_training_steps=1,
  )
  out = toy.setup(toy.config(**default | kw), workdir, batch_fn=batch_fn)
  return dataclasses.replace(
    out, batch_shapes=jax.eval_shape(lambda: batch_fn(0))
  )


def logits(params, seqhw, image):
  return apply({"params": params}, image, seqhw=seqhw)[0]


def xent(params, seqhw, batch):
  p = jax.nn.log_softmax(logits(params, seqhw, batch["image"]))
  return -np.mean(np.sum(np.asarray(p) * batch["labels"], axis=-1))


def test_the_first_step_has_the_drawn_size(tmp_path):
  s = make_setup(tmp_path / "w", total_steps=1, schedule={})
  recipe = train.build(s)
  # Parameters are those of the seed, whatever the sizes.
  key = jax.random.split(jax.random.PRNGKey(0))[1]
  params = jax.jit(recipe.init)(key, batch_fn(0))
  loop.run(s, recipe)
  (size,) = common.static_args(s.config.flexi)(1)
  losses = {n: xent(params, n, batch_fn(0)) for n in SIZES}
  row = toy.rows(tmp_path / "w")[1]
  np.testing.assert_allclose(row["training_loss"], losses[size], rtol=1e-4)
  others = [x for n, x in losses.items() if n != size]
  assert min(abs(row["training_loss"] - x) for x in others) > 1e-4


@pytest.mark.slow
def test_learns_for_all_sizes(tmp_path):
  s = make_setup(tmp_path / "w", total_steps=80)
  recipe = train.build(s)
  state = loop.run(s, recipe)
  assert set(recipe.predict_fns) == {f"predict_seqhw={n}" for n in SIZES}
  test = batch_fn(10**6, 200)
  for n in SIZES:
    got, out = jax.jit(recipe.predict_fns[f"predict_seqhw={n}"])(state, test)
    assert out["stem"].shape == (200, n, n, 16)
    np.testing.assert_allclose(
      got, logits(state["params"], n, test["image"]), atol=1e-4
    )
    assert np.mean(np.argmax(got, 1) == test["labels"].argmax(1)) > 0.9
