"""From a config to global batches: the input pipeline.

The data order is a pure function of the config: batch n is the same for any
number of hosts, threads and restarts. `pipeline.order` has the order,
`pipeline.stream` what happens to one dataset, this module puts them together
and moves batches to devices.

The exception are datasets where only preprocessing tells how many examples
there are (`post_filter_fn`, `pack`, `skip_errors`): batches then depend on the
number of hosts too, and a restart preprocesses again what was consumed before.
"""

import concurrent.futures
import functools
import math

import jax
import ml_collections as mlc
from absl import logging

from big_vision.datasets import core
from big_vision.pipeline import order, stream, to_devices
from big_vision.pipeline import prefetch as prefetch_lib
from big_vision.pipeline import validate as validate_lib
from big_vision.pp import builder, rng
from big_vision.tf import tf

DEFAULT_NUM_PARALLEL_CALLS = 100
MEMORY_GB = 8  # For raw examples of training; the rest of a run fits into 16.

# The rest of this module's interface.
validate = validate_lib.validate
prefetch_iterator = prefetch_lib.prefetch_iterator
threadstart_iterator = prefetch_lib.threadstart_iterator
start_global = to_devices.start_global
start_input_pipeline = to_devices.start_input_pipeline
start_ragged_input_pipeline = to_devices.start_ragged_input_pipeline
shard_and_put = to_devices.shard_and_put
shapes = to_devices.shapes
tf_to_numpy = to_devices.tf_to_numpy


def make_for_train(
  data,
  preprocess_fn,
  batch_size,
  shuffle_buffer_size=None,
  cache_raw=False,
  num_parallel_calls=DEFAULT_NUM_PARALLEL_CALLS,
  prefetch=2,
  *,
  pre_filter_fn=None,
  post_filter_fn=None,
  pack=None,
  skip_errors=False,
  seed=0,
  start_step=0,
  name="data",
):
  """Endless training batches from raw examples of this process.

  Every epoch is a full pass over the data; batches straddle epochs.

  Args:
    data: tf.data.Dataset of raw examples (dicts) of this process; it must give
      the same examples in the same order each time.
    preprocess_fn: dict -> dict of tensors.
    batch_size: int, global; falsy: the examples are not batched.
    shuffle_buffer_size: int, number of raw examples to shuffle among; each epoch
      is shuffled differently. None keeps the order.
    cache_raw: bool, keep all raw examples in memory.
    num_parallel_calls: int, examples preprocessed in parallel.
    prefetch: int, batches to hold ready; falsy for none.
    pre_filter_fn: raw example -> bool tensor, keeps those that give True.
    post_filter_fn: the same for preprocessed examples.
    pack: see `packing.pack_dataset`: its `key2length`.
    skip_errors: bool, drop examples that fail to be preprocessed.
    seed: int, determines the shuffling and what random ops draw.
    start_step: int, number of batches (examples) to leave out at the start.
    name: str, what errors call the data.

  Returns:
    tf.data.Dataset of batches of `batch_size // process_count` examples.

  Raises:
    ValueError: `batch_size` does not divide evenly, or no example is left.
  """
  size = int(data.cardinality())
  if size == tf.data.INFINITE_CARDINALITY:
    size = tf.int64.max
  component = stream.Component(
    name=name,
    key=name,
    open=lambda order_seed: (data, None),
    size=size if size >= 0 else None,
    preprocess_fn=preprocess_fn,
    # Each process has other examples, and numbers them from 0.
    seed=order.hash_seed(seed, jax.process_index()),
    shuffle_buffer_size=shuffle_buffer_size,
    cache_raw=cache_raw,
    num_parallel_calls=num_parallel_calls,
    pre_filter_fn=pre_filter_fn,
    post_filter_fn=post_filter_fn,
    pack=pack,
    skip_errors=skip_errors,
  )
  local = _local_batch_size(batch_size, jax.process_count())

  def examples(step, record=None):
    start = step * (local or 1)
    return component.examples(start, lambda s: s, start, record)

  return _batches(examples, local, prefetch, start_step, component.exact)


def training(
  input_config,
  *,
  seed=0,
  start_step=0,
  process_index=None,
  process_count=None,
):
  """The training data of a config.

  Host p delivers the rows [p * B / P, (p + 1) * B / P) of each global batch of B
  examples, P being the number of hosts.

  Args:
    input_config: `config.input`. Keys: `batch_size` (global), `data` (`name` and
      arguments of the data source), `tfdata` (arguments of its `get_tfdata`),
      `pp` (preprocessing string), `prefetch`, and as in `make_for_train`
      `shuffle_buffer_size`, `cache_raw`, `num_parallel_calls`, `pre_filter_fn`,
      `post_filter_fn`, `pack`, `skip_errors`; `memory_gb`, the memory for raw
      examples, above which less is cached and shuffled than asked for (8 GB by
      default, divided among the datasets of a mixture). For such a mixture,
      `data` is a dict of key -> weight, `input_config[key]` holds what belongs
      to each dataset, and `keep_only` (keys of examples), `thread_pool_size`
      are allowed. Sources with random access need no memory: they are shuffled
      as a whole if `shuffle_buffer_size` is not 0, and never cached.
    seed: int, `config.seed`.
    start_step: int, number of batches to leave out: the first batch is the one
      that a run from the start would get after as many steps.
    process_index: int, this process by default.
    process_count: int, all processes by default.

  Returns:
    (dataset, total_examples): tf.data.Dataset of batches, endless; and the
    number of examples of all datasets in use, before any filter.

  Raises:
    ValueError: `batch_size` does not divide evenly; unknown or unprepared data;
      bad weights.
    AssertionError: a key of one dataset at the top of a mixture; `filter_fn`.
  """
  config = mlc.ConfigDict(input_config)
  host = jax.process_index() if process_index is None else process_index
  num_hosts = jax.process_count() if process_count is None else process_count
  local = _local_batch_size(config.batch_size, num_hosts)
  open_ = functools.partial(
    _component, seed=seed, host=host, num_hosts=num_hosts
  )
  layout = config.batch_size, host, num_hosts
  if validate_lib.is_single(config):
    component = open_(
      config, config.data.name, "", log_label=True, memory_gb=MEMORY_GB
    )
    components = [component]
    examples = functools.partial(_single, component, layout)
  else:
    validate_lib.assert_per_dataset(config)
    weights = validate_lib.mixture_weights(config)
    pool_size = config.get("thread_pool_size", len(config.data))
    keep_only = config.get("keep_only")
    with concurrent.futures.ThreadPoolExecutor(pool_size) as pool:
      share = MEMORY_GB / len(weights)
      one = lambda key: open_(
        config[key], key, key, key, keep_only, memory_gb=share
      )
      components = list(pool.map(one, weights))
    _log_mixture(weights, components)
    mixture = order.Mixture(list(weights.values()), seed, *layout)
    examples = functools.partial(_mixed, components, mixture, layout)
  exact = all(c.exact for c in components)
  prefetch = config.get("prefetch", 2)
  ds = _batches(examples, local, prefetch, start_step, exact)
  return ds, sum(c.size for c in components)


def _component(config, name, key, log_label, keep_only=None, **kw):
  """Opens one dataset of `config.input`."""
  assert "filter_fn" not in config, (
    "config.input.filter_fn is gone: use pre_filter_fn, which sees raw examples"
  )
  source = core.get(**config.data)
  _report_problems(source, name, config.get("skip_errors"))
  tfdata = config.get("tfdata", mlc.ConfigDict()).to_dict()
  preprocess_fn = builder.get_preprocess_fn(
    config.get("pp"), log_data=log_label
  )
  if keep_only:
    preprocess_fn = _keep_only(preprocess_fn, keep_only, name)
  options = {k: config[k] for k in validate_lib.PER_DATASET if k in config}
  # A source of one's own need not derive from core.DataSource.
  random_access = getattr(source, "random_access", False)
  return stream.Component(
    name=name,
    key=key,
    open=lambda order_seed: source.training_order(order_seed, **tfdata),
    read=source.read if random_access else None,
    **_fetching(source, random_access),
    size=source.total_examples,
    bytes_per_example=getattr(source, "bytes_per_example", None),
    preprocess_fn=preprocess_fn,
    **{"num_parallel_calls": DEFAULT_NUM_PARALLEL_CALLS, **kw, **options},
  )


def _fetching(source, random_access):
  """Fields of a component for a source that reads several at a time."""
  size = getattr(source, "block_size", 1) if random_access else 1
  if size == 1:
    return {}
  return dict(fetch=source.fetch, complete=source.complete, block_size=size)


def _report_problems(source, name, skip_errors):
  """Refuses or counts examples that are known to be unusable, before reading."""
  # A source of one's own need not derive from core.DataSource.
  problems = getattr(source, "bad_examples", list)()
  if not problems:
    return
  if not skip_errors:
    raise ValueError(
      f"config.input.data: {len(problems)} examples of {name!r} can not be used, "
      f"the first: {problems[0]} Set config.input.skip_errors=True to leave such "
      "examples out."
    )
  logging.warning(
    "input.skip_errors: %d examples of %s can not be used: %s",
    len(problems),
    name,
    "; ".join(problems[:5]),
  )


def _keep_only(preprocess_fn, keys, name):
  """`preprocess_fn`, its results reduced to `keys`."""

  def fn(example):
    out = preprocess_fn(example)
    if missing := [k for k in keys if k not in out]:
      raise ValueError(
        f"config.input.keep_only: {name!r} has no {missing} after its pp; it "
        f"has {sorted(out)}"
      )
    return {k: out[k] for k in keys}

  return fn


def _single(component, layout, step, record=None):
  """This host's examples of one dataset, from a step on."""
  batch_size, host, num_hosts = layout
  return component.examples(
    step * batch_size,
    lambda s: order.rows_of_host(s, batch_size, host, num_hosts),
    step * (batch_size // num_hosts),
    record,
  )


def _mixed(components, mixture, layout, step, record=None):
  """This host's examples of a mixture, from a step on."""
  start = step * layout[0]
  drawn, drawn_here = mixture.counts(start)
  parts = []
  for k, component in enumerate(components):
    select = functools.partial(mixture.draws_of_host, k=k, start=start)
    parts.append(
      component.examples(int(drawn[k]), select, int(drawn_here[k]), record)
    )
  specs = {
    c.name: p.element_spec for c, p in zip(components, parts, strict=True)
  }
  if len({tuple(sorted(s)) for s in specs.values()}) > 1:
    keys = {name: sorted(s) for name, s in specs.items()}
    raise ValueError(
      f"config.input: the datasets of a mixture differ in their entries: {keys}."
      " Set config.input.keep_only to what they share, or end each pp in `keep`."
    )
  return tf.data.Dataset.choose_from_datasets(parts, mixture.choices(start))


def _log_mixture(weights, components):
  total = sum(weights.values())
  for c in components:
    logging.info(
      "Mixture: %s contributes %.2f%% and has %d examples",
      c.name,
      100 * weights[c.name] / total,
      c.size,
    )


def _batches(examples, local_batch_size, prefetch, start_step, exact):
  """Batches of `examples(step, record=None)`, which starts at any step."""
  ds = examples(start_step)
  if local_batch_size:
    ds = ds.batch(local_batch_size, drop_remainder=True)
  ds = _host_options(ds)
  if prefetch:
    ds = ds.prefetch(prefetch)

  def explain(num_batches):
    """Describes the example after whose failure only so many batches came."""
    # Without `exact`, the search is one from the beginning.
    step = start_step + num_batches if exact else 0
    num = (local_batch_size or 1) if exact else None
    failed = stream.find_failure(functools.partial(examples, step), num)
    remedy = " Set config.input.skip_errors=True to drop such examples."
    return failed and failed + "." + remedy

  return _explained(ds, explain)


def _explained(ds, explain):
  """Attaches to a dataset how to find out what is behind an error."""
  # Errors of tf.data do not say which example failed, and to carry its name
  # along would cost time for each; `transfer` asks when one did.
  ds.explain_failure = explain
  return ds


def _local_batch_size(batch_size, num_hosts):
  """Examples per process and batch."""
  if batch_size and batch_size % num_hosts:
    raise ValueError(
      f"Batch size {batch_size} (config.input.batch_size, or that of an "
      f"evaluator) must be divisible by the number of processes, {num_hosts}."
    )
  return (batch_size or 0) // num_hosts


def _host_options(ds):
  options = tf.data.Options()
  options.deterministic = True
  options.threading.private_threadpool_size = 48
  options.threading.max_intra_op_parallelism = 1
  # Prefetching is only where this module says so.
  options.experimental_optimization.inject_prefetch = False
  return ds.with_options(options)


def make_for_inference(
  data,
  preprocess_fn,
  batch_size,
  num_ex_per_process,
  cache_raw=False,
  cache_final=False,
  num_parallel_calls=DEFAULT_NUM_PARALLEL_CALLS,
  prefetch=1,
):
  """Batches for evaluation: every example once per pass, in order.

  Args:
    data: tf.data.Dataset of raw examples (dicts) of this process.
    preprocess_fn: dict -> dict of tensors. Random ops draw the same numbers in
      every pass.
    batch_size: int, global.
    num_ex_per_process: list of the number of examples of each process.
    cache_raw: bool, keep raw examples in memory.
    cache_final: bool, keep the batches in memory.
    num_parallel_calls: int, examples preprocessed in parallel.
    prefetch: int, batches to hold ready; falsy for none.

  Returns:
    (dataset, num_batches): an endless tf.data.Dataset that repeats the same
    `num_batches` batches of `batch_size // process_count` examples. `_mask`
    [B] bool is False for padding; `_id` is there if `data` has it. Features
    whose shape is not fixed are ragged.

  Raises:
    ValueError: `batch_size` does not divide evenly.
  """
  local = _local_batch_size(batch_size, jax.process_count())
  if not local:
    raise ValueError(
      f"Evaluation needs a batch size, got {batch_size!r}: set batch_size of "
      "the evaluator, or config.input.batch_size."
    )
  num_batches = math.ceil(max(num_ex_per_process) / local)
  raw = data.cache() if cache_raw else data

  def prepare(index, example):
    zero = tf.zeros([], tf.int64)
    number = stream.example_number(index, example)
    # The op may change the dict that it gets.
    extra = {"_mask": tf.constant(True)}
    extra |= {k: example[k] for k in ("_mask", "_id") if k in example}
    with rng.example_seed(tf.stack([zero, number]), zero):
      out = preprocess_fn(dict(example))
    return {**extra, **out}

  ds = raw.enumerate().map(prepare, num_parallel_calls, deterministic=True)
  padding = tf.nest.map_structure(_padding, ds.element_spec)
  ds = ds.concatenate(tf.data.Dataset.from_tensors(padding).repeat())
  ds = ds.ragged_batch(local, drop_remainder=True).take(num_batches)
  ds = _host_options(ds.cache() if cache_final else ds).repeat()
  if prefetch:
    ds = ds.prefetch(prefetch)

  def explain(num_done):
    first = num_done % num_batches * local

    def examples(record):
      part = data.enumerate().skip(first).take(local)
      epoch = tf.data.Dataset.from_tensors(tf.zeros([], tf.int64)).repeat()
      named = tf.data.Dataset.zip(epoch, part).enumerate()
      named = named.map(functools.partial(record.begin, "evaluation"))
      return named.map(lambda _, x: prepare(*x[1])).map(record.end)

    failed = stream.find_failure(examples, None)
    return failed and failed + "."

  return _explained(ds, explain), num_batches


def bytes_per_example(batches):
  """Memory that one example of batches takes; None if shapes are not fixed."""
  specs = tf.nest.flatten(batches.element_spec)
  if not all(
    isinstance(s, tf.TensorSpec)
    and s.dtype != tf.string
    and s.shape[1:].is_fully_defined()
    for s in specs
  ):
    return None
  return sum(s.shape[1:].num_elements() * s.dtype.size for s in specs)


def _padding(spec):
  """A value of zeros; dimensions without fixed size become 0."""
  if isinstance(spec, tf.RaggedTensorSpec):
    value = tf.zeros([d or 0 for d in spec.shape], spec.dtype)
    return tf.RaggedTensor.from_tensor(
      value,
      ragged_rank=spec.ragged_rank,
      row_splits_dtype=spec.row_splits_dtype,
    )
  return tf.zeros([d or 0 for d in spec.shape], spec.dtype)
