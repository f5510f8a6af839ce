"""Fits linear classifiers by several methods, chooses settings on held-out data.

Shapes: N examples, D features, C classes.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision.probes import logistic, ridge, sgd
from big_vision.types import AnyArray, Devices

Classifier = tuple[np.ndarray, np.ndarray]  # Weights [D, C], biases [C].
# (examples [N, D], their labels [N]) of a layer.
Data = tuple[np.ndarray, np.ndarray]

_CHUNK = 8192  # Examples that are classified at a time.


@dataclasses.dataclass(frozen=True)
class Method:
  """Describes a way to fit a classifier.

  Attributes:
    setting: what its values are called.
    values: those that a sweep tries, the most regularized first.
    fit: `(x, y, num_classes, values, devices, **kw) -> classifier of each`.
  """

  setting: str
  values: tuple[float, ...]
  fit: Callable[..., list[Classifier]]


def _ridge(x, y, num_classes, values, devices, **kw):
  """Fits all penalties from one decomposition."""
  del devices, kw
  decomposition = ridge.decompose(x, y, num_classes)
  return [decomposition.solve(value) for value in values]


def _logistic(x, y, num_classes, values, devices, *, max_iter, **kw):
  del kw
  return logistic.fit(x, y, num_classes, values, devices, max_iter=max_iter)


def _sgd(x, y, num_classes, values, devices, *, steps, batch_size, seed, **kw):
  del kw
  steps = steps or sgd.num_steps(len(y), batch_size)
  kw = dict(steps=steps, batch_size=batch_size, seed=seed)
  return sgd.fit(x, y, num_classes, values, devices, **kw)


METHODS = {
  "ridge": Method("l2_reg", tuple(10.0**i for i in range(8, -5, -1)), _ridge),
  # As in DINOv2's logistic regression, in steps of 10.
  "lbfgs": Method("cost", tuple(10.0**i for i in range(-6, 6)), _logistic),
  # As in DINOv2's linear evaluation.
  "sgd": Method(
    "lr",
    (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1),
    _sgd,
  ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Result:
  """Holds what one method has found for one layer.

  Attributes:
    method: its name.
    layer: name of the layer.
    setting: name of what was swept.
    value: the chosen one.
    val: accuracy on the held-out examples.
    test: accuracy on the test examples.
  """

  method: str
  layer: str
  setting: str
  value: float
  val: float
  test: float


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
  """Chooses examples to hold out, at random, of each class about as many.

  Args:
    labels: [N] ints.
    fraction: of N, in (0, 1).
    seed: of the choice.

  Returns:
    [N] bool, True for at least one.
  """
  order = np.random.default_rng(seed).permutation(len(labels))
  order = order[np.argsort(labels[order], kind="stable")]
  steps = np.floor(np.arange(len(labels) + 1) * fraction + 0.5)
  chosen = np.zeros(len(labels), bool)
  chosen[order[np.diff(steps) > 0]] = True
  if not chosen.any():
    chosen[order[:1]] = True
  return chosen


def accuracy(classifier: Classifier, x: AnyArray, y: AnyArray) -> float:
  """Measures the fraction of examples whose largest output is the right class.

  Args:
    classifier: weights and biases.
    x: [N, D] features.
    y: [N] int labels.

  Returns:
    The fraction; NaN if the classifier is not finite.
  """
  weights, bias = classifier
  if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
    return float("nan")
  correct = 0
  for start in range(0, len(y), _CHUNK):
    rows = slice(start, start + _CHUNK)
    outputs = np.asarray(x[rows], weights.dtype) @ weights + bias
    correct += int(np.sum(outputs.argmax(axis=1) == y[rows]))
  return correct / len(y)


def sweep(
  method: str,
  layer: str,
  train: Data,
  val: Data,
  test: Data,
  num_classes: int,
  values: Sequence[float],
  devices: Devices,
  *,
  refit: bool = True,
  **kw: Any,
) -> Result:
  """Chooses the setting that is best on held-out examples, then measures it.

  Args:
    method: one of `METHODS`.
    layer: its name, for the result.
    train: features and labels to fit.
    val: those to choose on.
    test: those of the result.
    num_classes: C.
    values: settings to try; among equally good ones the first is chosen.
    devices: those to use.
    refit: whether to fit once more, also to `val`.
    **kw: further arguments of the method.

  Returns:
    The Result.
  """
  how = METHODS[method]
  fitted = how.fit(*train, num_classes, values, devices, **kw)
  scores = [accuracy(c, *val) for c in fitted]
  best = int(np.argmax(np.nan_to_num(scores, nan=-1.0)))
  chosen = fitted[best]
  if refit:
    both = [np.concatenate(pair) for pair in zip(train, val, strict=True)]
    chosen = how.fit(*both, num_classes, [values[best]], devices, **kw)[0]
  value, test_score = float(values[best]), accuracy(chosen, *test)
  return Result(method, layer, how.setting, value, scores[best], test_score)


def best(results: Sequence[Result]) -> Result:
  """Chooses the result that is best on held-out examples.

  Args:
    results: any.

  Returns:
    The first one of the best.
  """
  return max(results, key=lambda r: -1.0 if np.isnan(r.val) else r.val)


def metrics(results: Sequence[Result]) -> Iterator[tuple[str, float]]:
  """Names the numbers of a sweep.

  Args:
    results: of all methods and layers.

  Yields:
    `prec@1` and `val_prec@1` of the best, then `<method>/prec@1`,
    `<method>/val_prec@1` and `<method>/<setting>` of each method's best layer,
    and `<method>/<layer>/prec@1` if there are several.
  """
  by_method: Mapping[str, list[Result]] = {}
  for r in results:
    by_method.setdefault(r.method, []).append(r)
  overall = best(results)
  yield from (("prec@1", overall.test), ("val_prec@1", overall.val))
  for method, rows in by_method.items():
    r = best(rows)
    yield f"{method}/prec@1", r.test
    yield f"{method}/val_prec@1", r.val
    yield f"{method}/{r.setting}", r.value
    for row in rows if len(rows) > 1 else ():
      yield f"{method}/{row.layer}/prec@1", row.test
