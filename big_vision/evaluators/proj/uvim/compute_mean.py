"""Averages over a dataset whatever per-example values a function returns.

This is the evaluator `mean` under the name that configs of UViM have, with the
batches kept in memory.
"""

from typing import Any

from big_vision.evaluators import mean
from big_vision.types import PredictFn

API = "jit"

trial = mean.trial


class Evaluator(mean.Evaluator):
  """Yields the mean over examples of each value of the predict function."""

  def __init__(
    self,
    predict_fn: PredictFn,
    data: dict[str, Any],
    pp_fn: str,
    batch_size: int,
    cache_final: bool = True,
    cache_raw: bool = False,
    prefetch: int = 1,
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch) -> dict of name -> [B]`.
      data: arguments of `datasets.core.get`.
      pp_fn: preprocessing string.
      batch_size: global batch size.
      cache_final: keep preprocessed batches in memory.
      cache_raw: keep examples before preprocessing in memory.
      prefetch: number of batches to put on the devices ahead.
      **kw: further arguments of `evaluation.eval_input_pipeline`.
    """
    super().__init__(
      predict_fn,
      data=data,
      pp_fn=pp_fn,
      batch_size=batch_size,
      cache_final=cache_final,
      cache_raw=cache_raw,
      prefetch=prefetch,
      **kw,
    )
