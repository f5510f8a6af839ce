"""Weights of classes in the loss, so that rare ones count as much as frequent ones.

Shapes: `B` batch, `C` classes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from big_vision import lookup
from big_vision.types import Array

_KEY = "config.class_weights"
_EXAMPLES = (
  "'balanced', dict(beta=0.999), or a list of config.num_classes numbers"
)
_LOSSES = ("softmax_xent", "sigmoid_xent")


def check(value: Any) -> None:
  """Checks `config.class_weights`, as far as it goes without the data.

  Args:
    value: "balanced", a mapping with `beta`, a list of numbers, or None.

  Raises:
    lookup.ConfigError: it is something else.
  """
  if value is None or (isinstance(value, str) and value == "balanced"):
    return
  if hasattr(value, "keys"):
    beta = value.get("beta")
    is_number = isinstance(beta, (int, float)) and not isinstance(beta, bool)
    if list(value) != ["beta"] or not is_number or not 0 <= beta < 1:
      raise lookup.ConfigError(
        f"{_KEY} = {dict(value)} must have one key, beta, in [0, 1), for example "
        "dict(beta=0.999)."
      )
    return
  if isinstance(value, (list, tuple)):
    array = np.asarray(value)
    numeric = array.ndim == 1 and array.dtype.kind in "if"
    if not numeric or not np.isfinite(array).all() or (array < 0).any():
      raise lookup.ConfigError(
        f"{_KEY} = {value!r} must be numbers from 0 on, one per class."
      )
    if not (array > 0).any():
      raise lookup.ConfigError(f"{_KEY}: all weights are 0.")
    return
  raise lookup.ConfigError(f"{_KEY} = {value!r} must be {_EXAMPLES}.")


def check_loss(name: str) -> None:
  """Refuses losses that classes have no weight in.

  Args:
    name: `config.loss`.

  Raises:
    lookup.ConfigError: it is another one.
  """
  if name not in _LOSSES:
    raise lookup.ConfigError(
      f"{_KEY} is for config.loss = 'softmax_xent' or 'sigmoid_xent', not {name!r}."
    )


def of_list(values: Sequence[float], num_classes: int) -> np.ndarray:
  """Takes weights as the config gives them.

  Args:
    values: the numbers.
    num_classes: C.

  Returns:
    float32 [C].

  Raises:
    lookup.ConfigError: there are more or fewer than classes.
  """
  if len(values) != num_classes:
    raise lookup.ConfigError(
      f"{_KEY} has {len(values)} numbers, but config.num_classes = {num_classes}."
    )
  return np.asarray(values, np.float32)


def balanced(counts: np.ndarray, num_examples: int) -> np.ndarray:
  """Computes weights inverse to the size of classes.

  Args:
    counts: [C], examples of each class.
    num_examples: of all classes.

  Returns:
    float32 [C], num_examples / (K * count) for the K classes with examples, as
    scikit-learn's `compute_class_weight("balanced")`; 1 for classes without.
  """
  counts = np.asarray(counts, np.float64)
  there = counts > 0
  weights = num_examples / (max(there.sum(), 1) * np.maximum(counts, 1))
  return np.where(there, weights, 1).astype(np.float32)


def effective(counts: np.ndarray, beta: float) -> np.ndarray:
  """Computes weights inverse to the effective number of examples.

  Args:
    counts: [C], examples of each class.
    beta: in [0, 1); 0 weighs all alike, near 1 it is the inverse size.

  Returns:
    float32 [C], proportional to (1 - beta) / (1 - beta^count), with mean 1 over the
    classes with examples; 1 for classes without.

  References:
    Cui et al. 2019, https://arxiv.org/abs/1901.05555
  """
  counts = np.asarray(counts, np.float64)
  there = counts > 0
  if not there.any():
    return np.ones(counts.shape, np.float32)
  # 1 - beta^n without losing the digits of beta near 1.
  number = -np.expm1(np.maximum(counts, 1) * np.log(beta)) if beta else 1.0
  weights = (1 - beta) / (number * np.ones_like(counts))
  return np.where(there, weights / weights[there].mean(), 1).astype(np.float32)


def weigh(
  loss: Callable[..., Any], name: str, weights: np.ndarray
) -> Callable[..., Array]:
  """Makes the weighted loss; it stays a mean over the batch.

  The term of each class has its weight w: sum_c w_c y_c (-log p_c) with softmax. With
  sigmoid all terms of an example have the mean weight of its labels, sum_c w_c y_c /
  sum_c y_c, as in the paper of `effective`; 1 without labels.

  Args:
    loss: the function of `name`.
    name: "softmax_xent" or "sigmoid_xent".
    weights: [C].

  Returns:
    `fn(logits=[..., C], labels=[..., C], weigh_by=None) -> []`; weights of examples
    follow from `weigh_by`, labels before they were smoothed, if it is given.
  """

  def weighted(*, logits, labels, weigh_by=None):
    w = jnp.asarray(weights).reshape(*[1] * (labels.ndim - 1), -1)
    if name == "softmax_xent":  # It is linear in the labels.
      return loss(logits=logits, labels=w * labels)
    own = labels if weigh_by is None else weigh_by
    total = jnp.sum(own, axis=-1)
    mean = jnp.sum(w * own, axis=-1) / jnp.where(total > 0, total, 1)
    per_example = loss(logits=logits, labels=labels, reduction=False)
    return jnp.mean(jnp.where(total > 0, mean, 1) * per_example)

  return weighted
