"""tools/plot.py: where the page goes, and what is on it."""

import subprocess
import sys

import pytest

import plotted_runs
from big_vision.tools import plot


def test_several_runs(tmp_path, capsys):
  config = {"lr": 0.1, "seed": 0, "input": {"batch_size": 8}}
  a = plotted_runs.write_run(
    tmp_path / "a" / "x", [{"step": 1, "m": 0.25}], config
  )
  b = plotted_runs.write_run(
    tmp_path / "b" / "x",
    [{"step": 2, "n": 4}],
    {**config, "input": {"batch_size": 16}, "new": True},
  )
  out = tmp_path / "page.html"
  assert plot.main([a, b, "--out", str(out)]) == 0
  assert str(out) in capsys.readouterr().out
  page = out.read_text()
  assert [r["name"] for r in plotted_runs.page_data(page)["runs"]] == [
    "a/x",
    "b/x",
  ]
  assert plotted_runs.page_series(page) == [
    {"m": [[1], [0.25]]},
    {"n": [[2], [4]]},
  ]
  # Only what differs is in the table of configs.
  cells = lambda *values: "".join(f"<td>{v}</td>" for v in values)
  assert cells("input.batch_size", 8, 16) in page
  assert cells("new", "–", "true") in page
  assert "<td>lr</td>" not in page
  assert cells("m", "0.25 (step 1)", "–") in page
  assert cells("n", "–", "4 (step 2)") in page


def test_one_run_shows_its_whole_config_and_goes_to_the_workdir(tmp_path):
  run = plotted_runs.write_run(
    tmp_path / "r", [{"step": 1, "m": 1}], {"lr": 0.1, "model": {}}
  )
  assert plot.main([run]) == 0
  page = (tmp_path / "r" / "plot.html").read_text()
  assert "<td>lr</td><td>0.1</td>" in page
  assert "<td>model</td><td>{}</td>" in page


def test_missing_file(tmp_path, capsys):
  assert plot.main([str(tmp_path / "nothing")]) == 1
  err = capsys.readouterr().err
  assert "No metrics in" in err and "--workdir" in err


def test_png(tmp_path):
  pytest.importorskip("matplotlib")
  run = plotted_runs.write_run(
    tmp_path / "r", [{"step": i, "training_loss": 1 / i} for i in (1, 2, 3)]
  )
  png = tmp_path / "curves.png"
  assert plot.main([run, "--png", str(png)]) == 0
  assert png.read_bytes().startswith(b"\x89PNG")


def test_runs_without_jax_and_tensorflow(tmp_path):
  run = plotted_runs.write_run(tmp_path / "r", [{"step": 1, "m": 1}])
  code = (
    "import sys; sys.modules['jax'] = sys.modules['tensorflow'] = None; "
    f"from big_vision.tools import plot; sys.exit(plot.main([{run!r}]))"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
