"""Traces a few training steps with the profiler of JAX.

It is off until `configure(logdir)` names a folder. TensorBoard's profile plugin,
XProf and Perfetto read what is written there.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging

from big_vision import fs

_THREE_YEARS = 3 * 365 * 24 * 3600  # Seconds.
_logdir = None
_running = None


@dataclasses.dataclass(frozen=True)
class Session:
  """Describes a trace that is being recorded.

  Attributes:
    name: name of the recorded work.
    path: folder of the trace.
  """

  name: str
  path: str


def configure(logdir: str | None) -> None:
  """Sets the folder for traces.

  Args:
    logdir: folder; None (the default) switches profiling off.
  """
  global _logdir
  _logdir = logdir


def _start(name: str) -> Session | None:
  global _running
  if _logdir is None:
    return None
  if _running is not None:  # JAX records one trace at a time.
    logging.warning("Not profiling %s: %s is recording.", name, _running.name)
    return None
  _running = Session(name, fs.join(_logdir, name))
  jax.profiler.start_trace(_running.path)
  logging.info("Profiling %s into %s", name, _running.path)
  return _running


def _stop(sess: Session | None) -> None:
  global _running
  if sess is None or sess is not _running:
    return
  _running = None
  jax.profiler.stop_trace()
  logging.info("Profile of %s is in %s", sess.name, sess.path)


def startstop_prof(
  sess: Session | None,
  step: int | None = None,
  first_step: int = 0,
  log_steps: int = 1,
  surround: int = 10,
  **kw: Any,
) -> Session | None:
  """Profiles the steps around the first one that logs; call it every step.

  Args:
    sess: result of the previous call, at first None.
    step: the current step. None: stop now, if recording.
    first_step: step after which training started or resumed.
    log_steps: steps between two logs.
    surround: how many steps to record.
    **kw: for `startstop_prof_at_steps`.

  Returns:
    The session while recording, else None.
  """
  if step is None:
    return startstop_prof_at_steps(sess, **kw)
  first_log = first_step + log_steps - first_step % log_steps
  start = max(first_log - surround // 2, first_step + 1)
  return startstop_prof_at_steps(sess, step, start, start + surround, **kw)


def startstop_prof_at_steps(
  sess: Session | None,
  step: int | None = None,
  first_step: int | None = None,
  last_step: int | None = None,
  name: str = "steps",
  ttl: float = _THREE_YEARS,
) -> Session | None:
  """Profiles from `first_step` to `last_step`; call it every step.

  Args:
    sess: result of the previous call, at first None.
    step: the current step. None: stop now, if recording.
    first_step: step at which to start.
    last_step: step at which to stop.
    name: folder of the trace below the configured one.
    ttl: ignored, since files stay until deleted; callers may set it.

  Returns:
    The session while recording, else None; always None if profiling is off.
  """
  del ttl
  at_end = step is None or (last_step is not None and step >= last_step)
  if step is None or (sess is not None and at_end):
    _stop(sess)
    return None
  if sess is None and step == first_step:
    return _start(name)
  return sess


@contextlib.contextmanager
def profile(
  name: str, ttl: float = _THREE_YEARS, noop: bool = False
) -> Iterator[Session | None]:
  """Profiles the body.

  Args:
    name: folder of the trace below the configured one.
    ttl: ignored.
    noop: whether to do nothing.

  Yields:
    The session, or None if nothing is recorded.
  """
  del ttl
  sess = None if noop else _start(name)
  try:
    yield sess
  finally:
    _stop(sess)
