"""Models; `build` is the one way from a config to one of them."""

import inspect
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from absl import logging

from big_vision import lookup
from big_vision.models import positions
from big_vision.types import ConfigLike, LoadFn, Params

_LOADS_SIGLIP = "proj.image_text.two_towers"


def build(
  config: ConfigLike,
  key: str = "model",
  *,
  image_size: Sequence[int] | None = None,
  **kw: Any,
) -> tuple[Any, LoadFn | None]:
  """Builds the model `config.<key>_name` with the arguments `config.<key>`.

  Args:
    config: mapping; reads `<key>_name`, `<key>`, `<key>_init`, `<key>_load`.
    key: what the config calls the model, for example "model" or "teacher".
    image_size: (height, width) in pixels of the images, if they are known:
      `load` resamples positions to their grid.
    **kw: further arguments of the model, such as `num_classes`; the config's
      own win.

  Returns:
    (model, load): the linen module; and `params -> params` that reads
    `config.<key>_init`, with the arguments `config.<key>_load`, or None if the
    config has none.

  Raises:
    ValueError: unknown model, or arguments that it does not take, or images
      that are too small for it.
  """
  name = config.get(f"{key}_name")
  if name is None:
    raise ValueError(f"config.{key}_name is required.")
  module = lookup.module(
    "models", name, kind="model", key=f"{key}_name", needs="Model"
  )
  args = config.get(key)
  try:
    model = module.Model(**{**kw, **(args or {})})
  except TypeError as e:
    raise ValueError(
      f"config.{key} does not fit config.{key}_name={name!r}: {e}"
    ) from e
  grid = _grid(module, args, image_size, key)
  init = config.get(f"{key}_init")
  if not init:
    return model, None
  if not hasattr(module, "load"):
    raise ValueError(
      f"config.{key}_init={init!r}: config.{key}_name={name!r} has no `load`, "
      "so it cannot start from a checkpoint."
    )

  _check_kind(name, init, f"{key}_init")
  load_kw = positions.grid_kw(module, grid)
  load_kw = {**load_kw, **(config.get(f"{key}_load") or {})}
  _check_arguments(module.load, load_kw, f"{key}_load")

  def load(params: Params) -> Params:
    try:
      return module.load(params, init, args, **load_kw)
    except FileNotFoundError as e:
      known = getattr(module, "VANITY_NAMES", ())
      near = lookup.did_you_mean(init, known) if isinstance(init, str) else "."
      hint = near if near.startswith(". Did") else "."
      raise FileNotFoundError(
        f"config.{key}_init={init!r}: {str(e).rstrip('.')}{hint}"
      ) from e

  return model, load


def _check_arguments(load, kw, key):
  """Refuses keys that a model's `load` does not take."""
  known = inspect.signature(load).parameters
  if any(p.kind is p.VAR_KEYWORD for p in known.values()):
    return
  lookup.check_keys(kw, list(known)[3:], key)


def _check_kind(name, init, key):
  """Refuses checkpoints of Hugging Face for models that do not load them."""
  if name == _LOADS_SIGLIP or name not in lookup.known_modules(
    "models", "Model"
  ):
    return  # It says so itself, or is the user's own.
  from big_vision.models.proj.image_text import huggingface_files

  paths = init.values() if isinstance(init, Mapping) else [init]
  for path in filter(lambda p: isinstance(p, str), paths):
    huggingface_files.check_kind(
      re.sub(r":\w+$", "", path), key, loads_siglip=False
    )


def _grid(
  module: ModuleType, args: ConfigLike, size: Sequence[int] | None, key: str
) -> tuple[int, int] | None:
  """Finds the grid of positions of a model; logs which pixels it ignores."""
  if size is None or not hasattr(module, "image_grid"):
    return None
  grid = module.image_grid(args, size, key)
  if grid is None:
    return None
  if any(grid.left_out):
    logging.info(
      "config.%s: the patches of an image of %dx%d pixels leave out its last %d "
      "rows and %d columns of pixels.",
      key, *size, *grid.left_out,
    )  # fmt: skip
  return grid.stored
