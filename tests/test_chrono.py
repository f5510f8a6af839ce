"""The clock of a run, with a clock that the tests move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import chrono as chrono_lib
from big_vision.chrono import Chrono, hms


@pytest.fixture
def clock(monkeypatch):
  class Clock:
    now = 100.0

    def monotonic(self):
      return self.now

  clock = Clock()
  monkeypatch.setattr(chrono_lib, "time", clock)
  return clock


def _make(**kw):
  c, got, notes = Chrono(), {}, []
  c.inform(measure=got.__setitem__, write_note=notes.append)
  c.inform(first_step=0, total_steps=100, global_bs=32, **kw)
  return c, got, notes


@pytest.mark.parametrize(
  "seconds, text",
  [
    (0, "0s"),
    (1.4, "1s"),
    (59, "59s"),
    (59.7, "1m0s"),  # Not 60s.
    (60, "1m0s"),
    (61.6, "1m2s"),
    (119.6, "2m0s"),  # Not 1m60s.
    (3599, "59m59s"),
    (3599.8, "1h0m"),
    (3600, "1h0m"),
    (7322, "2h2m"),
    (86400, "24h0m"),
    (89939, "24h58m"),
    (89999, "24h59m"),
    (90000, "1d1h0m"),
    (90001, "1d1h0m"),
    (200000, "2d7h33m"),
    (360000, "4d4h0m"),
  ],
)
def test_hms(seconds, text):
  assert hms(seconds) == text


def test_before_anything_is_known(clock):
  c = Chrono()
  assert c.note == "Chrono n/a"
  assert c.program_start_time == 100.0
  assert (c.warmup, c.accum_examples_seen, c.prev_step) == (2, 0, None)
  c.tick(1)  # Nobody to tell, nothing to divide by.
  assert c.warmup == 1


def test_inform_keeps_what_is_known():
  c = Chrono()
  c.inform(total_steps=200)
  assert c.note == "Chrono n/a"
  c.inform(first_step=50)
  assert c.note == "Steps:50/200 [25.0%]"
  c.inform(first_step=0, total_steps=None, global_bs=0)
  assert c.note == "Steps:0/200 [0.0%]"
  assert c.prev_step == 0 and c.total_steps == 200


def test_ticks(clock):
  c, got, notes = _make(steps_per_epoch=12.5)
  clock.now = 110.0
  c.tick(1)
  assert got == {
    "uptime": 10.0,
    "examples_seen": 32,
    "progress": 0.01,
    "epoch": 0.08,
  }
  assert notes == ["Steps:1/100 [1.0%]"]

  clock.now = 120.0
  c.tick(2)
  assert c.warmup == 0 and c.accum_program_time == 20.0
  assert "img/sec/core" not in got

  got.clear()
  clock.now = 122.0
  c.pause(wait_for={"a": jnp.ones(3)})
  with pytest.raises(AssertionError):
    c.pause()
  clock.now = 125.0
  c.resume()
  clock.now = 130.0
  c.tick(12)  # Ten steps in ten seconds, three of them paused.
  devices = jax.device_count()
  kind = jax.devices()[0].device_kind
  np.testing.assert_allclose(got["img/sec/core"], 32 * 10 / 7 / devices)
  np.testing.assert_allclose(got["core_hours"], 7 * devices / 3600)
  assert got[f"core_hours_{kind}"] == got["core_hours"]
  assert got["examples_seen"] == 384
  assert got["y/hostmem/total"] > got["y/hostmem/used"] > 0
  assert c.accum_train_time == 7.0
  assert c.accum_pause_time == 3.0
  assert c.accum_program_time == 30.0
  # One second a step: 88 to go, 100 in all, pauses included.
  assert notes[-1].split("\n") == [
    "Steps:12/100 [12.0%]",
    "Walltime:30s (3s eval)",
    "ETA:1m28s",
    "Total train time:1m40s",
  ]
  assert c.note == notes[-1]

  got.clear()
  c.tick(12)  # Same step: nothing.
  assert got == {} and len(notes) == 3


def test_save_and_load(clock):
  c, _, _ = _make()
  c.accum_examples_seen = 3 * 10**9  # Does not fit 32 bits.
  c.accum_program_time = 1e7 + 0.125  # Does not fit float32.
  saved = c.save()
  assert saved == {
    "accum_program_time": 1e7 + 0.125,
    "accum_train_time": 0.0,
    "accum_pause_time": 0.0,
    "accum_examples_seen": 3 * 10**9,
  }
  assert type(saved["accum_examples_seen"]) is int
  d = Chrono()
  d.load({k: np.asarray(v) for k, v in saved.items()})
  assert d.save() == saved
  d.load({"accum_train_time": jnp.float32(2.5)})  # The rest is gone.
  assert d.save() == {
    "accum_program_time": 0.0,
    "accum_train_time": 2.5,
    "accum_pause_time": 0.0,
    "accum_examples_seen": 0,
  }


def test_share(clock):
  c, _, _ = _make()
  for name, seconds in (("z/eval/a", 30), ("z/eval/b", 20), ("z/init", 5)):
    with c.log_timing(name):
      clock.now += seconds
  with c.log_timing("z/eval/a"):
    clock.now += 10
  clock.now += 415
  assert c.seconds("z/eval/") == 60 and c.seconds("z/other") == 0
  assert c.share("z/eval/") == "12.5% of the run (1m0s of 8m0s)"
  c.reset()
  assert c.seconds("z/eval/") == 0
  assert c.share("z/eval/") == "0.0% of the run (0s of 0s)"


def test_timings(clock):
  c, got, _ = _make()
  with c.log_timing("a"):
    clock.now += 2
  assert got == {"a": 2.0}  # Right away.
  with c.log_timing("b", noop=True):
    clock.now += 1
  with pytest.raises(KeyError), c.log_timing("c"):
    raise KeyError
  for seconds in (1, 2, 6):
    with c.log_timing_avg("d"):
      clock.now += seconds
  with c.log_timing_avg("e", noop=True):
    clock.now += 1
  assert got == {"a": 2.0}
  c.flush_timings()
  assert got == {"a": 2.0, "d": 3.0}
  got.clear()
  c.flush_timings()
  assert got == {}
  with pytest.raises(AssertionError):
    Chrono().flush_timings()
  with c.log_timing_avg("f"):
    clock.now += 4
  c.tick(1)
  assert got["f"] == 4.0
