"""Classification: accuracy and loss of logits against multi-hot labels.

Shapes: B global batch size, C classes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import losses
from big_vision.evaluators import common

API = "jit"


@functools.cache  # One compilation for all evaluators of a predict function.
def get_eval_fn(predict_fn, loss_name, mapping=None):
  """Compiled sums over one batch.

  Args:
    predict_fn: `(train_state, batch) -> (logits [B, C], ...)`.
    loss_name: str, a loss of `big_vision.losses` that can be unreduced.
    mapping: tuple of int, for each class of the labels the output that stands
      for it, -1 if there is none; None: the classes are the outputs.

  Returns:
    `fn(train_state, batch, labels [B, C], mask [B]) -> (number correct, sum of
    losses, number seen)`, each a float32 scalar. Examples are weighted by
    their largest label: those without any label count nothing (images without
    a valid ReaL label), neither do those with mask 0, whatever they hold.
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


def _mapped(labels, logits, mapping):
  """Labels of the classes that have an output, and the logits of these."""
  if labels.shape[-1] != len(mapping) or logits.shape[-1] <= mapping.max():
    raise ValueError(
      f"label_mapping is of {len(mapping)} classes to outputs up to "
      f"{mapping.max()}, but labels are {labels.shape} and logits "
      f"{logits.shape}."
    )
  has_output = mapping >= 0
  return labels[:, has_output], logits[:, mapping[has_output]]


class Evaluator:
  """Yields `prec@1`, the fraction of correct examples, and the mean `loss`.

  An example counts as correct if the largest logit is at a positive label.
  """

  forwards = staticmethod(common.eval_input_pipeline)

  def __init__(self, predict_fn, loss_name, label_key="labels", **kw):
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch) -> (logits [B, C], ...)`; the batch is
        without labels and mask.
      loss_name: str, for example "softmax_xent".
      label_key: str, feature with the (multi-hot) labels [B, C].
      **kw: arguments of `common.eval_input_pipeline`.
    """
    self.eval_fn = get_eval_fn(predict_fn, loss_name)
    self.label_key = label_key
    self.get_data_iter, self.steps = common.eval_input_pipeline(**kw)

  def run(self, train_state):
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Yields:
      ("prec@1", float), ("loss", float); NaN if no example has a label.
    """
    sums = []
    for _, batch in zip(range(self.steps), self.get_data_iter(), strict=False):
      batch = dict(batch)
      if self.label_key not in batch:
        raise ValueError(
          f"label_key={self.label_key!r} is not in the batch, which has "
          f"{', '.join(sorted(batch))}: does pp_fn keep it?"
        )
      labels, mask = batch.pop(self.label_key), batch.pop("_mask")
      sums.append(self.eval_fn(train_state, batch, labels, mask))
    # Fetched only here, so that the devices never wait for the host.
    sums = np.asarray(jax.device_get(sums), np.float64)  # [steps, 3]
    correct, loss, seen = sums.sum(axis=0)
    with np.errstate(invalid="ignore"):
      yield "prec@1", float(correct / seen)
      yield "loss", float(loss / seen)
