"""The data of evaluators: batches, padding, caches, bad arguments."""

import jax
import numpy as np
import pytest

from big_vision.evaluators import common, mean
from big_vision.pipeline import evaluation

pytestmark = pytest.mark.tf

PP = "decode(channels=1)|reshape((8, 8, 1))|value_range(-1, 1)"


@pytest.mark.parametrize(
  "cache", ["none", None, "pipeline", "RAW_data", "final_data"]
)
def test_pipeline(tfds_data_dir, ops, cache):
  get_iter, steps = evaluation.evaluation(
    {"name": "digits", "split": "test[:21]"},
    PP + "|keep('image', 'label')",
    16,
    np.asarray(jax.devices()),
    keep_on_cpu={"label"},
    cache=cache,
  )
  assert steps == 2
  passes = []
  for _ in range(2):
    batches = [b for _, b in zip(range(steps), get_iter(), strict=False)]
    assert [len(b["image"].devices()) for b in batches] == [8, 8]
    assert all(isinstance(b["label"], np.ndarray) for b in batches)
    mask = np.concatenate([b["_mask"] for b in batches])
    np.testing.assert_array_equal(mask, np.arange(32) < 21)
    passes.append(np.concatenate([b["label"] for b in batches])[mask])
  builder = tfds.builder_from_directory(f"{tfds_data_dir}/digits/1.0.0")
  labels = [int(x["label"]) for x in builder.as_dataset(split="test[:21]")]
  for found in passes:
    np.testing.assert_array_equal(found, labels)


def test_what_is_cached(tfds_data_dir, ops, monkeypatch):
  """raw_data keeps raw examples, final_data the preprocessed ones."""
  flags_given = {}
  make = evaluation.make_for_inference

  def spy_on(*args, **kw):
    flags_given.update(kw)
    return make(*args, **kw)

  monkeypatch.setattr(evaluation, "make_for_inference", spy_on)
  for cache, raw, final in [
    ("none", False, False),
    ("pipeline", False, False),
    ("Raw_Data", True, False),
    ("final_data", False, True),
  ]:
    flags_given.clear()
    pipeline(cache=cache)
    assert flags_given.get("cache_raw", False) == raw
    assert flags_given.get("cache_final", False) == final
  # The flags of the past.
  pipeline(cache="none", cache_final=True)
  assert flags_given["cache_final"]
  pipeline(cache_raw=True)
  assert flags_given["cache_raw"]


def test_large_caches_are_not_made(tfds_data_dir, ops, monkeypatch, caplog):
  flags_given = []
  make = evaluation.make_for_inference

  def spy_on(*args, **kw):
    flags_given.append({k: v for k, v in kw.items() if "cache" in k})
    return make(*args, **kw)

  monkeypatch.setattr(evaluation, "make_for_inference", spy_on)
  keep = "|keep('image', 'label')"  # 8 * 8 float32, int64, bool, int32 (_id).
  size = 297 * (4 * 64 + 8 + 1 + 4) / 2**30
  with caplog.at_level("INFO"):
    pipeline(PP + keep, cache="final_data", memory_gb=1.01 * size)
    assert {"cache_raw": False, "cache_final": True} in flags_given
    assert "not cached" not in caplog.text
    flags_given.clear()
    pipeline(PP + keep, cache="final_data", memory_gb=0.99 * size)
    assert not any(flags_given)
    assert "not cached, since final_data takes 0.0 GB" in caplog.text
    pipeline(PP + keep, cache="raw_data", memory_gb=1e-6)
    assert not any(flags_given)


def pipeline(pp=PP, **kw):
  data = {"name": "digits", "split": "test"}
  return evaluation.evaluation(data, pp, 8, jax.devices(), **kw)


def test_pipeline_bad_input(tfds_data_dir, ops):
  args = ({"name": "digits", "split": "test"}, PP)
  with pytest.raises(AssertionError, match="Unknown value for cache"):
    evaluation.evaluation(*args, 8, jax.devices(), cache="all")
  with pytest.raises(ValueError, match="batch_size=20 .*16 or 24"):
    evaluation.evaluation(*args, 20, jax.devices())
  with pytest.raises(ValueError, match="batch_size=None"):
    mean.Evaluator(
      max, data=args[0], pp_fn=PP, batch_size=None, devices=jax.devices()
    )
