"""The files that evaluators write, and where."""

import json

import jax
import pytest
from absl import flags

from big_vision.chrono import chrono
from big_vision.evaluators import common


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
  workdir_flag.workdir = str(tmp_path)
  assert resolve("{workdir}/x", workdir="") is None  # A run that writes none.
  assert resolve("{step}", step=None, workdir=None) == "0"
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
