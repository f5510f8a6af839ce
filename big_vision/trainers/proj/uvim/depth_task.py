"""Depth: a distance for each pixel, as one of a number of equal intervals.

`labels` [B, H, W, 1] are meters. Shapes as in `common`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from big_vision.trainers.proj.uvim import common
from big_vision.trainers.proj.uvim.common import ONE_HOT_AXIS
from big_vision.types import Array, ConfigLike

LABELS = (1, jnp.float32)


def _num_bins(config):
  return config.model.inputs.depth[ONE_HOT_AXIS]


def _bins(batch: Mapping[str, Array], config: ConfigLike) -> Array:
  """Finds the interval of each pixel, int32 [B, N, P]."""
  depth = common.patchify(batch["labels"][..., 0], config)
  low, high, num = config.min_depth, config.max_depth, _num_bins(config)
  bins = jnp.floor((depth - low) / (high - low) * num)
  return jnp.clip(bins, 0, num - 1).astype(jnp.int32)


def _one_hot(bins, config):
  return jax.nn.one_hot(bins, _num_bins(config), axis=ONE_HOT_AXIS)


def input_pp(batch: Mapping[str, Array], config: ConfigLike) -> dict[str, Any]:
  """Makes the arguments of stage I, see `common`."""
  x = None
  if "labels" in batch:
    x = {"depth": _one_hot(_bins(batch, config), config)}
  return {"ctx": common.context(batch), "x": x}


def loss_fn(
  logits: Mapping[str, Array], batch: Mapping[str, Array], config: ConfigLike
) -> tuple[Array, dict[str, Array]]:
  """Computes the cross-entropy of intervals, [B, N, P].

  It is 0 in the first interval, where sensors that saw nothing report 0.
  """
  bins = _bins(batch, config)
  loss = optax.softmax_cross_entropy(
    logits["depth"], _one_hot(bins, config), axis=ONE_HOT_AXIS
  )
  loss = loss * (bins != 0)
  return loss, {"loss_depth": loss}


def predict_outputs(
  logits: Mapping[str, Array], config: ConfigLike
) -> dict[str, Array]:
  """Predicts depth: the middle of the most probable interval.

  Args:
    logits: `depth` [B, N, C, P].
    config: reads `model`, `min_depth`, `max_depth`.

  Returns:
    `depth` [B, H, W], meters.
  """
  bins = jnp.argmax(common.unpatchify(logits["depth"], config), axis=-1)
  low, high = config.min_depth, config.max_depth
  num = logits["depth"].shape[ONE_HOT_AXIS]
  return {"depth": (bins + 0.5) / num * (high - low) + low}
