"""Curves are what is in the files of a run."""

import pytest

import plotted_runs
from big_vision.plots import curves


def test_last_value_of_a_repeated_step_counts(tmp_path):
  records = [{"step": s, "a": s} for s in (1, 2, 3)]
  records += [{"step": s, "a": s + 10} for s in (2, 3, 4)]
  records += [{"step": 4, "b": 1}]
  run = curves.read_runs([plotted_runs.write_run(tmp_path / "r", records)])[0]
  assert run.series == {
    "a": ([1, 2, 3, 4], [1, 12, 13, 14]),
    "b": ([4], [1]),
  }


@pytest.mark.parametrize("torn", ['{"step": 3, "a', "[]", "3", '{"a": 1}', "}"])
def test_torn_lines_are_left_out(tmp_path, torn):
  good = [{"step": 1, "a": 5}]
  folder = plotted_runs.write_run(tmp_path / "r", good, tail=torn)
  path = f"{folder}/{curves.METRICS_FILE}"
  assert curves.read_metrics(path) == ({"a": ([1], [5.0])}, 1)
  with open(path, "a") as f:
    f.write('\n{"step": 2, "a": 6}\n')  # The resumed run.
  assert curves.read_metrics(path) == ({"a": ([1, 2], [5.0, 6.0])}, 1)


def test_line_that_continues_a_torn_one(tmp_path):
  torn = '{"step": 2, "a{"step": 2, "a": 6}\n'
  folder = plotted_runs.write_run(
    tmp_path / "r", [{"step": 1, "a": 5}], tail=torn
  )
  series, left_out = curves.read_metrics(f"{folder}/{curves.METRICS_FILE}")
  assert (series, left_out) == ({"a": ([1, 2], [5.0, 6.0])}, 1)


def test_metrics_file_is_accepted_for_its_workdir(tmp_path):
  run = plotted_runs.write_run(tmp_path / "r", [{"step": 1, "m": 1}])
  runs = curves.read_runs([f"{run}/{curves.METRICS_FILE}"])
  assert [r.name for r in runs] == ["r"]


def test_short_names():
  assert curves.short_names(["/a/x", "/b/y"]) == ["x", "y"]
  assert curves.short_names(["/a/b/x", "/a/c/x"]) == ["b/x", "c/x"]
  assert curves.short_names(["/a/x", "/a/x/", "/a/y"]) == ["x", "x #2", "y"]


def test_curves_start_with_the_initial_evaluation(tmp_path):
  (tmp_path / curves.METRICS_FILE).write_text('{"step": 5, "val/loss": 1.0}\n')
  (tmp_path / curves.INITIAL_FILE).write_text(
    '{"step": 0, "num_params": 9, "val/loss": 3.0}\n'
  )
  (run,) = curves.read_runs([str(tmp_path)])
  assert run.series == {"val/loss": ([0, 5], [3.0, 1.0])}


def test_both_files_are_one(tmp_path):
  """Also where they overlap, or only one has a metric, or there is only one."""
  (tmp_path / curves.METRICS_FILE).write_text(
    '{"step": 0, "val/loss": 2.5}\n{"step": 5, "val/loss": 1.0}\n'
  )
  (tmp_path / curves.INITIAL_FILE).write_text(
    '{"step": 0, "val/loss": 3.0, "once/acc": 0.1, "z/secs/eval/once": 4}\n'
  )
  (run,) = curves.read_runs([str(tmp_path)])
  assert run.series == {
    "val/loss": ([0, 5], [2.5, 1.0]),
    "once/acc": ([0], [0.1]),
  }
  (tmp_path / curves.METRICS_FILE).unlink()
  (run,) = curves.read_runs([str(tmp_path)])
  assert run.series["val/loss"] == ([0], [3.0])
  (tmp_path / curves.INITIAL_FILE).unlink()
  with pytest.raises(FileNotFoundError):
    curves.read_runs([str(tmp_path)])


def test_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError, match="No metrics in .*nothing"):
    curves.read_runs([str(tmp_path / "nothing")])
