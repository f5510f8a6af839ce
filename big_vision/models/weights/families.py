"""Lists the families of published weights, and finds that of a checkpoint."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from big_vision.models.weights import (
  hf_clip,
  hf_dinov2,
  hf_dinov3,
  hf_siglip,
  hf_vit,
  timm_vit,
)
from big_vision.models.weights.family import Family

# Of two families of a library that match, the first is taken.
FAMILIES = (
  hf_vit.FAMILY,
  hf_dinov2.FAMILY,
  hf_dinov3.FAMILY,
  hf_clip.FAMILY,
  hf_siglip.FAMILY,
  timm_vit.FAMILY,
)


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


def find(config: Mapping[str, Any], names: Iterable[str]) -> Family:
  """Finds the family of a checkpoint.

  Args:
    config: its settings. What `Family.kinds` matches is in whole `model_type`,
      the beginning of `architecture`, and nothing for open_clip.
    names: of its tensors; `Family.kinds` matches the beginning of one of them if
      there are no settings.

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
  for family in known:
    if match(family.kinds, str(kind)):
      return family
  raise ValueError(
    f"config.json: {key} = {kind!r} is of none of the models of {library} that "
    f"are known here, {', '.join(f.name for f in known)}."
  )
