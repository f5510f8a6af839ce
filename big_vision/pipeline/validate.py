"""Finds what is wrong with `config.input` before any example is read."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import ml_collections as mlc
from absl import logging

from big_vision import lookup
from big_vision.datasets import core
from big_vision.pipeline import mixture
from big_vision.pp import builder
from big_vision.types import ConfigLike

# Keys of one dataset; in a mixture they belong to its datasets.
PER_DATASET = (
  "shuffle_buffer_size",
  "cache_raw",
  "num_parallel_calls",
  "pre_filter_fn",
  "post_filter_fn",
  "pack",
  "skip_errors",
  "memory_gb",
  "balance_classes",
)
_DATASET_KEYS = ("data", "tfdata", "pp", *PER_DATASET)
_BATCH_KEYS = ("batch_size", "prefetch")
# Smallest values, -1 leaves the number to TensorFlow; and what they mean.
_COUNTS = {
  "prefetch": (-1, "how many batches to hold ready"),
  "num_parallel_calls": (-1, "how many examples to preprocess in parallel"),
  "shuffle_buffer_size": (0, "among how many examples to shuffle"),
}
# Published configs have them although nothing reads them.
_UNREAD = ("cache",)


def validate(
  input_config: ConfigLike,
  key: str = "input",
  process_count: int | None = None,
  device_count: int | None = None,
) -> None:
  """Checks a config of the input pipeline, without reading examples.

  Args:
    input_config: `config.input`, or the config of an evaluator: anything with
      `data`, and optionally `batch_size`, `pp` or `pp_fn`. Keys that nothing
      reads are refused in `config.input` only.
    key: where it stands in the config, for errors.
    process_count: default that of jax.
    device_count: default that of jax.

  Raises:
    ValueError: what is wrong and what to do.
  """
  config: ConfigLike = mlc.ConfigDict(input_config)
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
  _check_counts(config, f"config.{key}")
  if is_single(config):
    _check_keys(config, (*_DATASET_KEYS, *_BATCH_KEYS), key)
    _check_dataset(config, key)
    return
  check_no_dataset_keys(config, key)
  weights = mixture.weights_of(config, key)
  _check_keys(config, (*mixture.KEYS, *config.data), key)
  for name in weights:
    _check_keys(config[name], _DATASET_KEYS, f"{key}.{name}")
    _check_dataset(config[name], f"{key}.{name}")


def is_single(config: ConfigLike) -> bool:
  """Tells whether `config.data` is one dataset and not a mixture.

  Args:
    config: `config.input`.

  Returns:
    bool.
  """
  return isinstance(config.data.get("name"), str)


def check_no_dataset_keys(config: ConfigLike, key: str = "input") -> None:
  """Checks that a mixture has no keys of one dataset at its top level.

  Args:
    config: `config.input` of a mixture.
    key: where it stands in the config.

  Raises:
    ConfigError: there is such a key.
  """
  for k in PER_DATASET:
    if k in config:
      raise lookup.ConfigError(
        f"config.{key}.{k} is per-dataset in multi-input: move it to "
        f"config.{key}.<dataset key>.{k}"
      )


def _check_keys(config: ConfigLike, known: tuple[str, ...], key: str) -> None:
  """Refuses keys that nothing reads, except in configs of evaluators."""
  if "filter_fn" in config:
    raise ValueError(
      f"config.{key}.filter_fn is gone: use pre_filter_fn, which sees raw "
      "examples."
    )
  is_input = key.split(".")[0] == "input"
  given = [k for k in config if k not in _UNREAD]
  lookup.check_keys(given, known, key, only_near=not is_input)
  for k in set(config) - set(given) if is_input else ():
    logging.info("config.%s.%s is not read by anything.", key, k)


def _check_batch_size(
  batch_size: Any, key: str, process_count: int, device_count: int
) -> None:
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


def _check_counts(config: ConfigLike, key: str) -> None:
  """Refuses numbers that TensorFlow fails or dies of."""
  for k, (least, meaning) in _COUNTS.items():
    value = config.get(k)
    too_small = isinstance(value, int | float) and value < least
    if too_small or (k == "num_parallel_calls" and value == 0):
      raise lookup.ConfigError(
        f"{key}.{k} = {value} must be a positive int: {meaning}."
      )


def _check_dataset(config: ConfigLike, key: str) -> None:
  """Checks data source and preprocessing of one dataset."""
  if "data" not in config or not isinstance(config.data.get("name"), str):
    raise ValueError(
      f"config.{key}.data needs a `name`, for example data=dict(name='digits', "
      "split='train')."
    )
  _check_counts(config, f"config.{key}")
  _check_source(config.data.to_dict(), f"{key}.data")
  for k in ("pp", "pp_fn"):
    if config.get(k) is not None and not isinstance(config[k], str):
      raise lookup.ConfigError(
        f"config.{key}.{k} = {config[k]!r} must be a string of ops, such as "
        '"decode|resize(224)".'
      )
    _check_pp(config.get(k) or "", f"config.{key}.{k}")


def _check_source(kw: dict[str, Any], key: str) -> None:
  """Opens TFDS datasets; other sources: do module and arguments exist?"""
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
  from big_vision.datasets import embedded, tfds  # Slow to import.

  data_dir = embedded.default_data_dir(kw.get("data_dir"))
  dataset = tfds.get_builder(name, data_dir, f"{key}.name")
  tfds.check_split(dataset, kw["split"], f"{key}.split")


def _check_pp(pp: str, key: str) -> None:
  """Builds every op of a preprocessing string on its own."""
  for op in builder.split_pipeline(pp):
    try:
      builder.get_preprocess_fn(op, log_data=False)
    except (KeyError, TypeError, ValueError) as e:
      raise ValueError(f"{key}: {op!r}: {e.args[0] if e.args else e}") from e
