"""What can be said about `config.input` before any example is read."""

import inspect

import jax
import ml_collections as mlc

from big_vision import lookup
from big_vision.datasets import core
from big_vision.pp import builder

# Keys of one dataset; in a mixture they belong to its components.
PER_DATASET = (
  "shuffle_buffer_size",
  "cache_raw",
  "num_parallel_calls",
  "pre_filter_fn",
  "post_filter_fn",
  "pack",
  "skip_errors",
  "memory_gb",
)
_DATASET_KEYS = ("data", "tfdata", "pp", *PER_DATASET)
_BATCH_KEYS = ("batch_size", "prefetch")
_MIXTURE_KEYS = ("data", "keep_only", "thread_pool_size", *_BATCH_KEYS)


def validate(input_config, key="input", process_count=None, device_count=None):
  """Checks a config of the input pipeline, without reading examples.

  Args:
    input_config: `config.input`, or the config of an evaluator: anything with
      `data`, and optionally `batch_size`, `pp` or `pp_fn`.
    key: str, where it stands in the config, for errors.
    process_count: int, default that of jax.
    device_count: int, default that of jax.

  Raises:
    ValueError: what is wrong and what to do.
  """
  config = mlc.ConfigDict(input_config)
  if "data" not in config:
    raise ValueError(
      f"config.{key}.data is missing: set it to dict(name=..., split=...), or "
      "to dataset key -> weight for a mixture."
    )
  _check_batch_size(
    config.get("batch_size"),
    f"config.{key}.batch_size",
    jax.process_count() if process_count is None else process_count,
    jax.device_count() if device_count is None else device_count,
  )
  if is_single(config):
    keys = (*_DATASET_KEYS, *_BATCH_KEYS)
    lookup.check_keys(config, keys, key, only_near=True)
    _check_dataset(config, key)
    return
  assert_per_dataset(config, key)
  weights = mixture_weights(config, key)
  keys = (*_MIXTURE_KEYS, *config.data)
  lookup.check_keys(config, keys, key, only_near=True)
  for name in weights:
    lookup.check_keys(
      config[name], _DATASET_KEYS, f"{key}.{name}", only_near=True
    )
    _check_dataset(config[name], f"{key}.{name}")


def is_single(config):
  """Whether `config.data` is one dataset and not a mixture."""
  return isinstance(config.data.get("name"), str)


def assert_per_dataset(config, key="input"):
  """A mixture must not have keys of one dataset at its top level."""
  for k in PER_DATASET:
    assert k not in config, (
      f"config.{key}.{k} is per-dataset in multi-input: move it to "
      f"config.{key}.<dataset key>.{k}"
    )


def mixture_weights(config, key="input"):
  """Weights of a mixture.

  Args:
    config: `config.input` of a mixture.
    key: str, where it stands in the config.

  Returns:
    dict of dataset key -> positive number, sorted, without those of weight 0.

  Raises:
    ValueError: a weight is no number or negative, all are zero, or the config
      of a dataset is missing.
  """
  weights = {}
  for name in sorted(config.data):
    weight = config.data[name]
    if isinstance(weight, bool) or not isinstance(
      weight, (int, float, type(None))
    ):
      raise ValueError(
        f"config.{key}.data.{name}={weight!r} must be a weight. (For a single "
        f"dataset, config.{key}.data needs a `name`.)"
      )
    if (weight or 0) < 0:
      raise ValueError(f"config.{key}.data.{name}={weight} is negative.")
    if not weight:
      continue
    if name not in config:
      others = [k for k in config if k not in _MIXTURE_KEYS]
      raise ValueError(
        f"config.{key}.{name} is missing, but config.{key}.data has a weight for "
        f"{name!r}{lookup.did_you_mean(name, others)}"
      )
    weights[name] = weight
  if not weights:
    raise ValueError(f"config.{key}.data has no dataset with positive weight.")
  return weights


def _check_batch_size(batch_size, key, process_count, device_count):
  if batch_size is None:
    return
  if not isinstance(batch_size, int) or batch_size < 1:
    raise ValueError(f"{key}={batch_size!r} must be a positive int.")
  for what, n in (("processes", process_count), ("devices", device_count)):
    if batch_size % n:
      raise ValueError(
        f"{key}={batch_size} must be divisible by the number of {what}, {n}: "
        f"set it to {max(1, round(batch_size / n)) * n}."
      )


def _check_dataset(config, key):
  """Data source and preprocessing of one dataset."""
  if "data" not in config or not isinstance(config.data.get("name"), str):
    raise ValueError(
      f"config.{key}.data needs a `name`, for example data=dict(name='digits', "
      "split='train')."
    )
  if "filter_fn" in config:
    raise ValueError(
      f"config.{key}.filter_fn is gone: use pre_filter_fn, which sees raw "
      "examples."
    )
  _check_source(config.data.to_dict(), f"{key}.data")
  for k in ("pp", "pp_fn"):
    if isinstance(config.get(k), str):
      _check_pp(config[k], f"config.{key}.{k}")


def _check_source(kw, key):
  """Opens TFDS datasets; other sources: do module and arguments exist."""
  name = kw.pop("name")
  source = core.source_class(name, f"{key}.name")
  signature = inspect.signature(source)
  try:
    signature.bind(**kw)
  except TypeError as e:
    known = signature.parameters
    unknown = [k for k in kw if k not in known]
    hint = lookup.did_you_mean(unknown[0], known) if unknown else "."
    raise ValueError(f"config.{key} of {name!r}: {e}{hint}") from e
  if name.startswith("bv:"):
    return
  from big_vision.datasets import tfds  # Slow to import.

  data_dir = tfds.embedded.default_data_dir(kw.get("data_dir"))
  dataset = tfds.get_builder(name, data_dir, f"{key}.name")
  tfds.check_split(dataset, kw["split"], f"{key}.split")


def _check_pp(pp, key):
  """Builds every op of a preprocessing string on its own."""
  for op in builder.split_pipeline(pp):
    try:
      builder.get_preprocess_fn(op, log_data=False)
    except (KeyError, TypeError, ValueError) as e:
      raise ValueError(f"{key}: {op!r}: {e.args[0] if e.args else e}") from e
