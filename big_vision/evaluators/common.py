"""Defines evaluators; offers what they share under one name.

An evaluator is a module with `API = "jit"` and a class `Evaluator`:

  Evaluator(predict_fn, *, batch_size, devices, **own).run(train_state)

builds its data once and yields `(metric name, float)` at every run. Batches
have `_mask` [B], False on padding, which no metric may depend on. An evaluator
that writes files takes the keywords `workdir` (output folder of the run, "" for
none) and `get_step` (returns the current step of the run). To have its
arguments checked before a run starts, an evaluator may declare
  - the class attribute `forwards`: the function that receives `**kw`;
  - the module function `data_sources(cfg)`: list of `(config key, data)` of
    the datasets it opens; by default its argument `data`.

`mean.py` is a short example. The code is in `build.py` (evaluators from a
config), `validate.py` (checks of a config), `iteration.py` (batches, results)
and `files.py` (output).
"""

import functools

from absl import logging

from big_vision.devices import check_batch_size as check_batch_size
from big_vision.evaluators.build import from_config as from_config
from big_vision.evaluators.files import (
  multiprocess_write_json as multiprocess_write_json,
)
from big_vision.evaluators.files import resolve_outfile as resolve_outfile
from big_vision.evaluators.iteration import fetch as fetch
from big_vision.evaluators.iteration import host_order as host_order
from big_vision.evaluators.iteration import process_sum as process_sum
from big_vision.partial import Partial as _CacheablePartial  # noqa: F401

CACHES = ("none", "pipeline", "raw_data", "final_data")


def eval_input_pipeline(
  data,
  pp_fn,
  batch_size,
  devices,
  keep_on_cpu=(),
  cache="pipeline",
  prefetch=1,
  warmup=False,
  memory_gb=1.0,
  cache_raw=False,
  cache_final=False,
):
  """Opens a dataset for evaluation: every example once, in order, padded.

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
    memory_gb: float, what would take more than this is not cached, whatever
      `cache` says. Results are the same.
    cache_raw: bool, the same as `cache="raw_data"`, for configs of the past.
    cache_final: bool, the same as `cache="final_data"`.

  Returns:
    `(get_iter, steps)`: one evaluation takes `steps` batches of `get_iter()`.

  Raises:
    AssertionError: unknown `cache`.
    ValueError: `batch_size` does not fit the devices.
  """
  from big_vision import input_pipeline  # The TensorFlow wing.
  from big_vision.datasets import core as ds_core
  from big_vision.pp import builder as pp_builder

  cache = "raw_data" if cache_raw else cache
  cache = "final_data" if cache_final else cache
  mode = "none" if cache is None else str(cache).lower()
  assert mode in CACHES, (
    f"Unknown value for cache: {cache!r}, use one of {', '.join(CACHES)}."
  )
  check_batch_size(batch_size, devices)

  source = ds_core.get(**data)
  make = functools.partial(
    input_pipeline.make_for_inference,
    source.get_tfdata(ordered=True, allow_cache=mode != "none"),
    pp_builder.get_preprocess_fn(pp_fn, log_data=str(data)),
    batch_size,
    num_ex_per_process=source.num_examples_per_process(),
  )
  dataset, steps = make()
  if mode in ("raw_data", "final_data"):
    num = max(source.num_examples_per_process())
    each = (
      getattr(source, "bytes_per_example", None)
      if mode == "raw_data"
      else input_pipeline.bytes_per_example(dataset)
    )
    if each is not None and num * each > memory_gb * 2**30:
      logging.info(
        "%s: not cached, since %s takes %.1f GB, more than memory_gb=%s.",
        data,
        mode,
        num * each / 2**30,
        memory_gb,
      )
    else:
      dataset, _ = make(
        cache_raw=mode == "raw_data", cache_final=mode == "final_data"
      )

  def start():
    return input_pipeline.start_global(
      dataset, devices, prefetch, frozenset(keep_on_cpu), warmup
    )

  if mode == "none":
    return start, steps
  # The dataset repeats after exactly `steps` batches, so that every run of an
  # evaluation finds the iterator at the first example.
  persistent = start()
  return lambda: persistent, steps
