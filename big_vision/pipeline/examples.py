"""Preprocessed examples of one dataset, from any step of the training on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from big_vision.datasets.source import Example
from big_vision.pipeline import (
  failures,
  order,
  packing,
  pixels,
  skipping,
  stream,
)
from big_vision.pipeline.indexed import IndexedStream
from big_vision.pipeline.sequential import SequentialStream
from big_vision.pp import batched, labels, rng
from big_vision.tf import tf

Preprocess: TypeAlias = Callable[[Example], Example]
# Examples in work beside those that are preprocessed in parallel.
_AHEAD = 256
# Raw examples to read again only to say in the log what is wrong with one.
_MAX_READ = 20_000


@dataclasses.dataclass(frozen=True)
class Examples:
  """Preprocesses the stream of a source.

  If every raw example gives one result, all before the start is skipped without
  preprocessing it. Otherwise only preprocessing tells how many results there
  are: hosts preprocess every P-th raw example each, and a restart does so from
  the very beginning and drops what was delivered before.

  Attributes:
    stream: raw examples in their order.
    preprocess_fn: run under a seed that depends on the example.
    seed: of all that is random.
    key: what tells the dataset apart from the others of a mixture: `seed` and
      `key` determine what is random. Not the name: the same examples from
      another kind of source come in the same order.
    layout: which rows of batches this host needs.
    num_parallel_calls, post_filter_fn, pack, skip_errors: as in `config.input`.
    later: takes what of the preprocessing is done for a batch at once, None to do
      all of it for each example; see `in_batches`.
  """

  stream: IndexedStream | SequentialStream
  preprocess_fn: Preprocess
  seed: int
  key: str
  layout: order.Layout
  num_parallel_calls: int | None = None
  post_filter_fn: Callable[[Example], Any] | None = None
  pack: Any = None
  skip_errors: bool = False
  later: batched.Later | None = None

  @property
  def name(self) -> str:
    """How errors call the dataset."""
    return self.stream.name

  @property
  def size(self) -> int | None:
    """Number of raw examples, before any filter; None if unknown."""
    return self.stream.size

  @property
  def exact(self) -> bool:
    """Whether every raw example gives one result, so positions are known."""
    return not (self.post_filter_fn or self.pack or self.skip_errors)

  def from_step(
    self, step: int, record: failures.Record | None = None
  ) -> tf.data.Dataset:
    """Opens this host's examples, for batches of this dataset alone.

    Args:
      step: number of batches to leave out.
      record: see `open`.

    Returns:
      Endless dataset of preprocessed examples.
    """
    return self.open(
      step * self.layout.batch_size,
      lambda s: stream.rows_of_host(s, self.layout),
      step * self.layout.local_batch_size,
      record,
    )

  def open(
    self,
    start: int,
    select: stream.Select,
    num_done: int,
    record: failures.Record | None = None,
  ) -> tf.data.Dataset:
    """Opens this host's examples.

    Args:
      start: position in the stream of all hosts, used if `exact`.
      select: picks what this host needs, used if `exact`.
      num_done: results that this host delivered before, used if not.
      record: with it nothing happens in parallel, nothing is cached, packed or
        skipped: for finding the example behind an error.

    Returns:
      Endless dataset of preprocessed examples.
    """
    if self.exact:
      return self._preprocess(start, select, record)
    layout = self.layout
    shard = lambda elements: elements.shard(layout.num_hosts, layout.host)
    ds = self._preprocess(0, shard, record)
    if record is not None:
      return ds
    if self.pack:
      ds = packing.pack_dataset(ds, None, self._lengths)
    return ds.skip(num_done)

  def _preprocess(
    self, start: int, select: stream.Select, record: failures.Record | None
  ) -> tf.data.Dataset:
    """Maps raw examples to preprocessed ones, and filters these."""
    if record is not None:
      return self._preprocess_one_by_one(start, select, record)
    elements, complete = self.stream.open(start, select)
    preprocess = batched.beginning(self.preprocess_fn, self.later)
    prepare = self._make_prepare(complete, preprocess)
    calls = self.num_parallel_calls
    if self.exact:
      return elements.map(prepare, calls, deterministic=True)
    judge = self._make_judge(prepare)
    return self.skipping.run(
      elements, lambda ds: ds.map(judge, calls, deterministic=True)
    )

  @property
  def _lengths(self) -> Any:
    """Lengths of packed sequences, as `packing` takes them."""
    return self.pack.to_dict() if hasattr(self.pack, "to_dict") else self.pack

  @functools.cached_property
  def skipping(self) -> skipping.Skipping:
    """Leaves out what fails or is filtered out."""
    is_empty = lambda out: packing.is_empty(out, self._lengths)
    return skipping.Skipping(
      self.name,
      num_passes=self.layout.num_hosts,
      ahead=max(self.num_parallel_calls or 0, 0) + _AHEAD,
      skips_errors=self.skip_errors,
      filters=self.post_filter_fn is not None,
      explain=self._explain,
      is_empty=is_empty if self.pack else None,
    )

  def _explain(self, number: int | None) -> str | None:
    """Says why an example fails, see `skipping.Skipping`."""
    if number is None:
      return self.stream.first_error()
    layout, seekable = self.layout, self.stream.seekable
    if not seekable and number > _MAX_READ:
      return None
    position = number * layout.num_hosts + layout.host
    start, behind = (position, 0) if seekable else (0, position)
    record = failures.Record()
    ds = self._preprocess_one_by_one(
      start, lambda s: s.skip(behind).take(1), record
    )
    return failures.first_error(ds, record)

  def _preprocess_one_by_one(
    self, start: int, select: stream.Select, record: failures.Record
  ) -> tf.data.Dataset:
    """Does the same slowly, and records which example it is at."""
    elements, complete = self.stream.open(start, select, one_by_one=True)
    begin = functools.partial(record.begin, self.name)

    def read(position, x):
      epoch, (index, example) = x
      return position, (epoch, (index, complete(index, example)))

    # Once it is read, an example may have a better name.
    ds = elements.map(begin).map(read).map(begin).enumerate()
    prepare = self._make_prepare(lambda _, example: example, self.preprocess_fn)
    ds = ds.map(self._make_judge(prepare)).map(record.end)
    if self.post_filter_fn:
      ds = ds.filter(lambda number, keep, out: keep)
    return ds.map(lambda number, keep, out: out)

  def _make_prepare(
    self,
    complete: Callable[[tf.Tensor, Any], Example],
    preprocess: Preprocess,
  ) -> Callable[..., Example]:
    """Makes what preprocesses an element of the stream, under its seed."""
    high = order.hash_seed(self.seed, self.key, "example") << 31
    run_seed = (order.hash_seed(self.seed, "run"), 0)

    def prepare(position, x):
      del position
      epoch, (index, example) = x
      example = complete(index, example)
      seed = tf.stack([high + epoch, self.stream.number(index, example)])
      with rng.example_seed(seed, epoch, run_seed):
        return preprocess(example)

    return prepare

  def _make_judge(self, prepare: Callable[..., Example]) -> Callable[..., Any]:
    """Makes what maps (place, element) to (place, is it kept, result)."""

    def judge(place, element):
      if not self.post_filter_fn:
        return place, True, prepare(*element)
      with labels.put_off() as checks:
        out = prepare(*element)
      keep = self.post_filter_fn(out)
      return place, keep, checks.run(keep, out)

    return judge


def in_batches(
  datasets: Sequence[Examples],
) -> tuple[Sequence[Examples], batched.Later | None]:
  """Lets steps of the preprocessing wait for batches, if they are all the same.

  What filters, packs or leaves out examples has to see them complete.

  Args:
    datasets: what the batches are drawn from.

  Returns:
    (the datasets, what finishes their batches or None).
  """
  if not all(d.exact for d in datasets):
    return datasets, None
  for on_devices in (True, False) if pixels.wanted() else (False,):
    steps = {batched.steps(d.preprocess_fn, on_devices) for d in datasets}
    if len(steps) == 1 and () not in steps:
      later = batched.Later(on_devices)
      return [dataclasses.replace(d, later=later) for d in datasets], later
  return datasets, None
