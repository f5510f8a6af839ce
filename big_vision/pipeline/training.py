"""From `config.input` to batches for training."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections as mlc
from absl import logging

from big_vision.datasets import core
from big_vision.datasets.source import Example, GivenDataSource
from big_vision.lookup import ConfigError
from big_vision.pipeline import (
  balance,
  counts,
  failures,
  mixture,
  order,
  pixels,
  validate,
)
from big_vision.pipeline.examples import Examples, Preprocess, in_batches
from big_vision.pipeline.indexed import IndexedStream
from big_vision.pipeline.sequential import SequentialStream
from big_vision.pp import batched, builder
from big_vision.tf import tf
from big_vision.types import ConfigLike

DEFAULT_NUM_PARALLEL_CALLS = 100
_NUM_PAIRS = 128  # Of labels, to look at for the order of the data.
MEMORY_GB = 8  # For raw examples of training; the rest of a run fits into 16.


def training(
  input_config: ConfigLike,
  *,
  seed: int = 0,
  start_step: int = 0,
  process_index: int | None = None,
  process_count: int | None = None,
) -> tuple[tf.data.Dataset, int]:
  """Opens the training data of a config.

  Host p delivers the rows [p * B / P, (p + 1) * B / P) of each global batch of B
  examples, P being the number of hosts.

  Args:
    input_config: `config.input`. Keys: `batch_size` (global), `data` (`name` and
      arguments of the data source), `tfdata` (arguments of its `get_tfdata`),
      `pp` (preprocessing string), `prefetch`, and as in `make_for_train`
      `shuffle_buffer_size`, `cache_raw`, `num_parallel_calls`, `pre_filter_fn`,
      `post_filter_fn`, `pack`, `skip_errors`; `balance_classes`, True or the name
      of a feature: its classes come equally often, see `balance`; `memory_gb`, the
      memory for raw examples, above which less is cached and shuffled than asked
      for (8 GB by default, divided among the datasets of a mixture). For such a mixture,
      `data` is a dict of key -> weight, `input_config[key]` holds what belongs
      to each dataset, and `keep_only` (keys of examples), `thread_pool_size`
      are allowed. Sources with random access need no memory: they are shuffled
      as a whole if `shuffle_buffer_size` is more than 1, and cached only if they
      are small.
    seed: `config.seed`.
    start_step: number of batches to leave out: the first batch is the one that
      a run from the start would get after as many steps.
    process_index: this process by default.
    process_count: all processes by default.

  Returns:
    (dataset, total_examples): endless dataset of batches; and the number of
    examples of all datasets in use, before any filter, a `counts.Total`.

  Raises:
    ValueError: `batch_size` does not divide evenly; unknown or unprepared data;
      bad weights.
    ConfigError: a key of one dataset at the top of a mixture; `filter_fn`.
  """
  config: ConfigLike = mlc.ConfigDict(input_config)
  host = jax.process_index() if process_index is None else process_index
  num_hosts = jax.process_count() if process_count is None else process_count
  local = order.local_batch_size(config.batch_size, num_hosts)
  layout = order.Layout(config.batch_size, host, num_hosts)
  open_ = functools.partial(_open_dataset, seed=seed, layout=layout)
  weights = None
  if validate.is_single(config):
    dataset = open_(config, config.data.name, key="", memory_gb=MEMORY_GB)
    ([dataset], later) = in_batches([dataset])
    datasets, examples = [dataset], dataset.from_step
  else:
    validate.check_no_dataset_keys(config)
    weights = mixture.weights_of(config)
    keep_only, share = config.get("keep_only"), MEMORY_GB / len(weights)
    pool_size = config.get("thread_pool_size", len(config.data))
    with concurrent.futures.ThreadPoolExecutor(pool_size) as pool:
      one = lambda key: open_(
        config[key], key, key=key, memory_gb=share, keep_only=keep_only
      )
      datasets = list(pool.map(one, weights))
    mixture.log_shares(weights, datasets)
    datasets, later = in_batches(datasets)
    draws = mixture.Draws(list(weights.values()), seed, layout)
    examples = functools.partial(mixture.mix, datasets, draws, layout)
  prefetch = config.get("prefetch", 2)
  ds = _batches(datasets, examples, local, prefetch, start_step, later)
  return ds, counts.total([d.size for d in datasets], weights)


def make_for_train(
  data: tf.data.Dataset,
  preprocess_fn: Preprocess,
  batch_size: int | None,
  shuffle_buffer_size: int | None = None,
  cache_raw: bool = False,
  num_parallel_calls: int | None = DEFAULT_NUM_PARALLEL_CALLS,
  prefetch: int | None = 2,
  *,
  pre_filter_fn: Callable[[Example], Any] | None = None,
  post_filter_fn: Callable[[Example], Any] | None = None,
  pack: Any = None,
  skip_errors: bool = False,
  seed: int = 0,
  start_step: int = 0,
  name: str = "data",
) -> tf.data.Dataset:
  """Makes endless training batches from raw examples of this process.

  Every epoch is a full pass over the data; batches straddle epochs.

  Args:
    data: raw examples (dicts) of this process; it must give the same examples
      in the same order each time.
    preprocess_fn: raw example -> dict of tensors.
    batch_size: global; falsy: the examples are not batched.
    shuffle_buffer_size: number of raw examples to shuffle among; each epoch is
      shuffled differently. None, 0 and 1 keep the order.
    cache_raw: keep all raw examples in memory.
    num_parallel_calls: examples preprocessed in parallel.
    prefetch: batches to hold ready; falsy for none.
    pre_filter_fn: raw example -> bool tensor, keeps those that give True.
    post_filter_fn: the same for preprocessed examples.
    pack: see `packing.pack_dataset`: its `key2length`.
    skip_errors: drop examples that fail to be preprocessed.
    seed: determines the shuffling and what random ops draw.
    start_step: number of batches (examples) to leave out at the start.
    name: what errors call the data.

  Returns:
    Dataset of batches of `batch_size // process_count` examples.

  Raises:
    ValueError: `batch_size` does not divide evenly, or no example is left.
  """
  local = order.local_batch_size(batch_size, jax.process_count())
  # Each process has other examples, and numbers them from 0.
  seed = order.hash_seed(seed, jax.process_index())
  examples = Examples(
    stream=SequentialStream(
      source=GivenDataSource(data),
      name=name,
      seed=order.hash_seed(seed, name, "shuffle"),
      shuffle_buffer_size=shuffle_buffer_size,
      pre_filter_fn=pre_filter_fn,
      cache_raw=cache_raw,
      skip_errors=skip_errors,
    ),
    preprocess_fn=preprocess_fn,
    seed=seed,
    key=name,
    layout=order.Layout(local or 1),
    num_parallel_calls=num_parallel_calls,
    post_filter_fn=post_filter_fn,
    pack=pack,
    skip_errors=skip_errors,
  )
  later = None
  if local:
    ([examples], later) = in_batches([examples])
  open_ = examples.from_step
  return _batches([examples], open_, local, prefetch, start_step, later)


def _open_dataset(
  config, name, *, key, seed, layout, memory_gb, keep_only=None
):
  """Opens one dataset of `config.input`."""
  if "filter_fn" in config:
    raise ConfigError(
      "config.input.filter_fn is gone: use pre_filter_fn, which sees raw examples"
    )
  source = core.get(**config.data)
  failures.report_bad_examples(source, name, config.get("skip_errors", False))
  ordered = not (config.get("shuffle_buffer_size") or _balanced(config))
  if ordered and layout.host == 0:
    _warn_of_order(source, name, key, layout.batch_size)
  preprocess_fn = builder.get_preprocess_fn(
    config.get("pp"), log_data=key or True
  )
  if keep_only:
    preprocess_fn = _keep_only(preprocess_fn, keep_only, name)
  return Examples(
    stream=_make_stream(source, config, name, key, seed, memory_gb),
    preprocess_fn=preprocess_fn,
    seed=seed,
    key=key,
    layout=layout,
    num_parallel_calls=config.get(
      "num_parallel_calls", DEFAULT_NUM_PARALLEL_CALLS
    ),
    post_filter_fn=config.get("post_filter_fn"),
    pack=config.get("pack"),
    skip_errors=config.get("skip_errors", False),
  )


def _balanced(config):
  """Tells whether classes are to come equally often."""
  return bool(config.get("balance_classes"))


def _warn_of_order(source, name, key, batch_size):
  """Warns of data that would be learned class by class."""
  num = source.total_examples
  if num is None or num <= batch_size:
    return
  labels = source.some_labels(_NUM_PAIRS)
  if labels and order.is_class_by_class(labels):
    where = f"config.input.{key}." if key else "config.input."
    logging.warning(
      "%sshuffle_buffer_size is not set, and the %d examples of %s are sorted by "
      "class: most batches have one class only. Set it to %d (1 to keep the "
      "order without this warning).",
      where,
      num,
      name,
      num,
    )


def _make_stream(
  source: Any,
  config: ConfigLike,
  name: str,
  key: str,
  seed: int,
  memory_gb: float,
) -> IndexedStream | SequentialStream:
  """Makes the stream of a source. Only here it matters how it can be read."""
  options: dict[str, Any] = dict(
    name=name,
    seed=order.hash_seed(seed, key, "shuffle"),
    pre_filter_fn=config.get("pre_filter_fn"),
    cache_raw=config.get("cache_raw", False),
    memory_gb=config.get("memory_gb", memory_gb),
    skip_errors=config.get("skip_errors", False),
  )
  size = config.get("shuffle_buffer_size")
  shuffle = order.is_shuffled(size)
  if _balanced(config):
    where = f"input.{key}.balance_classes" if key else "input.balance_classes"
    if options["pre_filter_fn"]:
      raise ConfigError(
        f"config.{where} does not go with pre_filter_fn: leave one of them out."
      )
    balanced = balance.make(
      source,
      config.balance_classes,
      where,
      seed=options["seed"],
      shuffle=shuffle,
    )
    return IndexedStream(source, balance=balanced, **options)
  if source.random_access:
    return IndexedStream(source, shuffle=shuffle, **options)
  tfdata = config.get("tfdata", mlc.ConfigDict()).to_dict()
  return SequentialStream(
    source, tfdata=tfdata, shuffle_buffer_size=size, **options
  )


def _keep_only(preprocess_fn, keys, name):
  """Reduces the results of `preprocess_fn` to `keys`."""

  def select(out):
    if missing := [k for k in keys if k not in out]:
      raise ValueError(
        f"config.input.keep_only: {name!r} has no {missing} after its pp; it "
        f"has {sorted(out)}"
      )
    return {k: out[k] for k in keys}

  return batched.followed_by(preprocess_fn, select)


def _batches(datasets, examples, local_batch_size, prefetch, start_step, later):
  """Makes batches of `examples(step, record=None)`, which starts anywhere."""
  exact = all(d.exact for d in datasets)
  ds = examples(start_step)
  if local_batch_size:
    ds = ds.batch(local_batch_size, drop_remainder=True)
  if later:
    ds = ds.map(later.finish, 1, deterministic=True)  # Beside the next batch.

  def explain(num_batches):
    """Describes the example after whose failure only so many batches came."""
    # Without `exact`, the search is one from the beginning.
    step = start_step + num_batches if exact else 0
    num = (local_batch_size or 1) if exact else None
    return failures.find_failure(functools.partial(examples, step), num)

  def ended():
    messages = (None if d.exact else d.skipping.message for d in datasets)
    return next(filter(None, messages), None)

  sources = [d.stream.source for d in datasets]
  remedy = "Set config.input.skip_errors=True to drop such examples."
  exhausted = (
    "config.input: no example is left: a pass over the data of "
    f"{' or '.join(repr(d.name) for d in datasets)} gave none."
  )

  def ready(ds):
    ds = ds.with_options(host_options())
    if prefetch:
      ds = ds.prefetch(prefetch)
    return failures.explained_by(ds, explain, ended, sources, remedy, exhausted)

  return pixels.in_both_forms(ds, later, ready)


def host_options() -> tf.data.Options:
  """Returns the options of all datasets: order and threads."""
  options = tf.data.Options()
  options.deterministic = True
  options.threading.private_threadpool_size = 48
  options.threading.max_intra_op_parallelism = 1
  # Prefetching is only where the pipelines say so.
  options.experimental_optimization.inject_prefetch = False
  return options
