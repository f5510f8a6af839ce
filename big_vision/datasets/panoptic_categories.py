"""Which classes a dataset of panoptic segmentation has, and which are things.

Things can be counted (persons), stuff cannot (grass). Classes are in the order of
the dataset's labels, `panoptic_objects/label`.
"""

import functools
import importlib.resources
import os
import re
from typing import Any, NamedTuple

from big_vision import fs, untrusted
from big_vision.lookup import ConfigError


class Category(NamedTuple):
  """A class.

  Attributes:
    id: number in annotations, which need not be that of the label.
    name: of the class.
    is_thing: whether its instances can be counted.
  """

  id: int
  name: str
  is_thing: bool


Categories = tuple[Category, ...]


def of_dataset(name: str, data_dir: str | None = None) -> Categories:
  """Finds the classes of a TFDS dataset with `panoptic_objects`.

  Args:
    name: TFDS name, such as "coco/2017_panoptic" or "shapes/64".
    data_dir: the TFDS folder.

  Returns:
    The classes in the order of labels.

  Raises:
    ConfigError: the dataset does not have them, or does not tell which of them
      are things.
  """
  if known := of_known(name):
    return known
  from big_vision.datasets import embedded, tfds  # Slow to import.

  builder = tfds.get_builder(name, embedded.default_data_dir(data_dir))
  if tfds.classes_of(builder, "panoptic_objects/label") is None:
    raise ConfigError(
      f"dataset={name!r} has no classes panoptic_objects/label, as "
      "'coco/2017_panoptic' has."
    )
  raise ConfigError(
    f"dataset={name!r} does not tell which of its classes are things: give "
    "categories, the path of a JSON file with a list of "
    '{"id": 1, "name": "person", "isthing": 1} in the order of its labels.'
  )


def of_known(name: str) -> Categories:
  """Returns the classes of COCO or `shapes`, by the name of the dataset.

  Args:
    name: as for `of_dataset`.

  Returns:
    The classes in the order of labels; empty for other datasets.
  """
  known = {"coco": coco, "shapes": shapes}
  of = known.get(re.split("[/:]", name)[0])
  return of() if of else ()


@functools.cache
def coco() -> Categories:
  """Returns the 133 classes of COCO's panoptic segmentation, things first."""
  folder = importlib.resources.files("big_vision.datasets.coco")
  text = (folder / "panoptic_categories.txt").read_text(encoding="utf-8")
  rows = (line.split(" ", 2) for line in text.splitlines())
  return tuple(
    Category(int(number), name, kind == "thing") for number, kind, name in rows
  )


@functools.cache
def shapes() -> Categories:
  """Returns the classes of `shapes`: shapes, which are things, wall, floor."""
  from big_vision.datasets.shapes import render, scene

  names = render.SEMANTICS[1:]
  return tuple(
    Category(i, name, name in scene.SHAPES) for i, name in enumerate(names, 1)
  )


def of_file(path: str) -> Categories:
  """Reads classes from a JSON file as COCO has.

  Args:
    path: of the file: a list of objects with `id`, `name` and `isthing`, or an
      object with such a list as `categories`, as annotations have.

  Returns:
    The classes in the order of the file.

  Raises:
    ConfigError: the file is not there, or holds something else.
  """
  try:
    with fs.open(path) as f:
      found = untrusted.json_value(f.read())
  except (OSError, ValueError) as e:
    raise ConfigError(f"{os.fspath(path)}: cannot read categories: {e}") from e
  return of_json(found, os.fspath(path))


def of_json(found: Any, where: str) -> Categories:
  """Reads classes from objects as COCO has, see `of_file`.

  Args:
    found: the content of a JSON file.
    where: what the error calls it.

  Returns:
    The classes in the given order.

  Raises:
    ConfigError: it is something else, or an id occurs twice.
  """
  rows = found.get("categories") if isinstance(found, dict) else found
  try:
    categories = tuple(
      Category(int(c["id"]), str(c["name"]), bool(c["isthing"])) for c in rows
    )
  except (TypeError, KeyError, ValueError, OverflowError) as e:
    raise ConfigError(
      f"{where} should be a list of categories such as "
      f'{{"id": 1, "name": "person", "isthing": 1}}: {type(e).__name__}: {e}.'
    ) from e
  ids = [c.id for c in categories]
  if not ids or len(set(ids)) < len(ids):
    raise ConfigError(
      f"{where}: ids of categories should be distinct: {ids!s:.200}."
    )
  return categories


def to_json(categories: Categories) -> list[dict[str, Any]]:
  """Writes classes as COCO does, the inverse of `of_json`."""
  return [
    {"id": c.id, "name": c.name, "isthing": int(c.is_thing)} for c in categories
  ]
