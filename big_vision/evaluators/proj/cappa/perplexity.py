"""Measures how well a captioner predicts captions."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from big_vision import losses
from big_vision.evaluators import mean
from big_vision.models.proj.cappa import cappa
from big_vision.types import Array, Batch, PredictFn, TrainState

API = "jit"


@functools.cache  # One compilation for all evaluators of a predict function.
def perplexity(
  predict_fn: PredictFn, normalize_by_seqlen: bool = False, pad_token: int = 0
) -> Callable[[TrainState, Batch], dict[str, Array]]:
  """Makes a function for `mean`.

  Args:
    predict_fn: `(train_state, batch) -> (logits [B, L, V], ...)`.
    normalize_by_seqlen: whether to divide by the number of tokens.
    pad_token: the token that does not count, nor do those whose `label_masks`
      is 0.

  Returns:
    `(train_state, batch) -> {"perplexity": [B]}`: the negative log-probability of
    captions, not its exponential.
  """

  def fn(train_state, batch):
    logits, *_ = predict_fn(train_state, batch)
    loss = losses.weighted_softmax_xent(
      logits=logits,
      labels=batch["labels"],
      weights=cappa.token_weights(batch, pad_token),
      reduction=False,
      normalize=normalize_by_seqlen,
    )
    return {"perplexity": loss}

  return fn


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  fn = perplexity(predict_fn, cfg.get("normalize_by_seqlen", False))
  return mean.trial(fn, train_state, batch, cfg)


class Evaluator(mean.Evaluator):
  """Yields `perplexity`, the mean over captions of `-log p(caption | image)`."""

  classes_of_training = False

  def __init__(
    self, predict_fn: PredictFn, normalize_by_seqlen: bool = False, **kw: Any
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch) -> (logits [B, L, V], ...)`, for batches
        with `labels` [B, L].
      normalize_by_seqlen: whether to divide by the number of tokens.
      **kw: arguments of `evaluation.eval_input_pipeline`.
    """
    super().__init__(perplexity(predict_fn, normalize_by_seqlen), **kw)
