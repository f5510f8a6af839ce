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


@pytest.fixture
def nyu(tmp_path):
  """A TFDS folder with `nyu_depth_v2` of few random pictures."""
  tfds = pytest.importorskip("tensorflow_datasets")
  original = tfds.builder("nyu_depth_v2", data_dir=tmp_path, try_gcs=False)

  class NyuDepthV2(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = "nyu_depth_v2"
    VERSION = original.version

    def _info(self):
      features = original.info.features
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {"train": examples(1), "validation": examples(3)}

    def _generate_examples(self):
      raise NotImplementedError

  def examples(num):
    rng = np.random.RandomState(num)
    for i in range(num):
      depth = rng.uniform(0, 11, (12, 16)).repeat(40, 0).repeat(40, 1)
      depth += 0.01 * rng.rand(480, 640)
      image = np.full((480, 640, 3), 20 * i, np.uint8)
      yield i, {"image": image, "depth": depth.astype(np.float16)}

  NyuDepthV2(data_dir=tmp_path).download_and_prepare()
  return str(tmp_path)


@pytest.mark.tf
def test_files_of_tfds(nyu, state):
  """The config's evaluator on features as TFDS stores them, depth in float16."""
  from big_vision.configs.proj.uvim import vqvae_nyu_depth
  from big_vision.datasets import core
  from big_vision.evaluators import build, trial, validate

  config = vqvae_nyu_depth.get_config("res=48")
  config.evals = {"depth": config.evals.nyu_depth_val}
  config.evals.depth.dataset_dir = nyu
  config.input.batch_size = 8
  lookup.preprocessing(config)

  def predict(state, batch):
    del state
    assert batch["image"].shape == (8, 48, 48, 3)
    return {"depth": batch["labels"][..., 0] + 0.25}

  devices = np.asarray(jax.devices())
  validate.validate(config, ["predict"], devices)
  trial.check(config, {"predict": predict}, state, {}, devices)
  [(_, evaluator, _, prefix)] = build.from_config(
    config, {"predict": predict}, devices=devices
  )
  found = dict(evaluator.run(state))
  assert prefix == "depth/" and list(found) == NAMES

  source = core.get("nyu_depth_v2", split="validation", data_dir=nyu)
  rmse, share = [], []
  for example in source.get_tfdata(ordered=True).as_numpy_iterator():
    assert example["depth"].dtype == np.float16
    truth = example["depth"].astype(np.float64)[54:480, 41:601]
    # Nearest neighbors twice: to the model's 48 pixels and back.
    rows, columns = (
      ((np.arange(n) + 0.5) * 48 // n + 0.5) * n // 48 for n in truth.shape
    )
    guess = truth[np.ix_(rows.astype(int), columns.astype(int))] + 0.25
    valid = (truth > 1e-3) & (truth < 10)
    assert 0.5 < valid.mean() < 1
    rmse.append(np.sqrt(np.mean((guess - truth)[valid] ** 2)))
    ratio = np.maximum(guess / truth, truth / guess)[valid]
    share.append(np.mean(ratio < 1.25**2))
  assert len(rmse) == 3
  assert found["RMSE"] == pytest.approx(np.mean(rmse), rel=1e-4)
  assert found["delta2"] == pytest.approx(np.mean(share), rel=1e-4)
