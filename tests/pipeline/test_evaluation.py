"""The data of evaluators: batches, padding, caches, bad arguments."""

import hosts_in_turn
import jax
import numpy as np
import pytest

from big_vision.evaluators import mean
from big_vision.pipeline import evaluation, to_devices
from big_vision.pp import rng
from big_vision.tf import tf, tfds

pytestmark = pytest.mark.tf


@pytest.fixture
def ops():
  """Registers the ops that preprocessing strings of the tests use."""
  from big_vision.pp import ops_general, ops_image  # noqa: F401  (Registers.)


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


def test_large_caches_are_not_made(tfds_data_dir, ops, monkeypatch, caplog):
  flags_given = []
  make = evaluation.make_for_inference

  def spy_on(*args, **kw):
    flags_given.append({k: v for k, v in kw.items() if "cache" in k})
    return make(*args, **kw)

  monkeypatch.setattr(evaluation, "make_for_inference", spy_on)
  keep = "|keep('image', 'label')"  # 8 * 8 float32, int64, bool, int32 (_id).
  size = 297 * (4 * 64 + 8 + 1 + 4) / 2**30
  with caplog.at_level("INFO", logger="absl"):
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


def numbers(n):
  return tf.data.Dataset.range(n).map(lambda i: {"x": i})


def fails_at(bad):
  def fn(example):
    ok = example["x"] != bad
    with tf.control_dependencies([tf.debugging.Assert(ok, ["broken image"])]):
      return {"x": tf.identity(example["x"])}

  return fn


def test_error_of_evaluation_names_the_example():
  ds, num = evaluation.make_for_inference(numbers(10), fails_at(7), 2, [10])
  assert num == 5
  it = to_devices.start_global(ds, np.array(jax.devices()[:1]))
  with pytest.raises(ValueError, match="index 7 "):
    for _ in range(num):
      next(it)


def test_inference_pads_and_repeats():
  data = tf.data.Dataset.range(5).map(lambda i: {"x": i, "_id": i + 100})

  def pp(d):
    return {"y": d["x"] * 2, "v": tf.range(d["x"]), "r": rng.next_seed()}

  ds, num = evaluation.make_for_inference(data, pp, 2, [5], cache_final=True)
  assert num == 3
  b = list(ds.take(6).as_numpy_iterator())
  assert b[2]["_mask"].tolist() == [True, False]
  assert b[2]["_id"].tolist() == [104, 0] and b[2]["y"].tolist() == [8, 0]
  for first, second in zip(b[:3], b[3:], strict=True):
    np.testing.assert_array_equal(first["r"], second["r"])
  assert isinstance(ds.element_spec["v"], tf.RaggedTensorSpec)
  seeds = np.concatenate([x["r"] for x in b[:3]])[:5]
  assert len({tuple(s) for s in seeds}) == 5


def test_inference_more_hosts_than_examples():
  ds, num = evaluation.make_for_inference(
    numbers(1), lambda x: x, 2, [1, 5], cache_raw=True
  )
  assert num == 3
  masks = [b["_mask"].numpy().tolist() for b in ds.take(3)]
  assert masks == [[True, False], [False, False], [False, False]]
  with pytest.raises(ValueError, match="batch size"):
    evaluation.make_for_inference(numbers(1), lambda x: x, None, [1])


def test_one_word_says_what_is_cached():
  assert evaluation.cache_mode(None) == "none"
  assert evaluation.cache_mode("RAW_data") == "raw_data"
  # Keys of earlier configs.
  assert evaluation.cache_mode("pipeline", cache_raw=True) == "raw_data"
  assert evaluation.cache_mode("none", cache_final=True) == "final_data"
  for error in (ValueError, AssertionError):  # Callers catch either.
    with pytest.raises(error, match="'all', use one of none, pipeline"):
      evaluation.cache_mode("all")


@pytest.mark.parametrize("num_examples", [24, 21, 13, 3])
def test_global_batches_of_any_number_of_hosts(
  tfds_data_dir, ops, monkeypatch, num_examples
):
  """Each bit of each batch, of random ops and of padding too."""
  data = {"name": "digits", "split": f"test[:{num_examples}]"}
  pp = "decode(channels=1)|random_crop(5)|keep('image', 'label')"
  of = lambda n: hosts_in_turn.global_batches(n, data, pp, 8, monkeypatch)
  one = of(1)
  assert one["_mask"].sum() == num_examples
  for num in (2, 4):
    jax.tree.map(np.testing.assert_array_equal, of(num), one)


def test_hosts_read_parts_in_order(tfds_data_dir, ops, monkeypatch):
  """Without random access; what random ops draw does not depend on hosts."""
  data = {"name": "digits", "split": "test[:21]", "random_access": False}
  pp = "decode(channels=1)|random_crop(5)|keep('image', 'label')"
  of = lambda i, n: hosts_in_turn.batches(i, n, data, pp, 8, monkeypatch)
  one, _ = of(0, 1)
  parts = [of(i, 2) for i in range(2)]
  assert not any(by_rows for _, by_rows in parts)
  rows = lambda b: jax.tree.map(lambda x: x[b["_mask"]], b)
  got = jax.tree.map(lambda *x: np.concatenate(x), *(rows(b) for b, _ in parts))
  jax.tree.map(np.testing.assert_array_equal, got, rows(one))


def test_numbers_of_examples_are_those_of_the_dataset(monkeypatch):
  """Of both ways to share them: they are seeds, and names in errors."""
  pp = lambda d: {"x": d["x"], "r": rng.next_seed()}
  make = evaluation.make_for_inference
  one = next(iter(make(numbers(6), pp, 6, [6])[0].as_numpy_iterator()))
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  for by_rows, mine in ((False, [3, 4, 5]), (True, [2, 3])):
    data = tf.data.Dataset.from_tensor_slices({"x": np.int64(mine)})
    args = (2 * (2 if by_rows else 3), [6 - len(mine), len(mine)])
    ds, _ = make(data, pp, *args, by_rows=by_rows)
    got = next(iter(ds.as_numpy_iterator()))
    np.testing.assert_array_equal(got["r"], one["r"][mine])
