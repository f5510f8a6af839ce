"""PSNR against NumPy and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import lookup
from big_vision.evaluators.proj.uvim import psnr


def predict(state, batch, scale=1.0):
  del state
  return {"color": scale * batch["image"]}


def make(data, fn=predict, batch_size=16, **kw):
  return psnr.Evaluator(fn, "", batch_size, data, devices=jax.devices(), **kw)


@pytest.fixture
def in_memory(arrays, monkeypatch):
  monkeypatch.setattr(
    psnr.common, "data_of", lambda dataset, split, dataset_dir, pp_fn: dataset
  )


def pictures(n):
  rng = np.random.RandomState(0)
  shape = (n, 5, 7, 3)
  image, labels = (rng.uniform(-1, 1, shape) for _ in range(2))
  return {
    "image": image.astype(np.float32), "labels": labels.astype(np.float32)
  }  # fmt: skip


@pytest.mark.parametrize("batch_size", [8, 40])
def test_mean_over_pictures(in_memory, state, batch_size):
  """Neither of the mean error, nor with what is in the padding."""
  data = pictures(21)
  peak, error = 2, []
  for image, labels in zip(data["image"], data["labels"], strict=True):
    error.append(np.mean((image.astype(np.float64) - labels) ** 2))
  expected = np.mean(10 * np.log10(peak**2 / np.array(error)))
  [(name, found)] = make(data, batch_size=batch_size).run(state)
  assert name == "PSNR"
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_by_hand(in_memory, state):
  """An error of 0.2 everywhere: 20 log10(2 / 0.2) is 20 decibels."""
  data = {
    k: np.full((8, 4, 4, 1), 0.2, np.float32) for k in ("image", "labels")
  }
  data["image"] += 0.2
  assert dict(make(data).run(state))["PSNR"] == pytest.approx(20, rel=1e-5)
  # And 0.6 - 0.2 = 0.4: 6.02 decibels less.
  louder = make(data, predict_kwargs={"scale": 1.5}).run(state)
  assert dict(louder)["PSNR"] == pytest.approx(20 * np.log10(5), rel=1e-5)


def test_equal_pictures(in_memory, state):
  data = dict.fromkeys(("image", "labels"), pictures(8)["image"])
  assert dict(make(data).run(state)) == {"PSNR": np.inf}


@pytest.mark.parametrize(
  "fn, message",
  [
    (
      lambda s, b: {"a": b["image"], "b": b["image"]},
      "a dict with one picture",
    ),
    (lambda s, b: b["image"], "a dict with one picture, not"),
    (lambda s, b: {"color": b["image"][:, :4]}, r"'color' of shape \(16, 4, 7"),
  ],
)
def test_other_predictions(in_memory, state, fn, message):
  with pytest.raises(lookup.ConfigError, match=message):
    list(make(pictures(8), fn).run(state))


def test_arguments_that_are_not_hashable(in_memory):
  with pytest.raises(lookup.ConfigError, match="tuples in place of lists"):
    make(pictures(8), predict_kwargs={"scale": [1]})


def test_declares_its_data():
  cfg = {"type": "proj.uvim.psnr", "pp_fn": "resize(8)"}
  [(key, data)] = psnr.data_sources(cfg)
  assert key == "dataset" and data["name"] == "imagenet2012"
  assert data["split"] == "validation" and data["skip_decode"] == ()
  assert psnr.inputs(cfg) == [("pp_fn", data, "resize(8)", None)]
  shape = jax.ShapeDtypeStruct((8, 2, 2, 3), jnp.float32)
  batch = {"image": shape, "labels": shape}
  batch["_mask"] = jax.ShapeDtypeStruct((8,), bool)
  run = lambda b: psnr.trial(predict, {}, b, {"predict_kwargs": {"scale": 2.0}})
  assert jax.eval_shape(run, batch)[1].shape == ()
