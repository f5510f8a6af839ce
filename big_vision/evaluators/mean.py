"""Averages over a dataset whatever per-example values a function returns."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.evaluators import iteration
from big_vision.pipeline import evaluation
from big_vision.types import Array, Batch, PredictFn, TrainState

API = "jit"


@functools.cache  # One compilation for all evaluators of a predict function.
def get_eval_fn(
  predict_fn: PredictFn,
) -> Callable[[TrainState, Batch], tuple[dict[str, Array], Array]]:
  """Compiles sums over one batch of size B.

  Args:
    predict_fn: `(train_state, batch) -> dict of name -> [B]`; the batch has
      `_mask`.

  Returns:
    `fn(train_state, batch) -> (dict of name -> sum, number of examples)`,
    float32 scalars over the examples with a true `_mask`. It raises an error
    if the predict function does not return a dict of arrays [B].
  """

  @jax.jit
  def eval_fn(train_state, batch):
    metrics = predict_fn(train_state, batch)
    if not isinstance(metrics, Mapping):
      raise lookup.ConfigError(
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


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  del cfg
  return get_eval_fn(predict_fn)(train_state, batch)


class Evaluator:
  """Yields the mean over examples of each value of the predict function."""

  forwards = staticmethod(evaluation.eval_input_pipeline)
  # Labels, if any, mean the same as in training, see `training.label_check`.
  classes_of_training = True

  def __init__(self, predict_fn: PredictFn, **kw: Any) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch) -> dict of name -> [B]`.
      **kw: arguments of `evaluation.eval_input_pipeline`.
    """
    self.eval_fn = get_eval_fn(predict_fn)
    self.batches = iteration.open_batches(**kw)
    self.steps = self.batches.steps
    self._data = kw.get("data")

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Yields:
      (name, float) in alphabetical order.
    """
    metrics, num_examples, unlabeled = iteration.totals(
      (*self.eval_fn(train_state, batch), self._count_unlabeled(batch))
      for batch in self.batches
    )
    what = "they count as what the predict function returns for them"
    iteration.warn_once(self, unlabeled, self._data, what)
    for name in sorted(metrics):
      yield name, float(metrics[name]) / float(num_examples)

  def _count_unlabeled(self, batch: Batch) -> Array | int:
    """Counts examples without label, if they could have one each."""
    for name in self.batches.one_label & batch.keys():
      return iteration.count_unlabeled(batch[name], batch["_mask"])
    return 0
