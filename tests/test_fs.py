"""Local paths of fs; remote ones through a stand-in for gfile."""

import sys
import types

import pytest

from big_vision import fs


def test_files_and_folders(tmp_path):
  folder = fs.join(str(tmp_path), "a", "b")
  fs.makedirs(folder)
  fs.makedirs(folder)  # Fine if it exists.
  assert fs.isdir(folder) and fs.exists(folder)

  path = fs.join(folder, "x.txt")
  with fs.open(path, "w") as f:
    f.write("grüße")
  assert (tmp_path / "a/b/x.txt").read_bytes() == "grüße".encode()
  with fs.open(path) as f:
    assert f.read() == "grüße"
  with fs.open(path, "rb") as f:
    assert f.read() == "grüße".encode()
  assert not fs.isdir(path)
  assert fs.dirname(path) == folder

  with fs.open(fs.join(folder, "y.txt"), "w") as f:
    f.write("y")
  assert fs.listdir(folder) == ["x.txt", "y.txt"]
  assert fs.glob(fs.join(folder, "[xz]*.txt")) == [path]
  fs.rename(fs.join(folder, "y.txt"), path)  # Overwrites.
  with fs.open(path) as f:
    assert f.read() == "y"
  fs.remove(path)
  assert fs.listdir(folder) == []

  fs.rmtree(fs.join(str(tmp_path), "a"))
  fs.rmtree(fs.join(str(tmp_path), "a"))  # Fine if missing.
  assert list(tmp_path.iterdir()) == []
  with pytest.raises(FileNotFoundError):
    fs.open(path)


@pytest.mark.parametrize(
  "path, local",
  [
    ("a/b", True),
    ("/a:b/c", True),
    ("./x", True),
    ("gs://b/x", False),
    ("s3://b", False),
  ],
)
def test_is_local(path, local):
  assert fs.is_local(path) == local


def test_remote_goes_to_gfile(monkeypatch):
  calls = []

  def record(name, result=None):
    def fn(*args, **kw):
      calls.append((name, *args, *kw.items()))
      return result

    return fn

  gfile = types.SimpleNamespace(
    exists=record("exists", True),
    isdir=record("isdir", True),
    makedirs=record("makedirs"),
    listdir=record("listdir", ["b/", "a"]),
    glob=record("glob", ["z", "y"]),
    rename=record("rename"),
    remove=record("remove"),
    rmtree=record("rmtree"),
    GFile=record("GFile", "file"),
  )
  monkeypatch.setitem(
    sys.modules, "tensorflow.io", types.SimpleNamespace(gfile=gfile)
  )
  monkeypatch.setitem(
    sys.modules, "tensorflow", types.SimpleNamespace(io=gfile)
  )
  p = "gs://b/x"
  assert fs.exists(p) and fs.isdir(p)
  assert fs.listdir(p) == ["a", "b"]  # gfile marks folders with a slash.
  assert fs.glob(p) == ["y", "z"]
  assert fs.open(p, "rb") == "file"
  fs.rename(p, p + "2")
  fs.rmtree(p)
  assert fs.join(p, "y", "z") == "gs://b/x/y/z"
  assert fs.dirname(p) == "gs://b"
  assert ("GFile", p, "rb") in calls
  assert ("rename", p, p + "2", ("overwrite", True)) in calls
  assert ("rmtree", p) in calls


def test_remote_without_tensorflow_says_what_to_do(monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  monkeypatch.delitem(sys.modules, "tensorflow.io", raising=False)
  with pytest.raises(ImportError, match="pip install"):
    fs.exists("gs://b/x")
