"""The benchmark of contrastive losses."""

import json

import pytest

from big_vision.tools import benchmark_contrastive


@pytest.mark.multidevice
def test_rows(tmp_path, capsys):
  out = tmp_path / "rows.json"
  args = ["--batch", "64,512", "--dim", "8", "--chunk", "16"]
  args += ["--time_up_to", "64", "--json", str(out)]
  assert benchmark_contrastive.main(args) == 0
  rows = {
    (r["loss"], r["form"], r["batch"]): r for r in json.loads(out.read_text())
  }
  assert len(rows) == 8
  for loss in ("sigmoid", "softmax"):
    for form in ("plain", "ring"):
      assert rows[loss, form, 64]["seconds"] > 0
      assert rows[loss, form, 512]["seconds"] is None
    ring, plain = (rows[loss, f, 512]["mib"] for f in ("ring", "plain"))
    assert ring < plain / 2
  assert capsys.readouterr().out.count("sigmoid") == 4
