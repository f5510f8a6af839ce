"""Durations, schedules against closed forms, and when it is time."""

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import pytest

from big_vision import lookup, schedules
from big_vision.schedules import create_learning_rate_schedule as make


def _curve(total, at=None, **kw):
  """Values at all steps, which must be the same under jit."""
  fn = make(total, **kw)
  at = np.arange(total + 1) if at is None else np.asarray(at)
  eager = np.array([fn(int(s)) for s in at])
  traced = jax.jit(jax.vmap(fn))(jnp.asarray(at))
  assert eager.dtype == traced.dtype == np.float32
  np.testing.assert_allclose(traced, eager, rtol=1e-6, atol=1e-7)
  return eager


@pytest.mark.parametrize(
  "config, sizes, want",
  [
    (dict(x_steps=7), (), 7),
    (dict(x_steps=0), (), 0),
    (dict(x_steps=2.7), (), 2.7),
    (dict(x_examples=1000), (None, 64), 16),
    (dict(x_examples=160), (None, 64), 2),  # 2.5 rounds to even.
    (dict(x_epochs=0.5), (10, 2), 2),
    (dict(x_epochs=0.7), (10, 2), 4),
    (dict(x_epochs=0.0001), (10, 2), 1),
    (dict(x_epochs=0), (10, 2), 0),
    (dict(x_percent=0.5), (None, None, 5), 2),
    (dict(x_percent=1.0), (None, None, 90), 90),
    (dict(x_percent=0.001), (None, None, 90), 1),
    (dict(x_percent=0.5), (None, None, 0), 0),
    (dict(x_steps=-1, x_epochs=2), (30, 10), 6),
    (dict(x_steps=None, x_examples=25), (30, 10), 2),
    (dict(y_steps=3, xx_steps=4, x_examples=8), (None, 8), 1),
  ],
)
def test_steps(config, sizes, want):
  got = schedules.steps("x", config, *sizes)
  assert got == want
  assert type(got) is type(want)
  assert schedules.steps("x", mlc.ConfigDict(config), *sizes) == want


@pytest.mark.parametrize(
  "config, sizes",
  [
    ({}, (1, 1, 1)),
    (dict(x_steps=-1), (1, 1, 1)),
    (dict(x_steps=None), (1, 1, 1)),
    (dict(x_epochs=1), (None, 1, 1)),
    (dict(x_epochs=1), (1, None, 1)),
    (dict(x_examples=1), (1, None, 1)),
    (dict(x_percent=0.1), (1, 1, None)),
  ],
)
def test_steps_without_an_answer(config, sizes):
  assert schedules.steps("x", config, *sizes, default=3) == 3
  assert schedules.steps("x", config, *sizes, default=None) is None
  with pytest.raises(ValueError, match="'x'.*x_steps.*data_size.*batch_size"):
    schedules.steps("x", config, *sizes)


def test_steps_rejects():
  with pytest.raises(AssertionError, match="x_steps.*x_epochs"):
    schedules.steps("x", dict(x_steps=1, x_epochs=1), 1, 1)
  with pytest.raises(AssertionError, match="x_percent = 50"):
    schedules.steps("x", dict(x_percent=50), 1, 1, 1)


@pytest.mark.parametrize(
  "args, kw, want",
  [
    ((3, 10), {}, [1, 3, 6, 9, 10]),
    ((5, 6), {}, [1, 6]),  # 5 is too close to the end.
    ((5, 6), dict(drop_close_to_last=0), [1, 5, 6]),
    ((5, 10), dict(first=False), [5, 10]),
    ((5, 10), dict(last=False), [1, 5]),
    ((5, 10), dict(last=False, drop_close_to_last=None), [1, 5, 10]),
    ((20, 10), {}, [1, 10]),
    ((20, 10), dict(first=False, last=False), []),
    ((None, 10), {}, []),
    ((0, 10), {}, []),
    ((5, 10), dict(host=0), [1, 5, 10]),
    ((5, 10), dict(host=1), []),
  ],
)
def test_itstime(args, kw, want):
  got = [s for s in range(1, args[1] + 1) if schedules.itstime(s, *args, **kw)]
  assert got == want


def test_default_is_constant():
  np.testing.assert_array_equal(_curve(5, base=3.0), [3.0] * 6)


def test_stair():
  got = _curve(
    10,
    base=2.0,
    steps=[3, 6],
    mults=[0.5, 0.1],
    warmup_steps=2,
    cooldown_steps=2,
  )
  want = [0, 1, 2, 1, 1, 1, 0.2, 0.2, 0.2, 0.1, 0]
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_rsqrt():
  got = _curve(10, decay_type="rsqrt", timescale=3, shift=2, warmup_steps=2)
  want = [0, 0.3873, 0.7746, 0.7071, 0.6547, 0.6124, 0.5774, 0.5477, 0.5222]
  np.testing.assert_allclose(got, [*want, 0.5, 0.4804], atol=5e-5)


def test_rsqrt_defaults_and_durations():
  at = [0, 100, 10_000]
  got = _curve(10_000, at, decay_type="rsqrt")
  np.testing.assert_allclose(
    got, 1 / np.sqrt(1 + np.array(at) / 1e4), rtol=1e-6
  )
  sizes = dict(data_size=50, batch_size=10)
  np.testing.assert_allclose(
    _curve(99, decay_type="rsqrt", timescale_epochs=4, shift_steps=3, **sizes),
    _curve(99, decay_type="rsqrt", timescale=20, shift=3),
  )


@pytest.mark.parametrize("decay_type", ["linear", "polynomial"])
def test_polynomial(decay_type):
  q = np.clip((np.arange(21) - 4) / 16, 0, 1)
  ramp = np.minimum(1, np.arange(21) / 4)
  kw = dict(decay_type=decay_type, base=0.5, warmup_steps=4)
  for extra, end, power in (
    ({}, 0, 1),
    (dict(power=2), 0, 2),
    (dict(linear_end=0.2), 0.2, 1),
    (dict(end=0.1, linear_end=0.7), 0.1, 1),
  ):
    want = ramp * (end + (0.5 - end) * (1 - q) ** power)
    np.testing.assert_allclose(_curve(20, **kw, **extra), want, atol=1e-6)


def test_cosine_with_warmup_and_cooldown():
  s = np.arange(101)
  want = 0.5 * (1 + np.cos(np.pi * np.clip((s - 10) / 90, 0, 1)))
  want *= np.minimum(1, s / 10) * np.minimum(1, (100 - s) / 20)
  got = _curve(100, decay_type="cosine", warmup_percent=0.1, cooldown_steps=20)
  np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("end", [0.0, 0.3])
@pytest.mark.parametrize("shape", [None, "linear", "1-sqrt"])
def test_wsd(shape, end):
  kw = dict(decay_type="wsd", base=2.0, warmup_steps=10, cooldown_percent=0.25)
  kw |= {"cooldown_shape": shape} if shape else {}
  got = _curve(80, end=end, **kw)
  s = np.arange(81)
  q = np.clip((s - 60) / 20, 0, 1)
  fallen = np.sqrt(q) if shape == "1-sqrt" else q
  want = np.minimum(1, s / 10) * (2 - (2 - end) * fallen)
  np.testing.assert_allclose(got, want, atol=1e-6)
  np.testing.assert_array_equal(got[10:61], 2)
  np.testing.assert_allclose(got[-1], end, atol=1e-6)


def test_wsd_without_a_cooldown_is_its_trunk():
  kw = dict(decay_type="wsd", base=0.3, warmup_steps=7)
  trunk, whole = (_curve(40, cooldown_steps=n, **kw) for n in (0, 10))
  np.testing.assert_array_equal(trunk[:31], whole[:31])
  np.testing.assert_array_equal(trunk[7:], np.float32(0.3))


def test_wsd_has_to_fit():
  kw = dict(decay_type="wsd", warmup_steps=30, cooldown_percent=0.7)
  assert _curve(100, [30], **kw) == 1
  with pytest.raises(
    lookup.ConfigError,
    match="schedule.warmup_steps and .*cooldown_percent: a run of 99 steps "
    "cannot hold .* 30 steps .* 70",
  ):
    make(99, **{**kw, "cooldown_percent": 0.71})


def test_cooldown_of_another_shape():
  kw = dict(decay_type="rsqrt", timescale=5)
  got = _curve(40, cooldown_steps=10, cooldown_shape="1-sqrt", **kw)
  want = 1 / np.sqrt(1 + np.arange(41) / 5)
  want *= 1 - np.sqrt(np.clip((np.arange(41) - 30) / 10, 0, 1))
  np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
  "schedule, message",
  [
    (dict(decay_type="wsd"), "needs the length of its decay.*cooldown_percent"),
    (dict(decay_type="wsd", cooldown_steps=-1), "needs the length"),
    (dict(decay_type="wsd", decay_steps=9), "decay_steps.*cooldown_steps"),
    (dict(cooldown_steps=3, cooldown_shape="sqrt"), "cooldown_shape.*1-sqrt"),
  ],
)
def test_errors_of_cooldowns(schedule, message):
  with pytest.raises(ValueError, match=message):
    schedules.check_schedule(schedule)


def test_warmup_percent_rounds_half_to_even():
  got = _curve(5, [0, 1, 2], decay_type="linear", warmup_percent=0.5)
  np.testing.assert_allclose(got, [0, 0.5, 1], rtol=1e-6)


def test_scale_with_batchsize():
  got = _curve(2, base=0.1, batch_size=1024, scale_with_batchsize=True)
  np.testing.assert_allclose(got, [0.4] * 3, rtol=1e-6)
  with pytest.raises(ValueError, match="scale_with_batchsize"):
    make(2, scale_with_batchsize=True)


@pytest.mark.parametrize(
  "decay_type", ["cosine", "linear", "rsqrt", "stair", "wsd"]
)
@pytest.mark.parametrize("total, warmup", [(0, 0), (1, 1), (1, 0), (1, 10)])
def test_runs_of_at_most_one_step(decay_type, total, warmup):
  got = _curve(total, decay_type=decay_type, warmup_steps=warmup)
  assert np.all(np.isfinite(got))


def test_fractional_number_of_steps():
  got = _curve(2.5, [0, 1, 2, 3], decay_type="linear")
  np.testing.assert_allclose(got, [1, 0.6, 0.2, 0], atol=1e-6)


def test_extra_settings_are_ignored():
  assert make(10, anything=3, num_devices=8)(5) == 1


def test_bad_schedules():
  with pytest.raises(AssertionError, match="warm-up of 100 steps"):
    make(100, warmup_steps=100)
  with pytest.raises(AssertionError, match="warmup_steps"):
    make(100, warmup_steps=1, warmup_percent=0.1)
  with pytest.raises(ValueError, match="mults has 1 .* 2 config.schedule.st"):
    make(100, steps=[10, 20], mults=[0.1])
  with pytest.raises(ValueError, match="timescale"):
    make(100, decay_type="rsqrt", timescale_epochs=3, batch_size=8)
  with pytest.raises(ValueError, match="warmup"):
    make(100, warmup_epochs=3, batch_size=8)
  fn = make(100, decay_type="cosin")
  with pytest.raises(ValueError, match="config.schedule.decay_type.*'cosine'"):
    fn(1)


def test_check_schedule():
  for good in (
    {},
    dict(decay_type="cosine", warmup_steps=10, mult=0.3),
    dict(decay_type="rsqrt", timescale_epochs=3, shift=2, cooldown_percent=0.1),
    dict(decay_type="polynomial", power=2, end=0.1, linear_end=0.1),
    dict(steps=[1], mults=[0.1], scale_with_batchsize=True),
  ):
    schedules.check_schedule(good)
    schedules.check_schedule(mlc.ConfigDict(good))
  with pytest.raises(
    ValueError, match="config.schedule: .*'warmup_stpes'.*ps'"
  ):
    schedules.check_schedule(dict(warmup_stpes=10))
  with pytest.raises(ValueError, match=r"schedule\[1\]: .*'mutl'.*'mult'"):
    schedules.check_schedule(dict(mutl=10), key="schedule[1]")
  with pytest.raises(ValueError, match="schedule.decay_type.*'cosin'.*cosine"):
    schedules.check_schedule(dict(decay_type="cosin"))
