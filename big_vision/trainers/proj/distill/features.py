"""Distillation of features: the student predicts layers of its teachers.

`config.features` is a list of dicts with

  teacher: name of the teacher.
  student_layer, teacher_layer: paths in the `out` of the two models.
  weight: of the loss, default 1.
  distance: see `losses.distance`, default "l2"; further keys are its arguments.

A linear layer of its own maps the student's layer to the width of the teacher's.
Thus teachers without classes can be used.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision import losses, trees
from big_vision.types import Array, ConfigLike, Key, Params, PyTree

PROJECTIONS = "distill_projections"  # Name of the linear layers' parameters.
_KEYS = ("teacher", "student_layer", "teacher_layer", "weight", "distance")


def from_config(config: ConfigLike) -> list[dict[str, Any]]:
  """Reads `config.features`.

  Args:
    config: config of the run.

  Returns:
    Plain dicts with the keys above; empty if there are none.
  """
  return [dict(f) for f in config.get("features") or ()]


def init(
  features: Sequence[Mapping[str, Any]], outs: Mapping[str, PyTree], rng: Key
) -> Params:
  """Initializes the linear layers.

  Args:
    features: see `from_config`.
    outs: name of a model -> shapes of its `out`.
    rng: random key.

  Returns:
    Kernel and bias of each feature's layer, by the feature's index.
  """
  layers = {}
  for i, f in enumerate(features):
    x = trees.tree_get(outs["student"], f["student_layer"])
    z = trees.tree_get(outs[f["teacher"]], f["teacher_layer"])
    layer = nn.Dense(z.shape[-1])
    key = jax.random.fold_in(rng, i)
    layers[str(i)] = layer.init(key, jnp.zeros(x.shape, x.dtype))["params"]
  return layers


def loss(
  feature: Mapping[str, Any], projection: Params, outs: Mapping[str, PyTree]
) -> Array:
  """Computes the distance of a projected layer to one of a teacher.

  Args:
    feature: see `from_config`.
    projection: kernel and bias of the feature's linear layer.
    outs: name of a model -> its `out`. Maps [B, h, w, D] of different sizes are
      resized to the teacher's.

  Returns:
    [], the weighted mean over examples and places.

  Raises:
    ValueError: the layers differ in shape and are not maps.
  """
  x = trees.tree_get(outs["student"], feature["student_layer"])
  z = trees.tree_get(outs[feature["teacher"]], feature["teacher_layer"])
  layer: Any = nn.Dense(z.shape[-1])
  x = layer.apply({"params": projection}, x)
  if x.shape != z.shape:
    if x.ndim != 4 or z.ndim != 4:
      raise ValueError(
        f"config.features: {feature['student_layer']!r} of the student is "
        f"{x.shape}, {feature['teacher_layer']!r} of the teacher {z.shape}. Only "
        "maps [B, h, w, D] are resized."
      )
    x = jax.image.resize(x, z.shape, "bilinear")
  rest = {k: v for k, v in feature.items() if k not in _KEYS}
  each = losses.distance(x, z, feature.get("distance", "l2"), **rest)
  return feature.get("weight", 1.0) * jnp.mean(each)
