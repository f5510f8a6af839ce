"""What the progress line says about speed."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

import toy
from big_vision.pipeline import counts
from big_vision.planning import chips
from big_vision.training import loop, throughput


def setup(batch_size=4):
  config = types.SimpleNamespace(lr=0.5)
  return types.SimpleNamespace(
    config=config, batch_size=batch_size, num_examples=12
  )


def test_utilization(monkeypatch):
  multiply = jax.jit(jnp.matmul)
  x, w = np.ones([4, 10], np.float32), np.ones([10, 7], np.float32)
  assert throughput.utilization(setup(), multiply, x, w) is None  # A CPU.
  chip = types.SimpleNamespace(flops=1000.0)
  monkeypatch.setattr(chips, "of_device", lambda kind: chip)
  got = throughput.utilization(setup(), multiply, x, w)
  assert got == pytest.approx(2 * 10 * 7 / 1000)


def test_of_step():
  s = setup(batch_size=10)
  s.total_steps, s.chrono = 50, types.SimpleNamespace(prev_step=30)
  written = {}
  s.writer = types.SimpleNamespace(
    latest={"global_schedule": 0.25}, measure=written.__setitem__
  )
  measured = {"training_loss": jnp.float32(2.0)}
  got = throughput.of_step(s, measured, None)
  assert got == {"training_loss": 2.0, "lr": 0.125} and not written
  s.writer.latest["img/sec/core"] = 5.0
  got = throughput.of_step(s, measured, 0.08)
  rate = 5.0 * jax.device_count()
  assert got["img/sec"] == rate and got["eta"] == 20 * 10 / rate
  assert got["mfu"] == pytest.approx(0.4)
  assert written == {"img/sec": rate, "mfu": got["mfu"]}
  written.clear()
  throughput.of_step(s, measured, None)  # Of a chip that is not known.
  assert written == {"img/sec": rate}


def test_of_a_mixture():
  s = setup(batch_size=10)
  s.total_steps, s.chrono = 50, types.SimpleNamespace(prev_step=30)
  # The size of the second one is not known.
  s.num_examples = counts.total([60, None, 90], dict(a=1, b=2, c=3.0))
  assert s.num_examples == 150
  written = {}
  s.writer = types.SimpleNamespace(latest={}, measure=written.__setitem__)
  throughput.of_step(s, {"training_loss": jnp.float32(2.0)}, None)
  assert written == pytest.approx({
    "examples_seen_a": 300 / 6, "epoch_a": 300 / 6 / 60,
    "examples_seen_c": 300 / 2, "epoch_c": 300 / 2 / 90,
  })  # fmt: skip


@pytest.mark.usefixtures("quick_compilation")
def test_a_run_says_it(monkeypatch, tmp_path, caplog):
  chip = types.SimpleNamespace(flops=1e9)
  monkeypatch.setattr(chips, "of_device", lambda kind: chip)
  logging.set_verbosity(logging.INFO)
  with caplog.at_level("INFO", logger="absl"):
    s = toy.setup(toy.config(), tmp_path)
    loop.run(s, toy.make())
    s.writer.close()
  (line,) = [m for m in caplog.messages if m.startswith("step 8/8")]
  row = toy.rows(tmp_path)[8]
  speed = row["img/sec/core"]
  assert row["img/sec"] == pytest.approx(speed * jax.device_count())
  assert row["mfu"] > 0
  assert "  lr " in line and "  MFU " in line and "  data wait " in line
