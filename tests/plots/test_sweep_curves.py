"""Curves over arguments of the model, from the last values of evaluators."""

import json

import pytest

from big_vision.plots import curves, metric_groups, sweep_curves
from big_vision.tools import plot


def flexi(**kw):
  """Config and series of a FlexiViT evaluated at three sizes."""
  config, series = {"flexi.seqhw.v": [4, 10, 20], "res": 240, **kw}, {}
  for s, acc in ((4, 0.5), (10, 0.8), (20, 0.9)):
    config[f"evals.val{s:02}.pred"] = f"predict_seqhw={s}"
    series[f"val{s:02}/prec@1"] = ([1, 2], [0.0, acc])
    config[f"evals.dist_{s:02}.pred"] = f"student_seqhw={s}_prof"
    series[f"dist_{s:02}/kind=kl/avg"] = ([2], [1 / s])
  config["evals.teacher.pred"] = "prof"
  series["teacher/prec@1"] = ([2], [0.95])
  series["training_loss"] = ([1, 2], [3.0, 2.0])
  return series, config


def test_patch_sizes():
  assert sweep_curves.sweeps(*flexi()) == {
    "patch size (pixels)": {
      "val/prec@1": ([12, 24, 60], [0.9, 0.8, 0.5]),
      "dist/kind=kl/avg": ([12, 24, 60], [0.05, 0.1, 0.25]),
    }
  }


def test_without_the_size_of_images():
  series, config = flexi()
  del config["res"]
  curves = sweep_curves.sweeps(series, config)["seqhw"]
  assert curves["val/prec@1"] == ([4, 10, 20], [0.5, 0.8, 0.9])


def test_prefix_and_missing_points():
  series, config = flexi()
  config["evals.val04.prefix"] = "other/"
  del series["dist_04/kind=kl/avg"], series["dist_10/kind=kl/avg"]
  curves = sweep_curves.sweeps(series, config)["patch size (pixels)"]
  # One point is no curve.
  assert curves == {"val/prec@1": ([12, 24], [0.9, 0.8])}


def test_two_arguments():
  config = {"flexi.a.v": [1, 2], "flexi.drop.v": [0.0, 0.5]}
  series = {}
  for a in (1, 2):
    for drop in (0.0, 0.5):
      name = f"val_{a}_drop{drop}"
      config[f"evals.{name}.pred"] = f"predict_a={a}_drop={drop}"
      series[f"{name}/loss"] = ([5], [a + drop])
  assert sweep_curves.sweeps(series, config) == {
    "a": {
      "val_drop0.0/loss": ([1, 2], [1.0, 2.0]),
      "val_drop0.5/loss": ([1, 2], [1.5, 2.5]),
    },
    "drop": {
      "val_1_drop/loss": ([0.0, 0.5], [1.0, 1.5]),
      "val_2_drop/loss": ([0.0, 0.5], [2.0, 2.5]),
    },
  }


def test_runs_that_sweep_nothing():
  series, config = flexi()
  del config["flexi.seqhw.v"]
  assert sweep_curves.sweeps(series, config) == {}
  assert sweep_curves.sweeps(series, {}) == {}


def test_page_and_picture(tmp_path):
  pytest.importorskip("matplotlib")
  series, flat = flexi()
  config = {"res": 240, "flexi": {"seqhw": {"v": [4, 10, 20]}}, "evals": {}}
  for key, value in flat.items():
    if key.startswith("evals."):
      config["evals"][key.split(".")[1]] = {"pred": value}
  folder = tmp_path / "w"
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(config))
  last = {name: values[-1] for name, (_, values) in series.items()}
  (folder / curves.METRICS_FILE).write_text(json.dumps({"step": 2, **last}))
  assert plot.main([str(folder), "--png", str(tmp_path / "a.png")]) == 0
  assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
  runs = curves.read_runs([str(folder)])
  assert metric_groups.group_sweeps(runs) == [
    ("Accuracy by patch size (pixels)", ["val/prec@1"], True,
     "patch size (pixels)"),
    ("Others by patch size (pixels)", ["dist/kind=kl/avg"], False,
     "patch size (pixels)"),
  ]  # fmt: skip
  text = (folder / "plot.html").read_text()
  assert '"val/prec@1": [[12, 24, 60], [0.9, 0.8, 0.5]]' in text
