"""Signals are heard whatever the main thread does; each test is a process."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

from big_vision.training import signals

ROOT = pathlib.Path(__file__).parents[2]
TERM, USR1, INT = signal.SIGTERM, signal.SIGUSR1, signal.SIGINT

START = """
import ctypes, os, signal, sys, threading, time
from big_vision.training import signals

# Shells start what runs in the background with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def hang():  # As in C++: not even a signal's handler gets Python's attention.
  mutex = ctypes.create_string_buffer(64)
  libc = ctypes.CDLL(None)
  libc.pthread_mutex_lock(mutex)
  print("ready", flush=True)
  libc.pthread_mutex_lock(mutex)

def wait():
  print("ready", flush=True)
  threading.Lock().acquire() and threading.Event().wait()

with signals.listening() as listener:
  assert signals.active() is listener
"""


def start(body, **env):
  """Starts a program that listens, and waits until it says that it is ready."""
  lines = "".join(f"  {line}\n" for line in body.splitlines())
  process = subprocess.Popen(
    [sys.executable, "-c", START + lines],
    cwd=ROOT,
    env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **env},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout is not None
  assert process.stdout.readline() == "ready\n", process.communicate()
  return process


@pytest.mark.parametrize("number", [TERM, USR1])
def test_before_the_first_step_there_is_nothing_to_save(number):
  process = start("hang()")
  process.send_signal(number)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 143
  name = signal.Signals(number).name
  assert err == (
    f"Stopped on request ({name}) with nothing to save: no step has ended since "
    "the start.\n"
  )


def test_a_step_that_does_not_end_has_a_time_limit():
  process = start("listener.begin(); hang()", BV_STOP_TIMEOUT="0.5")
  began = time.monotonic()
  process.send_signal(TERM)
  _, err = process.communicate(timeout=60)
  assert time.monotonic() - began > 0.5
  assert process.returncode == 143
  assert err.count("\n") == 1 and "(SIGTERM) without saving" in err
  assert "0.5 s (BV_STOP_TIMEOUT)" in err


def test_saving_has_time():
  """Longer than a step may take; the same holds if it has begun before."""
  process = start(
    "listener.begin(); listener.saving(); print('ready', flush=True)\n"
    "while not listener.noticed: time.sleep(0.01)\n"
    "time.sleep(1)\n"
    "print('saved')",
    BV_STOP_TIMEOUT="0.2",
  )
  process.send_signal(TERM)
  out, err = process.communicate(timeout=60)
  assert (process.returncode, out, err) == (0, "saved\n", "")


def test_after_saving_a_step_has_its_limit_again():
  process = start(
    "listener.begin(); listener.saving(); listener.saving(False); hang()",
    BV_STOP_TIMEOUT="0.2",
  )
  process.send_signal(TERM)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 143 and "without saving" in err


@pytest.mark.parametrize(
  "first, second, status",
  [(TERM, TERM, 143), (TERM, INT, 143), (INT, INT, 130)],
)
def test_asked_twice_it_stops_at_once(first, second, status):
  process = start("listener.begin(); hang()", BV_STOP_TIMEOUT="100")
  time.sleep(0.5)  # It says that it is ready, then it hangs.
  process.send_signal(first)
  time.sleep(1.1)  # Launchers may repeat a signal sooner than that.
  process.send_signal(second)
  _, err = process.communicate(timeout=60)
  assert process.returncode == status
  assert err.startswith("Stopped at once: asked twice."), err


def test_a_wait_is_given_up():
  process = start(
    "try:\n"
    "  with listener.interruptible(after=0.3): wait()\n"
    "except signals.Interrupted:\n"
    "  print('given up after', listener.noticed)"
  )
  process.send_signal(USR1)
  # Nothing was begun: the process would end. So here it ends.
  assert process.wait(timeout=60) == 143
  process = start(
    "listener.begin()\n"
    "try:\n"
    "  with listener.interruptible(after=0.3): wait()\n"
    "except signals.Interrupted:\n"
    "  print('given up after', listener.noticed)"
  )
  process.send_signal(USR1)
  out, err = process.communicate(timeout=60)
  assert (process.returncode, out, err) == (0, "given up after SIGUSR1\n", "")


def test_an_interruption_that_is_lost_comes_again():
  process = start(
    "class Closing:\n"
    "  def __del__(self):\n"
    "    print('ready', flush=True)\n"
    "    time.sleep(1.5)\n"
    "listener.begin()\n"
    "try:\n"
    "  with listener.interruptible(after=0.3):\n"
    "    Closing()\n"
    "    threading.Event().wait()\n"
    "except signals.Interrupted:\n"
    "  print('given up after', listener.noticed)"
  )
  process.send_signal(TERM)
  out, err = process.communicate(timeout=60)
  assert (process.returncode, out) == (0, "given up after SIGTERM\n")
  assert err.startswith("Exception ignored in: <function Closing.__del__"), err


def test_a_signal_is_noticed_by_the_next_instruction():
  process = start(
    "sys.setswitchinterval(5)\n"
    "listener.begin()\n"
    "print('ready', flush=True)\n"
    "os.kill(os.getpid(), signal.SIGTERM)\n"
    "print(listener.noticed)"
  )
  assert process.communicate(timeout=60)[0] == "SIGTERM\n"


def test_signals_of_forked_processes_are_their_own():
  process = start(
    "print('ready', flush=True)\n"
    "read, write = os.pipe()\n"
    "child = os.fork()\n"
    "if not child: os.write(write, b'1'), time.sleep(60), os._exit(0)\n"
    "os.read(read, 1)\n"
    "os.kill(child, signal.SIGTERM)\n"
    "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    "print(repr(listener.noticed))\n"
    "listener.close()\n"
    "signals._active = signals.Listener(print)\n"  # Closed by `listening`.
  )
  out, _ = process.communicate(timeout=60)
  assert out == "-15\n''\n"


@pytest.mark.parametrize("listen, status", [("", 0), ("signals.listen()", 143)])
def test_a_command_does_not_wait_for_the_exit_of_python(listen, status):
  body = (
    f"import atexit\nfrom big_vision.training import signals\n{listen}\n"
    "print('files are closed', end='')\natexit.register(print, ' slowly')\n"
    "signals.leave_now()"
  )
  done = subprocess.run(
    [sys.executable, "-c", body],
    env={"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == status
  assert done.stdout.strip() == "files are closed" + " slowly" * (not status)


@pytest.mark.parametrize("text", ["soon", "-1", "0", "nan", "inf"])
def test_time_limits_are_positive_numbers(monkeypatch, text):
  monkeypatch.setenv("BV_STOP_TIMEOUT", text)
  with pytest.raises(
    SystemExit, match=f"BV_STOP_TIMEOUT='{text}' .*such as 20"
  ):
    signals.seconds("BV_STOP_TIMEOUT", 20)


def test_time_limits_by_default(monkeypatch):
  monkeypatch.setenv("BV_STOP_TIMEOUT", "")
  assert signals.seconds("BV_STOP_TIMEOUT", 20) == 20
  monkeypatch.setenv("BV_STOP_TIMEOUT", "0.5")
  assert signals.seconds("BV_STOP_TIMEOUT", 20) == 0.5
