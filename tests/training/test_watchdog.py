"""The watchdog over hosts: fakes for what they tell each other, and one real group."""

import contextlib
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import process_groups
from big_vision.training import coordinator, watchdog
from big_vision.training.watchdog import BUSY, DATA, DONE, STEP, Report


class Store:
  """Keys and values as the coordination service has them."""

  def __init__(self):
    self.values, self.gone = {}, False

  def key_value_set(self, key, value, allow_overwrite=False):
    assert allow_overwrite
    if self.gone:
      raise RuntimeError("UNAVAILABLE")
    self.values[key] = value

  def key_value_dir_get(self, key):
    if self.gone:
      raise RuntimeError("UNAVAILABLE")
    return [(k, v) for k, v in self.values.items() if k.startswith(key)]


class Hosts:
  """Some hosts whose threads and clock move when the test says so."""

  def __init__(self, count, limit=120):
    self.now, self.store, self.left = 0.0, Store(), {}
    self.broken = False  # The connection to host 0.
    self.dogs = [
      watchdog.Watchdog(
        self.store, i, count, limit=limit,
        clock=lambda: self.now,
        link_lost=lambda: self.broken,
        leave=lambda text, status, i=i: self.left.update({i: (text, status)}),
      )
      for i in range(count)
    ]  # fmt: skip

  def pass_time(self, seconds, without=()):
    """All hosts, but for some that are gone, talk once a second."""
    for _ in range(seconds):
      self.now += 1
      for i, dog in enumerate(self.dogs):
        if i not in without:
          dog._exchange_safely()

  def enter(self, phase, step, hosts=None):
    for i in range(len(self.dogs)) if hosts is None else hosts:
      self.dogs[i].enter(phase, step)

  def verdicts(self):
    return [dog.verdict() for dog in self.dogs]


def test_silence_names_the_host():
  hosts = Hosts(3)
  hosts.enter(STEP, 7)
  hosts.pass_time(5)
  hosts.enter(DATA, 8, [1])
  hosts.pass_time(1)
  hosts.enter(BUSY, 9, [0, 2])  # So that only silence counts.
  hosts.pass_time(119, without=[1])
  assert hosts.verdicts()[0] == ""
  hosts.pass_time(3, without=[1])
  text = hosts.verdicts()[0]
  name = f"{socket.gethostname()}, process "
  assert text.startswith(f"Host 1 of 3 ({name}")
  assert "dead or hangs" in text and "at step 8 (waiting for data)" in text
  assert hosts.verdicts()[2] == text  # The same line on all that are left.


def test_a_failed_collective_needs_less_silence():
  hosts = Hosts(3)
  hosts.pass_time(2)
  hosts.dogs[2]._me.suspects = True
  hosts.pass_time(9, without=[1])
  assert hosts.verdicts() == ["", "", ""]
  hosts.pass_time(4, without=[1])
  assert "Host 1 of 3" in hosts.verdicts()[0] == hosts.verdicts()[2]


def test_host_0_may_be_the_one():
  hosts = Hosts(3)
  hosts.enter(BUSY, 4)
  hosts.pass_time(2)
  hosts.store.gone = True
  hosts.pass_time(119, without=[0])
  assert hosts.verdicts()[1:] == ["", ""]
  hosts.pass_time(3, without=[0])
  assert "Host 0 of 3" in hosts.verdicts()[1]
  assert "at step 4 (evaluating or saving)" in hosts.verdicts()[2]


def test_a_broken_connection_to_host_0_is_seen_at_once():
  hosts = Hosts(2)
  hosts.enter(STEP, 5)
  hosts.pass_time(2)
  hosts.store.gone = hosts.broken = True
  assert hosts.verdicts() == ["", ""]
  hosts.pass_time(4, without=[0])
  assert hosts.verdicts()[1].startswith("Host 0 of 2")


def test_words_of_a_host_that_fails():
  hosts = Hosts(2)
  hosts.enter(STEP, 3)
  hosts.pass_time(1)
  hosts.dogs[1]._me.error = "ValueError: two\n  lines"
  hosts.dogs[1].fail("ValueError: two\n  lines")
  hosts.pass_time(1)
  text = hosts.verdicts()[0]
  assert text.endswith("stopped at step 3 (in a step): ValueError: two lines")
  hosts.dogs[1]._end(text)  # It says more itself.
  assert hosts.left == {}


def test_the_line_and_its_exit_status():
  hosts = Hosts(2)
  hosts.dogs[1]._end("Host 0 of 2 is dead.")
  text, status = hosts.left[1]
  assert status == 75 and "\n" not in text
  assert text.startswith("Error: Host 0 of 2 is dead. All hosts stop with exit")


def test_a_host_that_is_done_may_be_silent():
  hosts = Hosts(2)
  hosts.pass_time(2)
  hosts.enter(DONE, 8, [1])
  hosts.pass_time(1)
  hosts.pass_time(300, without=[1])
  assert hosts.verdicts()[0] == ""


def reports(*rows):
  return {
    i: Report(name=f"h{i}", step=step, phase=phase, seconds=s, longest=longest)
    for i, (step, phase, s, longest) in enumerate(rows)
  }


def test_who_is_waited_for():
  stuck = lambda *rows, count=None: watchdog.stuck(
    reports(*rows), count or len(rows), 120
  )
  slow = stuck((9, STEP, 130, 1.0), (8, DATA, 131, 1.0))
  assert slow.startswith("Host 1 of 2 (h1) hangs: it has been at step 8")
  assert "(waiting for data) for 131 s" in slow
  # Of the same step, the one that has not begun it.
  assert "Host 1" in stuck((8, STEP, 130, 1.0), (8, DATA, 131, 1.0))
  assert "Host 0" in stuck((8, STEP, 130, 1.0), (8, STEP, 131, 1.0))
  assert not stuck((9, STEP, 119, 1.0), (8, DATA, 131, 1.0))
  # Steps that take minutes are no reason; nor is what takes any time.
  assert not stuck((9, STEP, 130, 20.0), (8, DATA, 131, 1.0))
  assert not stuck((9, STEP, 500, 1.0), (8, BUSY, 500, 1.0))
  # Who has not reported yet.
  assert not stuck((9, STEP, 500, 1.0), count=2)


def test_all_stop_after_the_same_step():
  hosts = Hosts(3)
  hosts.pass_time(2)
  assert [d.last_step(4) for d in hosts.dogs] == [False] * 3
  assert not hosts.dogs[1].last_step(5)  # It is ahead.
  hosts.dogs[2]._me.asked = "SIGTERM"
  hosts.store.values.clear()
  hosts.pass_time(4)
  assert not any(hosts.verdicts())
  # From the step on that is after those of all.
  assert [d.last_step(5) for d in hosts.dogs] == [False] * 3
  assert [d.last_step(6) for d in hosts.dogs] == [True] * 3


def test_who_is_ahead_waits_for_the_decision():
  hosts = Hosts(2)
  hosts.pass_time(2)
  hosts.dogs[0]._me.asked = "SIGUSR1"
  hosts.pass_time(2)  # Host 1 waits, host 0 does not know of that.
  answers = []
  main = threading.Thread(
    target=lambda: answers.extend(hosts.dogs[1].last_step(s) for s in (1, 2))
  )
  main.start()
  main.join(0.2)
  assert main.is_alive() and not answers
  hosts.pass_time(3)
  main.join(10)
  assert answers == [True, True]
  assert hosts.dogs[0].last_step(1)


def test_who_ends_on_request_is_not_lost():
  hosts = Hosts(2)
  hosts.pass_time(2)
  hosts.dogs[1]._me.asked = "SIGTERM"
  hosts.pass_time(2)
  hosts.pass_time(100, without=[1])
  assert hosts.verdicts()[0] == ""
  hosts.pass_time(30, without=[1])  # Who still saves need not wait for ever.
  assert hosts.verdicts()[0].startswith("Host 1 of 2")


def test_the_limit(monkeypatch):
  monkeypatch.delenv("BV_HOST_TIMEOUT", raising=False)
  assert watchdog.timeout() == 120
  monkeypatch.setenv("BV_HOST_TIMEOUT", "7.5")
  assert Hosts(1, limit=None).dogs[0].limit == 7.5


def test_many_hosts_talk_less_often():
  at = lambda n: watchdog.Watchdog(Store(), 0, n, limit=120).interval
  assert [at(2), at(64), at(512), at(100_000)] == [1, 1, 8, 30]


def test_link_forwards_and_keeps_quiet_when_the_other_side_ends():
  with socket.socket() as s:  # A port where nobody listens yet.
    s.bind(("127.0.0.1", 0))
    address = s.getsockname()
  link = coordinator.Link(f"127.0.0.1:{address[1]}")
  host, port = link.local.split(":")
  client = socket.create_connection((host, int(port)))
  client.sendall(b"hello")
  time.sleep(0.2)
  assert not link.found
  server = socket.create_server(address)
  there, _ = server.accept()
  assert there.recv(5) == b"hello"
  there.sendall(b"x" * 100_000)
  got = 0
  while got < 100_000:
    got += len(client.recv(1 << 16))
  while not link.found:  # Its thread reads that.
    time.sleep(0.01)
  assert not link.lost
  there.close()
  client.settimeout(0.3)
  with pytest.raises(TimeoutError):  # It is not told.
    client.recv(1)
  while not link.lost:
    time.sleep(0.01)
  link.close()
  assert client.recv(1) == b""
  server.close()
  client.close()


@contextlib.contextmanager
def real_hosts(limit):
  """Starts two hosts, and yields them when both have reported steps."""
  script = pathlib.Path(__file__).with_name("watched_host.py")
  with process_groups.coordinator_address() as address:
    env = {
      "BV_JAX_INIT": "1", "BV_HOST_TIMEOUT": limit,
      "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2",
      "JAX_NUM_CPU_DEVICES": "1",
    }  # fmt: skip
    hosts = process_groups.start(
      [[str(script)]] * 2, [{**env, "JAX_PROCESS_ID": str(i)} for i in range(2)]
    )
    try:
      for host in hosts:
        while "step 9" not in host.stdout.readline():
          assert host.poll() is None
      yield hosts
    finally:
      for host in hosts:
        host.kill()
        host.wait()


@pytest.mark.parametrize(
  "victim, number",
  [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP)],
)
def test_real_hosts(victim, number):
  """The one that is left names the other in a line and ends; none hangs."""
  with real_hosts("15") as hosts:
    at = time.monotonic()
    hosts[victim].send_signal(number)
    out = hosts[1 - victim].communicate(timeout=120)[0]
    took = time.monotonic() - at
  assert hosts[1 - victim].returncode == 75, out
  lines = [line for line in out.splitlines() if line.startswith("Error: ")]
  assert len(lines) == 1, out
  assert f"Host {victim} of 2 (" in lines[0] and "(in a step)" in lines[0]
  assert "***" not in out and len(out.splitlines()) < 40, out
  assert took < 60


def test_real_hosts_agree_on_the_last_step():
  with real_hosts("60") as hosts:
    hosts[1].send_signal(signal.SIGTERM)
    at = time.monotonic()
    outs = [host.communicate(timeout=120)[0] for host in hosts]
    assert time.monotonic() - at < 50  # They do not wait at exit.
  assert [host.returncode for host in hosts] == [143, 143], outs
  saved = [[x for x in out.splitlines() if "saved" in x] for out in outs]
  assert len(saved[0]) == 1 and saved[0] == saved[1], outs


def test_a_coordinator_that_does_not_come():
  with process_groups.coordinator_address() as address:
    host = subprocess.run(
      [sys.executable, pathlib.Path(__file__).with_name("watched_host.py")],
      env={
        **process_groups.environment(),
        "BV_JAX_INIT": "1", "BV_HOST_TIMEOUT": "3",
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1",
      },
      capture_output=True, text=True, timeout=120,
    )  # fmt: skip
  assert host.returncode == 75, host.stderr
  assert host.stderr.splitlines() == [
    f"Error: The coordinator {address} (host 0) does not answer within 3 s "
    "(BV_HOST_TIMEOUT). Start the same command on all hosts, and check the "
    "address and firewalls."
  ]
