"""The loss of training, where it differs from the one that evaluators report.

`config.label_smoothing` and `config.class_weights` change the loss of training alone.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from absl import logging

from big_vision import class_weights, lookup
from big_vision.training.setup import Setup
from big_vision.types import Array, ConfigLike

_OF_NUMBERS = ("mse", "mae", "huber")


def check(config: ConfigLike) -> None:
  """Checks the keys without looking at data.

  Args:
    config: ConfigDict of a run.

  Raises:
    lookup.ConfigError: a value is wrong, or the loss does not take it.
  """
  name = config.get("loss") or "sigmoid_xent"
  amount = config.get("label_smoothing")
  if amount is not None:
    is_number = isinstance(amount, (int, float)) and not isinstance(
      amount, bool
    )
    if not is_number or not 0 <= amount < 1:
      raise lookup.ConfigError(
        f"config.label_smoothing = {amount!r} must be in [0, 1), for example 0.1."
      )
    if amount and name in _OF_NUMBERS:
      raise lookup.ConfigError(
        f"config.label_smoothing is for labels, but config.loss = {name!r} is of "
        "numbers."
      )
  class_weights.check(config.get("class_weights"))
  if config.get("class_weights") is not None:
    class_weights.check_loss(name)


def make(setup: Setup, loss: Callable[..., Any]) -> Callable[..., Array]:
  """Makes the loss of training.

  Args:
    setup: reads `label_smoothing`, `class_weights` and `loss` of its config.
    loss: the function `config.loss`.

  Returns:
    `fn(logits=[B, C], labels=[B, C]) -> []`, a mean over examples; `loss` itself if
    the config has neither key.

  Raises:
    lookup.ConfigError: see `check`; or the data does not tell its labels.
  """
  config = setup.config
  check(config)
  amount, given = config.get("label_smoothing"), config.get("class_weights")
  if not amount and given is None:
    return loss
  name = config.get("loss") or "sigmoid_xent"
  weighted = None
  if given is not None:
    weights = _weights(config, given, setup.num_classes)
    logging.info(
      "config.class_weights: %s", " ".join(f"{w:.3g}" for w in weights)
    )
    weighted = class_weights.weigh(loss, name, weights)

  def train_loss(*, logits, labels):
    smoothed = smooth(labels, amount or 0.0, name)
    if weighted is None:
      return loss(logits=logits, labels=smoothed)
    return weighted(logits=logits, labels=smoothed, weigh_by=labels)

  return train_loss


def smooth(labels: Array, amount: float, loss: str) -> Array:
  """Moves a part of the probability of labels to all classes alike.

  Args:
    labels: [..., C], probabilities.
    amount: the part, in [0, 1).
    loss: `config.loss`.

  Returns:
    [..., C], (1 - amount) * labels + amount / C. With a softmax an example without
    labels, which does not count, stays one.

  References:
    Szegedy et al. 2016, section 7, https://arxiv.org/abs/1512.00567
  """
  if not amount:
    return labels
  share = amount / labels.shape[-1]
  if loss == "sigmoid_xent":
    return (1 - amount) * labels + share
  return (1 - amount) * labels + share * jnp.sum(labels, -1, keepdims=True)


def _weights(config: ConfigLike, given: Any, num_classes: int) -> Any:
  """Computes the weights [C] of a config."""
  if isinstance(given, (list, tuple)):
    return class_weights.of_list(given, num_classes)
  from big_vision.pipeline import counts  # The TensorFlow wing.

  if config.input.get("balance_classes"):
    logging.warning(
      "config.class_weights and config.input.balance_classes both make up for small "
      "classes, which then count more than large ones."
    )
  found, num_examples = counts.of_classes(
    config.input, num_classes, "class_weights"
  )
  if hasattr(given, "keys"):
    return class_weights.effective(found, given["beta"])
  return class_weights.balanced(found, num_examples)
