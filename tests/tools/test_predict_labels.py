"""The command that predicts pictures, with stage II of UViM."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import uvim_runs
from big_vision import pretrained
from big_vision.predictions import label_files
from big_vision.tools import predict

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module", params=["panoptic", "depth"])
def run(request, tmp_path_factory):
  """(workdir of stage II, folder with pictures, their pixels)."""
  folder, task = tmp_path_factory.mktemp("runs"), request.param
  one = uvim_runs.stage_one(folder / "one", task)
  two = uvim_runs.stage_two(folder / "two", task, one)
  photos = folder / "photos"
  (photos / "more").mkdir(parents=True)
  images = uvim_runs.images()
  names = ("a.png", "b.png", "more/A.png")
  for name, image in zip(names, images, strict=True):
    Image.fromarray(image).save(photos / name)
  return str(two), photos, images


def read(path):
  return np.asarray(Image.open(path))


def test_files_and_rows(run, tmp_path, capsys):
  workdir, photos, images = run
  model = pretrained.load(workdir)
  (tmp_path / "text.png").write_text("hello")
  out = tmp_path / "new/out"
  args = ["--from", workdir, str(photos), f"{tmp_path}/text.png", "none.png"]
  assert predict.main([*args, "--out", str(out)]) == 1
  text, err = capsys.readouterr()
  rows = list(csv.DictReader(io.StringIO(text)))
  assert "2 of 5 pictures have no prediction" in err
  assert [r["error"] == "" for r in rows] == [True] * 3 + [False] * 2
  assert "begins with hello" in rows[3]["error"] and not rows[3]["file"]
  files = [f"{stem}.{model.task}.png" for stem in ("a", "b", "A-2")]
  assert [r["file"] for r in rows[:3]] == files
  for row, file, labels in zip(
    rows, files, model.predict(images), strict=False
  ):
    np.testing.assert_array_equal(read(out / file), model.draw(labels))
    stem = file.removesuffix(f".{model.task}.png")
    if model.task == "panoptic":
      for i, name in enumerate(("classes", "instances")):
        found = read(out / f"{stem}.{name}.png")
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, labels[..., i])
      pairs = {tuple(p) for p in labels.reshape(-1, 2) if p[0]}
      assert int(row["instances"]) == len(pairs)
      assert int(row["classes"]) == len({c for c, _ in pairs})
    if model.task == "depth":
      found = read(out / f"{stem}.millimeters.png")
      np.testing.assert_allclose(found / 1000, labels, atol=6e-4)
      assert float(row["max_depth"]) == pytest.approx(labels.max(), rel=1e-5)
  number = {"panoptic": 3, "depth": 2}[model.task]
  assert len(list(out.iterdir())) == 3 * number


def test_seed_and_temperature(run, tmp_path, capsys):
  workdir, photos, images = run
  model = pretrained.load(workdir)
  picture = str(photos / "a.png")
  for seed in (1, 2):
    flags = ["--seed", str(seed), "--temperature", "3", "--format", "jsonl"]
    args = ["--from", workdir, picture, "--out", str(tmp_path / str(seed))]
    assert predict.main([*args, *flags]) == 0
    row = json.loads(capsys.readouterr().out)
    (labels,) = model.predict(images[:1], seed=seed, temperature=3.0)
    found = read(tmp_path / f"{seed}/{row['values']['file']}")
    np.testing.assert_array_equal(found, model.draw(labels))


def test_what_is_refused(run, tmp_path, capsys):
  workdir, photos, _ = run
  if "depth" not in str(pretrained.load(workdir).config.oracle.task):
    return  # It is the same for all.
  one = workdir.removesuffix("two") + "one"
  out = ["--out", f"{tmp_path}/out"]
  (tmp_path / "file").write_text("")
  for args, message in [
    ([workdir], "--out FOLDER is required"),
    ([workdir, *out, "--topk", "3"], "--topk is not for models of UViM"),
    ([workdir, *out, "--seed", "-1"], "--seed=-1 should be from 0"),
    ([workdir, *out, "--temperature", "-1"], "--temperature=-1.0 should be 0"),
    ([workdir, "--out", str(photos)], "is a folder of pictures to read"),
    (
      [workdir, "--out", f"{tmp_path}/file"],
      "is a file; it should be a folder",
    ),
    ([one, *out], "is stage I of UViM, which needs labels"),
    (
      [workdir, *out, "--oracle", "x"],
      "oracle='x': x: there is no such workdir",
    ),
  ]:
    assert predict.main(["--from", *args, str(photos)]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1, err
  # What an earlier call has written is not predicted again.
  shutil.copytree(photos, tmp_path / "p")
  for _ in range(2):
    args = ["--from", workdir, f"{tmp_path}/p", "--out", f"{tmp_path}/p/out"]
    assert predict.main(args) == 0
    assert capsys.readouterr().out.count("\n") == 4


def test_names_of_files(tmp_path):
  writer = label_files.Writer(str(tmp_path / "new"), "color")
  picture = uvim_runs.images(1)[0]
  names = ("a/x.jpg", "b/X.png", "x.tar/.jpg", "x-2.jpg", "noise")
  files = [writer.write(name, picture, picture) for name in names]
  stems = ("x", "X-2", ".jpg", "x-2-2", "noise")
  assert files == [f"{stem}.color.png" for stem in stems]
  np.testing.assert_array_equal(read(tmp_path / "new/X-2.color.png"), picture)
  assert len(list((tmp_path / "new").iterdir())) == 5
  assert label_files.columns("color") == ("file",)


def test_folders(tmp_path):
  with pytest.raises(ValueError, match="is a folder of pictures"):
    label_files.check_folder(str(tmp_path), [f"{tmp_path}/"])
  label_files.check_folder(str(tmp_path / "out"), [str(tmp_path), "-"])
