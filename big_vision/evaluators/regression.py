"""Measures errors of predicted numbers, in the units of the data.

Shapes: N examples, T targets.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from big_vision.evaluators import iteration, outputs
from big_vision.pipeline import evaluation
from big_vision.pp import targets
from big_vision.types import PredictFn, TrainState

API = "jit"


trial = functools.partial(outputs.trial, loss_name="mse")


class Evaluator:
  """Yields `mae`, `rmse`, `r2`, of several targets each, too, and the mean `loss`.

  Errors have the units of the data if the op `standardize` of `pp_fn` has made
  the labels; the loss is what training minimizes.
  """

  forwards = staticmethod(evaluation.eval_input_pipeline)

  def __init__(
    self,
    predict_fn: PredictFn,
    loss_name: str = "mse",
    label_key: str = "labels",
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch) -> (predictions [B, T], ...)`; the batch is
        without labels and mask.
      loss_name: of `big_vision.losses`.
      label_key: feature with the targets [B, T].
      **kw: arguments of `evaluation.eval_input_pipeline`.
    """
    self.batches = iteration.open_batches(**kw)
    self.steps = self.batches.steps
    mesh = Mesh(np.asarray(self.batches.devices), ("devices",))
    self.eval_fn = outputs.get_rows_fn(predict_fn, loss_name, mesh)
    self.label_key, self._data = label_key, kw.get("data")
    self._units = targets.units(kw.get("pp_fn") or "", label_key)

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Yields:
      ("mae", float), ("rmse", float), ("r2", float): means over targets; the same
      for each target, "<name>/mae" and so on, if there are several; ("loss",
      float). R^2 of a target that is constant is NaN.
    """
    predicted, given, loss = outputs.gather(
      self.eval_fn, train_state, self.batches, self.label_key
    )
    measured = errors(predicted.astype(np.float64), given.astype(np.float64))
    if self._units is not None:
      scale = self._units[1]
      measured["mae"] *= scale
      measured["rmse"] *= scale
    for name, values in measured.items():
      yield name, float(values.mean())
    num = given.shape[1]
    if num > 1:
      for i, target in enumerate(targets.names(self._data, num)):
        for name, values in measured.items():
          yield f"{target}/{name}", float(values[i])
    yield "loss", loss


def errors(predicted: np.ndarray, given: np.ndarray) -> dict[str, np.ndarray]:
  """Computes errors of each target.

  Args:
    predicted: float64 [N, T].
    given: the same, what is right.

  Returns:
    Dict of float64 [T]: `mae`, `rmse`, and `r2`, the share of the variance that is
    predicted: 1 - (sum of squared errors) / (that of the mean as prediction).
  """
  difference = predicted - given
  around = np.square(given - given.mean(axis=0)).sum(axis=0)
  with np.errstate(invalid="ignore", divide="ignore"):
    share = np.square(difference).sum(axis=0) / around
  return {
    "mae": np.abs(difference).mean(axis=0),
    "rmse": np.sqrt(np.square(difference).mean(axis=0)),
    "r2": np.where(around > 0, 1 - share, np.nan),
  }
