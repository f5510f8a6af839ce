"""Measures detectors as COCO does, and what their boxes are worth as samples.

Shapes: B global batch size, P predicted and G true boxes of an example, N
examples.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import compat, lookup
from big_vision.evaluators import iteration
from big_vision.evaluators.proj.paligemma.transfers import boxes
from big_vision.pipeline import evaluation
from big_vision.types import Array, Batch, PredictFn, TrainState

API = "jit"

IOUS = np.arange(50, 100, 5) / 100
_MEANS = ("reward", "num_matches", "nms_penalty")


@functools.cache  # One compilation for all evaluators of a predict function.
def get_rows_fn(
  predict_fn: PredictFn, box_key: str, label_key: str, mesh: Mesh
) -> Callable[..., tuple[dict[str, Array], Array]]:
  """Compiles the boxes of one batch, gathered on all devices.

  Args:
    predict_fn: `(train_state, batch, seed=) -> dict` of `boxes` [B, P, 4],
      `labels` and `scores` [B, P], `is_box` bool [B, P], and means [B].
    box_key: feature with the true boxes [B, G, 4].
    label_key: feature with their classes [B, G], negative for none.
    mesh: Mesh of the devices to gather on.

  Returns:
    `fn(train_state, batch, seed) -> (dict, mask [B])`, what the predict
    function returns, `true_boxes` and `true_labels`.
  """

  def fn(train_state, batch, seed):
    batch = dict(batch)
    truth = {
      "true_boxes": iteration.take(batch, box_key, "box_key"),
      "true_labels": iteration.take(batch, label_key),
    }
    mask = batch.pop("_mask")
    # Random numbers need arrays of one mesh. Evaluators have one of their own.
    if (active := compat.active_mesh()) is not None:
      everywhere = NamedSharding(active, PartitionSpec())
      seed = jax.lax.with_sharding_constraint(seed, everywhere)
    found = predict_fn(train_state, batch, seed=seed)
    if not isinstance(found, Mapping) or "is_box" not in found:
      raise lookup.ConfigError(
        "The predict function should return boxes, as pred='detect' does."
      )
    return {**found, **truth}, mask

  return jax.jit(fn, out_shardings=NamedSharding(mesh, PartitionSpec()))


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  keys = (
    cfg.get("box_key", "objects/bbox"),
    cfg.get("label_key", "objects/label"),
  )
  mesh = Mesh(np.asarray(cfg["devices"]), ("devices",))
  return get_rows_fn(predict_fn, *keys, mesh)(train_state, batch, jnp.uint32(0))


class Evaluator:
  """Yields `map`, `map/0.5`, `map/0.75` and `reward`.

  `map` is the mean average precision of COCO: over the classes that occur in
  the truth, and over 0.5, 0.55, …, 0.95 as the intersection over union that
  boxes need. The order of boxes is that of their scores. `reward`, and
  `num_matches` and `nms_penalty` if the predict function computes them, are
  means over examples.

  With several seeds all are means over them, followed by `map/std`,
  `reward/std`, and so on: their standard deviations.
  """

  forwards = staticmethod(evaluation.eval_input_pipeline)

  def __init__(
    self,
    predict_fn: PredictFn,
    box_key: str = "objects/bbox",
    label_key: str = "objects/label",
    seeds: Sequence[int] = (0,),
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: see `get_rows_fn`.
      box_key: see there.
      label_key: see there.
      seeds: ints, for each of which all examples are predicted.
      **kw: arguments of `evaluation.eval_input_pipeline`.

    Raises:
      ConfigError: there is no seed.
    """
    if not len(seeds):
      raise lookup.ConfigError("seeds=() should have a seed, such as (0,).")
    self.batches = iteration.open_batches(**kw)
    self.steps, self.seeds = self.batches.steps, tuple(seeds)
    mesh = Mesh(np.asarray(self.batches.devices), ("devices",))
    self.eval_fn = get_rows_fn(predict_fn, box_key, label_key, mesh)
    self._everywhere = NamedSharding(mesh, PartitionSpec())

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Evaluates over the whole dataset, once for each seed.

    Args:
      train_state: first argument of the predict function.

    Yields:
      (name, float).
    """
    found = [self._once(train_state, seed) for seed in self.seeds]
    for name in found[0]:
      values = [one[name] for one in found]
      yield name, float(np.mean(values))
      if len(values) > 1:
        yield f"{name}/std", float(np.std(values, ddof=1))

  def _once(self, train_state: TrainState, seed: Any) -> dict[str, float]:
    """Evaluates with one seed."""
    seed = jax.device_put(np.uint32(seed), self._everywhere)
    rows = iteration.rows(
      (self.eval_fn(train_state, batch, seed) for batch in self.batches),
      self.batches,
    )
    precisions = average_precisions(rows).mean(axis=0)
    out = {"map": precisions.mean()}
    out |= {f"map/{iou}": precisions[IOUS == iou].item() for iou in (0.5, 0.75)}
    out |= {k: rows[k].mean(dtype=np.float64) for k in _MEANS if k in rows}
    return out


def average_precisions(rows: Mapping[str, np.ndarray]) -> np.ndarray:
  """Computes the average precision of each class.

  Args:
    rows: `boxes` [N, P, 4], `labels`, `scores` and `is_box` [N, P];
      `true_boxes` [N, G, 4] and `true_labels` [N, G], negative for none.

  Returns:
    [C, T], of the C classes that occur in the truth, in order, at `IOUS`; [1,
    T] of NaN if there are no true boxes.
  """
  true_labels = rows["true_labels"]
  out = []
  for label in np.unique(true_labels[true_labels >= 0]):
    hits, scores = [], []
    ours = rows["is_box"] & (rows["labels"] == label)
    for i, mine in enumerate(ours):
      order = np.flatnonzero(mine)
      order = order[np.argsort(-rows["scores"][i][order], kind="stable")]
      true = rows["true_boxes"][i][true_labels[i] == label]
      hits.append(boxes.hits(boxes.iou(rows["boxes"][i][order], true), IOUS))
      scores.append(rows["scores"][i][order])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    num = int((true_labels == label).sum())
    out.append(boxes.average_precision(np.concatenate(hits)[order], num))
  return np.array(out) if out else np.full((1, len(IOUS)), np.nan)
