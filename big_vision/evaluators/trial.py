"""Tries out evaluators on shapes, before a run reads data or compiles.

An evaluator's module may declare two functions for it:

  inputs(cfg)   list of (config key, data, preprocessing string, features that
                the predict function gets, None for all), of which by default
                there is one: `data` with `pp_fn`
  trial(predict_fn, train_state, batch, cfg)   what it computes of one batch:
                `predict_fn` and `cfg` are the arguments of the evaluator,
                `batch` has the features of the data and `_mask`, and what it
                returns does not matter

Evaluators without `trial` are not tried.
"""

import functools
import linecache
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from big_vision import devices as bv_devices
from big_vision import lookup
from big_vision.evaluators import build
from big_vision.types import (
  Batch,
  ConfigLike,
  Devices,
  PredictFns,
  TrainState,
)


def check(
  config: ConfigLike,
  predict_fns: PredictFns,
  train_state: TrainState,
  training: Batch,
  devices: Devices,
) -> None:
  """Traces what the evaluators of a config compute, once per input shape.

  Args:
    config: ConfigDict of a run, which `validate` has passed.
    predict_fns: name -> `(train_state, batch, **kw) -> anything`.
    train_state: shapes of the first argument of the predict functions.
    training: shapes of a batch of training.
    devices: flat array of devices in the order of the mesh.

  Raises:
    lookup.ConfigError: names the preprocessing that does not fit.
  """
  known: dict[Any, Any] = {}
  for name, cfg in build.entries(config).items():
    cfg = build.as_dict(cfg)
    module = build.module_of(cfg.get("type", name), name)
    if not hasattr(module, "trial"):
      continue
    fn = build.predict_fn_of(
      predict_fns, name, cfg.get("pred", "predict"), cfg.get("pred_kw")
    )
    batch_size, _ = build.batch_size_of(config, name, cfg)
    cfg = {**cfg, "devices": devices, "batch_size": batch_size}
    state = build.state_of(name, cfg, train_state)
    for key, shapes, on_host, left in _batches(module, cfg, known):
      trial = functools.partial(module.trial, fn, cfg=cfg)
      where = f"config.evals.{name}.{key}"
      try:
        jax.eval_shape(lambda s, b, t=trial: t(s, dict(b)), state, shapes)
      except Exception as e:
        text = misfit(e)
        if text is None:
          raise
        given = describe(shapes, on_host if is_missing(text) else {})
        raise lookup.ConfigError(
          f"{where}{given} does not fit: {text}{_compare(shapes, training)}"
        ) from e
      if left:
        from big_vision.pipeline import to_devices  # The TensorFlow wing.

        raise to_devices.refused(where, left[0], on_host[left[0]])


def _batches(
  module: Any, cfg: dict[str, Any], known: dict[Any, Any]
) -> Iterator[tuple[str, dict[str, Any], dict[str, str], list[str]]]:
  """Yields key, shapes of a batch, and why other features stay on the host.

  Last come the names of those that are not meant to stay there.
  """
  from big_vision.pipeline import abstract  # The TensorFlow wing.

  default = [("pp_fn", cfg.get("data"), cfg.get("pp_fn"), None)]
  inputs = module.inputs(cfg) if hasattr(module, "inputs") else default
  for key, data, pp_fn, needs in inputs:
    if data is None:
      continue
    features = abstract.features(data, pp_fn, known)
    shapes = abstract.batch_shapes(features, cfg["batch_size"])
    on_host = {
      k: abstract.why_on_host(v) for k, v in features.items() if k not in shapes
    }
    if needs is not None:
      shapes = {k: v for k, v in shapes.items() if k in needs}
    # What else there is would be put on devices.
    left = (
      set(on_host) - set(cfg.get("keep_on_cpu") or ()) if needs is None else ()
    )
    shapes["_mask"] = jax.ShapeDtypeStruct((cfg["batch_size"],), jnp.bool_)
    sharding = bv_devices.batch_sharding(cfg["devices"])
    put = lambda x, s=sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=s
    )
    yield key, jax.tree.map(put, shapes), on_host, sorted(left)


def describe(shapes: dict[str, Any], on_host: dict[str, str]) -> str:
  """Lists the features of a batch, for an error message.

  Args:
    shapes: name -> ShapeDtypeStruct, or a tree of them.
    on_host: name -> why the feature does not get to devices.

  Returns:
    For example " (image [8, 32, 32, 3], labels [8, 10])".
  """

  def one(x):
    return str(list(x.shape)) if hasattr(x, "shape") else "…"

  parts = [f"{k} {one(v)}" for k, v in shapes.items() if k[:1] != "_"]
  parts += [f"{k}, which {why}" for k, why in on_host.items()]
  return f" ({'; '.join(parts) or 'nothing'})"


def _compare(shapes: Batch, training: Batch) -> str:
  """Ends an error with the features that training has in other sizes."""
  size = lambda x: getattr(x, "shape", [None])[1:]
  other = {
    k: training[k]
    for k in shapes
    if k in training and size(training[k]) != size(shapes[k])
  }
  return f" Training has{describe(other, {})}." if other else ""


def is_missing(text: str) -> bool:
  """Tells whether a text of `misfit` is about a feature that is not there."""
  return text.startswith("there is no ") or " is not in the batch" in text


# What errors say that are about shapes, in JAX, Flax, NumPy and this library.
_WORDS = ("shape", "dim", "dtype", "broadcast", "rank", "axis", "axes", "size")
_OURS = ("config.", "label_key", "batch", "predict function", "predict_fn")


def misfit(e: Exception) -> str | None:
  """Words an error that is due to what a batch holds in one line.

  Args:
    e: what tracing has raised.

  Returns:
    The text; None if the error is about something else, whose traceback tells
    more.
  """
  if isinstance(e, KeyError) and e.args and isinstance(e.args[0], str):
    return _without_feature(e)
  lines = [line.strip() for line in str(e).splitlines() if line.strip()]
  text = lines[0].partition(" (https://")[0] if lines else ""
  if isinstance(e, lookup.ConfigError):
    return " ".join(lines)
  is_flax = type(e).__module__.startswith("flax.")
  if not is_flax and not isinstance(e, (TypeError, ValueError)):
    return None
  return text if any(word in text for word in (*_WORDS, *_OURS)) else None


def _without_feature(e: KeyError) -> str | None:
  """Tells whether a feature was looked up in a batch that does not have it."""
  last = e.__traceback__
  while last is not None and last.tb_next is not None:
    last = last.tb_next
  if last is None:
    return None
  line = linecache.getline(last.tb_frame.f_code.co_filename, last.tb_lineno)
  if not re.search(rf"\bbatch\[[\"']{re.escape(e.args[0])}[\"']\]", line):
    return None
  return (
    f"there is no {e.args[0]!r} of fixed size. Does the preprocessing make and "
    f'keep it, as in |resize(224)|keep("image", "labels")?'
  )
