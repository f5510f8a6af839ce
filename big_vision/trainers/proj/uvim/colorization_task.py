"""Colorization: the colors of a gray image.

`labels` [B, H, W, 3] are the colors in [-1, 1]. Shapes as in `common`.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from big_vision.trainers.proj.uvim import common
from big_vision.types import Array, ConfigLike

LABELS = (3, jnp.float32)


def input_pp(batch: Mapping[str, Array], config: ConfigLike) -> dict[str, Any]:
  """Makes the arguments of stage I, see `common`."""
  x = None
  if "labels" in batch:
    x = {"color": common.patchify(batch["labels"], config)}
  return {"ctx": common.context(batch), "x": x}


def loss_fn(
  logits: Mapping[str, Array], batch: Mapping[str, Array], config: ConfigLike
) -> tuple[Array, dict[str, Array]]:
  """Computes squared differences, [B, N, 3, P]."""
  labels = common.patchify(batch["labels"], config)
  loss = jnp.square(logits["color"] - labels)
  return loss, {"loss_color": loss}


def predict_outputs(
  logits: Mapping[str, Array], config: ConfigLike
) -> dict[str, Array]:
  """Puts predicted colors together.

  Args:
    logits: `color` [B, N, 3, P].
    config: reads `model`.

  Returns:
    `color` [B, H, W, 3] in [-1, 1].
  """
  return {
    "color": jnp.clip(common.unpatchify(logits["color"], config), -1.0, 1.0)
  }
