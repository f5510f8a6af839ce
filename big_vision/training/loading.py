"""Loads checkpoints of models into recipes that hold more than one model."""

from collections.abc import Callable, Collection

import jax

from big_vision.models import fields
from big_vision.training import params as params_lib
from big_vision.training.setup import Setup
from big_vision.types import LoadFn, Params


def without(load: LoadFn | None, names: Collection[str]) -> LoadFn | None:
  """Wraps `load` for parameters of which a model's checkpoint lacks some.

  Args:
    load: `params -> params` of the model, or None.
    names: the top-level parameters that do not belong to the model.

  Returns:
    `Recipe.load`, which leaves these parameters as they are; None without
    `load`.
  """
  if load is None or not names:
    return load

  def fn(params: Params) -> Params:
    model = {k: v for k, v in params.items() if k not in names}
    return {**params, **load(model)}

  return fn


def frozen(
  setup: Setup, key: str, load: LoadFn | None, init: Callable[[], Params]
) -> Params:
  """Loads all parameters of a model that is not trained, such as a teacher.

  Args:
    setup: reads `<key>_init` and `<key>_dtype` of its config.
    key: what the config calls the model.
    load: `params -> params`, or None if `config.<key>_init` is empty.
    init: `() -> params`, the random parameters of the model.

  Returns:
    The parameters, in the dtype `config.<key>_dtype` if there is one.

  Raises:
    ValueError: the config does not name a checkpoint, not all parameters are
      loaded from it, or they have other shapes than the model's; or unknown
      dtype.
  """
  if f"{key}_init" not in setup.config:
    raise ValueError(
      f"config.{key}_init is required: the checkpoint of the teacher, or '' for "
      "random parameters."
    )
  shapes = jax.eval_shape(init)
  params = load(shapes) if load else jax.jit(init)()
  if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(params)):
    raise ValueError(
      f"config.{key}_load: a teacher must be loaded as a whole, without "
      "dont_load."
    )
  params_lib.check_shapes(
    params,
    shapes,
    key,
    f"Say in config.{key} what the checkpoint has, such as its num_classes, "
    "which is config.num_classes otherwise.",
  )
  if dtype := setup.config.get(f"{key}_dtype"):
    fields.check_dtype(dtype, f"{key}_dtype")
    params = jax.tree.map(lambda x: x.astype(dtype), params)
  return params
