"""The trainer of captioners, with a tiny model on random captions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import toy
from big_vision import lookup, trees
from big_vision.models.proj.cappa import cappa
from big_vision.trainers.proj.cappa import generative, predict_fns
from big_vision.training import loop
from big_vision.training import state as state_lib

pytestmark = pytest.mark.usefixtures("quick_compilation")

V, L, B = 12, 5, 8
MODEL = dict(
  num_heads=2, num_layers=1, mlp_dim=16, emb_dim=8, vocab_size=V, seq_len=L,
  patches=(4, 4), masked_pred_prob=0.5, masking_ratio=1.0, dec_dropout_rate=0.1,
)  # fmt: skip


def batch_fn(step, size=B, masks=True):
  r = np.random.default_rng([3, step])
  labels = r.integers(1, V, size=(size, L)).astype(np.int32)
  labels[::2, 3:] = 0
  data = {
    "image": r.normal(size=(size, 8, 8, 3)).astype(np.float32),
    "labels": labels,
  }
  if masks:
    data["label_masks"] = (r.random((size, L)) < 0.8).astype(np.float32)
  return data


def make_setup(workdir=None, **kw):
  default = dict(
    model_name="proj.cappa.cappa",
    model=MODEL,
    lr=0.01,
    input=dict(batch_size=B),
  )
  setup = toy.setup(toy.config(**default | kw), workdir, batch_fn=batch_fn)
  return dataclasses.replace(
    setup, batch_shapes=jax.eval_shape(lambda: batch_fn(0))
  )


def noisy(params):
  """Parameters far from the initial ones, which predict nothing."""
  rng = np.random.default_rng(0)
  add = lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32)
  return jax.tree.map(add, params)


def plain_loss(params, batch, key, smoothing=0.0):
  """The loss in NumPy, from the logits of training."""
  logits = cappa.Model(**MODEL).apply(
    {"params": params}, batch["image"], batch["labels"], train=True,
    rngs={"dropout": key},
  )  # fmt: skip
  log_p = scipy.special.log_softmax(np.asarray(logits, np.float64), -1)
  target = np.full(log_p.shape, smoothing / (V - 1))
  np.put_along_axis(target, batch["labels"][..., None], 1 - smoothing, -1)
  weights = (batch["labels"] != 0) * batch["label_masks"]
  losses = -(target * log_p).sum(-1) * weights
  return np.mean(losses.sum(1) / np.maximum(weights.sum(1), 1e-30))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_first_steps(tmp_path, smoothing):
  setup = make_setup(
    tmp_path / "w",
    total_steps=2,
    label_smoothing=smoothing,
    lr=0.0,
    wd=0.0,
    schedule={},
  )
  recipe = generative.build(setup)
  rng_init, rng = state_lib.seed_keys(0)
  params = jax.jit(recipe.init)(rng_init, batch_fn(0))
  final = loop.run(setup, recipe)
  rows = toy.rows(tmp_path / "w")
  for step in (1, 2):
    rng, key = jax.random.split(rng)
    want = plain_loss(params, batch_fn(step - 1), key, smoothing)
    assert rows[step]["training_loss"] == pytest.approx(want, rel=1e-5)
  np.testing.assert_array_equal(final["rng"], rng)


def test_goes_on_with_the_same_numbers(tmp_path):
  kw = dict(total_steps=6, ckpt_steps=3, keep_ckpt_steps=3)
  whole = loop.run(s := make_setup(tmp_path / "a", **kw), generative.build(s))
  config = dict(kw, resume=str(tmp_path / "a" / "checkpoint.bv-000000003"))
  again = loop.run(
    s := make_setup(tmp_path / "b", **config), generative.build(s)
  )
  assert sorted(whole) == ["opt", "params", "rng"]
  for (name, x), (_, y) in zip(
    *(trees.tree_flatten_with_names(t)[0] for t in (whole, again)), strict=True
  ):
    np.testing.assert_array_equal(x, y, err_msg=name)


def test_micro_batches_draw_numbers_of_their_own():
  recipe = generative.build(make_setup(grad_accum_steps=2))
  batch = batch_fn(0)
  params = jax.jit(recipe.init)(jax.random.key(0), batch)
  state = recipe.extra_state(params)
  params = noisy(params)
  loss = jax.jit(lambda key: recipe.loss_fn(params, batch, key, state)[0])
  assert loss(jax.random.PRNGKey(1)) != loss(jax.random.PRNGKey(2))
  whole = generative.build(make_setup())
  loss = jax.jit(lambda key: whole.loss_fn(params, batch, key, state)[0])
  assert loss(jax.random.PRNGKey(1)) == loss(jax.random.PRNGKey(2))


def test_captions_are_not_mixed():
  with pytest.raises(lookup.ConfigError, match=r"config\.mixup"):
    generative.build(make_setup(mixup=dict(p=0.1)))


@pytest.fixture(scope="module")
def trained():
  model = cappa.Model(**MODEL)
  params = model.init(jax.random.key(0), *list(batch_fn(0).values())[:2])
  return model, noisy(params)


def test_scores_are_log_probabilities(trained):
  model, params = trained
  image = batch_fn(0)["image"]
  captions = np.array([[3, 4, 1, 0, 0], [5, 1, 0, 0, 0], [7, 8, 9, 10, 1]])
  fns = predict_fns.get_predict_fns(model)
  got = jax.jit(fns["score"])(
    params, {"image": image, "_label_tokens": captions}
  )
  assert got.shape == (B, 3)
  for c, caption in enumerate(captions):
    labels = np.broadcast_to(caption, (B, L))
    logits, out = fns["perplexity"](params, {"image": image, "labels": labels})
    np.testing.assert_array_equal(logits, out["logits"])
    log_p = scipy.special.log_softmax(np.asarray(logits, np.float64), -1)
    each = np.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    want = (each * (caption > 0)).sum(-1)
    np.testing.assert_allclose(got[:, c], want, rtol=1e-5)


def test_prompts(trained, monkeypatch):
  model, params = trained
  tokens = predict_fns.make_prompt("a red circle", "shapes")
  assert tokens.dtype == np.int32 and len(tokens) == 3 and 1 not in tokens
  padded = predict_fns.make_prompt("a red circle", "shapes", 5)
  np.testing.assert_array_equal(padded, [*tokens, 0, 0])
  np.testing.assert_array_equal(
    predict_fns.make_prompt("a red circle", "shapes", 2), tokens[:2]
  )
  batch = {"image": batch_fn(0)["image"]}
  monkeypatch.setattr(predict_fns, "make_prompt", lambda *_: np.array([9, 8]))
  score = predict_fns.get_predict_fns(model)["score"]
  got = score(
    params,
    batch | {"_label_tokens": np.array([[3, 4, 1, 0, 0]])},
    prompt="x",
    prompt_tokenizer="y",
  )
  want = score(params, batch | {"_label_tokens": np.array([[9, 8, 3, 4, 1]])})
  np.testing.assert_array_equal(got, want)


def test_encoder_features(trained):
  model, params = trained
  image = jnp.asarray(batch_fn(0)["image"])
  encoded, out = predict_fns.get_predict_fns(model)["enc_rep"](
    params, {"image": image}
  )
  np.testing.assert_array_equal(
    encoded, model.apply(params, image, method="encode")
  )
  assert out["pre_logits"].shape == (B, 8)
