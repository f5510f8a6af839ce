"""Which metrics are shown together."""

import plotted_runs
from big_vision.plots import curves, metric_groups


def test_groups():
  names = [
    "val/loss",
    "training_loss",
    "global_schedule1",
    "val/prec@1",
    "a/digits_10shot-seed-0",
    "z/digits_10shot-seed-0",
    "img/sec/core",
    "mfu",
    "img/sec",
    "l2_params",
    "y/hostmem/used",
  ]
  assert metric_groups.group_metrics(names) == [
    ("Loss", ["training_loss", "val/loss"], True),
    ("Learning rate", ["global_schedule1"], True),
    ("Accuracy", ["a/digits_10shot-seed-0", "val/prec@1"], True),
    ("Speed", ["mfu", "img/sec", "img/sec/core"], True),
    ("Other", ["l2_params"], False),
    ("y/", ["y/hostmem/used"], False),
    ("z/", ["z/digits_10shot-seed-0"], False),
  ]


def test_learning_rate(tmp_path):
  records = [{"step": s, "global_schedule": s / 4} for s in (0, 2, 4)]
  with_lr = plotted_runs.write_run(tmp_path / "a", records, {"lr": 0.02})
  without = plotted_runs.write_run(tmp_path / "b", records)
  a, b = curves.read_runs([with_lr, without])
  assert a.series["lr"] == ([0, 2, 4], [0.0, 0.01, 0.02])
  assert "lr" not in b.series
  assert metric_groups.group_metrics(a.series)[:2] == [
    ("Learning rate", ["lr"], True),
    ("Other", ["global_schedule"], False),
  ]
  assert metric_groups.group_metrics(b.series) == [
    ("Learning rate", ["global_schedule"], True)
  ]
