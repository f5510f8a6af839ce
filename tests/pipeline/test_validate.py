"""What is wrong with a config of the input pipeline, and what to do."""

import json
import pathlib

import pytest

from big_vision import input_pipeline as ip
from big_vision.pipeline import validate

pytestmark = pytest.mark.tf


@pytest.fixture
def rows(tmp_path):
  (tmp_path / "rows.jsonl").write_text('{"n": 1}')
  return {"name": "bv:jsonl", "fname": str(tmp_path / "rows.jsonl")}


def config(rows):
  return {"batch_size": 8, "data": rows}


def mixture(rows, **kw):
  parts = {k: {"data": rows, **kw} for k in "ab"}
  return {"batch_size": 8, "data": {"a": 1, "b": 3}, **parts}


def test_validate_accepts(rows):
  ip.validate({**config(rows), "cache": "pipeline", "pp": ""})
  ip.validate(mixture(rows))


@pytest.mark.parametrize(
  "change, match",
  [
    ({"batch_size": 7}, r"input.batch_size=7.*devices, 8: set it to 8"),
    ({"batch_size": 0}, "positive int"),
    ({"shufle_buffer_size": 5}, "Did you mean 'shuffle_buffer_size'"),
    ({"batch_sise": 8}, "Did you mean 'batch_size'"),
    ({"data": {"name": "bv:jsnl"}}, "input.data.name.*jsonl"),
    ({"data": {"name": "bv:jsonl", "fnam": "x"}}, "'fname'"),
    ({"data": {"a": "x"}}, "must be a weight"),
    ({"data": {"a": float("nan")}}, "input.data.a=nan must be a weight"),
    ({"prefetch": -5}, "input.prefetch = -5 must be a positive int"),
    ({"num_parallel_calls": 0}, "num_parallel_calls = 0 .* positive int"),
    ({"shuffle_buffer_size": -1}, "shuffle_buffer_size = -1 .* positive int"),
    ({"pp": "no_such_op(3)"}, r"config.input.pp: 'no_such_op\(3\)'"),
    ({"filter_fn": len}, "pre_filter_fn"),
    ({"my_notes": 1}, "config.input.my_notes is not a known key"),
    ({"keep_only": ["n"]}, "config.input.keep_only is not a known key"),
  ],
)
def test_validate_rejects(rows, change, match):
  base = {"batch_size": 8, "data": rows}
  with pytest.raises(ValueError, match=match):
    ip.validate({**base, **change}, process_count=1, device_count=8)


def test_validate_other_keys(rows):
  with pytest.raises(ValueError, match="config.evals.val.data is missing"):
    ip.validate({"batch_size": 8}, "evals.val")
  cfg = mixture(rows, cach_raw=True)
  with pytest.raises(ValueError, match="config.input.a.cach_raw"):
    ip.validate(cfg)
  with pytest.raises(ValueError, match="processes, 3"):
    ip.validate(config(rows), process_count=3, device_count=4)


def test_no_key_of_our_configs_is_refused(monkeypatch):
  """Nor what published configs carry although nothing reads it."""
  monkeypatch.setattr(validate, "_check_dataset", lambda config, key: None)
  path = pathlib.Path(__file__).parent.parent / "golden" / "configs.json"
  inputs = [
    config["input"]
    for variants in json.loads(path.read_text()).values()
    for config in variants.values()
    if "data" in config.get("input", {})
  ]
  assert len(inputs) > 20
  for config in inputs:
    ip.validate(config, process_count=1, device_count=1)


def test_what_is_not_read_is_logged(rows, caplog):
  with caplog.at_level("INFO", logger="absl"):
    ip.validate({**config(rows), "cache": "pipeline"}, device_count=8)
  assert "config.input.cache is not read" in caplog.text
