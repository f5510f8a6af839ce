"""Notices that the machine is about to be taken away."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Preemption:
  """Watches for SIGTERM, the notice that schedulers and clouds send.

  With several hosts JAX' preemption service carries the notice to all of them
  and picks a step at which all of them stop; alone, the next step will do.
  """

  def __init__(self) -> None:
    self._noticed = False
    self._old = None
    self._shared = jax.process_count() > 1
    main = threading.current_thread() is threading.main_thread()
    if not self._shared and main:
      self._old = signal.signal(signal.SIGTERM, self._notice)

  def _notice(self, *_: object) -> None:
    self._noticed = True

  def reached(self, step: int) -> bool:
    """Tells whether to stop after `step`; the same answer on every host."""
    if self._shared:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._noticed

  def close(self) -> None:
    """Restores the former handler of the signal."""
    if self._old is not None:
      signal.signal(signal.SIGTERM, self._old)
      self._old = None
