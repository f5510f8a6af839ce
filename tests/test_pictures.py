"""Pictures of a run: files, TensorBoard, trackers; never among the numbers."""

import glob
import io
import json
import types

import jax
import numpy as np
import pytest
from PIL import Image

from big_vision import metrics, pictures, trackers


def pixels(value=0, shape=(4, 6, 3)):
  return (np.arange(np.prod(shape)).reshape(shape) + value).astype(np.uint8)


def read(path):
  return np.asarray(Image.open(path))


def write(workdir, steps, **kw):
  writer = metrics.BigVisionMetricWriter(workdir=str(workdir), **kw)
  for step in steps:
    writer.step_start(step)
    writer.measure("val/loss", step)
    assert writer.measure("val/a", pictures.Picture(pixels(step))) is None
    writer.step_end(initial=step == 0)
  writer.close()
  return writer


def test_files_and_lines(tmp_path):
  writer = write(tmp_path, (0, 3, 7))
  assert writer.latest == {"val/loss": 7}
  for step in (0, 3, 7):
    path = tmp_path / f"pictures/val/a_{step:09d}.png"
    np.testing.assert_array_equal(read(path), pixels(step))
  lines = (tmp_path / "big_vision_metrics.txt").read_text().splitlines()
  assert [json.loads(x) for x in lines] == [
    {"step": 3, "val/loss": 3.0},
    {"step": 7, "val/loss": 7.0},
  ]
  found = pictures.find(str(tmp_path))
  assert list(found) == ["val/a"] and list(found["val/a"]) == [0, 3, 7]
  assert found["val/a"][3] == str(tmp_path / "pictures/val/a_000000003.png")
  assert not glob.glob(f"{tmp_path}/pictures/**/*.part", recursive=True)


def test_resume_neither_loses_nor_doubles(tmp_path):
  write(tmp_path, (0, 3, 7))
  (tmp_path / "pictures/val/a_000000009.png.part").write_bytes(b"half")
  write(tmp_path, (7, 9))  # From a checkpoint before step 7.
  found = pictures.find(str(tmp_path))["val/a"]
  assert list(found) == [0, 3, 7, 9]
  for step, path in found.items():
    np.testing.assert_array_equal(read(path), pixels(step))


def test_held_back_until_the_run_begins(tmp_path):
  writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path / "x"), hold=True)
  writer.step_start(0)
  writer.measure("only", pictures.Picture(pixels()))  # And no number.
  writer.step_end(initial=True)
  assert not (tmp_path / "x").exists()
  writer.begin()
  writer.step_start(1)
  writer.measure("dropped", pictures.Picture(pixels()))
  writer.step_start(2)
  writer.measure("last", pictures.Picture(pixels()))
  writer.close()
  assert list(pictures.find(str(tmp_path / "x"))) == ["last", "only"]
  initial = tmp_path / "x/big_vision_initial_metrics.txt"
  assert initial.read_text() == ""


def test_tensorboard(tmp_path):
  write(tmp_path, (5,))
  (path,) = tmp_path.glob("events.out.*")
  content = path.read_bytes()
  start = content.index(b"\x89PNG")
  assert b"val/a" in content[:start]
  shown = Image.open(io.BytesIO(content[start:]))
  np.testing.assert_array_equal(np.asarray(shown), pixels(5))


def test_other_processes_write_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  write(tmp_path / "x", (1,))
  assert not (tmp_path / "x").exists()


def test_trackers(tmp_path, monkeypatch):
  calls = []
  tracker = types.SimpleNamespace(
    id="1",
    log=lambda *a: calls.append(a),
    log_pictures=lambda step, shown: calls.append((step, list(shown))),
    finish=calls.append,
  )
  table = {"wandb": (lambda run: tracker, "wandb")}
  monkeypatch.setattr(trackers, "_TRACKERS", table)
  write(tmp_path / "x", (1, 2), config={"trackers": ["wandb"]})
  assert calls == [
    (1, {"val/loss": 1.0}), (1, ["val/a"]),
    (2, {"val/loss": 2.0}), (2, ["val/a"]), "finished",
  ]  # fmt: skip
  calls.clear()
  del tracker.log_pictures  # A version without: numbers are sent all the same.
  write(tmp_path / "y", (1, 2), config={"trackers": ["wandb"]})
  assert calls == [(1, {"val/loss": 1.0}), (2, {"val/loss": 2.0}), "finished"]


def test_names_of_files():
  name = lambda x: pictures.path_of("w", x, 12)
  assert name("a/b@1 [x]") == "w/pictures/a/b@1 [x]_000000012.png"
  assert name("../../x:y") == "w/pictures/_/_/x_y_000000012.png"
  assert name("/") == "w/pictures/__000000012.png"
  assert name("a") != pictures.path_of("w", "a", 1234567890123)


def test_png_of_16_bits(tmp_path):
  depth = np.array([[0, 1, 65535], [256, 3, 10000]], np.uint16)
  pictures.save(depth, str(tmp_path / "d.png"))
  image = Image.open(tmp_path / "d.png")
  assert image.mode == "I;16"
  np.testing.assert_array_equal(np.asarray(image), depth)
  labels = np.array([[0, 255]], np.uint8)
  pictures.save(labels, str(tmp_path / "new/l.png"))
  np.testing.assert_array_equal(read(tmp_path / "new/l.png"), labels)


@pytest.mark.parametrize(
  "array",
  [np.zeros([2, 2, 3]), np.zeros([2, 2], np.uint8), pixels(shape=(0, 2, 3))],
)
def test_what_is_no_picture(array):
  with pytest.raises(ValueError, match="uint8 .height, width, 3."):
    pictures.Picture(array)
