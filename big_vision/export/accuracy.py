"""Measures what quantization costs: with the run's evaluator, or on pictures."""

import copy
import itertools
import os
import sys
from collections.abc import Mapping

import jax
import numpy as np
from absl import logging

from big_vision import lookup
from big_vision.evaluators import build
from big_vision.export.forward import Model
from big_vision.predictions import files
from big_vision.pretrained import Classifier, Regressor
from big_vision.types import Params

# Evaluators that measure how good a model is, which are quick and write nothing.
_TYPES = ("classification", "multilabel", "regression")
_FILES = ("confusion",)  # Arguments that make them write files.
_BATCH_SIZE = 64

Metrics = dict[str, dict[str, float]]


def of_run(
  model: Model, variants: Mapping[str, Params]
) -> tuple[str, Metrics] | None:
  """Evaluates parameters as the first evaluator of the model's run does.

  Args:
    model: result of `pretrained.load`.
    variants: for example "float32" -> parameters.

  Returns:
    (name of the evaluator, variant -> metrics); None if the run has no such
    evaluator, or its data is not on this machine.
  """
  if not isinstance(model, Classifier | Regressor):
    return None
  evals = build.entries(model.config)
  named = [(k, v) for k, v in evals.items() if v.get("type", k) in _TYPES]
  if not named:
    return None
  name, cfg = named[0]
  cfg = {k: v for k, v in build.as_dict(cfg).items() if k not in _FILES}
  network = model.network if isinstance(model, Regressor) else model
  apply, call = network.model.apply, network.call

  def predict(train_state, batch, **kw):
    params = {"params": train_state["params"]}
    return apply(params, batch["image"], **call, **kw)

  config = {
    **{
      k: model.config[k] for k in ("input", "pp_modules") if k in model.config
    },
    "batch_size_eval": _BATCH_SIZE,
    "evals": {name: cfg},
  }
  try:
    with lookup.stored_config():  # The run may be somebody else's.
      lookup.preprocessing(config)
      evaluator = build.from_config(
        config,
        {"predict": predict},
        get_steps=lambda key, cfg: 0,
        devices=np.array(jax.local_devices()[:1]),
        workdir="",
      )[0][1]
      return name, {
        variant: dict(evaluator.run({"params": params}))
        for variant, params in variants.items()
      }
  except (ValueError, OSError, ImportError) as e:
    logging.warning("The data of the run cannot be evaluated: %s", e)
    return None


def of_pictures(
  model: Model,
  variants: Mapping[str, Params],
  folder: str,
) -> Metrics:
  """Compares the outputs for the pictures of a folder.

  Args:
    model: result of `pretrained.load`.
    variants: for example "float32" -> parameters, the first is compared with.
    folder: with pictures; if its sub-folders are named as classes, these are the
      labels.

  Returns:
    Variant -> metrics: `prec@1`, if pictures have labels; `agreement`, how often
    the most probable class is that of the first variant, for a classifier; else
    `difference`, the mean absolute one of the outputs.

  Raises:
    ValueError: there are no pictures, or one cannot be read.
  """
  pictures = files.find([folder], sys.stdin)
  if not os.path.isdir(folder) or not pictures:
    raise ValueError(f"--images={folder} is not a folder with pictures.")
  outputs = {k: _outputs(model, v, pictures) for k, v in variants.items()}
  first = next(iter(outputs.values()))
  if not isinstance(model, Classifier):
    return {
      k: {"difference": float(np.abs(x - first).mean())}
      for k, x in outputs.items()
    }
  number = {name: i for i, name in enumerate(model.class_names)}
  parents = [os.path.basename(os.path.dirname(p.path)) for p in pictures]
  labels = np.array([number.get(name, -1) for name in parents])
  known, out = labels >= 0, {}
  for k, x in outputs.items():
    best = x.argmax(axis=1)
    out[k] = {"agreement": float((best == first.argmax(axis=1)).mean())}
    if known.any():
      out[k]["prec@1"] = float((best == labels)[known].mean())
  return out


def _outputs(model, params, pictures):
  """Computes what a model predicts, or embeds, with other parameters."""
  model = copy.copy(model)
  # A regressor and a model of towers keep them elsewhere, too.
  for name in ("network", "embedder"):
    if hasattr(model, name):
      inner = copy.copy(getattr(model, name))
      inner.params = params
      setattr(model, name, inner)
  model.params = params
  which = 0 if isinstance(model, Classifier | Regressor) else 1
  out, rest = [], iter(pictures)
  while batch := list(itertools.islice(rest, _BATCH_SIZE)):
    prepared = [model.prepare(p.read()) for p in batch]
    out.append(model.outputs(prepared)[which])
  return np.concatenate(out)
