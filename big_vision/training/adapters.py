"""Turns the recipe of a method into one that trains adapters, `config.lora`.

The base is a frozen tree of the recipe: neither the optimizer nor checkpoints have it.
It is loaded from `config.model_init` again when a run continues.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from big_vision import lookup, lora, rules, trees
from big_vision.models import adapted
from big_vision.training import params as params_lib
from big_vision.training import shape_check
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup
from big_vision.types import Params, TrainState

BASE = "base"  # Of the frozen trees.


def adapt(recipe: Recipe, setup: Setup) -> Recipe:
  """Makes the recipe that trains adapters of a model, if the config asks for it.

  Args:
    recipe: of any method that has one model.
    setup: reads `lora` of its config.

  Returns:
    The Recipe; the same one without `config.lora`.

  Raises:
    lookup.ConfigError: there is no checkpoint to adapt, or the method keeps states
      of the model of its own.
  """
  settings = lora.settings(setup.config)
  if settings is None:
    return recipe
  key = recipe.params_name or "model"
  if recipe.load is None:
    raise lookup.ConfigError(
      f"config.lora adapts a trained model: set config.{key}_init to its "
      "checkpoint."
    )
  if recipe.extra_state or recipe.post_update:
    raise lookup.ConfigError(
      "config.lora: this method keeps further states (config.captioning, "
      "config.self_distill), which adapters do not have. Leave out one of them."
    )
  zeros = lambda s: jnp.zeros(s.shape, s.dtype)
  batch = setup.batch_shapes
  init = lambda rng: nn.unbox(recipe.init(rng, jax.tree.map(zeros, batch)))
  with shape_check.explained(setup):
    shapes = jax.eval_shape(init, jax.random.PRNGKey(0))
  if setup.abstract:  # All of it is in the checkpoint, as far as a plan knows.
    loaded = jax.tree.map(_NoValues, shapes)
  else:
    loaded = recipe.load(shapes)
  base, kernels, whole = _split(loaded, shapes, settings, key)
  image = getattr(batch.get("image"), "shape", ())
  size = image[1:3] if len(image) == 4 else None
  scale = settings.scale
  leaf = np.zeros(0, np.uint8)
  if not setup.abstract:
    kept = _with_dtypes(shapes, base)
    leaf = adapted.describe(setup.config, key, size, scale, kept, base)

  def init_trained(rng, batch):
    every = dict(
      trees.tree_flatten_with_names(nn.unbox(recipe.init(rng, batch)))[0]
    )
    out = {name: every[name] for name in whole}
    for name in kernels:
      out |= lora.init(rng, name, every[name].shape, settings.rank)
    return trees.tree_unflatten(out.items())

  return dataclasses.replace(
    recipe,
    init=init_trained,
    load=None,
    loss_fn=_merged_loss(recipe.loss_fn, scale),
    predict_fns={
      k: _merged_fn(f, scale) for k, f in recipe.predict_fns.items()
    },
    frozen={**recipe.frozen, BASE: base},
    accumulate=_accumulate(recipe.accumulate, scale),
    extra_state=lambda params: trees.tree_unflatten(
      [(adapted.LEAF, jnp.asarray(leaf))]
    ),
    check_checkpoint=lambda path: adapted.check_resumed(path, base),
  )


class _NoValues(jax.ShapeDtypeStruct):
  """Stands for an array in a checkpoint that a plan does not read."""

  def __init__(self, like: Any):
    super().__init__(like.shape, like.dtype)


def _cast(x, dtype):
  """Changes the dtype of an array, or of what stands for one."""
  if isinstance(x, _NoValues):
    return jax.ShapeDtypeStruct(x.shape, dtype)
  return np.asarray(x, dtype)


def _with_dtypes(shapes: Params, base: Params) -> Params:
  """Returns the shapes of all parameters, with the dtypes of those in `base`."""
  dtypes = {n: x.dtype for n, x in trees.tree_flatten_with_names(base)[0]}
  return trees.tree_map_with_names(
    lambda n, s: jax.ShapeDtypeStruct(s.shape, dtypes.get(n, s.dtype)), shapes
  )


def _split(
  loaded: Params, shapes: Params, settings: lora.Settings, key: str
) -> tuple[Params, list[str], list[str]]:
  """Sorts the parameters of a model.

  Returns:
    (base: nested dict of arrays that are not trained, names of the kernels that get
    adapters, names of what is trained as a whole).
  """
  shape_of = dict(trees.tree_flatten_with_names(shapes)[0])
  have = {
    name: x
    for name, x in trees.tree_flatten_with_names(loaded)[0]
    if isinstance(x, _NoValues) or not isinstance(x, jax.ShapeDtypeStruct)
  }
  params_lib.check_shapes(have, shape_of, key)
  usual = lora.Settings(rank=1).train
  given = [t for t in settings.train if t not in usual]
  rules.check_used(given, shape_of, "config.lora.train")
  whole = [
    name
    for name in shape_of
    if name not in have or any(re.fullmatch(t, name) for t in settings.train)
  ]
  base = {
    name: _cast(x, settings.dtype or shape_of[name].dtype)
    for name, x in have.items()
    if name not in whole
  }
  kernels = lora.find(base, settings.targets)
  logging.info(
    "config.lora: adapters of %s; trained as a whole: %s",
    ", ".join(kernels), ", ".join(whole) or "nothing",
  )  # fmt: skip
  return trees.tree_unflatten(base.items()), kernels, whole


def _merge(params: Params, state: TrainState, scale: float) -> Params:
  return lora.merge(state["frozen"][BASE], params, scale)


def _merged_loss(loss_fn: Callable[..., Any], scale: float) -> Any:
  """Makes a loss of merged parameters one of adapters."""

  def merged(params, batch, rng, state, *static):
    # What is not used of these is not computed.
    full = {**state, "params": _merge(state["params"], state, scale)}
    return loss_fn(_merge(params, state, scale), batch, rng, full, *static)

  return merged


def _merged_fn(fn: Any, scale: float) -> Any:
  """Makes a predict function merge the parameters that it gets."""
  if not callable(fn) or isinstance(fn, nn.Module):
    return fn

  @functools.wraps(fn)
  def merged(state, *args, **kw):
    full = {**state, "params": _merge(state["params"], state, scale)}
    return fn(full, *args, **kw)

  return merged


def _accumulate(accumulate: Any, scale: float) -> Any:
  """Makes the gradient of adapters of that of all parameters."""
  if accumulate is None:
    return None

  def merged(params, batch, rng, state, *static, steps, constrain):
    del constrain  # Shardings of adapters.
    full, pull_back = jax.vjp(lambda p: _merge(p, state, scale), params)
    state = {**state, "params": full}
    out, grads = accumulate(
      full, batch, rng, state, *static, steps=steps, constrain=lambda g: g
    )
    return out, pull_back(grads)[0]

  return merged
