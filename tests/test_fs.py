"""Local paths of fs, and the remote stores that need no network."""

import os
import subprocess
import sys

import pytest

from big_vision import fs, lookup


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


@pytest.fixture(params=["memory", pytest.param("ram", marks=pytest.mark.tf)])
def remote(request, tmp_path):
  """A folder in memory, of fsspec or of TensorFlow."""
  folder = f"{request.param}://{tmp_path.name}"
  yield folder
  fs.rmtree(folder)


def write(path, content):
  with fs.open(path, "w" if isinstance(content, str) else "wb") as f:
    f.write(content)


def read(path):
  with fs.open(path) as f:
    return f.read()


def test_remote_files(remote):
  path = fs.join(remote, "a", "x.txt")
  assert path == f"{remote}/a/x.txt" and fs.dirname(path) == f"{remote}/a"
  assert not fs.exists(path) and not fs.isdir(f"{remote}/a")
  fs.makedirs(f"{remote}/a")
  write(path, "grüße")
  assert fs.exists(path) and not fs.isdir(path)
  assert fs.isdir(f"{remote}/a") and fs.exists(f"{remote}/a")
  with fs.open(path, "rb") as f:
    assert f.read() == "grüße".encode()
  assert fs.read_range(path, 1, 3) == "rü".encode()
  assert fs.read_range(path, 5, 99) == "ße".encode()[1:]
  assert fs.read_range(path, 3, 0) == b""
  with fs.open(path, "a") as f:
    f.write("!")
  assert read(path) == "grüße!"
  with fs.open(f"{remote}/a/log", "ab") as f:  # Which did not exist.
    f.write(b"1")
  assert read(f"{remote}/a/log") == "1"


def test_remote_folders(remote):
  for name in ("a/x.txt", "a/y.txt", "a/z~", "b/c/x.txt"):
    fs.makedirs(fs.dirname(f"{remote}/{name}"))
    write(f"{remote}/{name}", name)
  assert fs.listdir(remote) == ["a", "b"]
  assert fs.listdir(f"{remote}/a/") == ["x.txt", "y.txt", "z~"]
  assert fs.scan(f"{remote}/b") == [("c", True)]
  assert fs.scan(f"{remote}/a", lambda name: name.endswith("~"))[2] == (
    "z~", False
  )  # fmt: skip
  assert fs.glob(f"{remote}/a/[xz]*") == [f"{remote}/a/x.txt", f"{remote}/a/z~"]
  assert fs.glob(f"{remote}/*/x.txt") == [f"{remote}/a/x.txt"]
  fs.remove(f"{remote}/a/x.txt")
  assert fs.listdir(f"{remote}/a") == ["y.txt", "z~"]
  fs.rmtree(f"{remote}/a")
  fs.rmtree(f"{remote}/a")  # Fine if missing.
  assert fs.listdir(remote) == ["b"]


def test_remote_rename(remote):
  missing = FileNotFoundError
  if remote.startswith("ram"):
    from big_vision.tf import tf

    missing = tf.errors.NotFoundError
  fs.makedirs(remote)
  write(f"{remote}/LAST", "1")
  write(f"{remote}/CUR", "2")
  fs.rename(f"{remote}/CUR", f"{remote}/LAST")
  assert read(f"{remote}/LAST") == "2" and fs.listdir(remote) == ["LAST"]
  with pytest.raises(missing):
    fs.rename(f"{remote}/CUR", f"{remote}/LAST")
  assert read(f"{remote}/LAST") == "2"
  with pytest.raises(ValueError, match="two stores"):
    fs.rename(f"{remote}/LAST", "/tmp/LAST")


def test_rename_of_a_remote_folder():
  write("memory://rename/old/a/x", "x")
  write("memory://rename/old/y", "y")
  fs.rename("memory://rename/old", "memory://rename/new")
  assert fs.listdir("memory://rename") == ["new"]
  assert read("memory://rename/new/a/x") == "x"
  fs.rmtree("memory://rename")


def test_names_are_no_patterns():
  """Drivers of fsspec would delete `run1`, too, or instead."""
  for name in ("run[1]", "run1", "run*"):
    write(f"memory://names/{name}/x", name)
  fs.rmtree("memory://names/run[1]")
  assert fs.listdir("memory://names") == ["run*", "run1"]
  fs.rmtree("memory://names/run*")
  assert fs.listdir("memory://names") == ["run1"]
  fs.rmtree("memory://names")


def test_stamp_tells_changes(remote, tmp_path):
  for folder in (remote, str(tmp_path)):
    path = fs.join(folder, "x")
    fs.makedirs(folder)
    write(path, "1")
    before = fs.stamp(path)
    assert fs.stamp(path) == before
    write(path, "12")
    assert fs.stamp(path) != before


_FAKE_GCSFS = """
from fsspec.implementations import memory

class GCSFileSystem(memory.MemoryFileSystem):
  protocol = ("gs", "gcs")
  store, pseudo_dirs = {}, [""]

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(path.replace("gs://", "memory://"))
"""

_USE = """
import sys
import ml_collections
import numpy as np
from big_vision import checkpoint_npz, fs, metrics

checkpoint_npz.save_checkpoint({"a": np.arange(3)}, "gs://bucket/run/x.npz")
print(checkpoint_npz.load_checkpoint_np("gs://bucket/run/x.npz")["a"])
writer = metrics.BigVisionMetricWriter(workdir="gs://bucket/run", config=ml_collections.ConfigDict())
for step in (1, 2):
  writer.step_start(step)
  writer.measure("loss", step)
  writer.step_end()
writer.close()
print(fs.listdir("gs://bucket/run"), fs.glob("gs://bucket/*/*.npz"))
with fs.open("gs://bucket/run/big_vision_metrics.txt") as f:
  print(f.read())
print("tensorflow" in sys.modules)
"""


def test_google_storage_without_tensorflow(tmp_path):
  """With a driver in memory in the place of gcsfs."""
  (tmp_path / "gcsfs.py").write_text(_FAKE_GCSFS)
  path = os.pathsep.join([str(tmp_path), *sys.path])
  process = subprocess.run(
    [sys.executable, "-c", _USE],
    env=os.environ | {"PYTHONPATH": path},
    capture_output=True,
    text=True,
  )
  assert process.returncode == 0, process.stderr
  assert process.stdout.splitlines() == [
    "[0 1 2]",
    "['big_vision_metrics.txt', 'config.json', 'x.npz'] "
    "['gs://bucket/run/x.npz']",
    '{"step": 1, "loss": 1.0}',
    '{"step": 2, "loss": 2.0}',
    "",
    "False",
  ]


@pytest.mark.tf
def test_tensorflow_opens_google_storage_where_it_must(monkeypatch):
  from big_vision import remote_stores

  find = remote_stores.importlib.util.find_spec
  monkeypatch.setattr(
    remote_stores.importlib.util,
    "find_spec",
    lambda name: None if name in ("gcsfs", "s3fs") else find(name),
  )
  assert isinstance(
    remote_stores.of("gs://b/x").store, remote_stores.TensorFlow
  )
  with pytest.raises(lookup.ConfigError, match="s3://.*pip install s3fs"):
    fs.exists("s3://b/x")
  with pytest.raises(
    lookup.ConfigError, match="gopher://.*local paths and.*gs:"
  ):
    fs.exists("gopher://b/x")


@pytest.mark.parametrize("scheme, package", [("gs", "gcsfs"), ("s3", "s3fs")])
def test_without_anything_errors_say_what_to_do(monkeypatch, scheme, package):
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  monkeypatch.delitem(sys.modules, "tensorflow.io", raising=False)
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(ImportError, match=f"pip install {package}"):
    fs.exists(f"{scheme}://b/x")
