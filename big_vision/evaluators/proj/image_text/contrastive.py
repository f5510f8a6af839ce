"""Softmax contrastive loss between the images and texts of each batch.

What it gives depends on the batch size, so that it is good for watching a run,
not for comparing models.

Shapes: B global batch size, E size of the embeddings, D devices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import losses
from big_vision.evaluators import common

API = "jit"


@functools.cache  # One compilation for all evaluators of a predict function.
def get_eval_fn(predict_fn, num_parts):
  """Compiled sums over one batch.

  Args:
    predict_fn: `(train_state, batch) -> (zimg [B, E], ztxt [B, E], extras)`.
    num_parts: int, into how many parts the batch is divided; examples are only
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


class Evaluator:
  """Yields `ncorrect_minibatch`, the accuracy within batches, and `loss`."""

  def __init__(
    self,
    predict_fn,
    data,
    pp_fn,
    batch_size,
    use_global_batch,
    cache_final=True,
    cache_raw=False,
    prefetch=1,
    label_key="labels",
    *,
    devices,
  ):
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch) -> (zimg [B, E], ztxt [B, E], extras)`;
        `extras["t"]` is the inverse temperature; the batch has the tokens as
        `labels`, and all else of the data but the mask.
      data: arguments of `datasets.core.get`.
      pp_fn: str, preprocessing.
      batch_size: int, global batch size.
      use_global_batch: bool, whether examples are compared with the whole batch,
        or only with those on the same device.
      cache_final: bool, whether to keep preprocessed batches in memory.
      cache_raw: bool, whether to keep raw examples in memory, if the batches are
        not.
      prefetch: int, number of batches to put on the devices ahead.
      label_key: str, feature with the tokens.
      devices: flat array of devices in the order of the mesh.
    """
    num_parts = 1 if use_global_batch else len(devices)
    self.eval_fn = get_eval_fn(predict_fn, num_parts)
    self.label_key = label_key
    self.get_data_iter, self.steps = common.eval_input_pipeline(
      data,
      pp_fn,
      batch_size,
      devices,
      prefetch=prefetch,
      cache_final=cache_final,
      cache_raw=cache_raw,
    )

  def run(self, train_state):
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Yields:
      ("ncorrect_minibatch", float) and ("loss", float), means over examples.
    """
    sums = []
    for _, batch in zip(range(self.steps), self.get_data_iter(), strict=False):
      batch = dict(batch)
      if self.label_key not in batch:
        raise ValueError(
          f"label_key={self.label_key!r} is not in the batch, which has "
          f"{', '.join(sorted(batch))}: does pp_fn keep it?"
        )
      mask = batch.pop("_mask")
      batch["labels"] = batch.pop(self.label_key)
      sums.append(self.eval_fn(train_state, batch, mask))
    # Fetched only here, so that the devices never wait for the host.
    sums = np.asarray(jax.device_get(sums), np.float64)  # [steps, 3]
    correct, loss, seen = sums.sum(axis=0)
    with np.errstate(invalid="ignore"):
      yield "ncorrect_minibatch", float(correct / seen)
      yield "loss", float(loss / seen)
