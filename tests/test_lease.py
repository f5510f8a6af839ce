"""Leases: owners that are alive, gone, stopped, and two at once."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from big_vision import fs, lease, lookup, workdir

PATH = "memory://leases/run/.lock"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(lease, "RENEW", 0.1)
  monkeypatch.setattr(lease, "STALE", 1.5)
  monkeypatch.setattr(lease, "SETTLE", 0.01)
  yield
  fs.rmtree("memory://leases")


def owner(**kw):
  """Writes what an owner on another machine has written just now."""
  content = dict(
    id="1", host="elsewhere", processes="", pid=12, started=0.0,
    renewed=time.time(),
  )  # fmt: skip
  with fs.open(PATH, "w") as f:
    json.dump({**content, **kw}, f)


def held_by():
  with fs.open(PATH) as f:
    return json.load(f)


def test_one_owner():
  first = lease.Lease(PATH)
  first.acquire()
  begun = held_by()["renewed"]
  me = f"process {os.getpid()} on {socket.gethostname()} since 20"
  with pytest.raises(lease.Taken, match=me):
    lease.Lease(PATH).acquire()
  deadline = time.monotonic() + 30
  while held_by()["renewed"] == begun:  # It is renewed.
    assert time.monotonic() < deadline
    time.sleep(0.05)
  first.release()
  first.release()
  assert not fs.exists(PATH)
  second = lease.Lease(PATH)
  second.acquire()
  second.release()


@pytest.mark.parametrize(
  "kw",
  [
    {"renewed": 1e9},
    # A number of a process that this one has, or that has ended.
    {"host": socket.gethostname(), "pid": os.getpid()},
    {"host": socket.gethostname(), "pid": "ended"},
  ],
  ids=["old", "own number", "ended"],
)
def test_gone_owners_are_replaced_at_once(caplog, kw):
  if kw.get("pid") == "ended":
    kw["pid"] = subprocess.Popen([sys.executable, "-c", ""]).pid
    os.waitpid(kw["pid"], 0)
  if "host" in kw:
    kw["processes"] = lease._process_namespace()
  owner(**kw)
  held = lease.Lease(PATH)
  lease.STALE = 1000  # It does not wait.
  with caplog.at_level("WARNING", logger="absl"):
    held.acquire()
  (said,) = caplog.messages
  assert said.startswith(f"Taking over {PATH} from process {kw.get('pid', 12)}")
  held.release()


@pytest.mark.parametrize("ahead", [0, 1e6], ids=["same clock", "clock ahead"])
def test_fresh_owners_are_waited_for(ahead):
  """A run that was killed and starts again on another machine."""
  owner(renewed=time.time() + ahead)
  begun = time.monotonic()
  held = lease.Lease(PATH)
  held.acquire()
  assert time.monotonic() - begun > 1.3
  assert held_by()["pid"] == os.getpid()
  held.release()


def test_an_owner_that_renews_meanwhile_keeps_it():
  owner()
  threading.Timer(0.3, owner).start()
  with pytest.raises(lease.Taken, match="process 12 on elsewhere since 1970"):
    lease.Lease(PATH).acquire()


def test_an_owner_that_ends_meanwhile():
  owner()
  threading.Timer(0.3, fs.remove, [PATH]).start()
  lease.STALE = 1000
  held = lease.Lease(PATH)
  held.acquire()
  held.release()


def test_two_at_once(monkeypatch):
  """The other one writes just after this one."""
  monkeypatch.setattr(lease.time, "sleep", lambda _: owner())
  with pytest.raises(lease.Taken, match="process 12 on elsewhere"):
    lease.Lease(PATH).acquire()
  assert held_by()["id"] == "1"


def test_an_owner_that_was_stopped_for_too_long_ends(monkeypatch, capfd):
  ended = threading.Event()
  status = []

  def end(code):
    status.append(code)
    ended.set()

  monkeypatch.setattr(lease.os, "_exit", end)
  held = lease.Lease(PATH)
  held.acquire()
  held._stop.wait = lambda _: False  # Renews all the time.
  owner()
  assert ended.wait(30) and status == [75]
  said = capfd.readouterr().err
  assert said.startswith("Error: process 12 on elsewhere") and PATH in said
  held._stop.set()
  held.release()
  assert held_by()["id"] == "1"  # Not removed: it is the other's.


def test_damaged_files_have_no_owner():
  for text in ("", "{}", "[1]", '{"id": 1', '{"id": 1, "renewed": "x"}'):
    with fs.open(PATH, "w") as f:
      f.write(text)
    held = lease.Lease(PATH)
    held.acquire()
    held.release()


def test_workdir_of_a_store():
  folder = "memory://leases/run"
  with workdir.lock(folder) as held:
    with pytest.raises(RuntimeError, match="Another run writes to") as e:
      workdir.lock(folder)
    assert f"process {os.getpid()}" in str(e.value)
    held.undo()
    assert not fs.exists(PATH)


def test_file_systems_without_locks(tmp_path, monkeypatch):
  def flock(file, how):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(fcntl, "flock", flock)
  with workdir.lock(str(tmp_path)):
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    with pytest.raises(lookup.ConfigError, match="Another run writes to"):
      workdir.lock(str(tmp_path))
  assert list(tmp_path.iterdir()) == []
