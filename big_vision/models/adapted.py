"""Reads checkpoints of adapters, which say what base they belong to.

A run with `config.lora` stores what it trains. The leaf `lora/base` of its state, JSON
in bytes, has what it takes to load the rest: the model's config, `model_init`, and a
fingerprint of the base.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from big_vision import checkpoints, fs, lookup, lora, trees, untrusted
from big_vision.models import common, load_errors
from big_vision.types import ConfigLike, Params

LEAF = "lora/base"
_UNIT = 1 << 14  # Bytes: the leaf of another run has the same shape.
_PATH = re.compile(r"(.*?/.*?)(:params_ema)?(?::([\w/]+))?")
# Builds a model: `models.build`.
_Build = Callable[..., tuple[Any, Callable[[Params], Params] | None]]


def describe(
  config: ConfigLike,
  key: str,
  image_size: tuple[int, ...] | None,
  scale: float,
  shapes: Params,
  base: Params,
) -> np.ndarray:
  """Makes the leaf that says what adapters belong to.

  Args:
    config: ConfigDict of the run.
    key: what it calls the model.
    image_size: (height, width) of its images, if it has such.
    scale: factor of the adapters' products.
    shapes: nested dict of ShapeDtypeStruct, all parameters of the model.
    base: nested dict of arrays, those that are not trained.

  Returns:
    [N] uint8.
  """
  keys = (f"{key}{k}" for k in ("_name", "", "_init", "_load"))
  own = {
    k: load_errors.plain(config[k])
    for k in (*keys, "num_classes")
    if k in config
  }
  named = trees.tree_flatten_with_names(shapes)[0]
  text = json.dumps(
    {
      "key": key,
      "config": own,
      "image_size": image_size,
      "scale": scale,
      "shapes": {n: [list(x.shape), str(x.dtype)] for n, x in named},
      "fingerprint": lora.fingerprint(base),
    }
  ).encode()
  padded = text.ljust(-(-len(text) // _UNIT) * _UNIT)
  return np.frombuffer(padded, np.uint8)


def check_resumed(path: str, base: Params) -> None:
  """Refuses to continue from a checkpoint with another base.

  Args:
    path: the checkpoint.
    base: nested dict of arrays, that of this run.

  Raises:
    lookup.ConfigError: the base has other values.
  """
  said = _read(path)
  if said is not None:  # Else the states differ, which is said elsewhere.
    lora.check_same(said["fingerprint"], base, "config.model_init")


def load_params(ckpt: Any, build: _Build, **kw: Any) -> Any:
  """Reads parameters from any checkpoint; adapters are merged into their base.

  Args:
    ckpt: as for `checkpoints.load_params`.
    build: `models.build`.
    **kw: for `checkpoints.load_params`; merged parameters are NumPy arrays.

  Returns:
    As `checkpoints.load_params`.

  Raises:
    lookup.ConfigError: the base cannot be loaded, or is another one.
  """
  path, average, key = _split(ckpt)
  said = _read(path)
  if path is None or said is None:
    return checkpoints.load_params(ckpt, **kw)
  trained = checkpoints.load_params(f"{path}{average}")
  params = _merge(trained, said, path, build)
  return trees.tree_get(params, key) if key else params


def in_place_of(init: Any, build: _Build, towers: bool) -> Any:
  """Reads checkpoints of adapters in place of their paths.

  Args:
    init: `config.model_init`: a path, or a mapping with paths, which may end in
      ":<key>".
    build: `models.build`.
    towers: whether the model has two towers, each loaded for itself.

  Returns:
    What `load` of a model takes: parameters in place of such paths, or `init` if
    there are none.

  Raises:
    lookup.ConfigError: as `load_params`.
  """
  if hasattr(init, "items") and not isinstance(init, common.Loaded):
    read = {k: in_place_of(v, build, False) for k, v in init.items()}
    changed = any(read[k] is not v for k, v in init.items())
    return read if changed else init
  path, _, key = _split(init)
  said = _read(path)
  if path is None or said is None:
    return init
  params, grid = load_params(init, build), _grid(said)

  def wrap(x):
    return common.Loaded(x, path, grid) if hasattr(x, "items") else np.array(x)

  if towers and key is None:
    return {name: wrap(part) for name, part in params.items()}
  return wrap(params)


def _grid(said: Mapping[str, Any]) -> tuple[int, int] | None:
  """Finds the grid of the positions that a run trained with."""
  key, size = said["key"], said["image_size"]
  name = said["config"][f"{key}_name"]
  module = lookup.module("models", name, kind="model", needs="Model")
  if not size or not hasattr(module, "image_grid"):
    return None
  grid = module.image_grid(said["config"].get(key), tuple(size))
  return grid and grid.stored


def _split(ckpt: Any) -> tuple[str | None, str, str | None]:
  """Returns path, average (":params_ema" or "") and key of a checkpoint.

  The path is None for what is not the folder of a checkpoint for certain.
  """
  if not isinstance(ckpt, str | os.PathLike):
    return None, "", None
  match = _PATH.fullmatch(os.fspath(ckpt))
  if not match or ".npz" in match[1] or match[1].startswith(("hf:", "http")):
    return None, "", None
  return match[1], match[2] or "", match[3]


def _read(path: str | None) -> dict[str, Any] | None:
  """Reads the leaf of a checkpoint; None if it has none."""
  if not path or not (fs.isdir(path) or fs.exists(f"{path}-LAST")):
    return None
  folder = checkpoints.latest(path) or path
  if not fs.isdir(folder) or LEAF not in checkpoints.leaf_names(folder):
    return None
  leaf: Any = checkpoints.tsload(folder, regex=f"{LEAF}$", shardings="host")
  try:
    return untrusted.json_value(bytes(trees.tree_get(leaf, LEAF)))
  except ValueError as e:
    raise lookup.ConfigError(
      f"{folder}: the leaf {LEAF} is damaged ({e})."
    ) from e


def _merge(
  trained: Params, said: Mapping[str, Any], path: str, build: _Build
) -> Params:
  """Loads the base of a checkpoint's adapters and adds them."""
  key, config = said["key"], dict(said["config"])
  kw = {"num_classes": config["num_classes"]} if "num_classes" in config else {}
  size = said["image_size"] and tuple(said["image_size"])
  shapes = trees.tree_unflatten(
    (name, jax.ShapeDtypeStruct(tuple(shape), dtype))
    for name, (shape, dtype) in said["shapes"].items()
  )
  init = config.get(f"{key}_init")
  what = f"config.{key}_init={init!r}, the base of {path},"
  # It may be from somebody else, so nothing is imported that was not asked for.
  allowed, name = lookup.allowed(), config[f"{key}_name"]
  if allowed is None:
    allowed = (name,) if name in sys.modules else ()
  with lookup.stored_config(allowed):
    _, load = build(config, key, image_size=size, **kw)
  assert load is not None  # There was a base.
  try:
    loaded = dict(trees.tree_flatten_with_names(load(shapes))[0])
  except FileNotFoundError as e:
    raise lookup.ConfigError(
      f"{path} has adapters only, and their base cannot be read: {e}"
    ) from e
  names = set(said["fingerprint"])
  base = trees.tree_unflatten(
    (n, np.asarray(x, said["shapes"][n][1]))
    for n, x in loaded.items()
    if n in names and not isinstance(x, jax.ShapeDtypeStruct)
  )
  lora.check_same(said["fingerprint"], base, what)
  return jax.tree.map(np.asarray, lora.merge(base, trained, said["scale"]))
