"""Which steps are profiled, and that traces get written."""

import jax
import jax.numpy as jnp
import pytest

from big_vision import profiler


@pytest.fixture
def logdir(tmp_path):
  profiler.configure(str(tmp_path / "profile"))
  yield tmp_path / "profile"
  profiler.configure(None)


@pytest.fixture
def calls(monkeypatch):
  calls = []
  monkeypatch.setattr(
    jax.profiler, "start_trace", lambda path: calls.append(("start", path))
  )
  monkeypatch.setattr(
    jax.profiler, "stop_trace", lambda: calls.append(("stop",))
  )
  return calls


def _run(first_step, last_step, **kw):
  """Steps at which there is a session after the call."""
  sess, steps = None, []
  for step in range(first_step + 1, last_step + 1):
    sess = profiler.startstop_prof(sess, step, first_step, **kw)
    if sess is not None:
      steps.append(step)
  return sess, steps


@pytest.mark.parametrize(
  "first_step, kw, start",
  [
    (0, {"log_steps": 50}, 45),
    (0, {"log_steps": 3}, 1),  # Not before the first step.
    (120, {"log_steps": 50}, 145),
    (100, {"log_steps": 50, "surround": 4}, 148),
  ],
)
def test_surrounds_the_first_log(logdir, calls, first_step, kw, start):
  sess, steps = _run(first_step, first_step + 70, **kw)
  surround = kw.get("surround", 10)
  assert steps == list(range(start, start + surround))
  assert sess is None
  assert calls == [("start", str(logdir / "steps")), ("stop",)]


def test_stop_now(logdir, calls):
  sess, steps = _run(0, 46, log_steps=50)
  assert steps == [45, 46]
  assert profiler.startstop_prof(sess) is None
  assert profiler.startstop_prof(None) is None
  assert [c[0] for c in calls] == ["start", "stop"]


def test_at_steps(logdir, calls):
  sess = None
  recorded = []
  for step in range(1, 8):
    sess = profiler.startstop_prof_at_steps(
      sess, step, first_step=3, last_step=5, name="mine", ttl=1
    )
    recorded.append(sess is not None)
  assert recorded == [False, False, True, True, False, False, False]
  assert calls == [("start", str(logdir / "mine")), ("stop",)]


def test_off_by_default(calls):
  assert _run(0, 70, log_steps=50) == (None, [])
  with profiler.profile("x") as sess:
    assert sess is None
  assert calls == []


def test_one_at_a_time(logdir, calls):
  with profiler.profile("a") as a, profiler.profile("b") as b:
    assert a.name == "a" and b is None
  with profiler.profile("c", noop=True) as c:
    assert c is None
  with pytest.raises(KeyError), profiler.profile("d"):
    raise KeyError
  assert [c[0] for c in calls] == ["start", "stop", "start", "stop"]


def test_writes_a_trace(logdir):
  with profiler.profile("real"):
    jnp.ones(3).block_until_ready()
  traces = list((logdir / "real").glob("plugins/profile/*/*.xplane.pb"))
  assert traces and traces[0].stat().st_size > 0
