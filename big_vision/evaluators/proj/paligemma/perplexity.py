"""Measures how well a model predicts texts, token by token."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from big_vision import losses
from big_vision.evaluators import iteration, mean
from big_vision.lookup import ConfigError
from big_vision.types import Array, Batch, PredictFn, TrainState

API = "jit"


@functools.cache  # One compilation for all evaluators of a predict function.
def perplexity(
  predict_fn: PredictFn,
  key: str = "labels",
  shift_labels: bool = True,
  pad_token: int | None = None,
) -> Callable[[TrainState, Batch], dict[str, Array]]:
  """Makes a function for `mean`.

  Args:
    predict_fn: `(train_state, batch) -> (logits [B, L, V], ...)`; [B, L - 1, V]
      with `shift_labels`.
    key: feature with the tokens, int [B, L]. Those whose `mask_loss` is 0, if
      there is such a feature, do not count.
    shift_labels: whether logits are those of all tokens but the first.
    pad_token: a token that does not count; None for none.

  Returns:
    `(train_state, batch) -> {"avg": [B], "sum": [B]}`: the negative
    log-probability per token and of the whole text, not their exponentials.
  """

  def fn(train_state, batch):
    logits, *_ = predict_fn(train_state, batch)
    labels = iteration.take(dict(batch), key, "key")
    weights = jnp.asarray(
      batch.get("mask_loss", jnp.ones_like(labels)), jnp.float32
    )
    if pad_token is not None:
      weights *= labels != pad_token
    if shift_labels:
      labels, weights = labels[:, 1:], weights[:, 1:]
    if logits.shape[1] != labels.shape[1]:
      raise ConfigError(
        f"The predict function returns logits {logits.shape} for {key!r}, of "
        f"which shift_labels={shift_labels} leaves {labels.shape[1]} tokens. "
        "shift_labels=True is for logits of text[:, :-1]."
      )
    total = losses.weighted_softmax_xent(
      logits=logits,
      labels=labels,
      weights=weights,
      reduction=False,
      normalize=False,
    )
    # As `losses.weighted_softmax_xent` guards against texts without tokens.
    return {"sum": total, "avg": total / jnp.maximum(weights.sum(1), 2e-38)}

  return fn


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  fn = perplexity(
    predict_fn,
    cfg.get("key", "labels"),
    cfg.get("shift_labels", False),
    cfg.get("pad_token"),
  )
  return mean.trial(fn, train_state, batch, cfg)


class Evaluator(mean.Evaluator):
  """Yields `avg` and `sum`, the mean `-log p` of a token and of a text."""

  classes_of_training = False

  def __init__(
    self,
    predict_fn: PredictFn,
    *,
    key: str = "labels",
    shift_labels: bool = False,
    pad_token: int | None = None,
    prefetch: int = 0,
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: see `perplexity`.
      key: feature with the tokens, int [B, L]; weighted by `mask_loss` [B, L]
        if the batch has it.
      shift_labels: whether logits are those of all tokens but the first, as
        `pred="logits"` returns them.
      pad_token: a token that does not count; None for none.
      prefetch: number of batches to put on the devices ahead.
      **kw: further arguments of `evaluation.eval_input_pipeline`.
    """
    fn = perplexity(predict_fn, key, shift_labels, pad_token)
    super().__init__(fn, prefetch=prefetch, **kw)
