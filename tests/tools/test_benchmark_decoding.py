"""The benchmark of decoding."""

import json

import pytest

from big_vision.benchmarks import decoding
from big_vision.tools import benchmark_decoding

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_rows(tmp_path, capsys):
  out = tmp_path / "rows.json"
  args = "--batch 2 --length 8 --vocab 9 --width 16 --layers 1 --res 16"
  args += f" --patch 8 --tokens 2 --rounds 1 --json {out}"
  assert benchmark_decoding.main(args.split()) == 0
  rows = json.loads(out.read_text())
  assert [r["form"] for r in rows] == list(decoding.FORMS)
  assert all(r["wall"] > 0 and r["cpu"] > 0 for r in rows)
  assert capsys.readouterr().out.count("\n") == 6
