"""Gathers what a model says about a whole dataset, for metrics that need it all.

Shapes: B global batch size, C outputs, N examples of the dataset.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import losses
from big_vision.evaluators import iteration
from big_vision.types import Array, Batch, PredictFn, TrainState


@functools.cache  # One compilation for all evaluators of a predict function.
def get_rows_fn(
  predict_fn: PredictFn, loss_name: str, mesh: Mesh
) -> Callable[..., tuple[tuple[Array, Array, Array], Array]]:
  """Compiles the outputs of one batch, gathered on all devices.

  Args:
    predict_fn: `(train_state, batch) -> (logits [B, C], ...)`.
    loss_name: a loss of `big_vision.losses` that can be unreduced.
    mesh: Mesh of the devices to gather on.

  Returns:
    `fn(train_state, batch, labels [B, C], mask [B]) -> ((logits [B, C], labels,
    losses [B]), mask)`, float32.
  """
  loss_fn = losses.get(loss_name, key="loss_name")

  def fn(train_state, batch, labels, mask):
    logits, *_ = predict_fn(train_state, batch)
    if logits.shape != labels.shape:
      raise ValueError(
        f"The predict function returns logits {logits.shape}, but labels are "
        f"{labels.shape}: config.num_classes and what the evaluator's pp_fn makes "
        "of labels have to be equal in size."
      )
    logits, labels = logits.astype(jnp.float32), labels.astype(jnp.float32)
    loss = loss_fn(logits=logits, labels=labels, reduction=False)
    return (logits, labels, loss), mask

  return jax.jit(fn, out_shardings=NamedSharding(mesh, PartitionSpec()))


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
  *,
  loss_name: str,
) -> Any:
  """Computes what `gather` computes of one batch, see `evaluators.trial`.

  Args:
    predict_fn: as `get_rows_fn`.
    train_state: its first argument.
    batch: with labels and `_mask`.
    cfg: the evaluator's config, with `devices`.
    loss_name: the evaluator's default.

  Returns:
    The result of `get_rows_fn`'s function.
  """
  labels = iteration.take(batch, cfg.get("label_key", "labels"))
  mask = batch.pop("_mask")
  mesh = Mesh(np.asarray(cfg["devices"]), ("devices",))
  fn = get_rows_fn(predict_fn, cfg.get("loss_name", loss_name), mesh)
  return fn(train_state, batch, labels, mask)


def gather(
  fn: Callable[..., tuple[tuple[Array, Array, Array], Array]],
  train_state: TrainState,
  batches: iteration.Batches,
  label_key: str,
) -> tuple[np.ndarray, np.ndarray, float]:
  """Computes the outputs of a model for all examples of all processes.

  Args:
    fn: result of `get_rows_fn`.
    train_state: first argument of the predict function.
    batches: the dataset.
    label_key: feature with the labels.

  Returns:
    (logits [N, C], labels [N, C], mean loss), float32, without the padding.
  """

  def run(batch: Batch) -> tuple[tuple[Array, Array, Array], Array]:
    labels = iteration.take(batch, label_key)
    mask = batch.pop("_mask")
    return fn(train_state, batch, labels, mask)

  rows = iteration.rows((run(batch) for batch in batches), batches)
  logits, labels, loss = rows
  return logits, labels, float(loss.mean(dtype=np.float64))
