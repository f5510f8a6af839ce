"""The trainer of flows, with a tiny one on random pictures of 256 levels."""

import dataclasses
import math

import jax
import ml_collections as mlc
import numpy as np
import pytest
import scipy.stats

import toy
from big_vision import lookup
from big_vision.models.proj.jet import jet
from big_vision.trainers.proj.jet import train
from big_vision.training import loop
from big_vision.training import state as state_lib

pytestmark = pytest.mark.usefixtures("quick_compilation")

B, N = 8, 4
MODEL = dict(
  depth=2, emb_dim=8, num_heads=2, ps=4, kinds=("channels", "spatial")
)  # fmt: skip
SCHEDULE = [(".*FREEZE_ME.*", None), (".*", dict(decay_type="cosine"))]


def batch_fn(step, size=B, label=None):
  r = np.random.default_rng([3, step])
  image = r.integers(0, 256, size=(size, 8, 8, 3)) / 127.5 - 1
  batch = {"image": image.astype(np.float32)}
  if label:
    batch["label"] = np.eye(N, dtype=np.float32)[r.integers(0, N, size)]
  return batch


def make_setup(workdir=None, label=None, **kw):
  default = dict(
    model_name="proj.jet.jet",
    model=MODEL,
    schedule=SCHEDULE,
    wd_mults=[(".*", 1.0)],
    input=dict(batch_size=B),
  )
  fn = lambda step, size=B: batch_fn(step, size, label)
  setup = toy.setup(toy.config(**default | kw), workdir, batch_fn=fn)
  return dataclasses.replace(setup, batch_shapes=jax.eval_shape(lambda: fn(0)))


def plain_bits(image):
  """Bits of a flow that changes nothing, of images with noise."""
  log_p = scipy.stats.norm.logpdf(np.asarray(image, np.float64))
  return (np.log(127.5) - log_p).mean() / np.log(2)


def noisy(params):
  """Parameters that are not the identity."""
  r = np.random.default_rng(0)
  add = lambda x: x + 0.3 * r.normal(size=x.shape).astype(np.float32)
  return {**params, "couplings": jax.tree.map(add, params["couplings"])}


def test_two_steps(tmp_path):
  setup = make_setup(tmp_path / "w", total_steps=2)
  recipe = train.build(setup)
  rng_init, rng_loop = state_lib.seed_keys(0)
  first = jax.jit(recipe.init)(rng_init, batch_fn(0))
  state = loop.run(setup, recipe)
  row = toy.rows(tmp_path / "w")[1]
  key = jax.random.split(jax.random.fold_in(rng_loop, 0), 3)[0]
  image = batch_fn(0)["image"]
  noise = jax.random.uniform(key, image.shape) / 127.5
  assert row["training_loss"] == pytest.approx(
    plain_bits(image + noise), rel=1e-6
  )
  assert row["bits"] == row["training_loss"]
  assert row["nll"] - row["logdet"] == pytest.approx(row["bits"], rel=1e-6)
  assert row["l2_updates"] > 0
  for name in jet.MASKS:  # Weight decay is for all, but these.
    np.testing.assert_array_equal(state["params"][name], first[name])


def test_bits_are_those_of_a_distribution():
  """Probabilities of all levels, averaged over noise, have the right sum."""
  levels = np.arange(256)[:, None] + (np.arange(100) + 0.5)[None] / 100
  x = (levels / 127.5 - 1).astype(np.float32).reshape(-1, 1, 1, 1)
  values = train.bits_per_dim(x, np.zeros(len(x), np.float32))
  probs = 2.0 ** -np.asarray(values["bits"], np.float64)
  ends = scipy.stats.norm.cdf([-1, 1 + 1 / 127.5])
  assert probs.sum() / 100 == pytest.approx(ends[1] - ends[0], rel=1e-5)


def test_bits_follow_from_the_determinant():
  z = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
  logdet = np.array([3.0, -40.0], np.float32)
  got = train.bits_per_dim(z, logdet)
  np.testing.assert_allclose(got["nll"], [plain_bits(x) for x in z], rtol=1e-5)
  want = logdet / (48 * math.log(2))
  np.testing.assert_allclose(got["logdet"], want, rtol=1e-6)
  np.testing.assert_allclose(got["bits"], got["nll"] - want, rtol=1e-6)


def test_micro_batches_see_the_same_noise():
  recipe = train.build(make_setup())
  batch = batch_fn(0)
  image = recipe.augment(batch, jax.random.key(1))[0]["image"]
  again = recipe.augment(batch, jax.random.key(1))[0]["image"]
  np.testing.assert_array_equal(image, again)
  noise = image - batch["image"]
  assert noise.min() >= -1e-6 and noise.max() <= 1 / 127.5 + 1e-6
  assert noise.std() == pytest.approx(1 / 127.5 / math.sqrt(12), rel=0.1)
  other = recipe.augment(batch, jax.random.key(2))[0]["image"]
  assert np.abs(other - image).max() > 1e-3


def test_evaluation_does_not_depend_on_the_batch():
  recipe = train.build(make_setup())
  batch = batch_fn(0)
  params = noisy(jax.jit(recipe.init)(jax.random.key(0), batch))
  loss = jax.jit(recipe.predict_fns["loss"])
  got = loss({"params": params}, batch)
  assert sorted(got) == ["bits", "logdet", "nll"]
  order = np.array([3, 1, 0, 2, 7, 6, 5, 3])
  other = loss({"params": params}, {"image": batch["image"][order]})
  for name, value in got.items():
    assert value.shape == (B,)
    np.testing.assert_allclose(other[name], value[order], rtol=1e-5)
  np.testing.assert_array_equal(
    loss({"params": params}, batch)["bits"], got["bits"]
  )


def test_each_image_has_noise_of_its_own():
  image = batch_fn(0)["image"]
  image[1] = image[0]
  image[1, 0, 0, 0] += 2 / 255  # One level, of one color of one pixel.
  out = train._with_own_noise(image, jax.random.key(0))
  noise = np.asarray(out - image).reshape(B, -1)
  np.testing.assert_allclose(noise.mean(), 1 / 255, rtol=0.05)
  correlation = np.corrcoef(noise) - np.eye(B)
  assert np.abs(correlation).max() < 0.35


@pytest.mark.parametrize("prob", [0.0, 0.5, 1.0])
def test_labels_of_some_examples_are_dropped(prob):
  recipe = train.build(make_setup(label=True, condition_drop_prob=prob))
  batch = batch_fn(0, 400, label=True)
  batch["image"] = batch["image"][:, :1, :1]
  out, _ = recipe.augment(batch, jax.random.key(1))
  kept = np.asarray(out["label"]).any(axis=1)
  np.testing.assert_array_equal(
    out["label"], np.where(kept[:, None], batch["label"], 0)
  )
  assert kept.mean() == pytest.approx(1 - prob, abs=0.1)


def test_conditional():
  recipe = train.build(make_setup(label=True))
  batch = batch_fn(0, label=True)
  params = noisy(jax.jit(recipe.init)(jax.random.key(0), batch))
  loss = jax.jit(recipe.predict_fns["loss"])
  bits = loss({"params": params}, batch)["bits"]
  classes = np.roll(batch["label"], 1, axis=1)
  other = loss({"params": params}, {**batch, "label": classes})["bits"]
  assert (np.abs(bits - other) > 1e-4).all()
  none = loss({"params": params}, {**batch, "label": 0 * classes})["bits"]
  assert (np.abs(bits - none) > 1e-4).all()
  with pytest.raises(lookup.ConfigError, match=r"config\.evals"):
    loss({"params": params}, {"image": batch["image"]})


def test_labels_are_ignored_where_training_has_none():
  recipe = train.build(make_setup())
  batch = batch_fn(0, label=True)
  params = jax.jit(recipe.init)(jax.random.key(0), batch_fn(0))
  loss = jax.jit(recipe.predict_fns["loss"])
  assert np.isfinite(loss({"params": params}, batch)["bits"]).all()


@pytest.mark.parametrize(
  "schedule",
  [
    dict(decay_type="cosine"),
    [(".*", dict(decay_type="cosine"))],
    [("channel.*FREEZE_ME", None), (".*", dict(decay_type="cosine"))],
    [(".*", dict(decay_type="cosine")), (".*FREEZE_ME.*", None)],
  ],
)
def test_permutations_have_to_be_frozen(schedule):
  with pytest.raises(lookup.ConfigError, match=r"config\.schedule trains"):
    train.build(make_setup(schedule=schedule))


def test_permutations_of_a_part():
  config = mlc.ConfigDict(dict(schedule=[("flow/.*", None), (".*", {})]))
  train.check_frozen(config, "flow/")
  with pytest.raises(lookup.ConfigError, match=r"config\.schedule trains"):
    train.check_frozen(config)


@pytest.mark.parametrize("shape, dtype", [((B,), np.int32), ((B, 1), np.int64)])
def test_labels_have_to_be_one_hot(shape, dtype):
  setup = make_setup()
  label = jax.ShapeDtypeStruct(shape, dtype)
  shapes = {**setup.batch_shapes, "label": label}
  with pytest.raises(lookup.ConfigError, match="onehot"):
    train.build(dataclasses.replace(setup, batch_shapes=shapes))


def test_shapes_of_batches():
  shapes = lambda pp: {
    k: (v.shape, v.dtype)
    for k, v in train.batch_shapes(
      mlc.ConfigDict(dict(input=dict(pp=pp))), 2, (4, 6)
    ).items()
  }
  image = ((2, 4, 6, 3), np.float32)
  assert shapes('decode|keep("image")') == {"image": image}
  pp = 'decode|onehot(10, key="label")|keep("image", "label")'
  assert shapes(pp) == {"image": image, "label": ((2, 10), np.float32)}
