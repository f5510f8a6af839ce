"""What is on the page is what is in the files."""

import json
import math
import re

import plotted_runs
from big_vision.plots import curves, page, png


def test_values_of_the_page_are_those_of_the_file(tmp_path):
  records = [
    {"step": i, "training_loss": 1 / (i + 1), "val/prec@1": i * 0.1 + 1e-17}
    for i in range(50)
  ]
  text = page.make(
    curves.read_runs([plotted_runs.write_run(tmp_path / "r", records)])
  )
  assert plotted_runs.page_series(text) == [
    {
      name: [list(range(50)), [r[name] for r in records]]
      for name in ("training_loss", "val/prec@1")
    }
  ]


def test_not_finite_values(tmp_path):
  records = [
    {"step": 1, "a": math.nan},
    {"step": 2, "a": math.inf},
    {"step": 3, "a": 1.5},
  ]
  runs = curves.read_runs([plotted_runs.write_run(tmp_path / "r", records)])
  assert math.isnan(runs[0].series["a"][1][0])
  text = page.make(runs)
  assert plotted_runs.page_series(text) == [
    {"a": [[1, 2, 3], ["nan", "inf", 1.5]]}
  ]


def test_page_is_self_contained_and_escaped(tmp_path):
  name = "</script><b>{{DATA}}"
  run = plotted_runs.write_run(
    tmp_path / "r<i>", [{"step": 1, name: 1}], {"k<": name}
  )
  text = page.make(curves.read_runs([run]))
  assert plotted_runs.page_series(text) == [{name: [[1], [1]]}]
  assert "<b>" not in text.replace("<b>{", "{") and "<i>" not in text
  assert not re.search(r"(src|href)\s*=|url\(|@import|fetch\(", text)
  urls = set(re.findall(r"https?://[^\"\s]+", text))
  assert urls == {"http://www.w3.org/2000/svg"}  # A name, not an address.


def test_other_axes(tmp_path):
  names = ("epoch", "examples_seen", "uptime")
  rows = [(10, 1, 640, 3600), (20, 2, 1280, 7200), (30, 3, 1920, 1800)]
  records = [
    {"step": s, **dict(zip(names, row, strict=True))} for s, *row in rows
  ]
  records += [{"step": s, "training_loss": s} for s in (0, 15, 30)]
  paths = [
    plotted_runs.write_run(tmp_path / "r", records),
    plotted_runs.write_run(tmp_path / "s", records),
  ]
  (run, _) = runs = curves.read_runs(paths)
  assert run.curves("epoch")["training_loss"] == ([0, 1.5, 3], [0, 15, 30])
  assert run.curves("images")["training_loss"] == ([0, 960, 1920], [0, 15, 30])
  # The second process began after two hours.
  assert run.curves("hours")["training_loss"] == ([0, 1.5, 2.5], [0, 15, 30])
  data = plotted_runs.page_data(page.make(runs, x="hours"))
  assert data["x"] == "hours"
  assert data["labels"] == ["step", "epoch", "images", "hours"]
  assert data["runs"][0]["axes"]["images"] == [
    [0, 10, 20, 30],
    [0, 640, 1280, 1920],
  ]
  png.save(runs, str(tmp_path / "x.png"), "hours")
  bare = curves.read_runs(
    [plotted_runs.write_run(tmp_path / "t", [{"step": 1, "a": 1}])]
  )
  assert plotted_runs.page_data(page.make(bare))["labels"] == ["step"]
  assert bare[0].curves("hours") == {}


def test_changes_of_the_config_are_marked(tmp_path):
  config = {"lr": 0.1, "total_steps": 4, "input": {"batch_size": 8}}
  records = [{"step": s, "training_loss": 1 / s} for s in (1, 2, 3, 4)]
  workdir = plotted_runs.write_run(
    tmp_path / "r", records, config | {"lr": 0.01}
  )
  (tmp_path / "r/config-2.json").write_text(json.dumps(config))
  run = curves.read_runs([workdir])[0]
  assert run.changes == {2: ["lr: 0.1 -> 0.01"]}
  text = page.make([run])
  changes = plotted_runs.page_data(text)["runs"][0]["changes"]
  assert changes == [[2, ["lr: 0.1 -> 0.01"]]]
