"""Tells what preprocessing makes of a dataset, without reading it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from big_vision.datasets import core
from big_vision.pipeline import to_devices
from big_vision.pp import builder, rng
from big_vision.tf import plain_with, tf


def features(
  data: Mapping[str, Any],
  pp_fn: str | None,
  known: dict[Any, Any] | None = None,
) -> dict[str, Any]:
  """Derives the features of preprocessed examples.

  Args:
    data: arguments of `datasets.core.get`; or what raw examples are, a dict of
      tf.TensorSpec.
    pp_fn: preprocessing string.
    known: keeps results for calls with the same kind of raw examples.

  Returns:
    Name -> tf.TensorSpec or another spec of TensorFlow, without batch axis.
  """
  if isinstance(data.get("name"), str):
    raw = core.get(**data).get_tfdata(ordered=True, allow_cache=False)
  else:
    raw = tf.data.Dataset.from_generator(
      lambda: iter(()), output_signature=dict(data)
    )
  key = (pp_fn, str(raw.element_spec))
  if known is not None and key in known:
    return known[key]
  preprocess_fn = builder.get_preprocess_fn(pp_fn, log_data=False)

  def prepare(example):
    zero = tf.zeros([], tf.int64)
    number = {k: example[k] for k in ("_id",) if k in example}
    with rng.example_seed(tf.stack([zero, zero]), zero):
      return {**number, **preprocess_fn(dict(example))}

  prepare = plain_with(preprocess_fn, prepare)
  out = dict(raw.map(prepare).element_spec)
  if known is not None:
    known[key] = out
  return out


def batch_shapes(
  features: Mapping[str, Any], batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """Tells what devices see of a batch of examples.

  Args:
    features: result of `features`.
    batch_size: global batch size, B.

  Returns:
    Name -> ShapeDtypeStruct [B, ...], or a tuple or dict of them, as
    `to_devices.shapes`: without what stays on the host.
  """

  def batched(spec):
    if not isinstance(spec, tf.TensorSpec) or spec.shape.rank is None:
      return spec
    return tf.TensorSpec((batch_size, *spec.shape), spec.dtype)

  return to_devices.shapes(tf.nest.map_structure(batched, dict(features)))


def why_on_host(spec: Any) -> str:
  """Says why a feature does not get to devices, for an error message."""
  if isinstance(spec, tf.TensorSpec) and spec.dtype == tf.string:
    return "is text"
  if isinstance(spec, tf.TensorSpec):
    return f"has the shape {spec.shape}, which is not fixed"
  return "is ragged or nested"
