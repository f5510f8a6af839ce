"""A bucket that answers late, not at all, or that it does not want to."""

import errno
import gc
import json

import fsspec
import numpy as np
import pytest
from fsspec.implementations import memory

from big_vision import checkpoint_npz, fs, lookup, metrics, retries


class Bucket(memory.MemoryFileSystem):
  """In memory; each operation fails as often as `failures` has errors for it."""

  protocol = "memory"
  store, pseudo_dirs = {}, [""]
  failures = {}

  @classmethod
  def fail(cls, name):
    left = cls.failures.get(name)
    if left:
      raise left.pop(0)

  def info(self, path, **kw):
    self.fail("info")
    return super().info(path, **kw)

  def cat_file(self, path, start=None, end=None, **kw):
    self.fail("cat_file")
    return super().cat_file(path, start, end, **kw)

  def ls(self, path, detail=True, **kw):
    self.fail("ls")
    return super().ls(path, detail, **kw)

  def open(self, path, mode="rb", **kw):
    self.fail(f"open {mode}")
    return super().open(path, mode, **kw)

  def rm_file(self, path):
    super().rm_file(path)
    self.fail("after rm_file")


class Unavailable(Exception):
  code = 503


@pytest.fixture
def bucket(monkeypatch):
  """Registers it as memory://, without pauses."""
  monkeypatch.setattr(retries.time, "sleep", waits.append)
  waits.clear()
  old = fsspec.get_filesystem_class("memory")
  fsspec.register_implementation("memory", Bucket, clobber=True)
  Bucket.store.clear()
  Bucket.failures.clear()
  yield Bucket
  fsspec.register_implementation("memory", old, clobber=True)


waits: list[float] = []
FILE = "memory://run/x.txt"
FLAKY = [ConnectionResetError("reset"), TimeoutError(), Unavailable("busy")]


def write(text, mode="w"):
  with fs.open(FILE, mode) as f:
    f.write(text)


def read():
  with fs.open(FILE) as f:
    return f.read()


def test_errors_of_the_moment_are_waited_for(bucket):
  bucket.failures["open wb"] = list(FLAKY)
  write("one")
  assert waits == [0.5, 1.0, 2.0]
  bucket.failures.update(info=list(FLAKY), cat_file=list(FLAKY))
  assert read() == "one"
  bucket.failures.update(info=list(FLAKY), cat_file=list(FLAKY))
  bucket.failures["open wb"] = list(FLAKY)
  write(" two", "a")
  assert read() == "one two"
  bucket.failures["ls"] = list(FLAKY)
  assert fs.listdir("memory://run") == ["x.txt"]
  bucket.failures["info"] = [Unavailable()]
  assert not fs.exists("memory://run/y")


def test_answers_that_were_lost(bucket):
  """The first try did it, the second finds nothing to do."""
  write("one")
  bucket.failures["after rm_file"] = [ConnectionResetError()]
  fs.rename(FILE, "memory://run/y")
  assert fs.listdir("memory://run") == ["y"]
  bucket.failures["after rm_file"] = [ConnectionResetError()]
  fs.remove("memory://run/y")
  assert not fs.exists("memory://run")
  with pytest.raises(FileNotFoundError):
    fs.remove("memory://run/y")


def test_errors_for_good_are_one_line_with_the_path(bucket):
  bucket.failures["open wb"] = [Unavailable("busy")] * 7
  with pytest.raises(lookup.ConfigError) as e:
    write("one")
  assert str(e.value).endswith("run/x.txt: busy. Tried 7 times in 32 s.")
  assert waits == list(retries.DELAYS)
  waits.clear()
  for error in (
    PermissionError(errno.EACCES, "no rights"),
    OSError("Forbidden: bucket"),
  ):
    bucket.failures["info"] = [error]
    with pytest.raises(lookup.ConfigError, match="memory://run/x.txt: .*o"):
      fs.exists(FILE)
  with pytest.raises(FileNotFoundError):
    fs.open(FILE)
  assert waits == []


def test_large_files_are_read_in_few_requests(bucket, monkeypatch):
  asked = []
  monkeypatch.setattr(bucket, "fail", lambda _, name: asked.append(name))
  text = "".join(f"{i}\n" for i in range(200_000))
  write(text)
  for get in (
    lambda f: f.read(),
    lambda f: "".join(f),
    lambda f: f.read(len(text)),
  ):
    asked.clear()
    with fs.open(FILE) as f:
      assert get(f) == text
    assert asked.count("cat_file") <= 3


@pytest.mark.parametrize(
  "code, transient",
  [(503, True), (429, True), ("500", True), (403, False), (404, False)],
)
def test_codes_of_http(code, transient):
  error = Exception()
  error.code = code
  assert retries.is_transient(error) == transient


def test_a_body_that_fails_writes_nothing(bucket):
  write("whole")
  for mode in ("w", "wb"):
    with pytest.raises(KeyError):
      with fs.open(FILE, mode) as f:
        f.write("ha" if mode == "w" else b"ha")
        raise KeyError
  assert read() == "whole"
  file = fs.open(FILE, "w")  # Nobody closes it.
  file.write("ha")
  del file
  bucket.failures.update(cat_file=list(FLAKY))
  write("!", "a")  # Is begun four times.
  gc.collect()
  assert read() == "whole!"
  for mode in ("w", "wb"):
    bucket.failures["open wb"] = [Unavailable("busy")] * 7
    with pytest.raises(retries.StoreError):
      with fs.open(FILE, mode) as f:
        f.write("x" if mode == "w" else b"x")
    assert not bucket.failures["open wb"]
  gc.collect()
  assert read() == "whole!"


def test_files_of_a_run(bucket):
  tree = {"a": np.arange(1000.0), "b": np.ones((3, 2), np.float32)}
  bucket.failures.update({"open wb": list(FLAKY), "cat_file": list(FLAKY)})
  checkpoint_npz.save_checkpoint(tree, "memory://run/x.npz")
  got = checkpoint_npz.load_checkpoint_np("memory://run/x.npz")
  np.testing.assert_array_equal(got["a"], tree["a"])
  bucket.failures.update({"open wb": list(FLAKY), "cat_file": list(FLAKY)})
  writer = metrics.BigVisionMetricWriter(workdir="memory://run", config={})
  for step in (1, 2):
    writer.step_start(step)
    writer.measure("x", step)
    writer.secure()
    writer.step_end()
  writer.close()
  rows = metrics.read_rows("memory://run/big_vision_metrics.txt")
  assert rows == [{"step": 1, "x": 1.0}, {"step": 2, "x": 2.0}]
  with fs.open("memory://run/big_vision_metrics.txt", "rb") as f:
    f.seek(-4, 2)
    assert f.read() == b"2.0}\n"[-4:]
    f.seek(1)
    assert json.loads(b"{" + f.readline()) == rows[0]
