"""Finds the modules of the two parts of PaliGemma."""

from types import ModuleType

from big_vision import lookup

IMG_MODEL = "vit"
LLM_MODEL = "proj.paligemma.gemma_bv"
_KINDS = {"img": "image model", "llm": "language model"}


def module_of(part: str, name: str) -> ModuleType:
  """Imports the module of a part.

  Args:
    part: "img" or "llm".
    name: module below `big_vision.models`, or a dotted path.

  Returns:
    The module.

  Raises:
    ValueError: unknown model.
  """
  key = f"model.{part}_model"
  return lookup.module(
    "models", name, kind=_KINDS[part], key=key, needs="Model"
  )
