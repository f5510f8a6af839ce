"""Errors of depth against loops in NumPy, by hand, and on files of TFDS."""

import jax
import numpy as np
import pytest

from big_vision import lookup
from big_vision.evaluators.proj.uvim import nyu_depth

NAMES = ["RMSE", "abs_RE", "log10", "delta1", "delta2", "delta3"]


def predict(state, batch, offset=0.0):
  del state
  return {"depth": batch["guess"] + offset}


def make(data, fn=predict, batch_size=16, **kw):
  return nyu_depth.Evaluator(
    fn, "", batch_size, data, "", devices=jax.devices(), **kw
  )


@pytest.fixture
def in_memory(arrays, monkeypatch):
  monkeypatch.setattr(
    nyu_depth.common,
    "data_of",
    lambda dataset, split, dataset_dir, pp_fn: dataset,
  )


def scenes(n, size, truth_size):
  rng = np.random.RandomState(0)
  truth = rng.uniform(0.5, 11, (n, *truth_size, 1)).astype(np.float32)
  truth[rng.rand(*truth.shape) < 0.2] = 0  # The sensor saw nothing.
  guess = rng.uniform(0.5, 10, (n, *size)).astype(np.float32)
  return {"guess": guess, "ground_truth": truth}


def errors(guess, truth, low, high):
  """Errors of one image, pixel by pixel; None if none is valid."""
  height, width = truth.shape[:2]
  found = {name: [] for name in ["RMSE", "abs_RE", "log10", "ratio"]}
  for y in range(height):
    for x in range(width):
      t = float(truth[y, x, 0])
      if not low < t < high:
        continue
      row = int((y + 0.5) * guess.shape[0] / height)
      p = float(guess[row, int((x + 0.5) * guess.shape[1] / width)])
      found["RMSE"].append((t - p) ** 2)
      found["abs_RE"].append(abs(t - p) / t)
      found["log10"].append(abs(np.log10(t) - np.log10(p)))
      found["ratio"].append(max(t / p, p / t))
  if not found["RMSE"]:
    return None
  ratio = np.array(found.pop("ratio"))
  out = {k: np.mean(v) for k, v in found.items()}
  out["RMSE"] = out["RMSE"] ** 0.5
  return out | {f"delta{i}": np.mean(ratio < 1.25**i) for i in (1, 2, 3)}


@pytest.mark.parametrize("batch_size", [8, 32])
@pytest.mark.parametrize("size", [(6, 8), (3, 2), (13, 17)])
def test_means_over_images(in_memory, state, size, batch_size):
  """Of predictions of any size; an image without valid pixels does not count."""
  data = scenes(11, size, (6, 8))
  data["ground_truth"][4] = 0
  per_image = [
    errors(*pair, 1e-3, 10)
    for pair in zip(data["guess"], data["ground_truth"], strict=True)
  ]
  assert per_image[4] is None
  per_image = [x for x in per_image if x]
  found = list(make(data, batch_size=batch_size).run(state))
  assert [name for name, _ in found] == NAMES
  for name, value in found:
    expected = np.mean([x[name] for x in per_image])
    np.testing.assert_allclose(value, expected, rtol=2e-5, err_msg=name)


def test_by_hand(in_memory, state):
  """One image: depths 1, 2, 4 and two that do not count; 2, 2, 5 predicted."""
  data = {
    "guess": np.array([[[2, 2, 5, 7, 1e-9]]], np.float32),
    "ground_truth": np.array([[[[1], [2], [4], [10], [1e-3]]]], np.float32),
  }
  found = dict(make(data).run(state))
  expected = {
    "RMSE": np.sqrt(2 / 3),
    "abs_RE": (1 + 0.25) / 3,
    "log10": (np.log10(2) + np.log10(1.25)) / 3,
    "delta1": 1 / 3,  # A factor of 1.25 is not below 1.25.
    "delta2": 2 / 3,
    "delta3": 2 / 3,  # 2 is more than 1.25³ = 1.953.
  }
  for name, value in expected.items():
    assert found[name] == pytest.approx(value, rel=1e-5), name
  wide = dict(make(data, max_depth=11.0).run(state))
  assert wide["RMSE"] == pytest.approx(np.sqrt((2 + 9) / 4))
  near = make(data, predict_kwargs={"offset": -1.0}).run(state)
  assert dict(near)["RMSE"] == pytest.approx(np.sqrt(1 / 3))


def test_nothing_is_valid(in_memory, state):
  data = scenes(8, (2, 2), (2, 2))
  found = dict(make(data, max_depth=1e-2, min_depth=0.0).run(state))
  assert list(found) == NAMES and np.isnan(list(found.values())).all()


def test_predictions_that_are_not_positive(in_memory, state):
  """They are errors like others, except for logarithms."""
  data = scenes(8, (2, 2), (2, 2))
  data["guess"][:] = 0
  found = dict(make(data).run(state))
  assert found["abs_RE"] == 1 and found["delta3"] == 0
  assert found["log10"] == np.inf


@pytest.mark.parametrize(
  "fn, message",
  [
    (lambda s, b: b["guess"], "should return .*depth task"),
    (lambda s, b: {"color": b["guess"]}, "should return .*depth task"),
    (lambda s, b: {"depth": b["guess"][..., None]}, "should return"),
  ],
)
def test_other_predictions(in_memory, state, fn, message):
  with pytest.raises(lookup.ConfigError, match=message):
    list(make(scenes(8, (2, 2), (2, 2)), fn).run(state))


def test_ground_truth_is_needed(in_memory, state):
  data = scenes(8, (2, 2), (2, 2))
  with pytest.raises(lookup.ConfigError, match="ground_truth of the batch"):
    list(make({**data, "ground_truth": data["guess"]}).run(state))
  with pytest.raises(ValueError, match="'ground_truth' is not in the batch"):
    list(make({"guess": data["guess"]}).run(state))


def test_limits():
  cfg = {"dataset": "x", "split": "y", "min_depth": 10, "pp_fn": ""}
  with pytest.raises(lookup.ConfigError, match="^min_depth=10 and max_depth"):
    nyu_depth.data_sources(cfg)
  [(key, data)] = nyu_depth.data_sources({**cfg, "min_depth": 0.1})
  assert key == "dataset" and data["name"] == "x"
