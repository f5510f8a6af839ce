"""Saves a dataset and what a predict function makes of it into an npz file."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import checkpoints, fs, lookup, trees
from big_vision import optax as bv_optax
from big_vision.evaluators import files, iteration
from big_vision.types import (
  Array,
  Batch,
  Devices,
  PredictFn,
  PyTree,
  TrainState,
)

API = "jit"


@functools.cache  # One compilation for all evaluators of a predict function.
def get_predict_fn(
  predict_fn: PredictFn,
  mesh: Mesh,
  inputs: tuple[str, ...] | None = None,
  outputs: tuple[str, ...] | None = None,
) -> Callable[[TrainState, Batch], tuple[dict[str, PyTree], Array]]:
  """Compiles predictions, gathered on all devices together with their inputs.

  Args:
    predict_fn: `(train_state, batch) -> tree of [B, ...]`.
    mesh: Mesh of the devices to gather on.
    inputs: features of the batch to return; None: all.
    outputs: names in the predictions to return; None: all.

  Returns:
    `fn(train_state, batch) -> ({"inputs": batch without `_mask`, "outputs":
    predictions}, mask)`. What is selected by names is a flat dict.
  """

  def fn(train_state, batch):
    predicted = predict_fn(train_state, batch)
    features = {k: v for k, v in batch.items() if k != "_mask"}
    result = {
      "inputs": _select(features, inputs, "inputs"),
      "outputs": _select(predicted, outputs, "outputs"),
    }
    return result, batch["_mask"]

  return jax.jit(fn, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _select(
  tree: PyTree, names: tuple[str, ...] | None, argument: str
) -> PyTree:
  """Takes parts of a tree by their names, or the names of what they are in."""
  if names is None:
    return tree
  flat = dict(trees.tree_flatten_with_names(tree)[0])
  found = {}
  for name in names:
    part = {k: v for k, v in flat.items() if f"{k}/".startswith(f"{name}/")}
    if not part:
      raise lookup.unknown("entry", name, flat, argument, lookup.ConfigError)
    found.update(part)
  return found


def _tuple(names: Sequence[str] | str | None) -> tuple[str, ...] | None:
  """Makes names a tuple; one may be given alone."""
  if names is None:
    return None
  return (names,) if isinstance(names, str) else tuple(names)


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  mesh = Mesh(np.asarray(cfg["devices"]), ("devices",))
  parts = _tuple(cfg.get("inputs")), _tuple(cfg.get("outputs"))
  return get_predict_fn(predict_fn, mesh, *parts)(train_state, batch)


class Evaluator:
  """Writes inputs and outputs; yields no metrics."""

  def __init__(
    self,
    predict_fn: PredictFn,
    data: dict[str, Any],
    pp_fn: str,
    batch_size: int,
    outfile: str,
    cache_final: bool = True,
    cache_raw: bool = False,
    prefetch: int = 1,
    *,
    outputs: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    keep_on_cpu: Sequence[str] = (),
    devices: Devices,
    workdir: str | None = None,
    get_step: Callable[[], int | None] | None = None,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch) -> tree of [B, ...]`; the batch has
        `_mask`.
      data: arguments of `datasets.core.get`.
      pp_fn: preprocessing string.
      batch_size: global batch size.
      outfile: format string of the path, with any of {workdir} and {step}
        (number of optimizer steps; a format like {step:09d} is fine).
      cache_final: keep preprocessed batches in memory.
      cache_raw: keep examples before preprocessing in memory.
      prefetch: number of batches to put on the devices ahead.
      outputs: which predictions to keep, by their names in the file without
        `outputs/`, or of what they are in, such as `1/pre_logits`; None: all.
      inputs: which features to keep; None: all.
      keep_on_cpu: features of text to save, too, such as `file_name` of
        `bv:folder`, or `tfds_id`; `pp_fn` must keep them. Needs a single process.
      devices: flat array of devices in the order of the mesh.
      workdir: output folder of the run; None means the flag.
      get_step: returns the step of the run, for states without an optimizer;
        None means that of the clock.

    Raises:
      ConfigError: `keep_on_cpu` is given in a run of several processes.
    """
    self._on_cpu = _tuple(keep_on_cpu) or ()
    if self._on_cpu and jax.process_count() > 1:
      raise lookup.ConfigError(
        f"keep_on_cpu={self._on_cpu}: text is not gathered from several processes. "
        "Leave it out: rows are in the order of the dataset."
      )
    cached = "raw_data" if cache_raw else "pipeline"
    self.batches = iteration.open_batches(
      data,
      pp_fn,
      batch_size,
      devices,
      cache="final_data" if cache_final else cached,
      prefetch=prefetch,
      keep_on_cpu=self._on_cpu,
    )
    self.outfile = outfile
    self._workdir, self._get_step = workdir, get_step
    self.predict_fn = get_predict_fn(
      predict_fn,
      Mesh(np.asarray(devices), ("devices",)),
      _tuple(inputs),
      _tuple(outputs),
    )

  def run(self, train_state: TrainState) -> list[tuple[str, Any]]:
    """Predicts the whole dataset and writes the file (process 0).

    Args:
      train_state: first argument of the predict function.

    Returns:
      Empty list. The file has arrays `inputs/<feature>` and `outputs/<path>`
      of the real examples in the order of the dataset, without `_mask`; it is
      what `checkpoints.npload` and `load_checkpoint_np` read.
    """
    results = (self._predict(train_state, batch) for batch in self.batches)
    if jax.process_index():
      for _ in results:  # The gathering needs every process.
        pass
      return []
    examples = iteration.rows(results, self.batches)
    path = files.resolve_outfile(
      self.outfile, workdir=self._workdir, step=self._step(train_state)
    )
    if path is None:
      logging.warning("Nothing saved: %r needs a workdir.", self.outfile)
      return []
    if fs.dirname(path):
      fs.makedirs(fs.dirname(path))
    named = dict(trees.tree_flatten_with_names(examples)[0])
    checkpoints.save_checkpoint(named, path, compressed=True)
    num_examples = len(next(iter(named.values())))
    logging.info("Saved %d examples to %s.", num_examples, path)
    return []

  def _predict(self, train_state: TrainState, batch: Batch) -> Any:
    """Predicts a batch; text stays on the host."""
    texts = {
      key: iteration.take(batch, key, "keep_on_cpu") for key in self._on_cpu
    }
    result, mask = self.predict_fn(train_state, batch)
    if texts:
      result = {**result, "inputs": {**result["inputs"], **texts}}
    return result, mask

  def _step(self, train_state: TrainState) -> int | None:
    """Returns the number of optimizer steps, else the step of the run."""
    if isinstance(train_state, dict) and "opt" in train_state:
      return bv_optax.get_count(train_state["opt"])
    return self._get_step() if self._get_step else None
