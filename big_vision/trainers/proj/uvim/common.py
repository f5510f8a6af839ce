"""Shares what the tasks of UViM have in common: patches of labels.

`models/proj/uvim/guiding_codes.py` says what a task is.

Shapes: `B` batch, `H, W` pixels, `N` patches, `P` pixels of a patch, `C` classes.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import lookup
from big_vision.models.proj.uvim.guiding_codes import Task as Task
from big_vision.models.proj.uvim.guiding_codes import get_task as get_task
from big_vision.types import Array, ConfigLike

# Of the classes in labels and logits of patches, [B, N, C, P].
ONE_HOT_AXIS = -2


def batch_shapes(
  config: ConfigLike, num: int, image_size: tuple[int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a training batch, to plan runs without data.

  Args:
    config: ConfigDict of stage I or II.
    num: number of examples.
    image_size: (height, width), pixels.

  Returns:
    Dict of `image`, `labels` and, in stage II, `image_ctx`.

  Raises:
    ValueError: there is no such task, or it does not say what labels are.
  """
  key = "oracle.task" if "oracle" in config else "task"
  module = lookup.module(
    "trainers",
    (config.get("oracle") or config).get("task"),
    kind="task",
    key=key,
    needs="LABELS",
  )
  shape = lambda n, dtype: jax.ShapeDtypeStruct((num, *image_size, n), dtype)
  shapes = {"image": shape(3, np.float32), "labels": shape(*module.LABELS)}
  if "oracle" in config:
    shapes["image_ctx"] = shapes["image"]
  return shapes


def patchify(x: Array, config: ConfigLike) -> Array:
  """Cuts arrays of pixels into patches.

  Args:
    x: [B, H, W] or [B, H, W, C].
    config: reads `model.patch_size`.

  Returns:
    [B, N, P] or [B, N, C, P].
  """
  p, q = config.model.patch_size
  num, h, w, *channels = x.shape
  if h % p or w % q:
    raise lookup.ConfigError(
      f"labels of shape {list(x.shape)} are not divisible by "
      f"config.model.patch_size={(p, q)}."
    )
  x = x.reshape(num, h // p, p, w // q, q, *channels)
  x = jnp.moveaxis(x, (2, 4), (-2, -1))  # [B, h, w, C, p, q]
  return x.reshape(num, (h // p) * (w // q), *channels, p * q)


def unpatchify(x: Array, config: ConfigLike) -> Array:
  """Puts patches together.

  Args:
    x: [B, N, C, P].
    config: reads `model.input_size` and `model.patch_size`.

  Returns:
    [B, H, W, C].
  """
  p, q = config.model.patch_size
  h, w = np.floor_divide(config.model.input_size, (p, q))
  num, _, channels, _ = x.shape
  x = x.reshape(num, h, w, channels, p, q)
  x = x.transpose(0, 1, 4, 2, 5, 3)  # [B, h, p, w, q, C]
  return x.reshape(num, h * p, w * q, channels)


def context(batch: Mapping[str, Array]) -> Array | None:
  """Returns the image that stage I sees, [B, H, W, 3], if there is one."""
  return batch.get("image_ctx", batch.get("image"))
