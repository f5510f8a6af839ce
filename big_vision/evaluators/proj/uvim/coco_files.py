"""Reads and writes panoptic segmentations in COCO's files.

  panoptic_coco_categories.json        the classes
  panoptic_val2017.json                annotations: of each image its segments
  panoptic_val2017.zip, or a folder    a PNG per image, whose colors are the ids

References: https://cocodataset.org/#format-data.
"""

import functools
import io
import json
import os
import threading
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from PIL import Image

from big_vision import fs, panoptic, segment_colors, untrusted
from big_vision.datasets import panoptic_categories
from big_vision.datasets.panoptic_categories import Categories
from big_vision.evaluators import files
from big_vision.lookup import ConfigError
from big_vision.pp import image_files

CATEGORIES = "panoptic_coco_categories.json"
DATASET = "coco/2017_panoptic"
# Features of TFDS datasets that have the truth.
FEATURES = ("image/id", "panoptic_image", "panoptic_objects")
FOLDER_VARIABLE = "COCO_DATA_DIR"
# What COCO calls the splits of TFDS.
_MAX_PNG = 1 << 28  # Bytes.
_PARTS = {"train": "train2017", "validation": "val2017"}


class Truth(NamedTuple):
  """The annotation of an image.

  Attributes:
    ids: [H, W] ints, the segment that each pixel belongs to.
    segments: what is known about the segments.
  """

  ids: np.ndarray
  segments: panoptic.Segments


def truth_of_example(example: Mapping[str, Any]) -> Truth:
  """Finds the annotation in an example of a TFDS dataset.

  Args:
    example: raw example as NumPy arrays, with decoded `panoptic_image`.

  Returns:
    The annotation.
  """
  objects = example["panoptic_objects"]
  segments = panoptic.Segments(
    *(np.asarray(objects[k]) for k in ("id", "label", "area", "is_crowd"))
  )
  return Truth(panoptic.ids_of_rgb(example["panoptic_image"]), segments)


def folder_for(dataset: str, dataset_dir: str | None, split: str) -> str | None:
  """Finds COCO's files for a dataset.

  Args:
    dataset: TFDS name.
    dataset_dir: the TFDS folder; files are looked for only where it is None.
    split: TFDS split.

  Returns:
    $COCO_DATA_DIR, else the current folder, if the dataset is COCO's and the
    annotations are there; else None: what TFDS stores is the same.
  """
  part = part_of(split)
  if dataset_dir is not None or dataset.split(":")[0] != DATASET or not part:
    return None
  folder = os.environ.get(FOLDER_VARIABLE)
  for name in (CATEGORIES, f"panoptic_{part}.json"):
    if not fs.exists(os.path.join(folder or ".", name)):
      if folder:
        logging.warning(
          "%s=%s has no %s: the annotations that TFDS has are taken.",
          FOLDER_VARIABLE,
          folder,
          name,
        )
      return None
  return folder or "."


def part_of(split: str) -> str | None:
  """Finds what COCO calls the part of the data that a split is of.

  Args:
    split: TFDS split, such as "train[4096:8192]".

  Returns:
    "train2017" or "val2017"; None if it is of neither, or of both.
  """
  names = {s.strip().split("[")[0] for s in split.split("+")}
  return _PARTS.get(names.pop()) if len(names) == 1 else None


def categories_in(folder: str) -> Categories:
  """Reads the classes in a folder with COCO's files."""
  return panoptic_categories.of_file(os.path.join(folder, CATEGORIES))


class Annotations:
  """The annotations of one part of COCO.

  Args:
    folder: with the files.
    part: "train2017" or "val2017", or what else is between `panoptic_` and
      `.json`.
    categories: the classes in the order of labels.

  Raises:
    ConfigError: a file is missing or is something else.
  """

  def __init__(self, folder: str, part: str, categories: Categories) -> None:
    self._path = os.path.join(folder, f"panoptic_{part}.json")
    self._part, self._folder = part, folder
    self._segments = _load(self._path, _stamp(self._path), categories)
    self._pngs, self._read = self._pictures()

  @property
  def ids(self) -> list[int]:
    """Numbers of the images that are annotated."""
    return list(self._segments)

  def read(self, image_id: int) -> Truth:
    """Reads the annotation of an image.

    Args:
      image_id: number of the image.

    Returns:
      The annotation.

    Raises:
      ConfigError: there is none, or its PNG is missing.
    """
    if image_id not in self._segments:
      raise ConfigError(f"{self._path} has no image {image_id}.")
    name, segments = self._segments[image_id]
    self._check_png(image_id, name)
    try:
      data = self._read(name)
      image_files.check_format(data, ("PNG", "PNG"))
      rgb = image_files.read(data, image_files.limit())
    except Exception as e:  # Damage gets to zipfile, zlib, seek and Pillow.
      raise ConfigError(f"{self._path}: {name} of image {image_id}: {e}") from e
    rgb = np.asarray(rgb.convert("RGB"))
    return Truth(panoptic.ids_of_rgb(rgb), segments)

  def check(self, num: int = 5) -> None:
    """Checks that all PNG files are there, and that some fit their annotation.

    Args:
      num: of how many images the pixels are looked at.

    Raises:
      ConfigError: names the first image that is wrong.
    """
    for image_id, (name, _) in self._segments.items():
      self._check_png(image_id, name)
    for image_id in self.ids[:: max(1, len(self.ids) // num)]:
      ids, segments = self.read(image_id)
      unlisted = np.setxor1d(np.append(ids, panoptic.VOID), segments.ids)
      unlisted = unlisted[unlisted != panoptic.VOID]
      if len(unlisted):
        raise ConfigError(
          f"{self._path}: image {image_id} does not have the segment "
          f"{unlisted[0]} both in its PNG and in its annotation."
        )

  def _check_png(self, image_id, name):
    if name not in self._pngs:
      raise ConfigError(f"{self._path}: image {image_id} has no PNG {name}.")

  def _pictures(self):
    """Returns the names of PNG files, and a function that reads one."""
    folder = os.path.join(self._folder, f"panoptic_{self._part}")
    if fs.exists(f"{folder}.zip"):
      try:
        archive = zipfile.ZipFile(fs.open(f"{folder}.zip", "rb"))
      except (zipfile.BadZipFile, ValueError, NotImplementedError) as e:
        raise ConfigError(f"{folder}.zip is damaged: {e}.") from e
      members = {n.rpartition("/")[2]: n for n in archive.namelist()}
      return members.keys(), lambda name: _member(archive, members[name])
    if not fs.isdir(folder):
      raise ConfigError(f"Neither {folder}.zip nor the folder {folder} exists.")

    def read(name):
      with fs.open(os.path.join(folder, name), "rb") as f:
        return f.read()

    return set(fs.listdir(folder)), read


def _member(archive, name):
  """Reads a member of a zip file, whose size is checked before."""
  size = archive.getinfo(name).file_size
  if size > _MAX_PNG:
    raise ValueError(f"it has {size:,} bytes, at most {_MAX_PNG:,} can be")
  return archive.read(name)


def _stamp(path):
  return fs.stamp(path) if fs.exists(path) else None


# Evaluators of several splits share a file of hundreds of MB.
@functools.lru_cache(4)
def _load(path, stamp, categories):
  """Reads annotations: number of the image -> (PNG, Segments)."""
  del stamp  # Another file is read anew.
  try:
    with fs.open(path) as f:
      found = untrusted.json_value(f.read())
  except (OSError, ValueError) as e:
    raise ConfigError(f"{path}: cannot read annotations: {e}") from e
  label = {c.id: i for i, c in enumerate(categories)}
  try:
    return {
      int(a["image_id"]): (a["file_name"], _segments(a["segments_info"], label))
      for a in found["annotations"]
    }
  except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as e:
    raise ConfigError(
      f"{path} should have annotations with image_id, file_name and "
      f"segments_info, of known categories: {type(e).__name__}: {e}."
    ) from e


def _segments(rows, label):
  """Makes Segments of COCO's list; areas and crowds may be left out."""
  get = lambda key, default: np.array([r.get(key, default) for r in rows])
  return panoptic.Segments(
    np.array([r["id"] for r in rows], np.int64),
    np.array([label[r["category_id"]] for r in rows], np.int64),
    get("area", 0).astype(np.int64),
    get("iscrowd", 0).astype(bool),
  )


class Writer:
  """Writes segmentations: `<name>/<image>.png` and `<name>.json`.

  Threads may use it together, and so may processes, each for its own images.

  Args:
    path: without ending.
    categories: the classes.
  """

  def __init__(self, path: str, categories: Categories) -> None:
    self._path, self._categories = path, categories
    self._rows: list[tuple[dict[str, Any], dict[str, Any]]] = []
    self._lock = threading.Lock()
    fs.makedirs(path)

  def add(
    self,
    image_id: int,
    ids: np.ndarray,
    segments: panoptic.Segments,
    recolor: bool = False,
  ) -> None:
    """Writes the PNG of an image.

    Args:
      image_id: number of the image.
      ids: [H, W] ints, ids of segments.
      segments: the segments, with areas.
      recolor: whether to give segments other ids, by which the PNG shows the
        classes in colors.
    """
    new_ids = np.asarray(segments.ids)
    if recolor:
      colors = segment_colors.SegmentColors()
      new_ids = np.array(
        [colors.next(int(c))[0] for c in segments.classes], int
      )
      old = np.append(segments.ids, panoptic.VOID)
      order = np.argsort(old)
      place = order[np.searchsorted(old, ids, sorter=order)]
      ids = np.append(new_ids, panoptic.VOID)[place]
    name = f"{image_id:012d}"
    png = io.BytesIO()
    Image.fromarray(panoptic.rgb_of_ids(ids)).save(png, "PNG")
    with fs.open(os.path.join(self._path, f"{name}.png"), "wb") as f:
      f.write(png.getvalue())
    height, width = ids.shape
    image = {"id": image_id, "file_name": f"{name}.jpg"}
    image |= {"height": height, "width": width}
    info = [
      {
        "id": int(new_id),
        "category_id": self._categories[c].id,
        "area": int(area),
        "iscrowd": int(is_crowd),
      }
      for new_id, c, area, is_crowd in zip(new_ids, *segments[1:], strict=True)
    ]
    annotation = {"image_id": image_id, "file_name": f"{name}.png"}
    with self._lock:
      self._rows.append((image, {**annotation, "segments_info": info}))

  def finish(self) -> None:
    """Writes the JSON file, with the images of all processes."""
    path = f"{self._path}.json"
    rows = [list(row) for row in self._rows]
    rows = files.multiprocess_write_json(path, rows)
    if jax.process_index() or rows is None:
      return
    rows = sorted(rows, key=lambda row: row[0]["id"])
    images, annotations = zip(*rows, strict=True) if rows else ((), ())
    merged = {
      "images": images,
      "annotations": annotations,
      "categories": panoptic_categories.to_json(self._categories),
    }
    with fs.open(path, "w") as f:
      f.write(json.dumps(merged))
