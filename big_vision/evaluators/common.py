"""What evaluators share: building them from a config, their data, their files.

An evaluator is a module with `API = "jit"` and a class `Evaluator`:

  Evaluator(predict_fn, *, batch_size, devices, **own).run(train_state)

builds its data once and yields `(metric name, float)` at every run. Batches
have `_mask` [B], False on padding, which no metric may depend on. To have its
arguments checked before a run starts, an evaluator may declare
  - the class attribute `forwards`: the function that receives `**kw`;
  - the module function `data_sources(cfg)`: list of `(config key, data)` of
    the datasets it opens; by default its argument `data`.
"""

import collections
import functools
import json

import jax
import numpy as np
from absl import flags, logging

from big_vision import devices as bv_devices
from big_vision import fs, lookup, partial
from big_vision.chrono import chrono

CACHES = ("none", "pipeline", "raw_data", "final_data")
LOG_KEYS = ("log_steps", "log_epochs", "log_examples", "log_percent")
GENERIC_KEYS = (
  "type", "pred", "pred_kw", "prefix", "skip_first", "batch_size", *LOG_KEYS
)  # fmt: skip
PP_KEYS = ("pp_fn", "pp_train", "pp_eval", "pp_img", "pp_txt")


def from_config(
  config,
  predict_fns,
  write_note=lambda note: note,
  get_steps=lambda key, cfg: cfg[f"{key}_steps"],
  devices=None,
):
  """Builds all evaluators of `config.evals`.

  Args:
    config: ConfigDict of a run.
    predict_fns: name -> `(train_state, batch, **kw) -> anything`. Evaluators
      compile once per function, so the functions should keep their identity.
    write_note: called with the name of each evaluator before it is built.
    get_steps: `("log", cfg) -> steps` between two runs of an evaluator.
    devices: flat array of devices in the order of the mesh.

  Returns:
    List of `(name, evaluator, log_steps, prefix)` in config order.

  Raises:
    ValueError: an entry asks for something that does not exist.
    RuntimeError: an evaluator of another generation than the caller.
  """
  evaluators = []
  for name, cfg in config.get("evals", {}).items():
    write_note(name)
    cfg = as_dict(cfg)
    kind = cfg.pop("type", name)
    pred = cfg.pop("pred", "predict")
    pred_kw = cfg.pop("pred_kw", None)
    prefix = cfg.pop("prefix", f"{name}/")
    cfg.pop("skip_first", None)
    log_steps = get_steps("log", cfg)
    for key in LOG_KEYS:
      cfg.pop(key, None)

    cfg["batch_size"], source = batch_size_of(config, name, cfg)
    module = module_of(kind, name)
    if devices is not None:
      cfg["devices"] = devices
    check_api(module, name, devices)
    if devices is not None and cfg["batch_size"]:
      check_batch_size(cfg["batch_size"], devices, source)
    predict_fn = predict_fn_of(predict_fns, name, pred, pred_kw)
    evaluator = module.Evaluator(predict_fn, **cfg)
    evaluators.append((name, evaluator, log_steps, prefix))
  return evaluators


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


def check_batch_size(batch_size, devices, source="batch_size"):
  """Raises ValueError unless batches can be split evenly over the devices.

  Args:
    batch_size: global batch size.
    devices: sequence of devices.
    source: str, what the error calls the batch size: where it was set.
  """
  n = len(devices)
  if not isinstance(batch_size, int | np.integer) or batch_size < 1:
    raise ValueError(f"{source}={batch_size!r} is not a positive integer.")
  if batch_size % n:
    below = batch_size // n * n
    near = f"{below} or {below + n}" if below else str(n)
    raise ValueError(
      f"{source}={batch_size} is not divisible by the number of devices, {n}. "
      f"Use for example {near}."
    )


def host_order(devices, batch_size, steps):
  """Permutation of all evaluated rows from batch order into source order.

  Every process reads a contiguous part of the dataset into its block of each
  global batch. Sorting by process restores the order of the dataset, so that
  results do not depend on the number of processes.

  Args:
    devices: sequence of devices in the order of the batches.
    batch_size: global batch size.
    steps: number of batches.

  Returns:
    [steps * batch_size] int array of indices; the identity for one process.
  """
  owner = [d.process_index for d in devices]
  owner = np.repeat(owner, batch_size // len(owner))
  return np.argsort(np.tile(owner, steps), kind="stable")


def fetch(results, lag=2):
  """Copies device results to the host without stalling the devices.

  Args:
    results: iterator of trees of arrays, dispatched as it advances.
    lag: how many to dispatch before the oldest is waited for; bounds what
      piles up in device memory.

  Yields:
    The same trees as NumPy arrays.
  """
  waiting = collections.deque()
  for result in results:
    waiting.append(result)
    if len(waiting) > lag:
      yield jax.device_get(waiting.popleft())
  while waiting:
    yield jax.device_get(waiting.popleft())


def process_sum(tree):
  """Sums a tree of numbers over processes.

  Args:
    tree: numbers or arrays, of equal shapes on all processes.

  Returns:
    The same tree; unchanged if there is only one process.
  """
  if jax.process_count() == 1:
    return tree
  from jax.experimental import multihost_utils

  with jax.transfer_guard("allow"):  # The gather moves host data as it likes.
    gathered = multihost_utils.process_allgather(tree)
  return jax.tree.map(lambda x: np.asarray(x).sum(axis=0), gathered)


def resolve_outfile(outfile, split="", **kw):
  """Fills in the path of an output file; call it when the file is written.

  Args:
    outfile: format string with any of {workdir}, {split}, {step} and `kw`.
    split: str; characters `[ ] % :` of it become `_`.
    **kw: further or other values, for example `step` or `workdir`. By default
      the workdir is the flag's (if there is one), the step is the clock's.

  Returns:
    The path; None if `outfile` is empty or needs a workdir that is not set.
  """
  if not outfile:
    return None
  workdir = kw.pop("workdir", None) or _workdir_flag()
  if "{workdir}" in outfile and not workdir:
    return None
  for char in "[]%:":
    split = split.replace(char, "_")
  values = {"step": chrono.prev_step or 0, **kw}
  return outfile.format(workdir=workdir, split=split, **values)


def _workdir_flag():
  """Value of the flag `workdir`, None where no program has defined it."""
  return flags.FLAGS["workdir"].value if "workdir" in flags.FLAGS else None


def multiprocess_write_json(outfile, jobj):
  """Merges the parts of all processes into one JSON file.

  Args:
    outfile: path, see `resolve_outfile`; falsy writes nothing.
    jobj: list (concatenated in process order) or dict (merged, later wins) of
      this process.

  Returns:
    The merged object on process 0, an empty one on others; None if nothing is
    written.

  Raises:
    TypeError: `jobj` is neither a list nor a dict.
  """
  outfile = resolve_outfile(outfile)
  if not outfile:
    return None
  if not isinstance(jobj, list | dict):
    raise TypeError(f"Can only write lists and dicts, got {type(jobj)}.")
  if fs.dirname(outfile):
    fs.makedirs(fs.dirname(outfile))

  part = lambda i: f"{outfile}.p{i}"
  with fs.open(part(jax.process_index()), "w") as f:
    f.write(json.dumps(jobj))
  _barrier()  # All parts are there.
  merged = type(jobj)()
  if jax.process_index() == 0:
    for i in range(jax.process_count()):
      with fs.open(part(i)) as f:
        other = json.loads(f.read())
      merged.update(other) if isinstance(merged, dict) else merged.extend(other)
    with fs.open(outfile, "w") as f:
      f.write(json.dumps(merged))
  _barrier()  # All parts are read.
  fs.remove(part(jax.process_index()))
  return merged


def _barrier():
  """Waits for all processes; evaluators run under the transfer guard."""
  with jax.transfer_guard("allow"):
    bv_devices.sync()


def as_dict(cfg):
  """A copy of an evaluator's config that can be taken apart."""
  return cfg.to_dict() if hasattr(cfg, "to_dict") else dict(cfg)


def batch_size_of(config, name, cfg):
  """The global batch size of an evaluator and the config key it is from."""
  candidates = (
    (cfg.get("batch_size"), f"config.evals.{name}.batch_size"),
    (config.get("batch_size_eval"), "config.batch_size_eval"),
    ((config.get("input") or {}).get("batch_size"), "config.input.batch_size"),
    (config.get("batch_size"), "config.batch_size"),
  )
  for value, source in candidates:
    if value and source == candidates[0][1]:
      return value, source
    if value:  # Say both where it is from and where to change it.
      return value, f"{candidates[0][1]} (from {source})"
  return None, candidates[0][1]


def module_of(kind, name):
  """The module of an evaluator; ValueError if there is none."""
  return lookup.module(
    "evaluators",
    kind,
    kind="evaluator",
    key=f"evals.{name}.type",
    needs="Evaluator",
  )


def check_api(module, name, devices):
  """Raises RuntimeError if caller and evaluator are not of one generation."""
  api = getattr(module, "API", "pmap")
  if api == "pmap" and devices is not None:
    raise RuntimeError(
      f"config.evals.{name}: {module.__name__} does not declare API='jit'; it "
      "is of the pmap generation, which jit trainers can not run."
    )
  if api == "jit" and devices is None:
    raise RuntimeError(
      f"config.evals.{name}: {module.__name__} needs `devices`, pass "
      "mesh.devices.flatten() to from_config."
    )


def predict_fn_of(predict_fns, name, pred, pred_kw):
  """The predict function that an entry asks for, with its keywords bound."""
  if pred not in predict_fns:
    raise ValueError(
      f"config.evals.{name}.pred: unknown predict function {pred!r}. This "
      f"trainer offers {', '.join(sorted(predict_fns))}."
    )
  if pred_kw is None:
    return predict_fns[pred]
  try:
    return partial.partial(predict_fns[pred], **pred_kw)
  except TypeError as e:
    raise ValueError(
      f"config.evals.{name}.pred_kw={pred_kw}: {e}. Values have to be "
      "hashable, for example tuples in place of lists."
    ) from e
