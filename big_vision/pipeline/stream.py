"""One dataset on its way from raw examples to preprocessed ones, for training.

See `order` for what a stream is.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

from absl import logging

from big_vision.pipeline import order, packing
from big_vision.pp import rng
from big_vision.tf import tf

_SEARCH_SECONDS = 60  # How long to look for the example behind an error.
_FETCHES = 4  # Blocks of examples that are read at a time.
# With random access: what is loaded to be cached, or read to be filtered, before
# the first example.
_LOADED_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Component:
  """A dataset, how to preprocess it and in which order: no state.

  Attributes:
    name: what errors call it.
    key: what tells it apart from the other datasets of a mixture: with `seed`,
      it determines all that is random. Not the name: the same examples from
      another kind of source come in the same order.
    open: `order_seed -> (dataset, read)`, `DataSource.training_order`.
    size: number of examples, None if unknown.
    read: `index -> raw example` of a source with random access, else None.
      With it `open` is not called, there is no buffer: shuffling is that of
      all examples. `cache_raw` loads datasets of up to 256 MB; of larger ones
      the operating system keeps what is read.
    fetch, complete: of a source that reads several examples at a time, see
      `python_reader.Reader`; else None.
    block_size: int, how many.
    bytes_per_example: mean size of a raw example, None if unknown.
    preprocess_fn: `dict -> dict`, run under a seed that depends on the example.
    seed: int, of all that is random here.
    host: number of this process.
    num_hosts: number of processes.
    shuffle_buffer_size, cache_raw, num_parallel_calls, pre_filter_fn,
    post_filter_fn, pack, skip_errors, memory_gb: as in `config.input`.
  """

  name: str
  key: str
  open: Callable[..., Any]
  size: int | None
  preprocess_fn: Callable[..., Any]
  seed: int
  host: int = 0
  num_hosts: int = 1
  shuffle_buffer_size: int | None = None
  cache_raw: bool = False
  num_parallel_calls: int | None = None
  pre_filter_fn: Callable[..., Any] | None = None
  post_filter_fn: Callable[..., Any] | None = None
  pack: Any = None
  skip_errors: bool = False
  read: Callable[..., Any] | None = None
  fetch: Callable[..., Any] | None = None
  complete: Callable[..., Any] | None = None
  block_size: int = 1
  bytes_per_example: float | None = None
  memory_gb: float | None = None

  @property
  def exact(self):
    """Whether every raw example gives one result, so positions are known."""
    return not (self.post_filter_fn or self.pack or self.skip_errors)

  def examples(self, start, select, num_done, record=None):
    """Preprocessed examples of this host.

    If `exact`, all before the start is skipped without preprocessing it.
    Otherwise only preprocessing tells how many results there are: hosts
    preprocess every P-th raw example each, and a restart does so from the very
    beginning and drops what was delivered before.

    Args:
      start: int, position in the stream of all hosts, used if `exact`.
      select: `stream -> stream`, picks what this host needs, used if `exact`.
      num_done: int, results that this host delivered before, used if not.
      record: `Record` or None. With it nothing happens in parallel, nothing is
        cached, packed or skipped: for finding the example behind an error.

    Returns:
      Endless tf.data.Dataset of dicts.
    """
    if self.exact:
      return self._preprocess(self._raw(start, select, record), record)
    shard = lambda stream: stream.shard(self.num_hosts, self.host)
    ds = self._preprocess(self._raw(0, shard, record), record)
    if record is not None:
      return ds
    if self.pack:
      pack = self.pack
      pack = pack.to_dict() if hasattr(pack, "to_dict") else pack
      ds = packing.pack_dataset(ds, None, pack)
    return ds.skip(num_done)

  @functools.cached_property
  def _read_late(self):
    """What completes an example when its turn comes, None if it is complete."""
    filtered = self.pre_filter_fn and self._kept is None
    if filtered or (self._cache and not self.read):
      return None
    return self._read_loaded or self.read or self.open(None)[1]

  @functools.cached_property
  def _is_small(self):
    """Whether all examples can be read by number before the first is needed."""
    num_bytes = (self.bytes_per_example or float("inf")) * (self.size or 0)
    return bool(self.read) and 0 < num_bytes <= _LOADED_BYTES

  @functools.cached_property
  def _kept(self):
    """Which examples pass `pre_filter_fn`, bool [size]; None if not known.

    With it, what is filtered out is not read every time.
    """
    if not (self.pre_filter_fn and self._is_small):
      return None
    read = self._read_loaded or self.read
    keep = lambda i: tf.cast(self.pre_filter_fn(read(i)), tf.bool)
    ds = tf.data.Dataset.range(self.size)
    ds = ds.map(keep, tf.data.AUTOTUNE, deterministic=True)
    try:
      return ds.batch(self.size).get_single_element()
    except (tf.errors.OpError, UnicodeDecodeError):
      return None  # The error comes again in the example's turn.

  @functools.cached_property
  def _read_loaded(self):
    """`read` from memory, if the examples are to be cached and are few."""
    if not (self.cache_raw and self._is_small and self._fit(self.size)):
      return None
    ds = tf.data.Dataset.range(self.size)
    ds = ds.map(self.read, tf.data.AUTOTUNE, deterministic=True)
    shapes = [
      getattr(s, "shape", None) for s in tf.nest.flatten(ds.element_spec)
    ]
    if not all(s is not None and s.is_fully_defined() for s in shapes):
      return None
    try:
      loaded = ds.batch(self.size).get_single_element()
    except (tf.errors.OpError, UnicodeDecodeError) as e:
      # (TensorFlow decodes messages that quote broken examples.) The error comes
      # again in the example's turn, where it is named or skipped.
      logging.warning("config.input.cache_raw of %s: %s", self.name, e)
      return None
    return lambda i: tf.nest.map_structure(lambda x: x[i], loaded)

  @functools.cached_property
  def _seed(self):
    return order.hash_seed(self.seed, self.key, "shuffle")

  @functools.cached_property
  def _cache(self):
    """Whether raw examples are kept in memory: if asked for, and they fit."""
    return bool(self.cache_raw and not self.read and self._fit(self.size))

  @functools.cached_property
  def _buffer_size(self):
    """Raw examples to shuffle among; those in the cache cost nothing extra."""
    wanted = self.shuffle_buffer_size
    if self._cache or not wanted or self._fit(min(wanted, self.size or wanted)):
      return wanted
    return max(int(self.memory_gb * 2**30 / self.bytes_per_example), 1)

  def _fit(self, num):
    """Whether so many raw examples fit into `memory_gb`, as far as known."""
    if None in (num, self.memory_gb, self.bytes_per_example):
      return True
    return num * self.bytes_per_example <= self.memory_gb * 2**30

  def _warn_of_memory(self):
    """Says what was asked for and is not done."""
    wanted = self.shuffle_buffer_size
    if (self.cache_raw and not self._cache) or self._buffer_size != wanted:
      logging.warning(
        "Raw examples of %s take about %.1f kB each. With config.input.memory_gb"
        "=%s they are %s and shuffled among %s. big_vision.tools.convert_dataset"
        " gives a dataset random access: it is then shuffled as a whole, without "
        "memory.",
        self.name,
        self.bytes_per_example / 1e3,
        self.memory_gb,
        "cached" if self._cache else "not cached",
        self._buffer_size,
      )

  def _open(self, order_seed=None):
    """One epoch before shuffling: dataset of (index, example).

    If it is known which examples are `_kept`, the index in place of the example.
    """
    if self.read:
      ds = tf.data.Dataset.range(self.size)
      if order_seed is not None:
        ds = ds.map(
          lambda i: order.permuted(i, self.size, self._seed, order_seed)
        )
      if self._kept is not None:
        ds = ds.filter(lambda i: self._kept[i])
        return ds.map(lambda i: (i, i))
      read = self._read_loaded or self.read
      ds = ds.map(lambda i: (i, read(i)), tf.data.AUTOTUNE, deterministic=True)
    else:
      ds, read = self.open(order_seed)
      if read and not self._read_late:
        ds = ds.map(read, tf.data.AUTOTUNE, deterministic=True)
      ds = ds.enumerate()
    if self.pre_filter_fn:
      ds = ds.filter(lambda _, example: self.pre_filter_fn(example))
    return ds

  def _raw(self, start, select, record):
    """What `select` takes from the stream of all hosts, from `start` on."""
    if self.read and self.size and not self.pre_filter_fn:
      # Of other hosts' examples not even the index is computed.
      stream, shuffle = order.positions(start), bool(self.shuffle_buffer_size)
      located = order.locate(
        select(stream), self.size, seed=self._seed, shuffle=shuffle
      )
      return self._fetched(located) if self._in_blocks(record) else located
    fixed = self._open()
    if fixed.cardinality() == 0 or not self._has_examples(fixed):
      raise ValueError(
        f"No examples in the dataset {self.name!r}"
        + (" after pre_filter_fn." if self.pre_filter_fn else ".")
      )
    buffer_size = None if self.read else self._buffer_size
    if record is None and not self.read:
      self._warn_of_memory()
      fixed = fixed.cache() if self._cache else fixed
    # What is cached has one order: that of the source.
    vary = self.shuffle_buffer_size and not self._cache
    # An offset, so that datasets shuffle their files differently.
    offset = 0 if self.read else self._seed
    stream = order.epochs(
      lambda epoch: self._open(offset + epoch) if vary else fixed,
      seed=self._seed,
      shuffle_buffer_size=buffer_size,
      size=self._epoch_size() if start else None,
      start=start,
    )
    stream = select(stream)
    return self._fetched(stream) if self._in_blocks(record) else stream

  def _in_blocks(self, record):
    """Whether the stream has what was fetched in place of examples."""
    by_number = self.read and (not self.pre_filter_fn or self._kept is not None)
    possible = self.block_size > 1 and by_number and record is None
    return possible and not self._read_loaded

  def _fetched(self, located):
    """Reads what comes next in the stream, a block at a time."""

    def fetch(position, x):
      epoch, (index, _) = x
      return position, (epoch, (index, tuple(self.fetch(index))))

    blocks = located.batch(self.block_size)
    return blocks.map(fetch, _FETCHES, deterministic=True).unbatch()

  def _has_examples(self, ds):
    """Without this check, an endless stream of nothing would hang."""
    return not self.pre_filter_fn or any(True for _ in ds.take(1))

  def _epoch_size(self):
    """Examples per epoch; counts those that pass the filter."""
    if self.size is not None and not self.pre_filter_fn:
      return self.size
    count = self._open().reduce(tf.zeros([], tf.int64), lambda n, _: n + 1)
    return int(count)

  def _preprocess(self, stream, record):
    """Maps a stream to preprocessed examples, and filters these."""
    in_blocks = self._in_blocks(record)
    read = self._read_late
    high = order.hash_seed(self.seed, self.key, "example") << 31
    run_seed = (order.hash_seed(self.seed, "run"), 0)

    def prepare(position, x):
      del position
      epoch, (index, example) = x
      if in_blocks:
        example = self.complete(index, example)
      elif read and record is None:
        example = read(example)
      # With random access, the number is the same from any kind of source.
      number = index if self.read else example_number(index, example)
      seed = tf.stack([high + epoch, number])
      with rng.example_seed(seed, epoch, run_seed):
        return self.preprocess_fn(example)

    def prepare_and_judge(number, element):
      out = prepare(*element)
      keep = self.post_filter_fn(out) if self.post_filter_fn else True
      return number, keep, out

    if record is not None:
      read = read and (self.read or read)
      begin = functools.partial(record.begin, self.name)
      ds = stream.map(begin)
      if read:  # Once it is read it may have a better name.
        ds = ds.map(lambda n, x: (n, (x[0], (x[1][0], read(x[1][1])))))
        ds = ds.map(begin)
      ds = ds.enumerate().map(prepare_and_judge).map(record.end)
    elif self.post_filter_fn or self.skip_errors:
      ds = stream.enumerate().map(
        prepare_and_judge, self.num_parallel_calls, deterministic=True
      )
      if self.skip_errors:
        ds = _drop_errors(ds, self.name)
    else:
      return stream.map(prepare, self.num_parallel_calls, deterministic=True)
    if self.post_filter_fn:
      ds = ds.filter(lambda number, keep, out: keep)
    return ds.map(lambda number, keep, out: out)


def example_number(index, example):
  """int64 scalar that identifies an example within its dataset.

  Args:
    index: int64 scalar, the position in the order of reading.
    example: dict; `tfds_id` is preferred if there is one, since it does not
      depend on the split or the order of files.
  """
  if isinstance(example, dict) and "tfds_id" in example:
    return tf.strings.to_hash_bucket_fast(example["tfds_id"], 2**63 - 1)
  return index


def _drop_errors(ds, name):
  """Drops failed elements of a dataset of (number, ...); warns and counts."""
  total = [0]

  def warn(num_lost):
    total[0] += int(num_lost)
    logging.warning(
      "input.skip_errors: dropped %d of the examples of %s, %d since the start.",
      num_lost,
      name,
      total[0],
    )

  def count(expected, element):
    lost = element[0] - expected
    if lost > 0:
      tf.py_function(warn, [lost], [])
    return element[0] + 1, element

  ds = ds.ignore_errors(log_warning=True)  # The log has the reasons.
  return ds.scan(tf.zeros([], tf.int64), count)


class Record:
  """Remembers which example is being preprocessed."""

  def __init__(self):
    self.current = None  # A description, None between examples.

  def begin(self, name, position, x):
    """Maps an element of a stream to itself."""
    epoch, (index, example) = x
    tfds_id = example.get("tfds_id", "") if isinstance(example, dict) else ""

    def note(index, epoch, tfds_id):
      tfds_id = tfds_id.numpy().decode()
      which = f"tfds_id={tfds_id!r}" if tfds_id else f"index {int(index)}"
      self.current = f"{which} of the dataset {name!r} in epoch {int(epoch)}"

    tf.py_function(note, [index, epoch, tfds_id], [])
    return position, x

  def end(self, *element):
    """Maps an element to itself."""

    def forget():
      self.current = None

    tf.py_function(forget, [], [])
    return element


def find_failure(make_examples, num):
  """Which example fails to be preprocessed.

  Args:
    make_examples: `record -> dataset` to search.
    num: how many results to look at; None: until the time is over.

  Returns:
    A description, or None if none fails (again) or it takes too long.
  """
  record = Record()
  ds = make_examples(record)
  options = tf.data.Options()
  # Fused functions would lose what comes first.
  options.experimental_optimization.apply_default_optimizations = False
  deadline = time.monotonic() + _SEARCH_SECONDS
  try:
    for i, _ in enumerate(ds.with_options(options)):
      if i + 1 == num or time.monotonic() > deadline:
        return None
  except tf.errors.OpError:
    return record.current
  return None
