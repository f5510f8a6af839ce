"""Shares what tasks of UViM have in common, and finds them by name.

A task is a module below `big_vision.trainers` with three functions, which get the
config that names it as the keyword `config`:

  input_pp(batch) -> {"ctx", "x"}: arguments of stage I for a batch. `x` has the
    labels of each patch, or is None if the batch has no `labels`.
  loss_fn(logits, batch) -> (loss, logs): losses of each element, and by name.
  predict_outputs(logits, **kw): from the logits of patches to labels of pixels.

It also says what `labels` are, `LABELS = (channels, dtype)`.

Shapes: `B` batch, `H, W` pixels, `N` patches, `P` pixels of a patch, `C` classes.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import lookup
from big_vision.types import Array, ConfigLike

# Of the classes in labels and logits of patches, [B, N, C, P].
ONE_HOT_AXIS = -2


class Task(NamedTuple):
  """Holds the functions of a task, see above."""

  input_pp: Callable[..., dict[str, Any]]
  loss_fn: Callable[..., tuple[Array, dict[str, Array]]]
  predict_outputs: Callable[..., Any]


def get_task(config: ConfigLike, key: str = "task") -> Task:
  """Finds the task of a config.

  Args:
    config: ConfigDict of stage I, or `config.oracle` of stage II; reads `task`.
    key: name of the config key, for error messages.

  Returns:
    The Task, whose functions know the config.

  Raises:
    ValueError: the config names none, there is no such task, or its settings
      contradict each other.
  """
  name = config.get("task")
  if not name:
    raise lookup.ConfigError(
      f"config.{key} is required, such as 'proj.uvim.panoptic_task'."
    )
  module = lookup.module(
    "trainers", name, kind="task", key=key, needs="predict_outputs"
  )
  _check(config, f"config.{key.removesuffix('task')}")
  bound = {
    name: functools.partial(getattr(module, name), config=config)
    for name in Task._fields
  }
  return Task(**bound)


def _check(config, where):
  """Refuses labels of other patches than the model's, and no range of depth."""
  p, q = config.model.patch_size
  for part in ("inputs", "outputs"):
    for name, shape in (config.model.get(part) or {}).items():
      if len(shape) == 2 and shape[1] != p * q:
        raise lookup.ConfigError(
          f"{where}model.{part}.{name} = {tuple(shape)} has {shape[1]} pixels for "
          f"each patch, but patch_size={(p, q)} has {p * q}. Write "
          f"{(shape[0], p * q)}."
        )
  low, high = config.get("min_depth", 0), config.get("max_depth", math.inf)
  if not low < high:
    raise lookup.ConfigError(
      f"{where}max_depth = {high} must be more than min_depth = {low}."
    )


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
