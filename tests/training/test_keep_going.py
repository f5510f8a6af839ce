"""Restarts in place: after what, how often, and what is handed on."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

from big_vision.training import keep_going

ROOT = pathlib.Path(__file__).parents[2]


def test_the_flag_is_taken_out():
  take = keep_going.take
  assert take(["python", "-m", "x", "--keep_going", "3", "--config", "c"]) == (
    3, ["python", "-m", "x", "--config", "c"],
  )  # fmt: skip
  assert take(["p", "--keep_going=12"]) == (12, ["p"])
  assert take(["p", "--a"]) == (0, ["p", "--a"])
  # Left for the flags of the trainer to refuse.
  assert take(["p", "--keep_going", "x"])[0] == 0
  assert take(["p", "--keep_going"]) == (0, ["p", "--keep_going"])


@pytest.mark.parametrize(
  "code, restarted",
  [
    (0, False), (1, False), (2, False), (130, False), (143, False),
    (-signal.SIGTERM, False), (-signal.SIGINT, False),
    (keep_going.CRASHED, True), (keep_going.PEER_LOST, True),
    (-signal.SIGKILL, True), (-signal.SIGABRT, True), (-signal.SIGSEGV, True),
  ],
)  # fmt: skip
def test_what_is_worth_another(code, restarted):
  assert keep_going.is_worth_another(code) == restarted


def test_newest_checkpoint(tmp_path):
  argv = ["p", "--workdir", str(tmp_path)]
  assert keep_going.newest(argv) == "" == keep_going.newest(["p"])
  (tmp_path / "checkpoint.bv-LAST").write_text("000000007-tmp")
  assert keep_going.newest(argv) == "000000007-tmp"
  assert keep_going.newest(["p", f"--workdir={tmp_path}"]) == "000000007-tmp"
  remote = ["p", "--workdir", "gs://bucket/run"]
  assert keep_going.newest(remote) != keep_going.newest(remote)


def child(tmp_path, *codes):
  """A command that ends with one code after the other; negative: by a signal."""
  (tmp_path / "codes").write_text(" ".join(map(str, codes)))
  return [
    sys.executable, "-S", "-c",
    "import os, sys\n"
    f"f = {str(tmp_path / 'codes')!r}\n"
    "first, *rest = open(f).read().split()\n"
    "open(f, 'w').write(' '.join(rest))\n"
    "code = int(first)\n"
    "os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)",
  ]  # fmt: skip


@pytest.fixture
def handlers():
  """Restores the handlers of the signals that the supervisor hands on."""
  old = {s: signal.getsignal(s) for s in keep_going._FORWARDED}
  yield
  for number, handler in old.items():
    signal.signal(number, handler)


def left(tmp_path):
  return (tmp_path / "codes").read_text().split()


@pytest.mark.usefixtures("handlers")
def test_goes_on_until_success(tmp_path, caplog):
  steps = iter(range(100))
  command = child(tmp_path, -9, 70, 75, 0)
  with caplog.at_level("WARNING"):
    assert keep_going.run(command, 5, lambda: next(steps), pause=0) == 0
  assert left(tmp_path) == []
  assert [r.getMessage().split(": ", 1)[1] for r in caplog.records] == [
    "The run was ended by SIGKILL (out of memory?). Restart 1 of 5.",
    "The run has crashed (exit status 70). Restart 2 of 5.",
    "The run has lost a host (exit status 75). Restart 3 of 5.",
  ]


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
  "codes, times, gets_further, status, unused",
  [
    ([-9, -9, -9, 0], 2, True, 137, ["0"]),  # Not more often than that.
    ([70, 70, 70, 0], 9, False, 70, ["0"]),  # In vain.
    ([70, 1, 0], 9, True, 1, ["0"]),  # Wrong input stays wrong.
    ([143, 0], 9, True, 143, ["0"]),  # Whoever stopped it wants the machine.
    ([-15, 0], 9, True, 143, ["0"]),
  ],
)  # fmt: skip
def test_ends(tmp_path, codes, times, gets_further, status, unused):
  steps = iter(range(100))
  progress = (lambda: next(steps)) if gets_further else (lambda: "same")
  command = child(tmp_path, *codes)
  assert keep_going.run(command, times, progress, pause=0) == status
  assert left(tmp_path) == unused


SUPERVISED = """
import os, signal, sys, time
from big_vision.training import keep_going, signals
keep_going.supervise()
signals.listen()
print(os.getpid(), flush=True)
if sys.argv[1] == "crash":
  raise KeyError("a mistake")
time.sleep(100)
"""


def supervised(tmp_path, what):
  """Starts a command with the flag, as trainers take it."""
  script = tmp_path / "script.py"
  script.write_text(SUPERVISED)
  return subprocess.Popen(
    [sys.executable, str(script), what, "--keep_going=1"],
    env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_a_crash_shows_its_traceback_and_is_told_from_wrong_input(tmp_path):
  out, err = supervised(tmp_path, "crash").communicate(timeout=120)
  first, second = out.split()
  assert first != second
  assert err.count("KeyError: 'a mistake'") == 2
  assert "Restart 1 of 1." in err and "restart 1 of 1." in err


def test_signals_are_handed_on_and_the_child_does_not_outlive(tmp_path):
  process = supervised(tmp_path, "sleep")
  assert process.stdout is not None
  assert process.stdout.readline()
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 143
  assert "with nothing to save" in err and "keep_going" not in err

  process = supervised(tmp_path, "sleep")
  pid = int(process.stdout.readline())
  process.kill()
  process.wait(timeout=60)
  end = time.monotonic() + 60
  while pathlib.Path(f"/proc/{pid}").exists() and time.monotonic() < end:
    time.sleep(0.1)
  assert not pathlib.Path(f"/proc/{pid}").exists()
