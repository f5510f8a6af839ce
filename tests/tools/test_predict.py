"""The command that predicts pictures."""

import csv
import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest

import trained_run
from big_vision import pretrained
from big_vision.predictions import files
from big_vision.tools import predict

pytestmark = [pytest.mark.tf, pytest.mark.usefixtures("quick_compilation")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(workdir, paths of pictures, model)."""
  workdir, paths = trained_run.make(tmp_path_factory.mktemp("run"))
  return str(workdir), paths, pretrained.load(workdir)


def rows_of(text):
  return list(csv.DictReader(io.StringIO(text)))


def check(rows, model, paths):
  """Compares rows of CSV with the model in Python."""
  assert [r["picture"] for r in rows] == [str(p) for p in paths]
  for row, want in zip(rows, model.predict(paths), strict=True):
    assert not row["error"]
    for i, p in enumerate(want, 1):
      assert row[f"class{i}"] == p.name
      assert float(row[f"probability{i}"]) == pytest.approx(
        p.probability, abs=1e-5
      )


def test_folder(run, capsys):
  workdir, paths, model = run
  folder = str(paths[0].parents[1])
  assert predict.main(["--from", workdir, folder, "--batch_size", "5"]) == 0
  out, err = capsys.readouterr()
  check(rows_of(out), model, paths)
  assert err == ""


def test_tar_files_and_lists(run, tmp_path, capsys, monkeypatch):
  workdir, paths, model = run
  for name, mode in (("a.tar", "w"), ("b.tar.gz", "w:gz")):
    with tarfile.open(tmp_path / name, mode) as tar:
      for path in paths[:3]:
        tar.add(path, f"x/{path.name}")
      tar.add(__file__, "x/readme.py")
  listed = f"{paths[5]}\n\n{tmp_path}/b.tar.gz\n"
  monkeypatch.setattr("sys.stdin", io.StringIO(listed))
  assert predict.main(["--from", workdir, f"{tmp_path}/a.tar", "-"]) == 0
  rows = rows_of(capsys.readouterr().out)
  names = [p.name for p in paths[:3]]
  assert [r["picture"] for r in rows] == [
    *(f"{tmp_path}/a.tar/x/{n}" for n in names),
    str(paths[5]),
    *(f"{tmp_path}/b.tar.gz/x/{n}" for n in names),
  ]
  want = [*paths[:3], paths[5], *paths[:3]]
  check(
    [{**r, "picture": str(p)} for r, p in zip(rows, want, strict=True)],
    model,
    want,
  )


def test_unreadable_pictures_are_rows(run, tmp_path, capsys):
  workdir, paths, _ = run
  broken = tmp_path / "broken.jpg"
  broken.write_bytes(paths[0].read_bytes()[:700])
  (tmp_path / "text.png").write_text("hello")
  none = str(tmp_path / "none.jpg")
  args = ["--from", workdir, str(tmp_path), none, str(paths[0]), "--topk", "1"]
  assert predict.main(args) == 1
  out, err = capsys.readouterr()
  a, b, c, d = rows_of(out)
  assert a["picture"] == str(broken) and "cannot be read" in a["error"]
  assert "begins with hello" in b["error"] and b["class1"] == ""
  assert c["error"] == "There is no such file." and not d["error"]
  assert "3 of 4 pictures have no prediction" in err
  assert predict.main([*args, "--format", "jsonl"]) == 1
  rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert rows[2] == {"picture": none, "error": "There is no such file."}
  assert set(rows[3]["predictions"][0]) == {"name", "probability", "label"}
  assert predict.main([*args, "--format", "table"]) == 1
  lines = capsys.readouterr().out.splitlines()
  assert "error: There is no such" in lines[2] and "%" in lines[3]


def test_features_and_out(run, tmp_path, capsys):
  workdir, paths, model = run
  args = ["--from", workdir, *map(str, paths[:3]), "none.png"]
  out, npz = tmp_path / "x.csv", tmp_path / "f.npz"
  args += ["--out", str(out), "--features", str(npz)]
  assert predict.main(args) == 1
  assert capsys.readouterr().out == ""
  assert len(rows_of(out.read_text())) == 4
  with np.load(npz) as f:
    assert f["pictures"].tolist() == [str(p) for p in paths[:3]]
    np.testing.assert_allclose(
      f["features"], model.features(paths[:3]), atol=1e-5
    )


@pytest.mark.parametrize(
  "args, message",
  [
    (["x.jpg", "--topk", "0"], "--topk=0 should be at least 1"),
    (["x.jpg", "--features", "f.txt"], "must end in .npz"),
    (["x.jpg", "--text", "a cat"], "--text is for models of images and texts"),
    (["{empty}"], "There are no pictures in "),
    (["x.jpg", "--from", "{empty}"], "has no config.json"),
    (["{tar}"], "is not a tar file"),
    (["x.jpg", "--pp", "resize(32)|vlue_range"], "Did you mean 'value_range'"),
  ],
)
def test_errors(run, tmp_path, capsys, args, message):
  (tmp_path / "x.tar").write_text("no tar")
  (tmp_path / "empty").mkdir()
  names = dict(tar=f"{tmp_path}/x.tar", empty=f"{tmp_path}/empty")
  args = [a.format(**names) for a in args]
  assert predict.main(["--from", run[0], *args]) == 1
  err = capsys.readouterr().err
  assert message in err and err.count("\n") == 1, err


def test_help_is_quick():
  code = """
import sys
from big_vision.tools import predict
try:
  predict.main(["--help"])
except SystemExit as e:
  assert e.code == 0
assert not {"jax", "tensorflow", "numpy"} & set(sys.modules)
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert "--topk" in done.stdout and "standard input" in done.stdout


def test_order_and_number_of_threads(tmp_path):
  for i in range(100):
    (tmp_path / f"{i:03}.png").write_bytes(bytes([i]))
  found = files.find([str(tmp_path)], sys.stdin)
  for threads in (1, 7):
    got = list(files.in_threads(lambda data: data[0], found, threads))
    assert [x for _, x, _ in got] == list(range(100))
    assert os.path.basename(got[7][0]) == "007.png"
