"""Stops a run on request, after a step or from where it waits, with its state saved."""

import contextlib
from collections.abc import Callable, Hashable, Iterator

from big_vision.training import console, signals, watchdog
from big_vision.types import Batch, Batches

# Seconds from the request on after which a wait is given up.
_NO_BATCH = 5.0
_EVALUATION = 12.0


class Preempted(SystemExit):
  """The run stopped early on request, with its state in a checkpoint."""


class Preemption:
  """Looks after the requests to stop of `signals`, and agrees with other hosts.

  The watchdog carries a request to all hosts and picks a step after which all of
  them stop; alone, the next step will do. Alone, also waiting for a batch and an
  evaluation end on request; several hosts would have to give up at one step.
  """

  def __init__(self, save: Callable[[int], None]) -> None:
    """Starts to listen.

    Args:
      save: writes a checkpoint of the state after a step, to stop while waiting.
    """
    self._save = save
    self._stack = contextlib.ExitStack()
    self._listener = self._stack.enter_context(signals.listening())
    self._watchdog = watchdog.active()
    self._saved = 0
    self._compiled: set[Hashable] = set()

  def next(self, batches: Batches, step: int) -> Batch:
    """Returns the batch of `step`; raises Preempted if none comes in time."""
    with self._waiting(watchdog.DATA, step, _NO_BATCH, step - 1):
      return next(batches)

  @contextlib.contextmanager
  def evaluating(self, step: int, end: Callable[[], None]) -> Iterator[None]:
    """Raises Preempted, if the body takes too long to finish after a request.

    Args:
      step: after which the body evaluates.
      end: called after the body, before anything is saved.

    Yields:
      Nothing.
    """
    with self._waiting(watchdog.BUSY, step, _EVALUATION, step):
      try:
        yield
      finally:
        end()

  def computing(self, step: int, static: Hashable) -> None:
    """Says that a step begins; new static arguments make it compile first."""
    new = static not in self._compiled
    self._compiled.add(static)
    self._enter(watchdog.BUSY if new else watchdog.STEP, step)

  def reached(self, step: int) -> bool:
    """Tells whether to stop after `step`; the same answer on every host."""
    if self._listener:
      self._listener.begin()
    if self._watchdog:
      return self._watchdog.last_step(step)
    return bool(self._listener and self._listener.noticed)

  def saving(self, step: int) -> None:
    """Says that the state after `step` is being saved, which takes its time."""
    self._saved = step
    self._enter(watchdog.BUSY, step)
    if self._listener:
      self._listener.saving()

  def leave(self, step: int) -> Preempted:
    """Returns what the run is to raise after `step`, once that is saved."""
    name = self._listener.noticed if self._listener else "of another host"
    console.note(f"Stopped on request ({name}) after step {step}.")
    return Preempted(signals.PREEMPTED)

  def close(self) -> None:
    """Stops to listen; what is left of the program may not take long now."""
    if self._listener:
      self._listener.done()
    self._stack.close()

  def _enter(self, phase: str, step: int) -> None:
    if self._listener:
      self._listener.saving(False)
    if self._watchdog:
      self._watchdog.enter(phase, step)

  @contextlib.contextmanager
  def _waiting(
    self, phase: str, step: int, after: float, ended: int
  ) -> Iterator[None]:
    """Gives the body up, some time after a request, and saves what there is."""
    self._enter(phase, step)
    if self._listener is None or self._watchdog is not None:
      yield
      return
    try:
      with self._listener.interruptible(after):
        yield
    except signals.Interrupted:
      if ended > self._saved:
        self._save(ended)
      raise self.leave(ended) from None
