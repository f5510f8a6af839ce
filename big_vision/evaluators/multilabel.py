"""Measures how well classes are told that images may have any number of.

Shapes: N examples, C classes.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from big_vision.evaluators import files, iteration, outputs
from big_vision.pipeline import evaluation
from big_vision.types import PredictFn, TrainState

API = "jit"
_COLUMNS = (
  "class",
  "average precision",
  "auroc",
  "f1",
  "precision",
  "recall",
  "positives",
  "predicted",
)


trial = functools.partial(outputs.trial, loss_name="sigmoid_xent")


class Evaluator:
  """Yields `mAP`, `f1_micro`, `f1_macro`, `auroc` and the mean `loss`.

  All examples count, also those without any label.
  """

  forwards = staticmethod(evaluation.eval_input_pipeline)
  # Labels mean the same as in training, see `training.label_check`.
  classes_of_training = True

  def __init__(
    self,
    predict_fn: PredictFn,
    loss_name: str = "sigmoid_xent",
    label_key: str = "labels",
    threshold: float = 0.5,
    per_class: str | None = None,
    *,
    workdir: str | None = None,
    get_step: Callable[[], int | None] | None = None,
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch) -> (logits [B, C], ...)`; the batch is
        without labels and mask.
      loss_name: of `big_vision.losses`.
      label_key: feature with the multi-hot labels [B, C].
      threshold: a class is predicted if the sigmoid of its logit is at least that.
      per_class: format string of the path of a CSV file, with any of {workdir} and
        {step}, that each `run` writes: a row per class. None writes nothing.
      workdir: output folder of the run; None means the flag.
      get_step: returns the step of the run; None means that of the clock.
      **kw: arguments of `evaluation.eval_input_pipeline`.

    Raises:
      ValueError: the threshold is outside of (0, 1).
    """
    if not 0 < threshold < 1:
      raise ValueError(
        f"threshold={threshold} should be a probability, such as 0.5."
      )
    self.batches = iteration.open_batches(**kw)
    self.steps = self.batches.steps
    mesh = Mesh(np.asarray(self.batches.devices), ("devices",))
    self.eval_fn = outputs.get_rows_fn(predict_fn, loss_name, mesh)
    self.label_key, self._logit = label_key, np.log(threshold / (1 - threshold))
    self._per_class, self._data = per_class, kw.get("data")
    self._workdir, self._get_step = workdir, get_step

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Yields:
      ("mAP", float), ("f1_micro", float), ("f1_macro", float), ("auroc", float),
      ("loss", float). A class without positives has neither an average precision
      nor an AUROC and is left out of their means; its F1 is 0.
    """
    logits, labels, loss = outputs.gather(
      self.eval_fn, train_state, self.batches, self.label_key
    )
    positive, predicted = labels > 0.5, logits >= self._logit
    precisions = average_precision(logits, positive)
    areas = auroc(logits, positive)
    hits = (positive & predicted).sum(axis=0)
    marked = positive.sum(axis=0), predicted.sum(axis=0)
    f1 = _ratio(2 * hits, sum(marked), 0.0)
    if self._per_class and jax.process_index() == 0:
      table = (
        precisions,
        areas,
        f1,
        _ratio(hits, marked[1]),
        _ratio(hits, marked[0]),
      )
      self._write(np.stack([*table, *marked], axis=1))
    yield "mAP", _mean(precisions)
    yield (
      "f1_micro",
      float(_ratio(2 * hits.sum(), sum(m.sum() for m in marked))),
    )
    yield "f1_macro", float(f1.mean())
    yield "auroc", _mean(areas)
    yield "loss", loss

  def _write(self, rows: np.ndarray) -> None:
    """Writes the table of classes."""
    step = self._get_step() if self._get_step else None
    path = files.resolve_outfile(
      self._per_class, workdir=self._workdir, step=step
    )
    if path is None:
      logging.info("No %s without a workdir.", self._per_class)
      return
    names = files.class_names(self._data, len(rows))
    files.write_csv(path, _COLUMNS, table(names, rows))


def table(names: Sequence[str], rows: np.ndarray) -> list[list[str]]:
  """Formats numbers of classes.

  Args:
    names: C str.
    rows: [C, numbers].

  Returns:
    C lists of str: the name and the numbers, "" for NaN.
  """
  show = lambda x: "" if np.isnan(x) else f"{x:.6g}"
  return [
    [name, *map(show, row)] for name, row in zip(names, rows, strict=True)
  ]


def average_precision(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
  """Computes the average precision of each class.

  It is the sum over thresholds of (increase of recall) * precision. Examples of
  equal score come in together.

  Args:
    scores: [N, C].
    positive: bool [N, C].

  Returns:
    float64 [C], NaN for classes without positives.
  """
  out = np.full([scores.shape[1]], np.nan)
  for c in np.flatnonzero(positive.any(axis=0)):
    hits, marked = _counts(scores[:, c], positive[:, c])
    gains = np.diff(hits, prepend=0) / hits[-1]
    out[c] = np.sum(gains * hits / marked)
  return out


def auroc(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
  """Computes the area under the ROC curve of each class.

  Args:
    scores: [N, C].
    positive: bool [N, C].

  Returns:
    float64 [C]: the probability that a positive example has a higher score than a
    negative one, ties count half. NaN for classes that lack either.
  """
  out = np.full([scores.shape[1]], np.nan)
  for c in np.flatnonzero(positive.any(axis=0) & ~positive.all(axis=0)):
    hits, marked = _counts(scores[:, c], positive[:, c])
    misses = marked - hits
    rise = (hits + np.concatenate([[0], hits[:-1]])) / 2
    area = np.sum(np.diff(misses, prepend=0) * rise)
    out[c] = area / (hits[-1] * misses[-1])
  return out


def _counts(scores, positive):
  """Counts (positives, examples) at each threshold, from high to low."""
  order = np.argsort(-scores, kind="stable")
  last = np.append(np.diff(scores[order]) != 0, True)  # Of equal scores.
  hits = np.cumsum(positive[order])[last].astype(np.float64)
  return hits, np.flatnonzero(last) + 1.0


def _ratio(a, b, otherwise=np.nan):
  """Divides; `otherwise` where the divisor is 0."""
  b = np.asarray(b, np.float64)
  return np.where(b > 0, a / np.where(b > 0, b, 1), otherwise)


def _mean(values):
  """Averages what is a number."""
  known = values[~np.isnan(values)]
  return float(known.mean()) if known.size else float("nan")
