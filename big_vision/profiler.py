"""Traces of a few training steps, with the profiler of JAX.

Off until `configure(logdir)` names a folder. TensorBoard's profile plugin,
XProf and Perfetto read what is written there.
"""

import contextlib
import dataclasses

import jax
from absl import logging

from big_vision import fs

_THREE_YEARS = 3 * 365 * 24 * 3600  # Seconds.
_logdir = None
_running = None


@dataclasses.dataclass(frozen=True)
class Session:
  """A trace that is being recorded.

  Attributes:
    name: str, what is recorded.
    path: str, folder that the trace goes to.
  """

  name: str
  path: str


def configure(logdir):
  """Sets the folder for traces; None switches profiling off (the default)."""
  global _logdir
  _logdir = logdir


def _start(name):
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


def _stop(sess):
  global _running
  if sess is None or sess is not _running:
    return
  _running = None
  jax.profiler.stop_trace()
  logging.info("Profile of %s is in %s", sess.name, sess.path)


def startstop_prof(
  sess, step=None, first_step=0, log_steps=1, surround=10, **kw
):
  """Profiles the steps around the first one that logs; call it every step.

  Args:
    sess: what the previous call returned, at first None.
    step: int, the current step. None: stop now, if recording.
    first_step: int, step that training started or resumed after.
    log_steps: int, steps between two logs.
    surround: int, how many steps to record.
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
  sess,
  step=None,
  first_step=None,
  last_step=None,
  name="steps",
  ttl=_THREE_YEARS,
):
  """Profiles from `first_step` to `last_step`; call it every step.

  Args:
    sess: what the previous call returned, at first None.
    step: int, the current step. None: stop now, if recording.
    first_step: int, step at which to start.
    last_step: int, step at which to stop.
    name: str, folder of the trace below the configured one.
    ttl: seconds. Files stay until deleted; kept for callers that set it.

  Returns:
    The session while recording, else None; always None if profiling is off.
  """
  del ttl
  if step is None or (sess is not None and step >= last_step):
    _stop(sess)
    return None
  if sess is None and step == first_step:
    return _start(name)
  return sess


@contextlib.contextmanager
def profile(name, ttl=_THREE_YEARS, noop=False):
  """Profiles the body.

  Args:
    name: str, folder of the trace below the configured one.
    ttl: seconds, as in `startstop_prof_at_steps`.
    noop: bool, do nothing.

  Yields:
    The session, or None if nothing is recorded.
  """
  del ttl
  sess = None if noop else _start(name)
  try:
    yield sess
  finally:
    _stop(sess)
