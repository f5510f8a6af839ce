"""The launcher: environment, exit status, signals. Its processes pretend."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from big_vision.tools import launch

ROOT = pathlib.Path(__file__).parents[2]

# Says its place and arguments, and ends as they ask.
MODULE = """
import os, signal, sys, time
me = os.environ["JAX_PROCESS_ID"]
def stop(number, frame):
  print("got", signal.Signals(number).name, flush=True)
  sys.exit(128 + number)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
  signal.signal(number, stop)
print(me, os.environ["JAX_NUM_CPU_DEVICES"], *sys.argv[1:], flush=True)
if "wait" in sys.argv:
  time.sleep(600)
if f"fail{me}" in sys.argv:
  sys.exit(7)
if f"kill{me}" in sys.argv:
  os.kill(os.getpid(), signal.SIGKILL)
if "fail1" in sys.argv or "kill1" in sys.argv:
  time.sleep(600)
"""


@pytest.fixture
def env(tmp_path, monkeypatch):
  (tmp_path / "pretends.py").write_text(MODULE)
  path = f"{tmp_path}{os.pathsep}{ROOT}"
  monkeypatch.setenv("PYTHONPATH", path)
  return {**os.environ, "PYTHONPATH": path}


def run(*args):
  return launch.main([*args, "--", "pretends", "--a=b c", "--"])


def test_all_succeed(env, capsys):
  assert run("--hosts=3", "--devices=2") == 0
  lines = sorted(capsys.readouterr().out.splitlines())
  assert lines == [f"[{i}] {i} 2 --a=b c --" for i in range(3)]


@pytest.mark.parametrize("how, status", [("fail1", 7), ("kill1", 128 + 9)])
def test_status_of_the_first_that_failed(env, how, status):
  start = time.monotonic()
  assert launch.main(["--", "pretends", how]) == status
  assert time.monotonic() - start < 60  # The other one would wait for minutes.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(env, number):
  command = [sys.executable, "-m", "big_vision.tools.launch", "--"]
  process = subprocess.Popen(
    [*command, "pretends", "wait"],
    stdout=subprocess.PIPE,
    text=True,
    env=env,
    cwd=ROOT,
  )
  first = [process.stdout.readline() for _ in range(2)]
  assert sorted(first) == ["[0] 0 1 wait\n", "[1] 1 1 wait\n"]
  process.send_signal(number)
  out, _ = process.communicate(timeout=60)
  name = signal.Signals(number).name
  assert sorted(out.splitlines()) == [f"[0] got {name}", f"[1] got {name}"]
  assert process.returncode == 128 + number


def test_gpus_are_divided(env, monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "")
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5")
  started = []

  def start(command, **kw):
    started.append(kw)
    raise ValueError("started")

  monkeypatch.setattr(launch.local, "start", start)
  for args in ([], ["--gpus=7,8"], ["--devices=1"]):
    with pytest.raises(SystemExit):
      run("--hosts=2", *args)
  assert [(s["devices"], s["gpus"]) for s in started] == [
    (3, list("012345")), (1, ["7", "8"]), (1, list("012345")),
  ]  # fmt: skip


@pytest.mark.parametrize(
  "args, message",
  [
    (["--hosts=2"], "write -- and what each process runs"),
    (["--hosts=2", "--"], "write -- and what each process runs"),
    (["--hosts=0", "--", "x"], "0 hosts of 1 devices"),
    (["--gpus=0,1,2", "--devices=2", "--", "x"], "need 4 GPUs, there are 3"),
    (["big_vision.train", "--", "x"], "unrecognized arguments"),
  ],
)
def test_mistakes(args, message, capsys):
  with pytest.raises(SystemExit) as e:
    launch.main(args)
  assert e.value.code == 2
  assert message in capsys.readouterr().err
