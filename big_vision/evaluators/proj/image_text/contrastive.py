"""Measures the softmax contrastive loss within each batch.

The loss depends on the batch size, so that it is good for watching a run,
not for comparing models.

Shapes: B global batch size, E size of the embeddings, D devices.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import losses
from big_vision.evaluators import iteration
from big_vision.types import Array, Batch, Devices, PredictFn, TrainState

API = "jit"


@functools.cache  # One compilation for all evaluators of a predict function.
def get_eval_fn(
  predict_fn: PredictFn, num_parts: int
) -> Callable[[TrainState, Batch, Array], list[Array]]:
  """Compiles sums over one batch.

  Args:
    predict_fn: `(train_state, batch) -> (zimg [B, E], ztxt [B, E], extras)`.
    num_parts: into how many parts the batch is divided; examples are only
      compared with those of their part.

  Returns:
    `fn(train_state, batch, mask [B]) -> (number of images whose own text is the
    most similar one, sum of losses, number of examples)`, float32 scalars.
  """

  @jax.jit
  def eval_fn(train_state, batch, mask):
    zimg, ztxt, extras = predict_fn(train_state, batch)
    if "t" not in extras:
      raise ValueError(
        "The predict function should return (zimg, ztxt, extras) with the "
        f"inverse temperature extras['t'], which has {', '.join(extras)}."
      )

    # A bias, extras["b"], would change nothing: it is the same for all pairs.
    def loss_fn(zimg, ztxt, mask):
      loss, extra = losses.bidirectional_contrastive_loss(
        zimg, ztxt, jnp.asarray(extras["t"], jnp.float32), mask
      )
      return extra["ncorrect"].sum(), loss.sum(), mask.sum()

    split = lambda x: x.reshape(num_parts, -1, *x.shape[1:])
    parts = [split(x.astype(jnp.float32)) for x in (zimg, ztxt, mask)]
    sums = jax.vmap(loss_fn)(*parts)
    return [x.sum().astype(jnp.float32) for x in sums]

  return eval_fn


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  mask = batch.pop("_mask")
  batch["labels"] = iteration.take(batch, cfg.get("label_key", "labels"))
  num_parts = 1 if cfg["use_global_batch"] else len(cfg["devices"])
  return get_eval_fn(predict_fn, num_parts)(train_state, batch, mask)


class Evaluator:
  """Yields `ncorrect_minibatch`, the accuracy within batches, and `loss`."""

  def __init__(
    self,
    predict_fn: PredictFn,
    data: dict[str, Any],
    pp_fn: str,
    batch_size: int,
    use_global_batch: bool,
    cache_final: bool = True,
    cache_raw: bool = False,
    prefetch: int = 1,
    label_key: str = "labels",
    *,
    devices: Devices,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch) -> (zimg [B, E], ztxt [B, E], extras)`;
        `extras["t"]` is the inverse temperature; the batch has the tokens as
        `labels`, and all else of the data but the mask.
      data: arguments of `datasets.core.get`.
      pp_fn: preprocessing string.
      batch_size: global batch size.
      use_global_batch: whether examples are compared with the whole batch,
        or only with those on the same device.
      cache_final: whether to keep preprocessed batches in memory.
      cache_raw: whether to keep raw examples in memory, if the batches are
        not.
      prefetch: number of batches to put on the devices ahead.
      label_key: feature with the tokens.
      devices: flat array of devices in the order of the mesh.
    """
    num_parts = 1 if use_global_batch else len(devices)
    self.eval_fn = get_eval_fn(predict_fn, num_parts)
    self.label_key = label_key
    self.batches = iteration.open_batches(
      data,
      pp_fn,
      batch_size,
      devices,
      prefetch=prefetch,
      cache_final=cache_final,
      cache_raw=cache_raw,
    )
    self.steps = self.batches.steps

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Yields:
      ("ncorrect_minibatch", float) and ("loss", float), means over examples.
    """
    correct, loss, num_examples = iteration.totals(
      self._sums(train_state, batch) for batch in self.batches
    )
    with np.errstate(invalid="ignore"):
      yield "ncorrect_minibatch", float(correct / num_examples)
      yield "loss", float(loss / num_examples)

  def _sums(self, train_state: TrainState, batch: Batch) -> list[Array]:
    mask = batch.pop("_mask")
    batch["labels"] = iteration.take(batch, self.label_key)
    return self.eval_fn(train_state, batch, mask)
