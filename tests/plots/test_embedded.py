"""Pictures on the page of curves."""

import base64
import re

import numpy as np

import plotted_runs
from big_vision import pictures
from big_vision.plots import curves, embedded, page


def make(folder, steps, name="val/a"):
  workdir = plotted_runs.write_run(folder, [{"step": 1, "x": 1}])
  for step in steps:
    path = pictures.path_of(workdir, name, step)
    pictures.save(np.full([2, 3, 3], step, np.uint8), path)
  return workdir


def test_page_has_the_pictures(tmp_path):
  steps = [0, 10, 20]
  paths = [make(tmp_path / "r", steps), make(tmp_path / "s", [5])]
  runs = curves.read_runs(paths)
  text = page.make(runs)
  first, second = plotted_runs.page_data(text)["pictures"]
  assert (first["run"], first["name"], first["steps"]) == (0, "val/a", steps)
  assert (second["run"], second["steps"], second["total"]) == (1, [5], 1)
  for step, image in zip(steps, first["images"], strict=True):
    head, _, data = image.partition(",")
    assert head == "data:image/png;base64"
    file = pictures.path_of(paths[0], "val/a", step)
    assert base64.b64decode(data) == open(file, "rb").read()
  # Nothing is fetched, also with pictures.
  assert not re.search(r"(src|href)\s*=|url\(|@import|fetch\(", text)


def test_many_steps(tmp_path):
  runs = curves.read_runs([make(tmp_path / "r", range(0, 101, 2))])
  (found,) = embedded.embed(runs, max_steps=6)
  assert found["steps"] == [0, 20, 40, 60, 80, 100] and found["total"] == 51
  size = len(found["images"][0])
  (found,) = embedded.embed(runs, max_steps=12, max_bytes=4 * size)
  assert found["steps"] == [0, 50, 100]
  (found,) = embedded.embed(runs, max_bytes=1)
  assert found["steps"] == [100]


def test_runs_without_pictures(tmp_path):
  path = plotted_runs.write_run(tmp_path / "r", [{"step": 1, "x": 1}])
  runs = curves.read_runs([path])
  assert runs[0].pictures == {} and embedded.embed(runs) == []
