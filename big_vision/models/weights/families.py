"""Lists the families of published weights, and finds that of a checkpoint."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from big_vision.models.weights import (
  hf_bit,
  hf_clip,
  hf_dinov2,
  hf_dinov3,
  hf_gemma,
  hf_mae,
  hf_paligemma,
  hf_siglip,
  hf_vit,
  open_clip,
  original_clip,
  original_dinov3,
  original_vit,
  timm_bit,
  timm_dinov3,
  timm_mixer,
  timm_nfnet,
  timm_vit,
  writing,
)
from big_vision.models.weights.family import Family, Found, Tensors
from big_vision.types import Params

# Of two families of a library that match, the first is taken.
_ALL = (
  hf_vit.FAMILY,
  hf_mae.FAMILY,
  hf_dinov2.FAMILY,
  hf_dinov3.FAMILY,
  hf_clip.FAMILY,
  hf_bit.FAMILY,
  hf_siglip.FAMILY,
  hf_gemma.FAMILY,
  hf_paligemma.FAMILY,
  timm_dinov3.FAMILY,
  timm_vit.FAMILY,
  timm_bit.FAMILY,
  timm_mixer.FAMILY,
  timm_nfnet.FAMILY,
  open_clip.FAMILY,
  original_clip.FAMILY,
  original_dinov3.FAMILY,
  original_vit.FAMILY,
)


# What odd settings or shapes cause where nothing checks them.
_ODD = (
  ArithmeticError,
  AttributeError,
  LookupError,
  TypeError,
)


def _checked(family):
  """Makes a family raise ValueError whatever is wrong with its input."""
  if family.written:
    family = dataclasses.replace(family, written=_guard(family, family.written))
  return dataclasses.replace(
    family,
    read=_guard(family, family.read),
    to_params=_guard(family, family.to_params),
    to_tensors=_guard(family, family.to_tensors),
  )


def _guard(family, fn):
  @functools.wraps(fn)
  def guarded(*args):
    try:
      return fn(*args)
    except _ODD as e:
      raise ValueError(
        f"The settings, or the shapes of tensors, are not those of "
        f"{family.title} ({type(e).__name__}: {e})."
      ) from e

  return guarded


FAMILIES = tuple(_checked(family) for family in _ALL)


def of_library(library: str) -> list[Family]:
  """Lists the families of a library.

  Args:
    library: see `family.LIBRARIES`.

  Returns:
    The families, in the order in which they are tried.
  """
  return [family for family in FAMILIES if family.library == library]


def library_of(config: Mapping[str, Any]) -> str:
  """Tells whose settings these are.

  Args:
    config: settings of a checkpoint, empty if it has none.

  Returns:
    One of `family.LIBRARIES`.

  Raises:
    ValueError: they are of none of them.
  """
  for key, library in (
    ("model_type", "transformers"),
    ("architecture", "timm"),
    ("model_cfg", "open_clip"),
  ):
    if key in config:
      return library
  if config:
    raise ValueError(
      "config.json has no `model_type` (of transformers) or `architecture` (of "
      "timm): it is not that of a model."
    )
  return "original"


def find(
  config: Mapping[str, Any],
  names: Iterable[str],
  model_name: str | None = None,
) -> Family:
  """Finds the family of a checkpoint.

  Args:
    config: its settings. What `Family.kinds` matches is in whole `model_type`,
      the beginning of `architecture`, and nothing for open_clip.
    names: of its tensors; `Family.kinds` matches the beginning of one of them if
      there are no settings.
    model_name: `config.model_name` that is asked for, where families read
      different parts of the same files.

  Returns:
    The family.

  Raises:
    ValueError: there is none.
  """
  library = library_of(config)
  known = of_library(library)
  if library == "original":
    names = list(names)
    for family in known:
      if any(re.match(family.kinds, name) for name in names):
        return family
    raise ValueError(
      "The checkpoint has no config.json, and its tensors have the names of none "
      "of the models that can be told without: copy that file, too."
    )
  if library == "transformers":
    key, kind, match = "model_type", config["model_type"], re.fullmatch
  elif library == "timm":
    key, kind, match = "architecture", config["architecture"], re.match
  else:
    key, kind, match = "model_cfg", "", re.match
  matching = [f for f in known if match(f.kinds, str(kind))]
  asked = [f for f in matching if model_name in f.models]
  if matching:
    return (asked or matching)[0]
  raise ValueError(
    f"config.json: {key} = {kind!r} is of none of the models of {library} that "
    f"are known here, {', '.join(f.name for f in known)}."
  )


def write(
  library: str, params: Params, found: Found
) -> tuple[Tensors, dict[str, Any]]:
  """Writes a model as one that a library has.

  Args:
    library: see `family.LIBRARIES`.
    params: parameters of the model, scanned or not.
    found: the model: what `Family.read` returns, or the model of a run.

  Returns:
    (tensors, settings): name -> array, those of large models made when they are
    looked up; and the content of config.json.

  Raises:
    ValueError: the library has no such model, or it is not known here; says
      what does not fit.
  """
  reasons = []
  for family in of_library(library):
    if family.models and found.model_name not in family.models:
      continue
    try:
      return writing.write(family, params, found)
    except ValueError as e:
      reasons.append(str(e))
  if reasons:
    no = f"No model of {library} fits. " if len(reasons) > 1 else ""
    raise ValueError(no + " ".join(reasons))
  known = {name for f in of_library(library) for name in f.models}
  raise ValueError(
    f"config.model_name={found.model_name!r} cannot be written for {library}, "
    f"only {', '.join(sorted(known)) or 'nothing'}."
  )
