"""Saves a dataset and what a predict function makes of it into an npz file."""

import functools

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import checkpoints, fs, trees
from big_vision import optax as bv_optax
from big_vision.evaluators import common

API = "jit"


@functools.cache  # One compilation for all evaluators of a predict function.
def get_predict_fn(predict_fn, mesh):
  """Compiled predictions, gathered on all devices together with their inputs.

  Args:
    predict_fn: `(train_state, batch) -> tree of [B, ...]`.
    mesh: Mesh of the devices to gather on.

  Returns:
    `fn(train_state, batch) -> {"inputs": batch, "outputs": predictions}`.
  """

  def fn(train_state, batch):
    return {"inputs": batch, "outputs": predict_fn(train_state, batch)}

  return jax.jit(fn, out_shardings=NamedSharding(mesh, PartitionSpec()))


class Evaluator:
  """Writes inputs and outputs; yields no metrics."""

  def __init__(
    self,
    predict_fn,
    data,
    pp_fn,
    batch_size,
    outfile,
    cache_final=True,
    cache_raw=False,
    prefetch=1,
    *,
    devices,
  ):
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
      devices: flat array of devices in the order of the mesh.
    """
    cached = "raw_data" if cache_raw else "pipeline"
    self.get_data_iter, self.steps = common.eval_input_pipeline(
      data,
      pp_fn,
      batch_size,
      devices,
      cache="final_data" if cache_final else cached,
      prefetch=prefetch,
    )
    self.outfile = outfile
    self.batch_size = batch_size
    self.devices = devices
    self.predict_fn = get_predict_fn(
      predict_fn, Mesh(np.asarray(devices), ("devices",))
    )

  def run(self, train_state):
    """Predicts the whole dataset and writes the file (process 0).

    Args:
      train_state: first argument of the predict function.

    Returns:
      Empty list. The file has arrays `inputs/<feature>` and `outputs/<path>`
      of the real examples in the order of the dataset, without `_mask`; it is
      what `checkpoints.npload` and `load_checkpoint_np` read.
    """
    batches = zip(range(self.steps), self.get_data_iter(), strict=False)
    results = (self.predict_fn(train_state, batch) for _, batch in batches)
    if jax.process_index():
      for _ in results:  # The gathering needs every process.
        pass
      return []
    flat = [
      dict(trees.tree_flatten_with_names(result)[0])
      for result in common.fetch(results)
    ]
    path = common.resolve_outfile(self.outfile, step=_step(train_state))
    if path is None:
      logging.warning("Nothing saved: %r needs a workdir.", self.outfile)
      return []

    order = common.host_order(self.devices, self.batch_size, self.steps)
    mask = np.concatenate([result.pop("inputs/_mask") for result in flat])
    order = order[mask[order].astype(bool)]
    rows = {}
    for name in flat[0]:
      if np.shape(flat[0][name])[:1] != (self.batch_size,):
        raise ValueError(
          f"predict_fn must return one row per example: {name!r} has shape "
          f"{np.shape(flat[0][name])} for a batch of {self.batch_size}."
        )
      rows[name] = np.concatenate([result[name] for result in flat])[order]
    if fs.dirname(path):
      fs.makedirs(fs.dirname(path))
    checkpoints.save_checkpoint(rows, path, compressed=True)
    logging.info("Saved %d examples to %s.", len(order), path)
    return []


def _step(train_state):
  """Number of optimizer steps; of the clock for states without optimizer."""
  if isinstance(train_state, dict) and "opt" in train_state:
    return bv_optax.get_count(train_state["opt"])
  return common.chrono.prev_step or 0
