"""Iterators that work ahead of their consumer; needs no TensorFlow."""

from __future__ import annotations

import atexit
import collections
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

_T = TypeVar("_T")

_END = object()
_running: weakref.WeakSet[_Worker] = (
  weakref.WeakSet()
)  # _Worker objects with a thread.


class PrefetchIterator:
  """Fetches up to `n` elements ahead, in a background thread.

  Order and count are those of `it`; an exception of `it` is raised to the
  consumer at the element where it occurred. The thread ends when the iterator
  is exhausted, closed or garbage collected.

  Args:
    it: iterable.
    n: how many elements to hold ready; 0: each is fetched when it is wanted, in
      the thread all the same, so that a signal can end the wait.
    start: whether to begin right away instead of at the first `next`.

  Raises:
    ValueError: `n` is negative.
  """

  def __init__(self, it: Iterable[Any], n: int, start: bool = False):
    if n < 0:
      raise ValueError(f"Cannot fetch {n} elements ahead: 0 is the least.")
    self._worker = _Worker(it, n)
    self._done = False
    # The thread must not keep the iterator alive, so it only has the worker.
    weakref.finalize(self, self._worker.stop)
    if start:
      self._worker.start()

  def __iter__(self) -> PrefetchIterator:
    return self

  def __next__(self) -> Any:
    if self._done:
      raise StopIteration
    self._worker.start()
    element, error = self._worker.get()
    if error is not None or element is _END:
      self._done = True
      if error is not None:
        raise error
      raise StopIteration
    return element

  def start(self) -> None:
    """Begins to fetch in the background, if that has not begun."""
    if not self._done:
      self._worker.start()

  def close(self) -> None:
    """Stops fetching; what was fetched is dropped."""
    self._done = True
    self._worker.stop()


class _Worker:
  """Runs the thread and holds the elements that it has fetched."""

  def __init__(self, it: Iterable[Any], n: int):
    self._it = it
    self._n = n
    self._wanted = False
    self._ready: collections.deque[Any] = collections.deque()
    self._changed = threading.Condition()
    self._stopped = False
    self._thread: threading.Thread | None = None

  def start(self) -> None:
    """Wants an element, and starts the thread if there is none."""
    with self._changed:
      self._wanted = True
      self._changed.notify_all()
    if self._thread is None and not self._stopped:
      self._thread = threading.Thread(
        target=self._run, name="prefetch", daemon=True
      )
      if not _running:
        # Registered late, so it runs before the exit functions of jax and
        # TensorFlow: a thread inside of them would crash while they shut down.
        atexit.unregister(_stop_all)
        atexit.register(_stop_all)
      _running.add(self)
      self._thread.start()

  def _run(self):
    try:
      it = iter(self._it)
      while self._has_room():
        element = next(it, _END)
        self._put(element, None)
        if element is _END:
          return
        del element  # Do not hold the memory while waiting.
    except BaseException as e:  # Whatever it is, the consumer gets it.
      self._put(None, e)

  def _has_room(self):
    """Waits for room; False if nobody wants more."""
    with self._changed:
      self._changed.wait_for(
        lambda: self._stopped or len(self._ready) < max(self._n, self._wanted)
      )
      return not self._stopped

  def _put(self, element, error):
    with self._changed:
      self._ready.append((element, error))
      self._changed.notify_all()

  def get(self) -> tuple[Any, BaseException | None]:
    with self._changed:
      self._changed.wait_for(lambda: self._ready or self._stopped)
      if self._stopped:
        return _END, None
      out = self._ready.popleft()
      self._wanted = False
      self._changed.notify_all()
      return out

  def stop(self) -> None:
    with self._changed:
      self._stopped = True
      self._ready.clear()
      self._changed.notify_all()

  def join(self, timeout: float) -> None:
    if self._thread is not None:
      self._thread.join(timeout)


def _stop_all():
  """At exit: lets the threads finish the element that they are at."""
  workers = list(_running)
  for w in workers:
    w.stop()
  for w in workers:
    w.join(timeout=10)


def prefetch_iterator(it: Iterable[_T], n: int | None) -> Iterator[_T]:
  """Iterates over `it` and holds up to `n` elements ready.

  Args:
    it: iterable.
    n: how many; 0 or None: nothing is fetched ahead.

  Returns:
    An iterator with the same elements in the same order.
  """
  return PrefetchIterator(it, n) if n else iter(it)


def threadstart_iterator(it: Iterable[_T]) -> Iterator[_T]:
  """Iterates over `it`; fetches its first element now, in the background.

  Args:
    it: iterable.

  Returns:
    An iterator with the same elements in the same order.
  """
  it = iter(it)
  first = PrefetchIterator(_head(it), 1, start=True)

  def elements():
    yield from first
    yield from it

  return elements()


def _head(it):
  """Yields the first element of an iterator, if any; leaves the rest in it."""
  for x in it:
    yield x
    return
