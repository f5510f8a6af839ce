"""Full disks, as a limit on the size of files that the system enforces."""

import contextlib
import errno
import logging
import resource
import time

import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import checkpoints, disk_space, fs, lookup, metrics, tensorboard
from big_vision.training import logs, user_errors


@contextlib.contextmanager
def full_beyond(size):
  """Files cannot become larger than `size` bytes."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
  "error, reason",
  [
    (OSError(errno.ENOSPC, "x"), "No space left on device"),
    (OSError(errno.EDQUOT, "x"), "Disk quota exceeded"),
    (ValueError("RESOURCE_EXHAUSTED: y: File too large [os"), "File too large"),
    (OSError(errno.ENOENT, "No space left on device"), None),
    (ValueError("No space"), None),
  ],
  ids=["space", "quota", "text", "other", "unlike"],
)
def test_reason(error, reason):
  assert disk_space.reason(error) == reason


def test_explained(tmp_path):
  path = tmp_path / "a" / "b"
  with pytest.raises(lookup.ConfigError) as e, disk_space.explained(path):
    raise OSError(errno.ENOSPC, "No space left on device")
  said = user_errors.message(e.value)
  assert f"{path} cannot be written: No space left on device (" in said
  assert "MB are free" in said and "\n" not in said
  with pytest.raises(KeyError), disk_space.explained(path):
    raise KeyError("x")  # Others stay as they are.
  assert (
    disk_space.error("gs://b/x", "y")
    .args[0]
    .startswith("gs://b/x cannot be written: y. Make room")
  )


def test_errors_of_other_writers_are_one_line(tmp_path):
  error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path))
  with pytest.raises(
    SystemExit, match="^Error: .* cannot be written: No space"
  ):
    with user_errors.one_line():
      raise error


def test_checkpoint(tmp_path, capfd):
  prefix = str(tmp_path / "checkpoint.bv")
  manager = checkpoints.CheckpointManager()
  noise = np.random.default_rng(0).normal(size=(24, 10_000)).astype(np.float32)
  small = {"x": jnp.arange(3.0)}
  large = {f"l{i}": jnp.asarray(x) for i, x in enumerate(noise)} | small
  checkpoints.save_checkpoint_ts(manager, small, prefix, 1, keep=False)
  manager.wait_until_finished()

  def check_often():
    for _ in range(6000):
      manager.check()
      time.sleep(0.01)

  for keep, ends in ((False, manager.close), (True, check_often)):
    with full_beyond(20_000):
      checkpoints.save_checkpoint_ts(manager, large, prefix, 2, keep)
      with pytest.raises(disk_space.WriteError, match="File too large") as e:
        ends()
    assert f"{prefix}-000000002" in str(e.value)
    # What was written is gone, the last one is there.
    assert fs.listdir(str(tmp_path)) == [
      "checkpoint.bv-000000001-tmp",
      "checkpoint.bv-LAST",
    ]
    assert checkpoints.load_checkpoint_ts(prefix)["x"].tolist() == [0, 1, 2]
  checkpoints.save_checkpoint_ts(manager, large, prefix, 2)
  manager.close()
  np.testing.assert_array_equal(
    checkpoints.load_checkpoint_ts(prefix)["l7"], noise[7]
  )
  assert capfd.readouterr().err == ""  # Nobody else complains.


def test_metrics(tmp_path):
  """A line is written as a whole or not at all, also where a part fits."""
  path = tmp_path / "big_vision_metrics.txt"

  def write(step):
    writer.step_start(step)
    writer.measure("loss", step / 8)
    writer.step_end()

  writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path))
  write(1)
  writer.close()
  line = path.read_bytes()
  writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path))
  for room in range(len(line) - 1):  # The next line is one byte shorter.
    with full_beyond(len(line) + room):
      write(2)
      with pytest.raises(disk_space.WriteError, match="metrics.txt cannot be"):
        writer._wait()
    assert path.read_bytes() == line
  write(3)
  writer.close()
  assert [r["step"] for r in metrics.read_rows(str(path))] == [1, 3]


def test_replaced_files_stay_as_they_were(tmp_path):
  path = tmp_path / "config.json"
  fs.replace(path, "old")
  with full_beyond(10), pytest.raises(OSError, match="File too large"):
    fs.replace(path, "new" * 10)
  assert path.read_text() == "old"
  assert fs.listdir(str(tmp_path)) == ["config.json"]


def test_log(tmp_path, capsys):
  """One line says that the log ends, not each line that follows."""
  file = logs._File(tmp_path / "train.log")
  with full_beyond(400):
    for i in range(20):
      file.handle(logging.makeLogRecord({"msg": f"line {i} {'x' * 50}"}))
  (said,) = capsys.readouterr().err.splitlines()
  assert said.endswith("the log ends here: [Errno 27] File too large")
  assert said.startswith(str(tmp_path / "train.log"))
  assert (tmp_path / "train.log").read_text().startswith("line 0 x")


def test_events(tmp_path):
  """The writer of tensorboardX would wait for ever."""
  events = tensorboard.Events(str(tmp_path))
  with full_beyond(1000), pytest.raises(disk_space.WriteError):
    for step in range(1000):
      events.scalar("x", 1.0, step)
      events.flush()
  events.close()
