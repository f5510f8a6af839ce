"""Lines of the metrics file, and that crashes cost at most one of them."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from big_vision import metrics
from big_vision.plots import curves


def _rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines(tmp_path):
  writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path))
  writer.step_start(1)
  assert writer.measure("b", np.float32(0.25)) == 0.25
  assert writer.measure("a", [[[7]]]) == 7.0
  assert writer.measure("v", np.zeros((2, 1, 3))) == (2, 3)
  writer.measure("b", jnp.asarray(1.5, jnp.bfloat16))  # The later one wins.
  writer.step_end()
  writer.step_start(2)
  writer.step_end()  # Nothing measured: no line.
  writer.step_start(3)
  writer.measure("dropped", 1)
  writer.step_start(4)
  writer.measure("nan", float("nan"))
  writer.close()  # Writes what is left, once.
  writer.close()

  path = tmp_path / "big_vision_metrics.txt"
  assert path.read_bytes().endswith(b"\n")
  first, second = _rows(path)
  assert first == {"step": 1, "b": 1.5, "a": 7.0, "v": [2, 3]}
  assert list(first) == ["step", "b", "a", "v"]  # Order of first measurement.
  assert second["step"] == 4 and np.isnan(second["nan"])


def test_last_step_is_written_once(tmp_path):
  writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path))
  writer.step_start(5)
  writer.measure("x", 1)
  writer.step_end()
  writer.close()
  assert _rows(tmp_path / "big_vision_metrics.txt") == [{"step": 5, "x": 1.0}]


def test_line_has_the_step_of_its_values(tmp_path, monkeypatch):
  writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path))
  go = threading.Event()
  write = writer._write

  def late(*args):
    go.wait()
    write(*args)

  monkeypatch.setattr(writer, "_write", late)
  writer.step_start(3)
  writer.measure("x", 30)
  writer.step_end()
  writer.step_start(4)  # While the line of step 3 is still to be written.
  writer.measure("x", 40)
  go.set()
  writer.close()
  assert _rows(tmp_path / "big_vision_metrics.txt") == [
    {"step": 3, "x": 30.0},
    {"step": 4, "x": 40.0},
  ]


def test_names_config_and_resume(tmp_path):
  workdir = tmp_path / "new" / "folder"  # Created.
  config = ml_collections.ConfigDict({"a": 1, "b": {"c": (1, 2)}})
  for step in (1, 2):
    writer = metrics.BigVisionMetricWriter(11, 2, str(workdir), config)
    writer.step_start(step)
    writer.measure("x", step)
    writer.close()
  assert json.loads((workdir / "config.json").read_text()) == {
    "a": 1,
    "b": {"c": [1, 2]},
  }
  rows = _rows(workdir / "big_vision_11_2_metrics.txt")
  assert [r["step"] for r in rows] == [1, 2]  # Continues the same file.
  assert not (workdir / "big_vision_metrics.txt").exists()


def test_config_with_values_that_json_lacks(tmp_path):
  config = ml_collections.ConfigDict({"a": 1, "dtype": jnp.float32})
  metrics.BigVisionMetricWriter(workdir=str(tmp_path), config=config).close()
  assert json.loads((tmp_path / "config.json").read_text())["a"] == 1


@pytest.mark.parametrize(
  "content, kept",
  [
    (b'{"step": 1}\n{"step": 2, "x', b'{"step": 1}\n'),
    (b'{"st', b""),
    (b'{"step": 1}\n', b'{"step": 1}\n'),
    (b"", b""),
  ],
)
def test_half_line_of_a_killed_run_is_removed(tmp_path, content, kept):
  path = tmp_path / "big_vision_metrics.txt"
  path.write_bytes(content)
  writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path))
  writer.step_start(9)
  writer.measure("x", 1)
  writer.close()
  assert path.read_bytes() == kept + b'{"step": 9, "x": 1.0}\n'


def test_log_lines(caplog):
  absl = logging.getLogger("absl")
  absl.addHandler(caplog.handler)
  try:
    with caplog.at_level(logging.INFO, logger="absl"):
      writer = metrics.BigVisionMetricWriter()  # No workdir: logs only.
      writer.step_start(7)
      writer.measure("loss", 0.5)
      writer.close()
  finally:
    absl.removeHandler(caplog.handler)
  assert "\x1b[35m[7]\x1b[0m loss = 0.5" in caplog.messages


def test_other_processes_do_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path), config={})
  writer.step_start(1)
  assert writer.measure("x", 1) is None
  writer.close()
  assert list(tmp_path.iterdir()) == []


def test_transfer_guard(tmp_path):
  x = jnp.float32(2) * 3
  with jax.transfer_guard("disallow"):
    writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path))
    assert writer.measure("x", x) == 6.0
    writer.close()


def test_errors_of_writing_surface(tmp_path):
  writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path))
  (tmp_path / "big_vision_metrics.txt").mkdir()
  writer.step_start(1)
  writer.measure("x", 1)
  writer.step_end()
  with pytest.raises(IsADirectoryError):
    writer.close()


def test_tensorboard(tmp_path):
  writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path))
  assert list(tmp_path.iterdir()) == []  # Created when there are values.
  for step in (1, 2):
    writer.step_start(step)
    writer.measure("loss", step / 4)
    writer.measure("shape", np.zeros((2, 3)))
    writer.step_end()
  writer.close()

  from tensorboardX import proto

  (events,) = tmp_path.glob("events.out.tfevents.*")
  data, seen = events.read_bytes(), {}
  while data:  # A record: length, its checksum, event, checksum.
    size = int.from_bytes(data[:8], "little")
    event = proto.event_pb2.Event.FromString(data[12 : 12 + size])
    seen.update({(v.tag, event.step): v for v in event.summary.value})
    data = data[16 + size :]
  assert {k: v.simple_value for k, v in seen.items()} == {
    ("loss", 1): 0.25,
    ("loss", 2): 0.5,
  }


_KILLED = """
import os, signal, sys
from big_vision import metrics
from big_vision.plots import curves
writer = metrics.BigVisionMetricWriter(workdir=sys.argv[1])
for step in range(1, 4):
  writer.step_start(step)
  writer.measure("x", step)
  writer.step_end()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_process_loses_at_most_the_latest_line(tmp_path):
  env = {**os.environ, "JAX_PLATFORMS": "cpu"}
  cmd = [sys.executable, "-c", _KILLED, str(tmp_path)]
  done = subprocess.run(cmd, env=env, check=False)
  assert done.returncode == -signal.SIGKILL
  metrics.BigVisionMetricWriter(workdir=str(tmp_path)).close()
  rows = _rows(tmp_path / "big_vision_metrics.txt")
  assert rows[:2] == [{"step": 1, "x": 1.0}, {"step": 2, "x": 2.0}]


def test_initial_values_have_their_own_file(tmp_path):
  writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path))
  writer.step_start(0)
  writer.measure("num_params", 5)
  writer.step_end(initial=True)
  writer.step_start(1)
  writer.measure("loss", 2.0)
  writer.step_end()
  writer.close()
  read = lambda name: [json.loads(x) for x in open(tmp_path / name)]
  initial = read("big_vision_initial_metrics.txt")
  assert initial == [{"step": 0, "num_params": 5.0}]
  assert read("big_vision_metrics.txt") == [{"step": 1, "loss": 2.0}]
  assert writer.latest == {"num_params": 5.0, "loss": 2.0}


def test_restart_after_a_kill_at_any_byte(tmp_path):
  """No row is torn, none is missing but what the kill took, none is there twice."""
  path = tmp_path / "big_vision_metrics.txt"

  def write(steps):
    writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path))
    for step in steps:
      writer.step_start(step)
      writer.measure("loss", step / 8)
      writer.step_end()
    writer._wait()
    writer._pool.shutdown()  # As a kill does, nothing is closed.

  rows = lambda steps: [{"step": s, "loss": s / 8} for s in steps]
  write([1, 2, 3])
  whole = path.read_bytes()
  ends = [i for i, c in enumerate(whole) if c == ord("\n")]
  for cut in range(ends[0] + 1, len(whole) + 1):
    path.write_bytes(whole[:cut])
    # The newline may be missing, the row is there.
    left = [s for s, end in zip((1, 2, 3), ends, strict=True) if cut >= end]
    write([3, 4])  # Continues from the checkpoint of step 2.
    assert path.read_bytes().startswith(whole[: ends[left[-1] - 1]])
    assert _rows(path) == rows([*left, 3, 4])
    assert metrics.read_rows(str(path)) == rows([*left, 3, 4])
    series, torn = curves.read_metrics(str(path))
    steps = sorted({*left, 3, 4})
    assert series == {"loss": (steps, [s / 8 for s in steps])} and not torn


def test_secured_values_of_a_checkpoint_survive(tmp_path):
  """A kill after the checkpoint of step 2, before the line of step 2."""
  path = tmp_path / "big_vision_metrics.txt"

  def start(first_step):
    writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path), hold=True)
    writer.begin(first_step)
    return writer

  def measure(writer, step, **values):
    writer.step_start(step)
    for name, value in values.items():
      writer.measure(name, value)

  killed = start(0)
  measure(killed, 1, loss=4)
  killed.step_end()
  measure(killed, 2, loss=3)
  killed.secure()
  killed._pool.shutdown()
  assert _rows(path) == [{"step": 1, "loss": 4}]

  again = start(1)  # From another checkpoint: its step 2 is to come.
  assert _rows(path) == [{"step": 1, "loss": 4}]
  assert again.row_of(2) == {"loss": 3}
  again._pool.shutdown()

  again = start(2)
  assert _rows(path) == [{"step": 1, "loss": 4}, {"step": 2, "loss": 3}]
  measure(again, 3, loss=2)
  again.step_end()
  again.close()
  start(2).close()  # It is there now.
  assert [r["step"] for r in _rows(path)] == [1, 2, 3]
  assert again.row_of(3) == {"loss": 2} and again.row_of(4) == {}
  assert metrics.BigVisionMetricWriter().row_of(1) is None


def test_nothing_is_secured_without_values_or_files(tmp_path):
  metrics.BigVisionMetricWriter().secure()
  writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path))
  writer.step_start(1)
  writer.secure()
  writer.close()
  assert list(tmp_path.iterdir()) == []
  assert writer.row_of(1) is None
