"""Means over a dataset of whatever per-example values a function returns."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from big_vision.evaluators import common

API = "jit"


@functools.cache  # One compilation for all evaluators of a predict function.
def get_eval_fn(predict_fn):
  """Compiled sums over one batch of size B.

  Args:
    predict_fn: `(train_state, batch) -> dict of name -> [B]`; the batch has
      `_mask`.

  Returns:
    `fn(train_state, batch) -> (dict of name -> sum, number of examples)`,
    float32 scalars over the examples with a true `_mask`.
  """

  @jax.jit
  def eval_fn(train_state, batch):
    metrics = predict_fn(train_state, batch)
    assert isinstance(metrics, Mapping), (
      f"predict_fn must return a dict, got {type(metrics)}."
    )
    mask = batch["_mask"]
    for name, value in metrics.items():
      if value.shape != mask.shape:
        raise ValueError(
          f"predict_fn must return one value per example: metric {name!r} has "
          f"shape {value.shape}, expected {mask.shape}."
        )
    mask = mask != 0
    # Not a product: padding may be NaN, and 0 * NaN is NaN.
    total = lambda x: jnp.where(mask, x.astype(jnp.float32), 0.0).sum()
    return {k: total(v) for k, v in metrics.items()}, total(mask)

  return eval_fn


class Evaluator:
  """Yields the mean over examples of each value of the predict function."""

  forwards = staticmethod(common.eval_input_pipeline)

  def __init__(self, predict_fn, **kw):
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch) -> dict of name -> [B]`.
      **kw: arguments of `common.eval_input_pipeline`.
    """
    self.eval_fn = get_eval_fn(predict_fn)
    self.get_data_iter, self.steps = common.eval_input_pipeline(**kw)

  def run(self, train_state):
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Yields:
      (name, float) in alphabetical order.
    """
    batches = zip(range(self.steps), self.get_data_iter(), strict=False)
    sums = [self.eval_fn(train_state, batch) for _, batch in batches]
    # Fetched only here, so that the devices never wait for the host.
    sums = jax.device_get(sums)
    seen = sum(float(n) for _, n in sums)
    for name in sorted(sums[0][0]):
      yield name, sum(float(metrics[name]) for metrics, _ in sums) / seen
