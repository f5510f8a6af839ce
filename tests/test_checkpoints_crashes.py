"""What crashes leave of checkpoints, and saving from several processes."""

import os
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

import process_groups
from big_vision import checkpoints, fs


def _save(path, step, keep=True, tree=None, manager=None):
  manager = manager or checkpoints.CheckpointManager()
  tree = {"x": jnp.full(2, step)} if tree is None else tree
  checkpoints.save_checkpoint_ts(manager, tree, path, step, keep)
  manager.close()


@pytest.fixture
def prefix(tmp_path):
  return str(tmp_path / "checkpoint.bv")


def _names(prefix):
  """What is in the folder, without the common start of names."""
  return [
    n.removeprefix("checkpoint.bv-") for n in fs.listdir(fs.dirname(prefix))
  ]


class _Crash(BaseException):
  pass


# What precedes the save: (step, keep) of earlier saves; then the save itself.
_HISTORIES = [
  [(1, False), (2, False)],
  [(1, False), (2, True)],
  [(1, True), (2, False)],
  [(2, False), (2, False)],
  [(2, True), (2, True)],
  [(2, True), (3, False), (2, True)],
]


@pytest.mark.parametrize("history", _HISTORIES, ids=str)
def test_crash_before_every_operation(tmp_path, monkeypatch, history):
  """Stops a save before its n-th change of the disk, for all n."""
  changes = [
    (fs, "rmtree"),
    (fs, "rename"),
    (fs, "makedirs"),
    (fs, "open"),
    (os, "rmdir"),
    (os, "unlink"),
    (os, "link"),
  ]
  *earlier, (step, keep) = history
  old = 100 * len(earlier)  # Tells versions of the same step apart.
  crashes = 0
  for n in range(200):
    prefix = str(tmp_path / str(n) / "checkpoint.bv")
    for i, (s, k) in enumerate(earlier, start=1):
      _save(prefix, s, k, tree={"x": jnp.full(2, 100 * i)})
    left = [n]

    def crashing(fn, left=left):
      def wrapped(*args, **kw):
        if left[0] == 0:
          raise _Crash
        left[0] -= 1
        return fn(*args, **kw)

      return wrapped

    crashed = False
    with monkeypatch.context() as m:
      for module, name in changes:
        m.setattr(module, name, crashing(getattr(module, name)))
      try:
        _save(prefix, step, keep, tree={"x": jnp.full(2, 7)})
      except _Crash:
        crashed = True
    crashes += crashed

    # At this moment, and after the next start has cleaned up.
    got = checkpoints.load_checkpoint_ts(prefix)["x"].tolist()
    assert got in ([old, old], [7, 7])
    checkpoints.collect_orphans(prefix)
    again = checkpoints.load_checkpoint_ts(prefix)["x"].tolist()
    assert again == got
    last = checkpoints._read_last(prefix)
    permanent = {f"{s:09d}" for s, k in earlier if k}
    assert not last.endswith(".partial")
    assert permanent | {last, "LAST"} <= set(_names(prefix))
    for name in set(_names(prefix)) - {"LAST"}:
      assert name == last or (name.isdigit() and len(name) == 9)
      checkpoints.tsload(f"{prefix}-{name}")
    # And saving goes on as if nothing had happened.
    _save(prefix, 9, True, tree={"x": jnp.full(2, 9)})
    assert checkpoints.load_checkpoint_ts(prefix)["x"].tolist() == [9, 9]
    if not crashed:
      assert got == [7, 7]
      break
  assert not crashed and crashes > 5


def test_collect_orphans(prefix):
  assert checkpoints.collect_orphans(prefix) == []  # No folder yet is fine.
  _save(prefix, 4, keep=True)
  _save(prefix, 6, keep=False)
  for name in (
    "000000002-tmp",
    "000000005.partial",
    "000000006-tmp.old",
    "000000009-tmp.partial",
  ):
    os.makedirs(f"{prefix}-{name}/params~x")
  for name in ("CUR", "notes", "000000001-tmp-mine"):
    with open(f"{prefix}-{name}", "w", encoding="utf-8") as f:
      f.write("x")
  os.makedirs(f"{prefix}2-000000002-tmp")  # Of another prefix.
  removed = checkpoints.collect_orphans(prefix)
  assert sorted(r.removeprefix(prefix) for r in removed) == [
    "-000000002-tmp",
    "-000000005.partial",
    "-000000006-tmp.old",
    "-000000009-tmp.partial",
    "-CUR",
  ]
  assert set(_names(prefix)) == {
    "000000001-tmp-mine",
    "000000004",
    "000000006-tmp",
    "LAST",
    "notes",
    "checkpoint.bv2-000000002-tmp",
  }


# Saves all the time, from the step of each line of stdin on. Every line gets a
# process of its own, which prints its id and then the steps that it has saved. It
# is forked, since importing jax and orbax takes seconds.
_LOOP = """
import os, sys
import numpy as np
import orbax.checkpoint
from big_vision import checkpoints

def loop(prefix, step):
  manager = checkpoints.CheckpointManager()
  checkpoints.collect_orphans(prefix)
  while True:
    tree = {f"l{i}": np.full((64, 64), step) for i in range(6)}
    if step % 3 == 0:  # The same step more than once, too.
      checkpoints.save_checkpoint_ts(manager, tree, prefix, step, False)
    checkpoints.save_checkpoint_ts(manager, tree, prefix, step, step % 5 == 0)
    print(step, flush=True)
    step += 1

for line in sys.stdin:
  pid = os.fork()
  if not pid:
    print("pid", os.getpid(), flush=True)
    loop(sys.argv[1], int(line))
  os.waitpid(pid, 0)
  print("dead", flush=True)
"""


def test_killed_while_saving(tmp_path):
  """SIGKILL at arbitrary moments of a loop that saves all the time."""
  prefix = str(tmp_path / "checkpoint.bv")
  rng = np.random.default_rng(0)
  step = 1
  with subprocess.Popen(
    [sys.executable, "-c", _LOOP, prefix],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    text=True,
  ) as server:
    for _ in range(6):
      print(step, file=server.stdin, flush=True)
      word, pid = server.stdout.readline().split()
      assert word == "pid"
      for _ in range(3):  # The third line: two are complete.
        assert server.stdout.readline()
      time.sleep(rng.uniform(0, 0.03))
      os.kill(int(pid), signal.SIGKILL)
      # Further steps may come first.
      assert "dead\n" in iter(server.stdout.readline, "")
      step = check_killed(prefix, step) + 1
  checkpoints.collect_orphans(prefix)
  for name in set(_names(prefix)) - {"LAST"}:
    assert name.isdigit() or name == checkpoints._read_last(prefix)
    checkpoints.tsload(f"{prefix}-{name}")


def check_killed(prefix, first):
  """Checks the newest checkpoint of a run from `first` on; returns its step."""
  got = checkpoints.load_checkpoint_ts(prefix)
  values = {int(v) for x in got.values() for v in np.unique(x)}
  assert len(got) == 6 and len(values) == 1
  (last,) = values
  assert last >= first + 1
  assert checkpoints._read_last(prefix).startswith(f"{last:09d}")
  return last


def test_program_that_just_ends_completes_its_save(tmp_path):
  prefix = str(tmp_path / "checkpoint.bv")
  code = """
import sys
import jax.numpy as jnp
from big_vision import checkpoints
checkpoints.save_checkpoint_ts(
  checkpoints.CheckpointManager(), {"x": jnp.ones((500, 500))}, sys.argv[1], 1
)
raise SystemExit(3)
"""
  env = {**os.environ, "JAX_PLATFORMS": "cpu"}
  done = subprocess.run([sys.executable, "-c", code, prefix], env=env)
  assert done.returncode == 3
  assert checkpoints.load_checkpoint_ts(prefix)["x"].sum() == 250000


# Several processes.

_PROCESS = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
address, index, prefix = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(address, 2, index)
from big_vision import checkpoints

mesh = jax.make_mesh((4,), ("d",))
x = np.arange(32, dtype=np.float32).reshape(8, 4)
put = lambda x, spec: jax.make_array_from_callback(
  x.shape, NamedSharding(mesh, spec), lambda i: x[i])
tree = {"x": put(x, P("d")), "y": put(x, P()), "n": np.int64(5),
        "local": jnp.ones(3)}
manager = checkpoints.CheckpointManager()
for step, keep in ((1, False), (2, False), (2, False), (3, True)):
  checkpoints.save_checkpoint_ts(manager, tree, prefix, step, keep)
manager.close()
sharding = NamedSharding(mesh, P(None, "d"))
got = checkpoints.load_checkpoint_ts(prefix, shardings=sharding, regex="x|y")
for v in got.values():
  assert v.sharding == sharding
  for s in v.addressable_shards:
    np.testing.assert_array_equal(s.data, x[s.index])
n = checkpoints.load_checkpoint_ts(
  prefix, regex="n", shardings=NamedSharding(mesh, P()))["n"]
assert int(n.addressable_shards[0].data) == 5 and n.dtype == np.int32
assert (index == 0) or checkpoints.collect_orphans(prefix) == []
# Damage that one process finds is the problem of all.
from big_vision.training import hosts
assert hosts.first_problem("damaged" if index else "") == "damaged"
assert hosts.first_problem("") == ""
print("done", index)
"""


def test_two_processes(prefix):
  with process_groups.coordinator_address() as address:
    commands = [["-c", _PROCESS, address, str(i), prefix] for i in range(2)]
    logs = process_groups.run(commands)
  for i, log in enumerate(logs):
    assert log.endswith(f"done {i}\n")
  assert _names(prefix) == ["000000003", "LAST"]
  # Four chunks of two processes, whose checksums are together in one file.
  assert len(os.listdir(prefix + "-000000003/x")) == 2 + 4
  assert not [n for n in os.listdir(prefix + "-000000003") if n[0] == "."]
  got = checkpoints.load_checkpoint_ts(prefix)
  np.testing.assert_array_equal(got["y"], np.arange(32).reshape(8, 4))
  np.testing.assert_array_equal(got["local"], np.ones(3))
