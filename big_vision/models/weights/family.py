"""Defines what a family of published weights consists of, see other files here."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from big_vision.types import Params

Tensors = Mapping[str, np.ndarray]

# "original" are the state dicts of the first releases, which have no settings.
LIBRARIES = ("transformers", "timm", "open_clip", "original")


TEXT_MODEL = "proj.image_text.text_transformer"
TWO_TOWERS = "proj.image_text.two_towers"


@dataclasses.dataclass(frozen=True)
class Found:
  """Describes the model of a file in the terms of a config.

  Attributes:
    model_name: of `config.model_name`.
    model: arguments of the model, `config.model`.
    num_classes: outputs of the head; None without one.
    image_size: (height, width) in pixels of the stored positions.
    resample: method of `positions.resample` for images of other sizes.
    text_length: number of tokens of texts, if there are any.
    architecture: name of the architecture in timm, if one is stored.
    head: arguments of the model that the library changes where it adds a head
      of classes.
  """

  model_name: str
  model: dict[str, Any]
  num_classes: int | None = None
  image_size: tuple[int, int] = (224, 224)
  resample: str = "bicubic"
  text_length: int | None = None
  architecture: str | None = None
  head: dict[str, Any] = dataclasses.field(default_factory=dict)

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
      part: "img" or "txt".

    Returns:
      What is found of it; itself if it is one model already.
    """
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


@dataclasses.dataclass(frozen=True)
class Family:
  """Reads and writes the models of one layout.

  Attributes:
    name: for users.
    library: whose files they are, one of `LIBRARIES`.
    kinds: regular expression of what it reads, see `families.find`.
    read: (settings, name of tensor -> its shape) -> `Found`.
    to_params: (tensors, `Found`) -> parameters.
    to_tensors: (parameters, `Found`) -> (tensors, settings).
    prefixes: of two towers, "img" and "txt" -> how names of its tensors begin.
    models: the `Found.model_name` that it has.
    written: `Found` -> (name of tensor -> its shape, settings) of what
      `to_tensors` writes; None if this can only be seen from its result.
  """

  name: str
  library: str
  kinds: str
  read: Callable[[Mapping[str, Any], Mapping[str, tuple[int, ...]]], Found]
  to_params: Callable[[Tensors, Found], Params]
  to_tensors: Callable[
    [Params, Found], tuple[dict[str, np.ndarray], dict[str, Any]]
  ]
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
      part: "img" or "txt".

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
