"""Loads `paligemma`: the whole model, or each part from its own checkpoint."""

import os
from collections.abc import Mapping
from typing import Any

from big_vision import lookup
from big_vision.models import common, load_errors, positions
from big_vision.models.proj.paligemma.modules import (
  IMG_MODEL,
  LLM_MODEL,
  module_of,
)
from big_vision.types import ConfigLike, Params

FOLDER = "BV_GEMMA_DIR"
_SIZES = (224, 448, 896)
# Names of public checkpoints -> files in the folder $BV_GEMMA_DIR.
VANITY_NAMES = {
  **{
    f"pt_{res}{kind}": f"pt_{res}{kind}.npz"
    for res in _SIZES
    for kind in ("", ".bf16", ".f16")
  },
  **{
    f"pt_{size}_{res}": f"pt_{size}_{res}.bf16.npz"
    for size in ("3b", "10b", "28b")
    for res in _SIZES
  },
}


def path_of(name: str) -> str:
  """Finds the file of a public checkpoint.

  Args:
    name: one of `VANITY_NAMES`, or a path.

  Returns:
    Its path below $BV_GEMMA_DIR; other paths as they are.

  Raises:
    ConfigError: $BV_GEMMA_DIR is not set.
  """
  if name not in VANITY_NAMES:
    return name
  folder = os.environ.get(FOLDER)
  if not folder:
    raise lookup.ConfigError(
      f"config.model_init={name!r} is the file {VANITY_NAMES[name]!r} in the "
      f"folder ${FOLDER}, which is not set. Download it from "
      "https://www.kaggle.com/models/google/paligemma, or give a path or "
      "hf://google/paligemma-3b-pt-224."
    )
  return os.path.join(folder, VANITY_NAMES[name])


def load(
  init_params: Params | None,
  init_files: str | Mapping[str, Any],
  model_cfg: ConfigLike | None,
  img_load_kw: Mapping[str, Any] | None = None,
  llm_load_kw: Mapping[str, Any] | None = None,
  grid: tuple[int, int] | None = None,
) -> Params:
  """Loads both parts from one checkpoint, or each from its own.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all that
      the checkpoints have.
    init_files: str, a path or one of `VANITY_NAMES`; or a mapping with `img`,
      `llm` or both, each what `load` of its model takes. A part that is not
      listed keeps its initial values. A path may be a published checkpoint, see
      `models/weights/sources.py`.
    model_cfg: mapping, `config.model`, or None.
    img_load_kw: mapping, further arguments of the image model's `load`.
    llm_load_kw: mapping, further arguments of the language model's `load`.
    grid: (rows, columns) of the positions of images, for the image model's
      `load`, which knows what to do without.

  Returns:
    Dict of parameters; leaves that are not loaded are those of `init_params`, and
    None for a part without any.

  Raises:
    ConfigError: unknown keys in `init_files`.
    ValueError: parameters do not match, see `common.merge_params`.
  """
  model_cfg = model_cfg or {}
  if isinstance(init_files, str | os.PathLike):
    path = path_of(os.fspath(init_files))
    init_files = {part: f"{path}:{part}" for part in ("img", "llm")}
  unknown = sorted(set(init_files) - {"img", "llm"})
  if unknown:
    raise lookup.ConfigError(
      f"Unknown keys in config.model_init: {unknown}; a mapping has `img`, `llm`."
    )
  params: Params = dict(init_params or {"img": None, "llm": None})
  for part, default, kw in (
    ("img", IMG_MODEL, img_load_kw or {}),
    ("llm", LLM_MODEL, llm_load_kw or {}),
  ):
    source = init_files.get(part)
    if not source:
      continue
    module = module_of(part, model_cfg.get(f"{part}_model") or default)
    if not isinstance(source, common.Loaded):
      load_errors.check_path(module.load, source, f"config.model_init.{part}")
      source = _published(source, part)
    with load_errors.within(f"{part}_load_kw"):
      load_errors.check_arguments(module.load, kw)
      if part == "img":
        kw = {**positions.grid_kw(module, grid), **kw}
      params[part] = module.load(
        params[part], source, model_cfg.get(part), **kw
      )
  return params


def _published(source, part):
  """Reads a part of a published checkpoint in place of its name."""
  from big_vision.models.weights import sources

  if not sources.is_source(source):
    return source
  path, given = sources.split(source)
  checkpoint = sources.Checkpoint(path)
  if given is None and checkpoint.is_whole:
    given = part
  return checkpoint.loaded(given)
