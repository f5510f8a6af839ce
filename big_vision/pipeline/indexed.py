"""The stream of a source with random access: order, blocks, raw examples."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from absl import logging

from big_vision.datasets.source import Example, IndexedDataSource
from big_vision.pipeline import balance, failures, skipping, stream
from big_vision.tf import tf

_FETCHES = 4  # Blocks of examples that are read at a time.
# What is loaded to be cached, or read to be filtered, before the first example.
_LOADED_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class IndexedStream:
  """Reads examples by their number, wherever the stream starts.

  Nothing is held in memory: shuffling is that of all examples, computed for
  each position. `cache_raw` loads datasets of up to 256 MB; of larger ones the
  operating system keeps what is read.

  Attributes:
    source: where examples come from.
    name: what errors call it.
    seed: of the shuffling.
    shuffle: whether each epoch is another permutation of all examples.
    balance: which examples the classes have, if they are to come equally often.
    pre_filter_fn, cache_raw, memory_gb, skip_errors: as in `config.input`.
  """

  source: IndexedDataSource
  name: str
  seed: int
  shuffle: bool = False
  pre_filter_fn: Callable[[Example], Any] | None = None
  cache_raw: bool = False
  memory_gb: float | None = None
  skip_errors: bool = False
  balance: balance.Balance | None = None

  @property
  def seekable(self) -> bool:
    """Whether opening at any position is fast."""
    return not self.pre_filter_fn

  @property
  def size(self) -> int:
    """Number of examples, before any filter."""
    return self.source.total_examples

  def open(
    self, start: int, select: stream.Select, one_by_one: bool = False
  ) -> tuple[stream.Stream, Callable[[tf.Tensor, Any], Example]]:
    """Opens what `select` takes of the stream of all hosts.

    Args:
      start: position to start from.
      select: picks what this host needs.
      one_by_one: whether to read each example only when its turn comes.

    Returns:
      (stream, complete): `complete` makes the raw example of the index and the
      example in the stream; it is called in parallel.
    """
    elements = self._locate(start, select)
    if self.pre_filter_fn and self._kept is None:  # They were read for that.
      return elements, lambda _, example: example
    if self._loaded or one_by_one or self.source.block_size == 1:
      read = self._read
      return elements, lambda index, _: read(index)
    return _fetch_blocks(elements, self.source), self.source.complete

  def number(self, index: tf.Tensor, example: Example) -> tf.Tensor:
    """Identifies an example: the same number from any kind of source."""
    del example
    return index

  def first_error(self) -> str | None:
    """Says what the first error is in reading the examples, if any."""
    error = failures.first_error(self._epoch())
    return error and (self.source.find_damage() or error)

  def _locate(self, start: int, select: stream.Select) -> stream.Stream:
    """Makes the stream, with the index in place of the example if possible."""
    if self.size and not self.pre_filter_fn:
      # Of other hosts' examples not even the index is computed.
      elements = select(stream.positions(start))
      if self.balance is not None:
        return self.balance.locate(elements)
      return stream.locate(
        elements, self.size, seed=self.seed, shuffle=self.shuffle
      )
    errors = None
    if self.skip_errors:
      errors = skipping.ReadErrors(self.name, self.size, self.first_error)
    in_order = self._epoch(errors=errors)
    stream.check_not_empty(
      in_order, self.name, bool(self.pre_filter_fn), self.first_error
    )
    elements = stream.epochs(
      lambda epoch: self._epoch(epoch, errors) if self.shuffle else in_order,
      seed=self.seed,
      shuffle_buffer_size=None,
      size=stream.count(in_order) if start else None,
      start=start,
      may_be_empty=stream.has_unknown_size(in_order),
      errors=errors,
    )
    return select(elements)

  def _epoch(
    self,
    epoch: tf.Tensor | None = None,
    errors: skipping.ReadErrors | None = None,
  ) -> tf.data.Dataset:
    """Makes (index, example) of what passes the filter; None: unshuffled."""
    ds = tf.data.Dataset.range(self.size)
    if epoch is not None:
      ds = ds.map(lambda i: stream.permuted(i, self.size, self.seed, epoch))
    kept, read = self._kept, self._read
    if kept is not None:
      ds = ds.filter(lambda i: kept[i])
      return ds.map(lambda i: (i, i))
    ds = ds.map(lambda i: (i, read(i)), tf.data.AUTOTUNE, deterministic=True)
    return stream.filtered(ds, self.pre_filter_fn, errors)

  @property
  def _read(self) -> Callable[[tf.Tensor], Example]:
    """Reads an example; asked for outside of graphs, since it may load all."""
    return self._loaded or self.source.read

  @functools.cached_property
  def _is_small(self) -> bool:
    """Whether all examples can be read before the first is needed."""
    num_bytes = (self.source.bytes_per_example or float("inf")) * self.size
    return 0 < num_bytes <= _LOADED_BYTES

  @functools.cached_property
  def _kept(self) -> tf.Tensor | None:
    """Which examples pass the filter, bool [size]; None if it is not known.

    With it, what is filtered out is not read every time.
    """
    keep, read = self.pre_filter_fn, self._read
    if not (keep and self._is_small):
      return None
    judge = lambda i: tf.cast(keep(read(i)), tf.bool)
    ds = tf.data.Dataset.range(self.size)
    ds = ds.map(judge, tf.data.AUTOTUNE, deterministic=True)
    return _get_all(ds, self.size, f"pre_filter_fn of {self.name}")

  @functools.cached_property
  def _loaded(self) -> Callable[[tf.Tensor], Example] | None:
    """`read` from memory, if the examples are to be cached and are few."""
    size = self.source.bytes_per_example
    few = self._is_small and stream.fits(self.size, size, self.memory_gb)
    if not (self.cache_raw and few):
      return None
    ds = tf.data.Dataset.range(self.size)
    ds = ds.map(self.source.read, tf.data.AUTOTUNE, deterministic=True)
    specs = tf.nest.flatten(ds.element_spec)
    shapes = [getattr(s, "shape", None) for s in specs]
    if not all(s is not None and s.is_fully_defined() for s in shapes):
      return None
    loaded = _get_all(ds, self.size, f"cache_raw of {self.name}")
    if loaded is None:
      return None
    return lambda i: tf.nest.map_structure(lambda x: x[i], loaded)


def _fetch_blocks(
  elements: stream.Stream, source: IndexedDataSource
) -> stream.Stream:
  """Reads what comes next in a stream, a block at a time."""

  def fetch(position, x):
    epoch, (index, _) = x
    return position, (epoch, (index, tuple(source.fetch(index))))

  blocks = elements.batch(source.block_size)
  return blocks.map(fetch, _FETCHES, deterministic=True).unbatch()


def _get_all(ds: tf.data.Dataset, size: int, what: str) -> Any:
  """Returns all elements, stacked; None if an example cannot be read."""
  try:
    return ds.batch(size).get_single_element()
  except (tf.errors.OpError, UnicodeDecodeError) as e:
    # (TensorFlow decodes messages that quote broken examples.) The error comes
    # again in the example's turn, where it is named or skipped.
    logging.warning("config.input.%s: %s", what, e)
    return None
