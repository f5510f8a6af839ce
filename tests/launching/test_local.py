"""Groups of processes: their environment, output, failures and ends."""

import signal
import socket
import sys
import time

import pytest

from big_vision.launching import local

# Says its place; the one whose number is in FAIL ends with status 3, the others
# wait, after writing that a signal has come.
WAITS = """
import os, signal, sys, time
def stop(number, frame):
  print("got", number)
  if not os.environ.get("STUBBORN"):
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
me = os.environ["JAX_PROCESS_ID"]
print("ready", me)
if me == os.environ.get("FAIL"):
  sys.exit(3)
while True:
  time.sleep(0.01)
"""


class Lines(list):
  """Collects what processes write."""

  def write(self, line):
    self.append(line)

  def wait_for(self, *lines):
    deadline = time.monotonic() + 60
    while not {f"{l}\n" for l in lines} <= set(self):
      assert time.monotonic() < deadline, self
      time.sleep(0.01)


def start(script, hosts=2, devices=1, **kw):
  lines = Lines()
  command = [sys.executable, "-c", script]
  group = local.start(
    command, hosts=hosts, devices=devices, write=lines.write, **kw
  )
  return group, lines


def test_environment_and_output():
  script = """
import os, sys
for name in ("BV_JAX_INIT", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID",
    "JAX_NUM_CPU_DEVICES", "JAX_PLATFORMS", "MINE", "CUDA_VISIBLE_DEVICES"):
  print(name, os.environ.get(name))
address = os.environ["JAX_COORDINATOR_ADDRESS"]
assert address == os.environ["JAX_COORDINATOR_BIND_ADDRESS"]
print(address, file=sys.stderr)
sys.stdout.write("torn")
"""
  group, lines = start(
    script, devices=3, env={"MINE": "yes", "CUDA_VISIBLE_DEVICES": "-1"}
  )
  with group:
    assert group.wait(60) == [0, 0]
  for i in range(2):
    mine = [line[4:] for line in lines if line.startswith(f"[{i}] ")]
    want = ["1", "2", str(i), "3", "cpu", "yes", "-1"]
    assert [line.split()[1] for line in mine[:7]] == want
    assert mine[7].startswith("127.0.0.1:") and mine[8] == "torn\n"
  assert len({line for line in lines if "127.0.0.1" in line}) == 2
  assert group.first_failed() is None and sorted(group.ended) == [0, 1]


def test_gpus_are_disjoint():
  script = """
import os
assert "JAX_NUM_CPU_DEVICES" not in os.environ
print(os.environ["CUDA_VISIBLE_DEVICES"])
"""
  group, lines = start(script, devices=2, gpus=["4", "5", "6", "7"])
  with group:
    assert group.wait(60) == [0, 0]
  assert sorted(lines) == ["[0] 4,5\n", "[1] 6,7\n"]


def test_too_few_gpus():
  with pytest.raises(ValueError, match="need 4 GPUs, there are 3: 0,1,2"):
    start("", devices=2, gpus=["0", "1", "2"])
  with pytest.raises(ValueError, match="0 hosts of 1 devices"):
    start("", hosts=0)


def test_program_that_does_not_exist():
  with pytest.raises(FileNotFoundError, match="/no/program"):
    local.start(["/no/program"], hosts=2, devices=1)


def test_one_fails_and_all_stop():
  group, lines = start(WAITS, hosts=3, env={"FAIL": "1"})
  with group:
    codes = group.wait(60)
  assert codes[1] == 3 and group.first_failed() == 1
  # If the signal comes before Python is ready it ends the process.
  assert {codes[0], codes[2]} <= {128 + signal.SIGTERM, -signal.SIGTERM}


def test_killed_from_outside_others_may_go_on():
  group, lines = start(WAITS)
  with group:
    lines.wait_for("[0] ready 0", "[1] ready 1")
    group.processes[1].kill()
    with pytest.raises(TimeoutError, match=r"processes \[0\] of 2 still run"):
      group.wait(0.5, stop_others=False)
    assert group.first_failed() == 1
    group.send(signal.SIGINT)
    assert group.wait(60) == [128 + signal.SIGINT, -signal.SIGKILL]
  assert "[0] got 2\n" in lines


def test_the_stubborn_are_killed_with_their_children():
  children = """
import subprocess, sys
print("child", subprocess.Popen([sys.executable, "-c",
  "import time; time.sleep(600)"]).pid)
"""
  group, lines = start(
    children + WAITS, hosts=1, grace=0.2, env={"STUBBORN": "1"}
  )
  with group:
    lines.wait_for("[0] ready 0")
  assert group.processes[0].returncode == -signal.SIGKILL
  assert "[0] got 15\n" in lines
  child = int(lines[0].split()[-1])
  deadline = time.monotonic() + 30
  while is_alive(child):  # Until whoever adopts it has reaped it.
    assert time.monotonic() < deadline
    time.sleep(0.01)


def is_alive(pid):
  """Whether a process runs: no zombie."""
  try:
    with open(f"/proc/{pid}/stat") as f:
      return f.read().rpartition(")")[2].split()[0] != "Z"
  except FileNotFoundError:
    return False


def test_ports_differ_and_are_reserved():
  with local.free_port() as a, local.free_port() as b:
    assert a != b
    with socket.socket() as s, pytest.raises(OSError, match="in use"):
      s.bind(("127.0.0.1", a))
