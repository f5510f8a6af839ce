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
from big_vision.evaluators import confusion as confusion_lib
from big_vision.evaluators import iteration
from big_vision.pipeline import evaluation
from big_vision.types import Array, Batch, PredictFn, TrainState

API = "jit"
_MAX_CONFUSION = 5000  # Classes: 100 MB of counts.


@functools.cache  # One compilation for all evaluators of a predict function.
def get_eval_fn(
  predict_fn: PredictFn,
  loss_name: str,
  mapping: tuple[int, ...] | None = None,
  confusion: bool = False,
) -> Callable[..., tuple[Array, ...]]:
  """Compiles sums over one batch.

  Args:
    predict_fn: `(train_state, batch) -> (logits [B, C], ...)`.
    loss_name: a loss of `big_vision.losses` that can be unreduced.
    mapping: for each class of the labels the output that stands
      for it, -1 if there is none; None: the classes are the outputs.
    confusion: whether to count predictions of each label, too.

  Returns:
    `fn(train_state, batch, labels [B, C], mask [B]) -> (number correct, sum of
    losses, sum of weights)`, each a float32 scalar. The weight of an example
    is its largest label: examples without any label count nothing (images
    without a valid ReaL label), nor do those with mask 0, whatever they hold.
    With `confusion` there is a fourth, [C, C]: sum of weights by label and by
    prediction; an example of several labels counts in part for each.
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
    sums = total(hit), total(loss), weights.sum()
    if not confusion:
      return sums
    if known.shape[-1] > _MAX_CONFUSION:
      raise ValueError(
        f"confusion: {known.shape[-1]} classes have too many pairs to count; at "
        f"most {_MAX_CONFUSION} can be."
      )
    share = known / jnp.maximum(known.sum(axis=-1, keepdims=True), 1e-9)
    share = jnp.where(weights[:, None] != 0, share * weights[:, None], 0.0)
    predicted = jax.nn.one_hot(top1, known.shape[-1])
    exact = jax.lax.Precision.HIGHEST
    return *sums, jnp.matmul(share.T, predicted, precision=exact)

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
    confusion: str | None = None,
    *,
    workdir: str | None = None,
    get_step: Callable[[], int | None] | None = None,
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch) -> (logits [B, C], ...)`; the batch is
        without labels and mask.
      loss_name: for example "softmax_xent".
      label_key: feature with the (multi-hot) labels [B, C].
      confusion: format string of a path without ending, with any of {workdir} and
        {step}: each `run` writes there which classes are taken for which, see
        `confusion.Writer`. None writes nothing.
      workdir: output folder of the run; None means the flag.
      get_step: returns the step of the run; None means that of the clock.
      **kw: arguments of `evaluation.eval_input_pipeline`.
    """
    self.eval_fn = get_eval_fn(predict_fn, loss_name, confusion=bool(confusion))
    self.label_key = label_key
    self.batches = iteration.open_batches(**kw)
    self.steps = self.batches.steps
    self._data = kw.get("data")
    self._confusion = None
    if confusion:
      self._confusion = confusion_lib.Writer(
        confusion, self._data, workdir, get_step
      )

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Yields:
      ("prec@1", float), ("loss", float); NaN if no example has a label.
      ("unlabeled", float) if there are such, unless examples have sets of
      labels, which may be empty.
    """
    *sums, unlabeled = iteration.totals(
      self._sums(train_state, batch) for batch in self.batches
    )
    correct, loss, weight, *counts = sums
    if self._confusion and jax.process_index() == 0:
      self._confusion.write(*counts)
    with np.errstate(invalid="ignore"):
      yield "prec@1", float(correct / weight)
      yield "loss", float(loss / weight)
    if unlabeled and self.label_key in self.batches.one_label:
      what = "they are left out of prec@1 and loss"
      iteration.warn_once(self, unlabeled, self._data, what)
      yield "unlabeled", float(unlabeled)

  def _sums(self, train_state: TrainState, batch: Batch) -> tuple[Array, ...]:
    labels = iteration.take(batch, self.label_key)
    mask = batch.pop("_mask")
    sums = self.eval_fn(train_state, batch, labels, mask)
    return *sums, iteration.count_unlabeled(labels, mask)
