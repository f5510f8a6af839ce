"""Defines what a family of published weights consists of, see other files here."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from big_vision import lookup
from big_vision.types import Params

Tensors = Mapping[str, np.ndarray]

# "original" are the state dicts of the first releases, which have no settings.
LIBRARIES = ("transformers", "timm", "open_clip", "original")


TEXT_MODEL = "proj.image_text.text_transformer"
TWO_TOWERS = "proj.image_text.two_towers"
GEMMA = "ppp.gemma"
PALIGEMMA = "proj.paligemma.paligemma"


@dataclasses.dataclass(frozen=True)
class Found:
  """Describes the model of a file in the terms of a config.

  Attributes:
    model_name: of `config.model_name`.
    model: arguments of the model, `config.model`.
    num_classes: outputs of the head; None without one.
    image_size: (height, width) in pixels of the stored positions.
    resample: method of `positions.resample` for images of other sizes.
    text_length: number of tokens of texts, if it is fixed.
    architecture: name of the architecture in timm, if one is stored.
    head: arguments of the model that the library changes where it adds a head
      of classes.
    image_token: token that stands for images in texts; neither it nor those that
      follow have embeddings that are used. None without.
  """

  model_name: str
  model: dict[str, Any]
  num_classes: int | None = None
  image_size: tuple[int, int] = (224, 224)
  resample: str = "bicubic"
  text_length: int | None = None
  architecture: str | None = None
  head: dict[str, Any] = dataclasses.field(default_factory=dict)
  image_token: int | None = None

  def grid(self) -> tuple[int, int] | None:
    """Returns (rows, columns) of the positions; None if they are not patches'."""
    patch = self.model.get("patch_size")
    if not patch:
      return None
    height, width = self.image_size
    return height // patch[0], width // patch[1]

  def tower(self, part: str) -> "Found":
    """Describes one tower of two.

    Args:
      part: "img", or "txt", of PaliGemma "llm".

    Returns:
      What is found of it; itself if it is one model already.
    """
    if self.model_name == PALIGEMMA:
      return self._part_of_paligemma(part)
    if self.model_name != TWO_TOWERS:
      return self
    m, dims = self.model, self.model["out_dim"]
    image_dim, text_dim = (dims, dims) if isinstance(dims, int) else dims
    if part == "txt":
      return dataclasses.replace(
        self, model_name=TEXT_MODEL, model=m["text"], num_classes=text_dim
      )
    name = m.get("image_model", "vit")
    return dataclasses.replace(
      self,
      model_name=name,
      model=m["image"],
      num_classes=image_dim,
      text_length=None,
    )

  def _part_of_paligemma(self, part):
    image, text = self.model["img"], self.model["llm"]
    if part == "img":
      name = self.model.get("img_model", "vit")
      return dataclasses.replace(
        self, model_name=name, model=image, num_classes=text["width"]
      )
    if part == "llm":
      model = {"norm_eps": 1e-6, **text}
      return dataclasses.replace(self, model_name=GEMMA, model=model)
    return self


def instance(
  name: str, num_classes: int | None, args: Mapping[str, Any]
) -> Any:
  """Makes the model that is described.

  Args:
    name: `Found.model_name`.
    num_classes: outputs of the head.
    args: `Found.model`.

  Returns:
    The linen module.
  """
  module = lookup.module("models", name, kind="model", needs="Model")
  if name in (TWO_TOWERS, GEMMA, PALIGEMMA):
    return module.Model(**args)
  return module.Model(num_classes, **args)


@dataclasses.dataclass(frozen=True)
class Family:
  """Reads and writes the models of one layout.

  Attributes:
    name: for users.
    library: whose files they are, one of `LIBRARIES`.
    kinds: regular expression of what it reads, see `families.find`.
    read: (settings, name of tensor -> its shape) -> `Found`.
    to_params: (tensors, `Found`) -> parameters. Of large models it looks up one
      tensor after the other, since that reads it.
    to_tensors: (parameters, `Found`) -> (tensors, settings).
    prefixes: of two towers, "img" and "txt", or "llm" -> how names of its tensors
      begin.
    models: the `Found.model_name` that it has.
    written: `Found` -> (name of tensor -> its shape, settings) of what
      `to_tensors` writes; None if this can only be seen from its result.
  """

  name: str
  library: str
  kinds: str
  read: Callable[[Mapping[str, Any], Mapping[str, tuple[int, ...]]], Found]
  to_params: Callable[[Tensors, Found], Params]
  to_tensors: Callable[[Params, Found], tuple[Tensors, dict[str, Any]]]
  prefixes: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )
  models: tuple[str, ...] = ()
  written: (
    Callable[[Found], tuple[dict[str, tuple[int, ...]], dict[str, Any]]] | None
  ) = None

  def select(self, names: Iterable[str], part: str) -> list[str]:
    """Lists the tensors of one of two towers.

    Args:
      names: of all tensors.
      part: key of `prefixes`.

    Returns:
      Those of the tower.
    """
    return [name for name in names if name.startswith(self.prefixes[part])]

  @property
  def title(self) -> str:
    """Returns what messages call it."""
    return title(self.library, self.name)


def title(library: str, name: str) -> str:
  """Says whose models they are, for messages.

  Args:
    library: one of `LIBRARIES`.
    name: of the family.

  Returns:
    For example "timm's ViT".
  """
  end = "'" if library.endswith("s") else "'s"
  return f"{library}{end} {name}"
