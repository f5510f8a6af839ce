"""Locks, clean-up and waiting."""

import multiprocessing.pool
import os
import signal
import subprocess
import sys
import threading

import jax
import pytest

from big_vision import lookup, workdir

_HOLDER = """
import sys, time
from big_vision import workdir
lock = workdir.lock(sys.argv[1])
print("locked", flush=True)
time.sleep(60)
"""


def test_lock_ends_with_its_process(tmp_path):
  path = str(tmp_path / "new" / "run")
  holder = subprocess.Popen(
    [sys.executable, "-c", _HOLDER, path],
    stdout=subprocess.PIPE,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )
  try:
    assert holder.stdout.readline() == b"locked\n"
    with pytest.raises(RuntimeError) as e:
      workdir.lock(path)
    assert path in str(e.value) and f"process {holder.pid}" in str(e.value)
  finally:
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
  workdir.lock(path).release()


def test_lock_release(tmp_path):
  path = str(tmp_path)
  with workdir.lock(path):
    with pytest.raises(RuntimeError, match="Another run"):
      workdir.lock(path)
  lock = workdir.lock(path)
  lock.release()
  lock.release()
  assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()}")


def test_lock_of_nothing(tmp_path, monkeypatch):
  workdir.lock(None).release()
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  workdir.lock(str(tmp_path)).release()
  assert list(tmp_path.iterdir()) == []


def test_a_file_instead_of_a_folder(tmp_path):
  path = tmp_path / "file"
  path.write_text("x")
  for wrong in (path, path / "below"):
    with pytest.raises(lookup.ConfigError, match="Nothing can be written") as e:
      workdir.lock(str(wrong))
    assert repr(str(wrong)) in str(e.value)
  assert path.read_text() == "x"


def test_maybe_cleanup_workdir(tmp_path, monkeypatch):
  said = []
  info = lambda text, *args: said.append(text % args)
  workdir.maybe_cleanup_workdir(None, True, info)
  workdir.maybe_cleanup_workdir("", False, info)
  assert said == []

  run = tmp_path / "exp" / "run"
  (run / "sub").mkdir(parents=True)
  (run / "sub" / "file").write_text("x")
  workdir.maybe_cleanup_workdir(str(run), False, info)
  assert said == [f"Logs/checkpoints are in {run}"] and run.exists()

  with monkeypatch.context() as m:
    m.setattr(jax, "process_index", lambda: 1)
    workdir.maybe_cleanup_workdir(str(run), True, info)
  assert run.exists()

  (tmp_path / "exp" / "other").mkdir()
  workdir.maybe_cleanup_workdir(str(run), True, info)
  assert not run.exists() and (tmp_path / "exp").exists()
  workdir.maybe_cleanup_workdir(str(tmp_path / "exp" / "other"), True, info)
  assert not (tmp_path / "exp").exists() and tmp_path.exists()
  assert len(said) == 1


def test_checkpointing_timeout():
  workdir.checkpointing_timeout(None, 1)
  done = threading.Event()
  with multiprocessing.pool.ThreadPool(1) as pool:
    writer = pool.apply_async(done.wait)
    with pytest.raises(TimeoutError, match="within 0.01 s"):
      workdir.checkpointing_timeout(writer, 0.01)
    done.set()
    workdir.checkpointing_timeout(writer, 5)
    broken = pool.apply_async(int, ["x"])
    with pytest.raises(ValueError, match="invalid literal"):
      workdir.checkpointing_timeout(broken, 5)
