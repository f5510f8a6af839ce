"""From the data of an evaluator to batches: one pipeline for all of them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import logging

from big_vision.datasets import core, ids
from big_vision.datasets.source import DataSource
from big_vision.devices import check_batch_size
from big_vision.lookup import ConfigError
from big_vision.pipeline import (
  failures,
  indexed,
  order,
  pixels,
  stream,
  to_devices,
)
from big_vision.pipeline.examples import Preprocess
from big_vision.pipeline.training import (
  DEFAULT_NUM_PARALLEL_CALLS,
  host_options,
)
from big_vision.pp import batched, builder, rng
from big_vision.tf import plain, plain_with, tf
from big_vision.types import Batch, Devices

# What is kept from one run of an evaluator to the next.
CACHES = ("none", "pipeline", "raw_data", "final_data")


@dataclasses.dataclass(frozen=True)
class Passes:
  """Called, it returns an iterator of batches, see `evaluation`.

  Attributes:
    start: what is called.
    by_rows: whether the hosts read the rows of one sequence of global batches,
      so that these are the same for any number of hosts. Otherwise each reads a
      contiguous part of the dataset, and a batch has examples of all parts.
  """

  start: Callable[[], Iterator[Batch]]
  by_rows: bool = False

  def __call__(self) -> Iterator[Batch]:
    return self.start()


def evaluation(
  data: Mapping[str, Any],
  pp_fn: str,
  batch_size: int,
  devices: Devices,
  keep_on_cpu: Sequence[str] = (),
  cache: str | None = "pipeline",
  prefetch: int = 1,
  warmup: bool = False,
  memory_gb: float = 1.0,
  cache_raw: bool = False,
  cache_final: bool = False,
) -> tuple[Passes, int]:
  """Opens a dataset for evaluation: every example once, in order, padded.

  Batches are those of a single host for any number of hosts, if the source reads
  examples by their number. Others are read in parts: each host delivers, in its
  rows of each batch, a contiguous part of the dataset.

  Args:
    data: arguments of `datasets.core.get`, for example `name` and `split`.
    pp_fn: preprocessing string.
    batch_size: global batch size, divisible by the number of devices.
    devices: flat array of devices in the order of the mesh.
    keep_on_cpu: names of features to leave on the host as NumPy arrays.
    cache: what to keep between runs (any case): "none" (or None) starts over,
      "pipeline" keeps the iterator alive, "raw_data" also the examples before
      preprocessing, "final_data" the preprocessed batches.
    prefetch: number of batches to put on the devices ahead.
    warmup: whether to start reading at once.
    memory_gb: what would take more than this is not cached, whatever `cache`
      says. Results are the same.
    cache_raw, cache_final: see `cache_mode`.

  Returns:
    `(get_iter, steps)`: one evaluation takes `steps` batches of `get_iter()`, see
    `Passes`.

  Raises:
    ConfigError: unknown `cache`.
    ValueError: `batch_size` does not fit the devices.
  """
  mode = cache_mode(cache, cache_raw=cache_raw, cache_final=cache_final)
  check_batch_size(batch_size, devices)
  source = core.get(**data)
  raw, counts, by_rows = raw_of_host(
    source, batch_size, allow_cache=mode != "none"
  )
  make = functools.partial(
    make_for_inference,
    raw,
    builder.get_preprocess_fn(pp_fn, log_data=str(data)),
    batch_size,
    num_ex_per_process=counts,
    source=source,
    by_rows=by_rows,
  )
  dataset, steps = make()
  if mode in ("raw_data", "final_data") and _fits(
    source, max(counts), dataset, mode, memory_gb, data
  ):
    dataset, _ = make(
      cache_raw=mode == "raw_data", cache_final=mode == "final_data"
    )

  def start():
    return to_devices.start_global(
      dataset, devices, prefetch, frozenset(keep_on_cpu), warmup
    )

  if mode == "none":
    return Passes(start, by_rows), steps
  # The dataset repeats after exactly `steps` batches, so that every run of an
  # evaluation finds the iterator at the first example.
  persistent = start()
  return Passes(lambda: persistent, by_rows), steps


def raw_of_host(
  source: DataSource, batch_size: int, allow_cache: bool = True
) -> tuple[tf.data.Dataset, Sequence[int], bool]:
  """Opens the raw examples that this host delivers in its rows of the batches.

  Args:
    source: the DataSource.
    batch_size: global batch size.
    allow_cache: as for `DataSource.get_tfdata`.

  Returns:
    (finite dataset, number of examples of each host, `Passes.by_rows`).
  """
  layout = order.Layout(batch_size, jax.process_index(), jax.process_count())
  by_number = source.random_access or source.can_read_by_index
  if layout.num_hosts == 1 or not by_number:
    ds = source.get_tfdata(ordered=True, allow_cache=allow_cache)
    return ds, source.num_examples_per_process(), False
  indexed_source: Any = source
  elements, complete = indexed.IndexedStream(
    indexed_source, "evaluation", seed=0
  ).open(
    0, lambda s: stream.rows_of_host(s.take(source.total_examples), layout)
  )
  ds = elements.map(
    lambda _, x: complete(*x[1]), tf.data.AUTOTUNE, deterministic=True
  )
  return ds, layout.split(source.total_examples), True


# Its name among evaluators.
eval_input_pipeline = evaluation


def cache_mode(
  cache: str | None, *, cache_raw: bool = False, cache_final: bool = False
) -> str:
  """Says in one word what an evaluator keeps of its data.

  Args:
    cache: one of `CACHES` in any case; None means "none".
    cache_raw: key of earlier configs, the same as `cache="raw_data"`.
    cache_final: key of earlier configs, the same as `cache="final_data"`.

  Returns:
    One of `CACHES`.

  Raises:
    ConfigError: unknown `cache`.
  """
  cache = "raw_data" if cache_raw else cache
  cache = "final_data" if cache_final else cache
  mode = "none" if cache is None else str(cache).lower()
  if mode not in CACHES:
    raise ConfigError(
      f"Unknown value for cache: {cache!r}, use one of {', '.join(CACHES)}."
    )
  return mode


def _fits(
  source: DataSource,
  num: int,
  batches: tf.data.Dataset,
  mode: str,
  memory_gb: float,
  data: Mapping[str, Any],
) -> bool:
  """Tells whether what `mode` asks to cache of `num` examples fits; logs if not."""
  if mode == "raw_data":
    each = source.bytes_per_example
  else:
    each = bytes_per_example(pixels.of(batches)[0])
  if each is None or num * each <= memory_gb * 2**30:
    return True
  logging.info(
    "%s: not cached, since %s takes %.1f GB, more than memory_gb=%s.",
    data,
    mode,
    num * each / 2**30,
    memory_gb,
  )
  return False


def make_for_inference(
  data: tf.data.Dataset,
  preprocess_fn: Preprocess,
  batch_size: int,
  num_ex_per_process: Sequence[int],
  cache_raw: bool = False,
  cache_final: bool = False,
  num_parallel_calls: int | None = DEFAULT_NUM_PARALLEL_CALLS,
  prefetch: int | None = 1,
  source: DataSource | None = None,
  by_rows: bool = False,
) -> tuple[tf.data.Dataset, int]:
  """Makes batches for evaluation: every example once per pass, in order.

  Args:
    data: raw examples (dicts) of this process.
    preprocess_fn: raw example -> dict of tensors. Random ops draw the same
      numbers in every pass.
    batch_size: global.
    num_ex_per_process: number of examples of each process.
    cache_raw: keep raw examples in memory.
    cache_final: keep the batches in memory.
    num_parallel_calls: examples preprocessed in parallel.
    prefetch: batches to hold ready; falsy for none.
    source: where `data` comes from, to find a damaged file.
    by_rows: whether `data` is what this process delivers of global batches,
      otherwise a contiguous part of the dataset.

  Returns:
    (dataset, num_batches): an endless dataset that repeats the same
    `num_batches` batches of `batch_size // process_count` examples. `_mask`
    [B] bool is False for padding; `_id` is there if `data` has it. Features
    whose shape is not fixed are ragged.

  Raises:
    ValueError: `batch_size` does not divide evenly.
  """
  local = order.local_batch_size(batch_size, jax.process_count())
  if not local:
    raise ValueError(
      f"Evaluation needs a batch size, got {batch_size!r}: set batch_size of "
      "the evaluator, or config.input.batch_size."
    )
  num_batches = math.ceil(max(num_ex_per_process) / local)
  host = jax.process_index()
  layout = order.Layout(batch_size, host, jax.process_count())

  def number(examples):
    """Adds the position in the dataset, which no host changes."""
    before = sum(num_ex_per_process[:host])
    place = layout.position if by_rows else lambda i: before + i
    numbered = plain(lambda i, example: (place(i), example))
    return examples.enumerate().map(numbered)

  def prepare(index, example, preprocess=preprocess_fn):
    zero = tf.zeros([], tf.int64)
    number = ids.example_number(index, example)
    # The op may change the dict that it gets.
    extra = {"_mask": tf.constant(True)}
    extra |= {k: example[k] for k in ("_mask", "_id") if k in example}
    with rng.example_seed(tf.stack([zero, number]), zero):
      out = preprocess(dict(example))
    return {**extra, **out}

  later = batched.Later(on_devices=pixels.wanted())
  begin = batched.beginning(preprocess_fn, later)

  def prepare_for_batch(index, example):
    out = prepare(index, example, begin)
    waits = later or later.of_bytes
    return {**out, pixels.IS_REAL: tf.constant(True)} if waits else out

  def finish(batch):
    is_real = batch[pixels.IS_REAL]
    if not later.of_bytes:
      del batch[pixels.IS_REAL]
    return later.finish(batch, is_real)

  raw = data.cache() if cache_raw else data
  ds = number(raw).map(
    plain_with(begin, prepare_for_batch),
    num_parallel_calls,
    deterministic=True,
  )
  padding = tf.nest.map_structure(_padding, ds.element_spec)
  ds = ds.concatenate(tf.data.Dataset.from_tensors(padding).repeat())
  ds = ds.ragged_batch(local, drop_remainder=True).take(num_batches)
  if later:
    ds = ds.map(plain_with(begin, finish), 1, deterministic=True)

  def explain(num_done):
    first = num_done % num_batches * local

    def examples(record):
      part = number(data).skip(first).take(local)
      epoch = tf.data.Dataset.from_tensors(tf.zeros([], tf.int64)).repeat()
      named = tf.data.Dataset.zip(epoch, part).enumerate()
      named = named.map(functools.partial(record.begin, "evaluation"))
      return named.map(lambda _, x: prepare(*x[1])).map(record.end)

    return failures.find_failure(examples, None)

  sources = [source] if source else []

  def ready(ds):
    ds = (ds.cache() if cache_final else ds).with_options(host_options())
    ds = ds.repeat()
    if prefetch:
      ds = ds.prefetch(prefetch)
    return failures.explained_by(ds, explain, sources=sources)

  return pixels.in_both_forms(ds, later, ready), num_batches


def bytes_per_example(batches: tf.data.Dataset) -> int | None:
  """Computes the memory that one example of batches takes.

  Args:
    batches: dataset of batches.

  Returns:
    Bytes; None if shapes are not fixed.
  """
  specs = tf.nest.flatten(batches.element_spec)
  if not all(
    isinstance(s, tf.TensorSpec)
    and s.dtype != tf.string
    and s.shape[1:].is_fully_defined()
    for s in specs
  ):
    return None
  return sum(s.shape[1:].num_elements() * s.dtype.size for s in specs)


def _padding(spec: Any) -> Any:
  """Makes a value of zeros; dimensions without fixed size become 0."""
  if isinstance(spec, tf.RaggedTensorSpec):
    value = tf.zeros([d or 0 for d in spec.shape], spec.dtype)
    return tf.RaggedTensor.from_tensor(
      value,
      ragged_rank=spec.ragged_rank,
      row_splits_dtype=spec.row_splits_dtype,
    )
  return tf.zeros([d or 0 for d in spec.shape], spec.dtype)
