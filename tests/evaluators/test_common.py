"""Building, feeding and checking evaluators; the files they write."""

import dataclasses
import json
import sys
import types

import jax
import ml_collections as mlc
import numpy as np
import pytest
from absl import flags

from big_vision.chrono import chrono
from big_vision.evaluators import check, common, mean

PP = "decode(channels=1)|reshape((8, 8, 1))|value_range(-1, 1)"
ONEHOT = PP + "|onehot(10, key='label', key_result='labels')"


def predict(state, batch):
  image = batch["image"]
  return image.reshape(len(image), -1) @ state, {}


@pytest.fixture
def spy(monkeypatch):
  """An evaluator module that keeps what it is built with."""

  @dataclasses.dataclass
  class Evaluator:
    predict_fn: object
    batch_size: int
    devices: object = None
    extra: object = None

  module = types.ModuleType("users_own_evaluator")
  module.__spec__ = types.SimpleNamespace(name=module.__name__)
  module.Evaluator, module.API = Evaluator, "jit"
  monkeypatch.setitem(sys.modules, module.__name__, module)
  return module


def config(**evals):
  return mlc.ConfigDict({"input": {"batch_size": 16}, "evals": evals})


def build(cfg, **kw):
  kw = {"devices": jax.devices(), **kw}
  return common.from_config(cfg, {"predict": predict, "other": max}, **kw)


def test_from_config(spy):
  cfg = config(
    b={"type": spy.__name__, "log_steps": 3, "skip_first": True},
    a=dict(
      type=spy.__name__,
      log_percent=0.1,
      log_epochs=2,
      pred="other",
      pred_kw={"key": "k", "nested": {"x": 1}},
      prefix="",
      batch_size=24,
      extra=(1, 2),
    ),
  )
  notes, asked = [], []

  def get_steps(key, cfg):
    asked.append((key, sorted(k for k in cfg if k.startswith("log"))))
    return 5

  a, b = build(cfg, write_note=notes.append, get_steps=get_steps)
  assert notes == ["a", "b"]
  assert asked == [
    ("log", ["log_epochs", "log_percent"]),
    ("log", ["log_steps"]),
  ]
  assert (a[0], *a[2:]) == ("a", 5, "")
  assert (b[0], *b[2:]) == ("b", 5, "b/")
  assert b[1].predict_fn is predict and b[1].batch_size == 16
  assert a[1].batch_size == 24 and a[1].extra == (1, 2)
  assert a[1].devices == jax.devices()
  assert a[1].predict_fn == build(cfg, get_steps=get_steps)[0][1].predict_fn
  assert hash(a[1].predict_fn) is not None
  assert common.from_config(mlc.ConfigDict(), {}) == []


def test_bound_keywords():
  fn = common.partial.partial(dict, a=1, b=2)
  assert fn(b=3, c=4) == {"a": 1, "b": 3, "c": 4}


def test_default_steps(spy):
  cfg = config(a={"type": spy.__name__, "log_steps": 3})
  assert build(cfg)[0][2] == 3


def test_batch_size_falls_back(spy):
  size = lambda cfg: build(cfg)[0][1].batch_size
  cfg = config(a={"type": spy.__name__, "log_steps": 1})
  assert size(cfg) == 16
  cfg.batch_size_eval = 32
  cfg.batch_size = 40
  assert size(cfg) == 32
  del cfg.batch_size_eval
  del cfg.input
  assert size(cfg) == 40
  del cfg.batch_size
  assert size(cfg) is None


def test_generations(spy):
  cfg = config(a={"type": spy.__name__, "log_steps": 1})
  with pytest.raises(RuntimeError, match="devices"):
    build(cfg, devices=None)
  del spy.API
  with pytest.raises(RuntimeError, match="pmap"):
    build(cfg)
  assert build(cfg, devices=None)[0][1].devices is None


@pytest.mark.parametrize(
  "entry,message",
  [
    ({"pred": "predct"}, r"config\.evals\.a\.pred.*'predct'.*other, predict"),
    ({"batch_size": 33}, r"config\.evals\.a\.batch_size=33 .* 8.*32 or 40"),
    ({"batch_size": 3}, r"batch_size=3 .* Use for example 8\."),
    ({"batch_size": 8.5}, r"batch_size=8\.5 is not a positive integer"),
    ({"pred_kw": {"x": [1]}}, r"config\.evals\.a\.pred_kw.*tuples"),
    ({"type": "clasification"}, r"config\.evals\.a\.type.*'classification'"),
    ({"type": "json"}, r"config\.evals\.a\.type: unknown evaluator 'json'"),
  ],
)
def test_bad_entries(spy, entry, message):
  cfg = config(a={"type": spy.__name__, "log_steps": 1, **entry})
  with pytest.raises(ValueError, match=message):
    build(cfg)
  with pytest.raises(ValueError, match=message):
    check.validate(cfg, ["predict", "other"], jax.devices())


def test_batch_size_of_another_key(spy):
  cfg = config(a={"type": spy.__name__, "log_steps": 1})
  cfg.batch_size_eval = 20
  with pytest.raises(ValueError, match="from config.batch_size_eval.*=20"):
    build(cfg)


def test_host_order():
  """Two hosts, each with a contiguous half of six rows in three batches."""
  devices = [types.SimpleNamespace(process_index=i) for i in (0, 0, 1, 1)]
  host0 = np.array([0, 1, 2, 3, -1, -1]).reshape(3, 2)
  host1 = np.array([4, 5, 6, -1, -1, -1]).reshape(3, 2)
  rows = np.concatenate([host0, host1], axis=1).reshape(-1)
  order = common.host_order(devices, 4, 3)
  rows = rows[order]
  np.testing.assert_array_equal(rows[rows >= 0], np.arange(7))
  # Devices in any order; one process leaves everything as it is.
  order = common.host_order(devices[::-1], 4, 1)
  np.testing.assert_array_equal(order, [2, 3, 0, 1])
  order = common.host_order(devices[:2], 4, 3)
  np.testing.assert_array_equal(order, np.arange(12))


def test_fetch():
  dispatched, fetched = [], []

  def results():
    for i in range(5):
      dispatched.append(i)
      yield {"x": jax.device_put(np.full(2, i))}

  for result in common.fetch(results()):
    fetched.append(result["x"][0])
    assert len(dispatched) <= len(fetched) + 2
  assert fetched == [0, 1, 2, 3, 4]


def test_process_sum():
  tree = {"a": 1, "b": np.arange(3)}
  assert common.process_sum(tree) is tree


@pytest.fixture
def workdir_flag(tmp_path, monkeypatch):
  """The flag as trainers define it, set to an empty folder."""
  values = flags.FlagValues()
  flags.DEFINE_string("workdir", None, "", flag_values=values)
  values.mark_as_parsed()
  values.workdir = str(tmp_path)
  monkeypatch.setattr(flags, "FLAGS", values)
  return values


def test_resolve_outfile(workdir_flag, monkeypatch, tmp_path):
  resolve = common.resolve_outfile
  assert resolve(None) is None and resolve("") is None
  monkeypatch.setattr(chrono, "prev_step", 12)
  path = resolve("{workdir}/{step:04d}_{split}_{x}", "a[1%:]", x=3)
  assert path == f"{tmp_path}/0012_a_1____3"
  monkeypatch.setattr(chrono, "prev_step", 13)
  assert resolve("{step}") == "13"
  assert resolve("{step}", step=4) == "4"
  monkeypatch.setattr(chrono, "prev_step", None)
  assert resolve("{step:03d}") == "000"
  workdir_flag.workdir = None
  assert resolve("{workdir}/x") is None
  assert resolve("x") == "x"
  assert resolve("{workdir}/x", workdir="/w") == "/w/x"
  monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())  # None defined.
  assert resolve("{workdir}/x") is None
  assert resolve("x") == "x"


@pytest.mark.parametrize("jobj", [[{"a": 1}, "b"], {"x": [1, 2.5, None]}, []])
def test_multiprocess_write_json(workdir_flag, tmp_path, jobj):
  with jax.transfer_guard("disallow"):
    out = common.multiprocess_write_json("{workdir}/sub/out.json", jobj)
  assert out == jobj
  assert json.loads((tmp_path / "sub" / "out.json").read_text()) == jobj
  assert [p.name for p in (tmp_path / "sub").iterdir()] == ["out.json"]


def test_multiprocess_write_json_to_current_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert common.multiprocess_write_json("out.json", [1]) == [1]
  assert (tmp_path / "out.json").read_text() == "[1]"
  assert common.multiprocess_write_json(None, [1]) is None
  assert common.multiprocess_write_json("", [1]) is None
  with pytest.raises(TypeError, match="lists and dicts"):
    common.multiprocess_write_json("x.json", "text")


@pytest.mark.tf
@pytest.mark.parametrize(
  "cache", ["none", None, "pipeline", "RAW_data", "final_data"]
)
def test_pipeline(tfds_data_dir, ops, cache):
  get_iter, steps = common.eval_input_pipeline(
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
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(f"{tfds_data_dir}/digits/1.0.0")
  labels = [int(x["label"]) for x in builder.as_dataset(split="test[:21]")]
  for seen in passes:
    np.testing.assert_array_equal(seen, labels)


@pytest.mark.tf
def test_what_is_cached(tfds_data_dir, ops, monkeypatch):
  """raw_data keeps raw examples, final_data the preprocessed ones."""
  from big_vision import input_pipeline

  flags_given = {}
  make = input_pipeline.make_for_inference

  def spy_on(*args, **kw):
    flags_given.update(kw)
    return make(*args, **kw)

  monkeypatch.setattr(input_pipeline, "make_for_inference", spy_on)
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


@pytest.mark.tf
def test_large_caches_are_not_made(tfds_data_dir, ops, monkeypatch, caplog):
  from big_vision import input_pipeline

  flags_given = []
  make = input_pipeline.make_for_inference

  def spy_on(*args, **kw):
    flags_given.append({k: v for k, v in kw.items() if "cache" in k})
    return make(*args, **kw)

  monkeypatch.setattr(input_pipeline, "make_for_inference", spy_on)
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
  return common.eval_input_pipeline(data, pp, 8, jax.devices(), **kw)


@pytest.mark.tf
def test_pipeline_bad_input(tfds_data_dir, ops):
  args = ({"name": "digits", "split": "test"}, PP)
  with pytest.raises(AssertionError, match="Unknown value for cache"):
    common.eval_input_pipeline(*args, 8, jax.devices(), cache="all")
  with pytest.raises(ValueError, match="batch_size=20 .*16 or 24"):
    common.eval_input_pipeline(*args, 20, jax.devices())
  with pytest.raises(ValueError, match="batch_size=None"):
    mean.Evaluator(
      predict, data=args[0], pp_fn=PP, batch_size=None, devices=jax.devices()
    )
