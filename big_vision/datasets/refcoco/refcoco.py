"""RefCOCO, RefCOCO+ and RefCOCOg: texts that refer to an object of an image.

TFDS dataset `ref_coco_bv`, a config per dataset and way to split it, such as
`refcoco_unc`. Of `refcocox_combined` the training images are in none of the
splits to validate and test with of `refcoco_unc`, `refcocoplus_unc` and
`refcocog_umd`, which it joins.

References:
  Yu et al. 2016, Modeling Context in Referring Expressions,
  https://arxiv.org/abs/1608.00272
  Mao et al. 2016, Generation and Comprehension of Unambiguous Object
  Descriptions, https://arxiv.org/abs/1511.02283
"""

from __future__ import annotations

import dataclasses
import functools
import io
import pickle
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from big_vision import extras, lookup
from big_vision.datasets import building

_TRAIN_AND_TWO = {"train": "train", "val": "validation", "test": "test"}
_TRAIN_AND_ONE = {"train": "train", "val": "validation"}
_PEOPLE_APART = {**_TRAIN_AND_ONE, "testA": "testA", "testB": "testB"}
_MERGED = {**_TRAIN_AND_TWO, "testA": "test", "testB": "test"}
_IMAGES = "train2017"
# The server of the authors is no more.
_SERVER = (
  "https://web.archive.org/web/20220413/"
  "https://bvisionweb1.cs.unc.edu/licheng/referit/data"
)


@dataclasses.dataclass(kw_only=True, eq=False)
class RefCocoConfig(tfds.core.BuilderConfig):
  """Says what a config of `ref_coco_bv` is made of.

  Attributes:
    parts: pairs of a dataset and of who split it: (folder, file `refs(…).p`).
    names: split in these files -> split of the config.
    no_leaks: whether to leave out of `train` the images of other splits.
  """

  parts: tuple[tuple[str, str], ...] = ()
  names: Mapping[str, str] = dataclasses.field(default_factory=dict)
  no_leaks: bool = False


def _variant(name, names, *parts, **kw):
  return RefCocoConfig(name=name, names=names, parts=parts, **kw)


class RefCoco(building.Builder):
  """TFDS builder of `ref_coco_bv`: an image, objects, and texts about them.

  `<split>_flat` has an example per text, with its object alone.
  """

  name = "ref_coco_bv"
  VERSION = tfds.core.Version("1.4.0")
  RELEASE_NOTES = {"1.4.0": "With flat splits, and all datasets combined."}
  DESCRIPTION = "Texts that refer to one object of an image of COCO."
  HOMEPAGE = "https://github.com/lichengunc/refer"
  DOWNLOADS = (
    *(
      building.Download(f"{_SERVER}/{name}.zip", name)
      for name in ("refcoco", "refcoco+", "refcocog")
    ),
    building.coco_images(_IMAGES),
  )
  BUILDER_CONFIGS = [
    _variant("refcoco_unc", _PEOPLE_APART, ("refcoco", "unc")),
    _variant("refcoco_google", _TRAIN_AND_TWO, ("refcoco", "google")),
    _variant("refcocoplus_unc", _PEOPLE_APART, ("refcoco+", "unc")),
    _variant("refcocog_google", _TRAIN_AND_ONE, ("refcocog", "google")),
    _variant("refcocog_umd", _TRAIN_AND_TWO, ("refcocog", "umd")),
    _variant(
      "refcocox_combined",
      _MERGED,
      ("refcocog", "umd"),
      ("refcoco", "unc"),
      ("refcoco+", "unc"),
      no_leaks=True,
    ),
  ]

  @property
  def _config(self):
    return cast("RefCocoConfig", self.builder_config)

  def features(self) -> dict[str, Any]:
    """See the base class."""
    f = tfds.features
    ref = {"id": np.int64, "sentence": f.Text()}
    thing = {
      "id": np.int64,
      "area": np.float32,
      "bbox": f.BBoxFeature(),
      "mask": f.Image(encoding_format="png"),
      "category": f.Text(),
      "supercategory": f.Text(),
      "iscrowd": np.bool_,
      "refs": f.Sequence(ref),
    }
    return {
      "image": f.Image(encoding_format="jpeg"),
      "image/id": np.int64,
      "width": np.int64,
      "height": np.int64,
      "objects": f.Sequence(thing),
    }

  def downloads(self) -> tuple[building.Download, ...]:
    """See the base class."""
    needed = {_IMAGES, *(folder for folder, _ in self._config.parts)}
    return tuple(d for d in self.DOWNLOADS if d.path in needed)

  def splits(self) -> dict[str, building.Examples]:
    """See the base class."""
    masks = extras.load("pycocotools.mask")
    read = functools.cache(self._read)
    splits = {}
    for name in self._config.names.values():
      splits[name] = self._examples(name, read, masks)
      splits[f"{name}_flat"] = self._flat(name, read, masks)
    return splits

  def _read(self):
    """Returns `_Coco`, and split -> image -> object -> its texts."""
    config = self._config
    found = {name: {} for name in config.names.values()}
    coco = _Coco()
    for folder, by in config.parts:
      refs = read_refs(self.path(folder, f"refs({by}).p"))
      coco.add(
        building.read_json(self.path(folder, "instances.json")),
        {ref["ann_id"] for ref in refs},
      )
      for ref in refs:
        objects = found[config.names[ref["split"]]]
        objects = objects.setdefault(ref["image_id"], {})
        objects.setdefault(ref["ann_id"], []).extend(
          {"id": s["sent_id"], "sentence": s["sent"]} for s in ref["sentences"]
        )
    if config.no_leaks:
      others = set().union(*(v for k, v in found.items() if k != "train"))
      for image_id in others:
        found["train"].pop(image_id, None)
    return coco, found

  def _examples(self, split, read, masks):
    coco, found = read()
    for image_id, objects in found[split].items():
      example = self._example(image_id, coco)
      example["objects"] = [
        {**coco.thing(ann_id, masks), "refs": refs}
        for ann_id, refs in objects.items()
      ]
      yield image_id, example

  def _flat(self, split, read, masks):
    coco, found = read()
    for image_id, objects in found[split].items():
      example = self._example(image_id, coco)
      for ann_id, refs in objects.items():
        thing = coco.thing(ann_id, masks)
        for number, ref in enumerate(refs):
          flat = {**example, "objects": [{**thing, "refs": [ref]}]}
          # Datasets that are combined may have different texts of one `id`.
          yield f"{image_id}_{ann_id}_{number}", flat

  def _example(self, image_id, coco):
    image = coco.images[image_id]
    return {
      "image": self.image(_IMAGES, building.coco_name(image_id)),
      "image/id": image_id,
      "width": image["width"],
      "height": image["height"],
    }


class _Coco:
  """Holds what files `instances.json` say about images and objects."""

  def __init__(self):
    self.images, self._things, self._categories = {}, {}, {}

  def add(self, instances, ann_ids):
    """Adds the images and categories of a file, and some of its objects."""
    self.images.update((row["id"], row) for row in instances["images"])
    self._categories.update((c["id"], c) for c in instances["categories"])
    self._things.update(
      (row["id"], row)
      for row in instances["annotations"]
      if row["id"] in ann_ids
    )

  def thing(self, ann_id, masks):
    """Returns the features of an object, without its texts."""
    row = self._things[ann_id]
    category = self._categories[row["category_id"]]
    image = self.images[row["image_id"]]
    height, width = image["height"], image["width"]
    left, top, w, h = row["bbox"]
    box = np.array([top, left, top + h, left + w])
    box = np.clip(box / [height, width, height, width], 0, 1)
    return {
      "id": ann_id,
      "area": row["area"],
      "bbox": tfds.features.BBox(*box.tolist()),
      "mask": _png(_mask(row["segmentation"], height, width, masks)),
      "category": category["name"],
      "supercategory": category["supercategory"],
      "iscrowd": bool(row["iscrowd"]),
    }


def _mask(segmentation, height, width, masks):
  """Fills polygons, or expands runs; returns uint8 [H, W], 0 or 255."""
  runs = masks.frPyObjects(segmentation, height, width)
  return (
    masks.decode(masks.merge(runs if isinstance(runs, list) else [runs])) * 255
  )


def _png(mask):
  out = io.BytesIO()
  Image.fromarray(mask).save(out, "PNG")
  return out.getvalue()


class _Unpickler(pickle.Unpickler):
  """Reads lists, dicts, texts and numbers, and runs nothing."""

  def find_class(self, module, name):
    raise pickle.UnpicklingError(f"it has {module}.{name}")


def read_refs(path: str) -> list[dict[str, Any]]:
  """Reads the file with the texts of a dataset.

  Args:
    path: of a file such as `refs(unc).p`, a pickle of Python 2.

  Returns:
    The rows, with `image_id`, `ann_id`, `split` and `sentences`.

  Raises:
    ConfigError: it is damaged, or has other things than lists, dicts, texts and
      numbers, which would run code.
  """
  content = io.BytesIO(building.read_bytes(path))
  try:
    return _Unpickler(content, encoding="utf-8", errors="replace").load()
  except Exception as e:  # Damaged pickles raise all kinds of errors.
    raise lookup.ConfigError(f"{path} cannot be read: {e!s:.200}") from e
