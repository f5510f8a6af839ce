"""The stream of a source that is read in order: buffer, cache, memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from big_vision.datasets import ids
from big_vision.datasets.source import DataSource, Example
from big_vision.pipeline import failures, order, skipping, stream
from big_vision.tf import tf


@dataclasses.dataclass(frozen=True)
class SequentialStream:
  """Reads examples in the order of the source, and shuffles them in a buffer.

  Attributes:
    source: where examples come from.
    name: what errors call it.
    seed: of the shuffling.
    tfdata: further arguments of the source's `training_order`.
    shuffle_buffer_size, pre_filter_fn, cache_raw, memory_gb, skip_errors: as in
      `config.input`.
  """

  source: DataSource
  name: str
  seed: int
  tfdata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  shuffle_buffer_size: int | None = None
  pre_filter_fn: Callable[[Example], Any] | None = None
  cache_raw: bool = False
  memory_gb: float | None = None
  skip_errors: bool = False

  @property
  def seekable(self) -> bool:
    """Whether opening at any position is fast."""
    return False

  @property
  def size(self) -> int | None:
    """Number of examples, before any filter; None if unknown."""
    return self.source.total_examples

  def open(
    self, start: int, select: stream.Select, one_by_one: bool = False
  ) -> tuple[stream.Stream, Callable[[tf.Tensor, Any], Example]]:
    """Opens what `select` takes of the stream of all hosts.

    Args:
      start: position to start from.
      select: picks what this host needs.
      one_by_one: whether to cache nothing.

    Returns:
      (stream, complete): `complete` makes the raw example of the index and the
      example in the stream; it is called in parallel.
    """
    errors = None
    if self.skip_errors:
      errors = skipping.ReadErrors(self.name, self.size, self.first_error)
    in_order = self._epoch(errors=errors)
    stream.check_not_empty(
      in_order, self.name, bool(self.pre_filter_fn), self.first_error
    )
    if not one_by_one:
      self._warn_of_memory()
      in_order = in_order.cache() if self._is_cached else in_order
    # What is cached has one order: that of the source.
    vary = order.is_shuffled(self.shuffle_buffer_size) and not self._is_cached
    elements = stream.epochs(
      # The seed is an offset, so that datasets shuffle their files differently.
      lambda epoch: (
        self._epoch(self.seed + epoch, errors) if vary else in_order
      ),
      seed=self.seed,
      shuffle_buffer_size=self._buffer_size,
      size=self._epoch_size() if start else None,
      start=start,
      may_be_empty=stream.has_unknown_size(in_order),
      errors=errors,
    )
    late = self._read_late

    def complete(_, example):
      return late(example) if late else example

    return select(elements), complete

  def number(self, index: tf.Tensor, example: Example) -> tf.Tensor:
    """Identifies an example: by its name if it has one."""
    return ids.example_number(index, example)

  def first_error(self) -> str | None:
    """Says what the first error is in reading the examples, if any."""
    error = failures.first_error(self._epoch())
    return error and (self.source.find_damage() or error)

  def _epoch(
    self,
    order_seed: tf.Tensor | None = None,
    errors: skipping.ReadErrors | None = None,
  ) -> tf.data.Dataset:
    """Makes (index, example) of what passes the filter, before shuffling."""
    ds, read = self.source.training_order(order_seed, **self.tfdata)
    if read and not self._read_late:
      ds = ds.map(read, tf.data.AUTOTUNE, deterministic=True)
    return stream.filtered(ds.enumerate(), self.pre_filter_fn, errors)

  def _epoch_size(self) -> int:
    """Counts the examples that pass the filter."""
    if self.size is not None and not self.pre_filter_fn:
      return self.size
    return stream.count(self._epoch())

  @functools.cached_property
  def _read_late(self) -> Callable[[Example], Example] | None:
    """Completes an example in its turn; None if it is complete before."""
    if self.pre_filter_fn or self._is_cached:
      return None
    return self.source.training_order(None, **self.tfdata)[1]

  @functools.cached_property
  def _is_cached(self) -> bool:
    """Whether raw examples are kept in memory: if asked for, and they fit."""
    return bool(self.cache_raw and self._fit(self.size))

  @property
  def _wanted_buffer_size(self) -> int | None:
    """Raw examples to shuffle among; more than there are change nothing."""
    wanted = self.shuffle_buffer_size
    if not wanted or self.size is None:
      return wanted
    return min(wanted, self.size)  # TensorFlow allocates what it is told.

  @functools.cached_property
  def _buffer_size(self) -> int | None:
    """Raw examples to shuffle among; those in the cache cost nothing extra."""
    wanted, each = self._wanted_buffer_size, self.source.bytes_per_example
    if self._is_cached or not wanted or not each or self.memory_gb is None:
      return wanted
    if self._fit(wanted):
      return wanted
    return max(int(self.memory_gb * 2**30 / each), 1)

  def _fit(self, num: int | None) -> bool:
    return stream.fits(num, self.source.bytes_per_example, self.memory_gb)

  def _warn_of_memory(self) -> None:
    """Says what was asked for and is not done."""
    not_cached = self.cache_raw and not self._is_cached
    if not not_cached and self._buffer_size == self._wanted_buffer_size:
      return
    logging.warning(
      "Raw examples of %s take about %.1f kB each. With config.input.memory_gb"
      "=%s they are %s and shuffled among %s. big_vision.tools.convert_dataset"
      " gives a dataset random access: it is then shuffled as a whole, without "
      "memory.",
      self.name,
      (self.source.bytes_per_example or 0) / 1e3,
      self.memory_gb,
      "cached" if self._is_cached else "not cached",
      self._buffer_size,
    )
