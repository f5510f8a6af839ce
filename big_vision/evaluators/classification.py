"""Measures accuracy and loss of logits against multi-hot labels.

Shapes: B global batch size, C classes.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import losses
from big_vision.evaluators import iteration
from big_vision.pipeline import evaluation
from big_vision.types import Array, Batch, PredictFn, TrainState

API = "jit"


@functools.cache  # One compilation for all evaluators of a predict function.
def get_eval_fn(
  predict_fn: PredictFn,
  loss_name: str,
  mapping: tuple[int, ...] | None = None,
) -> Callable[..., tuple[Array, Array, Array]]:
  """Compiles sums over one batch.

  Args:
    predict_fn: `(train_state, batch) -> (logits [B, C], ...)`.
    loss_name: a loss of `big_vision.losses` that can be unreduced.
    mapping: for each class of the labels the output that stands
      for it, -1 if there is none; None: the classes are the outputs.

  Returns:
    `fn(train_state, batch, labels [B, C], mask [B]) -> (number correct, sum of
    losses, sum of weights)`, each a float32 scalar. The weight of an example
    is its largest label: examples without any label count nothing (images
    without a valid ReaL label), nor do those with mask 0, whatever they hold.
  """
  loss_fn = losses.get(loss_name, key="loss_name")

  @jax.jit
  def eval_fn(train_state, batch, labels, mask):
    logits, *_ = predict_fn(train_state, batch)
    known = labels  # Of these classes, it decides which one it is.
    if mapping is not None:
      known, logits = _mapped(labels, logits, np.asarray(mapping))
    if logits.shape != known.shape:
      raise ValueError(
        f"The predict function returns logits {logits.shape}, but labels are "
        f"{labels.shape}: config.num_classes and the number of classes in the "
        "evaluator's pp_fn, `onehot(N, ...)`, have to be equal."
      )
    logits = logits.astype(jnp.float32)
    labels, known = labels.astype(jnp.float32), known.astype(jnp.float32)
    weights = jnp.where(mask != 0, mask * labels.max(axis=-1), 0.0)  # [B]

    def total(per_example):
      # Not a product alone: padding may be NaN, and 0 * NaN is NaN.
      return jnp.where(weights != 0, per_example * weights, 0.0).sum()

    loss = loss_fn(logits=logits, labels=known, reduction=False)
    top1 = jnp.argmax(logits, axis=-1)
    hit = jnp.take_along_axis(known, top1[:, None], axis=-1)[:, 0]
    return total(hit), total(loss), weights.sum()

  return eval_fn


def _mapped(
  labels: Array, logits: Array, mapping: np.ndarray
) -> tuple[Array, Array]:
  """Returns labels and logits of the classes that have an output."""
  if labels.shape[-1] != len(mapping) or logits.shape[-1] <= mapping.max():
    raise ValueError(
      f"label_mapping is of {len(mapping)} classes to outputs up to "
      f"{mapping.max()}, but labels are {labels.shape} and logits "
      f"{logits.shape}."
    )
  has_output = mapping >= 0
  return labels[:, has_output], logits[:, mapping[has_output]]


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  labels = iteration.take(batch, cfg.get("label_key", "labels"))
  mask = batch.pop("_mask")
  fn = get_eval_fn(predict_fn, cfg["loss_name"])
  return fn(train_state, batch, labels, mask)


class Evaluator:
  """Yields `prec@1`, the fraction of correct examples, and the mean `loss`.

  An example counts as correct if the largest logit is at a positive label. If
  images have one label each, but some have none (-1), `unlabeled` is how many.
  """

  forwards = staticmethod(evaluation.eval_input_pipeline)
  # Labels mean the same as in training, see `training.label_check`.
  classes_of_training = True

  def __init__(
    self,
    predict_fn: PredictFn,
    loss_name: str,
    label_key: str = "labels",
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch) -> (logits [B, C], ...)`; the batch is
        without labels and mask.
      loss_name: for example "softmax_xent".
      label_key: feature with the (multi-hot) labels [B, C].
      **kw: arguments of `evaluation.eval_input_pipeline`.
    """
    self.eval_fn = get_eval_fn(predict_fn, loss_name)
    self.label_key = label_key
    self.batches = iteration.open_batches(**kw)
    self.steps = self.batches.steps
    self._data = kw.get("data")

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Yields:
      ("prec@1", float), ("loss", float); NaN if no example has a label.
      ("unlabeled", float) if there are such, unless examples have sets of
      labels, which may be empty.
    """
    correct, loss, weight, unlabeled = iteration.totals(
      self._sums(train_state, batch) for batch in self.batches
    )
    with np.errstate(invalid="ignore"):
      yield "prec@1", float(correct / weight)
      yield "loss", float(loss / weight)
    if unlabeled and self.label_key in self.batches.one_label:
      what = "they are left out of prec@1 and loss"
      iteration.warn_once(self, unlabeled, self._data, what)
      yield "unlabeled", float(unlabeled)

  def _sums(
    self, train_state: TrainState, batch: Batch
  ) -> tuple[Array, Array, Array, Array]:
    labels = iteration.take(batch, self.label_key)
    mask = batch.pop("_mask")
    sums = self.eval_fn(train_state, batch, labels, mask)
    return *sums, iteration.count_unlabeled(labels, mask)
