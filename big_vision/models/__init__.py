"""Models; `build` is the one way from a config to one of them."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from absl import logging

from big_vision import lookup, precision
from big_vision.models import adapted, fields, load_errors, positions
from big_vision.types import ConfigLike, LoadFn, Params

_TWO_TOWERS = "proj.image_text.two_towers"
_TEXT_MODEL = "proj.image_text.text_transformer"
# Their `load` knows which part is to be from where.
_WHOLE = (_TWO_TOWERS, "proj.paligemma.paligemma")
# Of the models that are one part of several, all but those of images.
_PARTS = {_TEXT_MODEL: "txt", "ppp.gemma": "llm"}
_PARTS["proj.paligemma.gemma_bv"] = "llm"


def build(
  config: ConfigLike,
  key: str = "model",
  *,
  image_size: Sequence[int] | None = None,
  **kw: Any,
) -> tuple[Any, LoadFn | None]:
  """Builds the model `config.<key>_name` with the arguments `config.<key>`.

  Args:
    config: mapping; reads `<key>_name`, `<key>`, `<key>_init`, `<key>_load`,
      `precision`.
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
      that are too small for it, or it does not compute in `config.precision`.
  """
  name = config.get(f"{key}_name")
  if name is None:
    raise ValueError(f"config.{key}_name is required.")
  module = lookup.module(
    "models", name, kind="model", key=f"{key}_name", needs="Model"
  )
  args = config.get(key)
  try:
    model = fields.with_dtype(
      module.Model,
      {**kw, **(args or {})},
      precision.dtype(config),
      f"{key}_name",
      name,
    )
  except TypeError as e:
    raise ValueError(
      f"config.{key} does not fit config.{key}_name={name!r}: {e}"
    ) from e
  grid = _grid(module, args, image_size, key)
  init = config.get(f"{key}_init")
  if not init:
    _check_used(config, key)
    return model, None
  if not hasattr(module, "load"):
    raise ValueError(
      f"config.{key}_init={init!r}: config.{key}_name={name!r} has no `load`, "
      "so it cannot start from a checkpoint. Define load(init_params, init_file, "
      "model_cfg, dont_load=()) as in docs/extend.md."
    )

  own_kw = config.get(f"{key}_load") or {}
  with load_errors.within(f"config.{key}_load"):
    load_errors.check_arguments(module.load, own_kw)
  load_kw = {**positions.grid_kw(module, grid), **own_kw}
  if name in lookup.known_modules("models", "Model"):  # Not the user's own.
    load_errors.check_path(module.load, init, f"config.{key}_init")
    read = lambda: _published(init, name, model)
  else:
    read = lambda: init

  def load(params: Params) -> Params:
    where = f"config.{key}_init={load_errors.plain(init)!r}"
    try:
      with load_errors.within(f"config.{key}_load"):
        source = adapted.in_place_of(init, build, name in _WHOLE)
        if source is init:
          source = read()
        loaded = module.load(params, source, args, **load_kw)
        _check_towers(module.load, loaded, params)
        return loaded
    except (lookup.ConfigError, KeyError) as e:
      text = str(e.args[0]) if e.args else ""
      if "config." in text or " " not in text:  # A mistake in code.
        raise
      raise type(e)(f"{where}: {text}") from e
    except ValueError as e:
      misfit = load_errors.misfit_of(e)
      if misfit is None:
        raise
      raise lookup.ConfigError(
        f"{where} does not fit config.{key}: {misfit.summary}. Change "
        f"config.{key}, or list names in {misfit.dont_load} to initialize them "
        "or leave them out."
      ) from e
    except FileNotFoundError as e:
      known = getattr(module, "VANITY_NAMES", ())
      near = lookup.did_you_mean(init, known) if isinstance(init, str) else "."
      hint = near if near.startswith(". Did") else "."
      raise FileNotFoundError(f"{where}: {str(e).rstrip('.')}{hint}") from e

  return model, load


def load_params(ckpt: Any, **kw: Any) -> Any:
  """Reads parameters as `checkpoints.load_params`, adapters merged.

  Args:
    ckpt: `<path>` or `<path>:<key>`.
    **kw: for `checkpoints.load_params`.

  Returns:
    Nested dict of arrays, or one array if that is what the key names.

  Raises:
    ConfigError: the checkpoint has adapters, whose base cannot be loaded.
  """
  return adapted.load_params(ckpt, build, **kw)


def _check_used(config, key):
  """Refuses arguments of `load` where nothing says what to load."""
  # What is empty, unlike what is absent, asks for random parameters.
  load_kw = load_errors.plain(config.get(f"{key}_load"))
  if f"{key}_init" not in config and load_kw:
    raise lookup.ConfigError(
      f"config.{key}_load={load_kw!r} has no effect without config.{key}_init: "
      "name the checkpoint there, or '' for random parameters."
    )


def _check_towers(load, loaded, params):
  """Refuses towers of other shapes, here where their config key is known."""
  for tower in load_errors.towers(load):
    if tower in loaded and tower in (params or {}):
      with load_errors.within(f"{tower}_load_kw"):
        misfit = load_errors.of_shapes(loaded[tower], params[tower])
        if misfit:
          raise misfit


def _published(init, name, model):
  """Reads a published checkpoint in place of its name.

  Returns:
    What `load` of a model takes: parameters, or `init` if it is anything else.
  """
  from big_vision.models.weights import sources

  if name in _WHOLE or not sources.is_source(init):
    return init
  path, part = sources.split(init)
  checkpoint = sources.Checkpoint(path, name)
  if part is None and checkpoint.is_whole:
    part = _PARTS.get(name, "img")
  found = checkpoint.found.tower(part or "img")
  if differ := sources.differences(found, name, model):
    logging.warning("%s was trained with %s.", init, differ)
  return checkpoint.loaded(part)


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
