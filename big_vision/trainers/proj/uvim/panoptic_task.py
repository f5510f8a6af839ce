"""Panoptic segmentation: a class and an instance for each pixel.

`labels` [B, H, W, 2] are int: the class, then the number of the instance.
Shapes as in `common`; `S` classes, `I` instances.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from big_vision.trainers.proj.uvim import common
from big_vision.trainers.proj.uvim.common import ONE_HOT_AXIS
from big_vision.types import Array, ConfigLike

LABELS = (2, jnp.int32)

_KEYS = ("semantics", "instances")


def _targets(batch: Mapping[str, Array], config: ConfigLike) -> dict[str, Any]:
  """Makes one-hot labels of patches, [B, N, S or I, P]."""
  channels = dict(zip(_KEYS, jnp.moveaxis(batch["labels"], -1, 0), strict=True))
  return {
    key: jax.nn.one_hot(
      common.patchify(labels, config),
      num_classes=config.model.inputs[key][ONE_HOT_AXIS],
      axis=ONE_HOT_AXIS,
    )
    for key, labels in channels.items()
  }


def input_pp(batch: Mapping[str, Array], config: ConfigLike) -> dict[str, Any]:
  """Makes the arguments of stage I, see `common`."""
  x = _targets(batch, config) if "labels" in batch else None
  return {"ctx": common.context(batch), "x": x}


def loss_fn(
  logits: Mapping[str, Array], batch: Mapping[str, Array], config: ConfigLike
) -> tuple[Array, dict[str, Array]]:
  """Computes the cross-entropy of classes plus that of instances, [B, N, P]."""
  targets = _targets(batch, config)
  losses = {
    f"loss_{key}": optax.softmax_cross_entropy(
      logits[key], targets[key], axis=ONE_HOT_AXIS
    )
    for key in _KEYS
  }
  return losses["loss_semantics"] + losses["loss_instances"], losses


def predict_outputs(
  logits: Mapping[str, Array], config: ConfigLike, min_fraction: float = 0.0
) -> Array:
  """Predicts instances, each with the class of its pixels together.

  Args:
    logits: `semantics` [B, N, S, P] and `instances` [B, N, I, P].
    config: reads `model`.
    min_fraction: instances stay if they take more than this part of the pixels.

  Returns:
    int32 [B, H, W, 2]: class and instance, both 0 where nothing is.
  """
  semantics, instances = (common.unpatchify(logits[k], config) for k in _KEYS)
  instance = jnp.argmax(instances, axis=-1)
  pixels = jax.nn.one_hot(instance, instances.shape[-1])  # [B, H, W, I]
  votes = jnp.einsum("bhwi,bhws->bis", pixels, semantics)
  fraction = jnp.mean(pixels, axis=(1, 2))  # [B, I]
  of_pixel = jax.vmap(lambda table, index: table[index])
  output = jnp.stack(
    [of_pixel(jnp.argmax(votes, axis=-1), instance), instance], axis=-1
  )
  kept = of_pixel(fraction > min_fraction, instance)
  return jnp.where(kept[..., None], output, 0).astype(jnp.int32)
