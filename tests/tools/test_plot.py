"""tools/plot.py: what is on the page is what is in the files."""

import json
import math
import re
import subprocess
import sys

import pytest

from big_vision.tools import plot


def write_run(folder, records, config=None, tail=""):
  folder.mkdir(parents=True)
  lines = [json.dumps(r) + "\n" for r in records]
  (folder / plot.METRICS_FILE).write_text("".join(lines) + tail)
  if config is not None:
    (folder / "config.json").write_text(json.dumps(config))
  return str(folder)


def page_data(page):
  text = re.search(
    r'<script id="data" type="application/json">(.*?)</script>', page, re.S
  )[1]
  return json.loads(text)


def page_series(page):
  return [run["series"] for run in page_data(page)["runs"]]


def test_values_of_the_page_are_those_of_the_file(tmp_path):
  records = [
    {"step": i, "training_loss": 1 / (i + 1), "val/prec@1": i * 0.1 + 1e-17}
    for i in range(50)
  ]
  page = plot.make_page(plot.read_runs([write_run(tmp_path / "r", records)]))
  assert page_series(page) == [
    {
      name: [list(range(50)), [r[name] for r in records]]
      for name in ("training_loss", "val/prec@1")
    }
  ]


def test_last_value_of_a_repeated_step_counts(tmp_path):
  records = [{"step": s, "a": s} for s in (1, 2, 3)]
  records += [{"step": s, "a": s + 10} for s in (2, 3, 4)]
  records += [{"step": 4, "b": 1}]
  run = plot.read_runs([write_run(tmp_path / "r", records)])[0]
  assert run.series == {
    "a": ([1, 2, 3, 4], [1, 12, 13, 14]),
    "b": ([4], [1]),
  }


@pytest.mark.parametrize("torn", ['{"step": 3, "a', "[]", "3", '{"a": 1}', "}"])
def test_torn_lines_are_left_out(tmp_path, torn):
  good = [{"step": 1, "a": 5}]
  folder = write_run(tmp_path / "r", good, tail=torn)
  path = f"{folder}/{plot.METRICS_FILE}"
  assert plot.read_metrics(path) == ({"a": ([1], [5.0])}, 1)
  with open(path, "a") as f:
    f.write('\n{"step": 2, "a": 6}\n')  # The resumed run.
  assert plot.read_metrics(path) == ({"a": ([1, 2], [5.0, 6.0])}, 1)


def test_line_that_continues_a_torn_one(tmp_path):
  torn = '{"step": 2, "a{"step": 2, "a": 6}\n'
  folder = write_run(tmp_path / "r", [{"step": 1, "a": 5}], tail=torn)
  series, left_out = plot.read_metrics(f"{folder}/{plot.METRICS_FILE}")
  assert (series, left_out) == ({"a": ([1, 2], [5.0, 6.0])}, 1)


def test_not_finite_values(tmp_path):
  records = [
    {"step": 1, "a": math.nan},
    {"step": 2, "a": math.inf},
    {"step": 3, "a": 1.5},
  ]
  runs = plot.read_runs([write_run(tmp_path / "r", records)])
  assert math.isnan(runs[0].series["a"][1][0])
  page = plot.make_page(runs)
  assert page_series(page) == [{"a": [[1, 2, 3], ["nan", "inf", 1.5]]}]


def test_several_runs(tmp_path, capsys):
  config = {"lr": 0.1, "seed": 0, "input": {"batch_size": 8}}
  a = write_run(tmp_path / "a" / "x", [{"step": 1, "m": 0.25}], config)
  b = write_run(
    tmp_path / "b" / "x",
    [{"step": 2, "n": 4}],
    {**config, "input": {"batch_size": 16}, "new": True},
  )
  out = tmp_path / "page.html"
  assert plot.main([a, b, "--out", str(out)]) == 0
  assert str(out) in capsys.readouterr().out
  page = out.read_text()
  assert [r["name"] for r in page_data(page)["runs"]] == ["a/x", "b/x"]
  assert page_series(page) == [{"m": [[1], [0.25]]}, {"n": [[2], [4]]}]
  # Only what differs is in the table of configs.
  cells = lambda *values: "".join(f"<td>{v}</td>" for v in values)
  assert cells("input.batch_size", 8, 16) in page
  assert cells("new", "–", "true") in page
  assert "<td>lr</td>" not in page
  assert cells("m", "0.25 (step 1)", "–") in page
  assert cells("n", "–", "4 (step 2)") in page


def test_one_run_shows_its_whole_config_and_goes_to_the_workdir(tmp_path):
  run = write_run(
    tmp_path / "r", [{"step": 1, "m": 1}], {"lr": 0.1, "model": {}}
  )
  assert plot.main([run]) == 0
  page = (tmp_path / "r" / "plot.html").read_text()
  assert "<td>lr</td><td>0.1</td>" in page
  assert "<td>model</td><td>{}</td>" in page


def test_metrics_file_is_accepted_for_its_workdir(tmp_path):
  run = write_run(tmp_path / "r", [{"step": 1, "m": 1}])
  runs = plot.read_runs([f"{run}/{plot.METRICS_FILE}"])
  assert [r.name for r in runs] == ["r"]


def test_page_is_self_contained_and_escaped(tmp_path):
  name = "</script><b>{{DATA}}"
  run = write_run(tmp_path / "r<i>", [{"step": 1, name: 1}], {"k<": name})
  page = plot.make_page(plot.read_runs([run]))
  assert page_series(page) == [{name: [[1], [1]]}]
  assert "<b>" not in page.replace("<b>{", "{") and "<i>" not in page
  assert not re.search(r"(src|href)\s*=|url\(|@import|fetch\(", page)
  urls = set(re.findall(r"https?://[^\"\s]+", page))
  assert urls == {"http://www.w3.org/2000/svg"}  # A name, not an address.


def test_missing_file(tmp_path, capsys):
  with pytest.raises(FileNotFoundError, match="No metrics in .*nothing"):
    plot.read_runs([str(tmp_path / "nothing")])
  assert plot.main([str(tmp_path / "nothing")]) == 1
  assert "--workdir" in capsys.readouterr().err


def test_groups():
  names = [
    "val/loss",
    "training_loss",
    "global_schedule1",
    "val/prec@1",
    "a/digits_10shot-seed-0",
    "z/digits_10shot-seed-0",
    "img/sec/core",
    "l2_params",
    "y/hostmem/used",
  ]
  assert plot.group_metrics(names) == [
    ("Loss", ["training_loss", "val/loss"], True),
    ("Learning rate", ["global_schedule1"], True),
    ("Accuracy", ["a/digits_10shot-seed-0", "val/prec@1"], True),
    ("Speed", ["img/sec/core"], True),
    ("Other", ["l2_params"], False),
    ("y/", ["y/hostmem/used"], False),
    ("z/", ["z/digits_10shot-seed-0"], False),
  ]


def test_learning_rate(tmp_path):
  records = [{"step": s, "global_schedule": s / 4} for s in (0, 2, 4)]
  with_lr = write_run(tmp_path / "a", records, {"lr": 0.02})
  without = write_run(tmp_path / "b", records)
  a, b = plot.read_runs([with_lr, without])
  assert a.series["lr"] == ([0, 2, 4], [0.0, 0.01, 0.02])
  assert "lr" not in b.series
  assert plot.group_metrics(a.series)[:2] == [
    ("Learning rate", ["lr"], True),
    ("Other", ["global_schedule"], False),
  ]
  assert plot.group_metrics(b.series) == [
    ("Learning rate", ["global_schedule"], True)
  ]


def test_other_axes(tmp_path):
  names = ("epoch", "examples_seen", "uptime")
  rows = [(10, 1, 640, 3600), (20, 2, 1280, 7200), (30, 3, 1920, 1800)]
  records = [
    {"step": s, **dict(zip(names, row, strict=True))} for s, *row in rows
  ]
  records += [{"step": s, "training_loss": s} for s in (0, 15, 30)]
  paths = [
    write_run(tmp_path / "r", records),
    write_run(tmp_path / "s", records),
  ]
  (run, _) = runs = plot.read_runs(paths)
  assert run.curves("epoch")["training_loss"] == ([0, 1.5, 3], [0, 15, 30])
  assert run.curves("images")["training_loss"] == ([0, 960, 1920], [0, 15, 30])
  # The second process began after two hours.
  assert run.curves("hours")["training_loss"] == ([0, 1.5, 2.5], [0, 15, 30])
  data = page_data(plot.make_page(runs, x="hours"))
  assert data["x"] == "hours"
  assert data["labels"] == ["step", "epoch", "images", "hours"]
  assert data["runs"][0]["axes"]["images"] == [
    [0, 10, 20, 30],
    [0, 640, 1280, 1920],
  ]
  plot.save_png(runs, str(tmp_path / "x.png"), "hours")
  bare = plot.read_runs([write_run(tmp_path / "t", [{"step": 1, "a": 1}])])
  assert page_data(plot.make_page(bare))["labels"] == ["step"]
  assert bare[0].curves("hours") == {}


def test_short_names():
  assert plot.short_names(["/a/x", "/b/y"]) == ["x", "y"]
  assert plot.short_names(["/a/b/x", "/a/c/x"]) == ["b/x", "c/x"]
  assert plot.short_names(["/a/x", "/a/x/", "/a/y"]) == ["x", "x #2", "y"]


def test_png(tmp_path):
  pytest.importorskip("matplotlib")
  run = write_run(
    tmp_path / "r", [{"step": i, "training_loss": 1 / i} for i in (1, 2, 3)]
  )
  png = tmp_path / "curves.png"
  assert plot.main([run, "--png", str(png)]) == 0
  assert png.read_bytes().startswith(b"\x89PNG")


def test_runs_without_jax_and_tensorflow(tmp_path):
  run = write_run(tmp_path / "r", [{"step": 1, "m": 1}])
  code = (
    "import sys; sys.modules['jax'] = sys.modules['tensorflow'] = None; "
    f"from big_vision.tools import plot; sys.exit(plot.main([{run!r}]))"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_curves_start_with_the_initial_evaluation(tmp_path):
  (tmp_path / plot.METRICS_FILE).write_text('{"step": 5, "val/loss": 1.0}\n')
  (tmp_path / plot.INITIAL_FILE).write_text(
    '{"step": 0, "num_params": 9, "val/loss": 3.0}\n'
  )
  (run,) = plot.read_runs([str(tmp_path)])
  assert run.series == {"val/loss": ([0, 5], [3.0, 1.0])}


def test_both_files_are_one(tmp_path):
  """Also where they overlap, or only one has a metric, or there is only one."""
  (tmp_path / plot.METRICS_FILE).write_text(
    '{"step": 0, "val/loss": 2.5}\n{"step": 5, "val/loss": 1.0}\n'
  )
  (tmp_path / plot.INITIAL_FILE).write_text(
    '{"step": 0, "val/loss": 3.0, "once/acc": 0.1, "z/secs/eval/once": 4}\n'
  )
  (run,) = plot.read_runs([str(tmp_path)])
  assert run.series == {
    "val/loss": ([0, 5], [2.5, 1.0]),
    "once/acc": ([0], [0.1]),
  }
  (tmp_path / plot.METRICS_FILE).unlink()
  (run,) = plot.read_runs([str(tmp_path)])
  assert run.series["val/loss"] == ([0], [3.0])
  (tmp_path / plot.INITIAL_FILE).unlink()
  with pytest.raises(FileNotFoundError):
    plot.read_runs([str(tmp_path)])


def test_changes_of_the_config_are_marked(tmp_path):
  config = {"lr": 0.1, "total_steps": 4, "input": {"batch_size": 8}}
  records = [{"step": s, "training_loss": 1 / s} for s in (1, 2, 3, 4)]
  workdir = write_run(tmp_path / "r", records, config | {"lr": 0.01})
  (tmp_path / "r/config-2.json").write_text(json.dumps(config))
  run = plot.read_runs([workdir])[0]
  assert run.changes == {2: ["lr: 0.1 -> 0.01"]}
  page = plot.make_page([run])
  changes = page_data(page)["runs"][0]["changes"]
  assert changes == [[2, ["lr: 0.1 -> 0.01"]]]
