"""Generated scenes of colored shapes with the truth about every pixel.

One small dataset for every task of this project: classification, captioning,
contrastive training, question answering, detection, referring expressions,
panoptic segmentation and depth. Nothing is downloaded; an example depends on
(seed, split, index) alone.

`scene` draws what is there, `render` makes pixels from it and `text` sentences;
docs/datasets.md has the table of features.
"""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from big_vision import lookup
from big_vision.datasets import embedded
from big_vision.datasets.shapes import render, text
from big_vision.datasets.shapes import scene as ss

SHAPE_COLORS = tuple(f"{c} {s}" for s in ss.SHAPES for c in ss.COLORS)
_JPEG_QUALITY = 95


@dataclasses.dataclass(kw_only=True, eq=False)
class ShapesConfig(tfds.core.BuilderConfig):
  """Size of the dataset.

  image_size: side of the pictures in pixels, at least 32.
  num_train, num_validation, num_test: number of examples of the splits.
  max_objects: pictures have 1 to this many objects, at most 8.
  near, far: range of the distances of objects in meters; the size in the
    picture is 0.8 / distance.
  balanced: whether the nearest object of every 64 examples in turn is each
    combination of shape and color once, instead of a random one.
  seed: int >= 0, another one gives other examples.
  """

  image_size: int = 64
  num_train: int = 4096
  num_validation: int = 512
  num_test: int = 512
  max_objects: int = 5
  near: float = ss.NEAR
  far: float = ss.FAR
  balanced: bool = False
  seed: int = 0

  def __post_init__(self):
    lowest = dict.fromkeys(("num_train", "num_validation", "num_test"), 1)
    lowest |= {
      "image_size": render.MIN_SIZE,
      "max_objects": 1,
      "seed": 0,
    }
    for name, low in lowest.items():
      value = getattr(self, name)
      if not isinstance(value, int) or value < low:
        raise ValueError(
          f"shapes: {name}={value!r} must be an integer of at least {low}."
        )
    if self.max_objects > ss.MAX_OBJECTS:
      raise ValueError(
        f"shapes: max_objects={self.max_objects} must be at most "
        f"{ss.MAX_OBJECTS}: more would hide each other."
      )
    # Nearer than that, objects do not fit into the picture.
    if not ss.NEAREST <= self.near < self.far <= ss.FAR:
      raise ValueError(
        f"shapes: near={self.near!r} and far={self.far!r} must be in "
        f"{ss.NEAREST} <= near < far <= {ss.FAR}."
      )
    if self.far / self.near < ss.depth_range(self.max_objects):
      raise ValueError(
        f"shapes: far={self.far!r} is too close to near={self.near!r} for "
        f"{self.max_objects} objects behind each other."
      )

  @property
  def scene(self) -> dict[str, Any]:
    """Arguments of `make_scene`."""
    names = ("max_objects", "near", "far", "balanced", "seed")
    return {name: getattr(self, name) for name in names}


_OPTIONS = tuple(
  f.name
  for f in dataclasses.fields(ShapesConfig)
  if f.name not in {f.name for f in dataclasses.fields(tfds.core.BuilderConfig)}
)
_TINY = dict(num_train=128, num_validation=32, num_test=32, max_objects=3)


class Shapes(embedded.Builder, skip_registration=True):
  """TFDS builder of `shapes`; the first config is the default."""

  name = "shapes"
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}
  BUILDER_CONFIGS = [
    ShapesConfig(name="64", description="64 pixels."),
    ShapesConfig(name="tiny", description="For tests.", image_size=32, **_TINY),
    ShapesConfig(name="32", description="32 pixels.", image_size=32),
    ShapesConfig(name="128", description="128 pixels.", image_size=128),
    ShapesConfig(name="224", description="224 pixels.", image_size=224),
    ShapesConfig(
      name="closeup",
      description="One large object in 32 pixels, all kinds equally often.",
      image_size=32,
      max_objects=1,
      near=0.85,
      far=1.0,
      balanced=True,
    ),
  ]

  def _info(self):
    f = tfds.features
    size = self.builder_config.image_size

    def array(*shape, dtype):
      return f.Tensor(shape=(size, size, *shape), dtype=dtype, encoding="zlib")

    shape = lambda: f.ClassLabel(names=ss.SHAPES)
    color = lambda: f.ClassLabel(names=ss.COLORS)
    features = {
      "image": f.Image(shape=(size, size, 3), encoding_format="jpeg"),
      "id": f.Text(),
      "image/id": np.int64,
      "label": shape(),
      "color": color(),
      "shape_color": f.ClassLabel(names=SHAPE_COLORS),
      "num_objects": np.int64,
      "captions": f.Sequence(f.Text()),
      "qa": f.Sequence(
        {
          "question": f.Text(),
          "answer": f.Text(),
          "type": f.ClassLabel(names=text.QUESTION_TYPES),
        }
      ),
      "boxes": f.Sequence(
        {
          "bbox": f.BBoxFeature(),
          "label": shape(),
          "color": color(),
          "depth": np.float32,
          "visible": np.float32,
          "expression": f.Text(),
        }
      ),
      "panoptic": array(2, dtype=np.uint8),
      # The same in the layout of TFDS' coco/2017_panoptic.
      "panoptic_image": f.Image(shape=(size, size, 3), encoding_format="png"),
      "panoptic_objects": f.Sequence(
        {
          "id": np.int64,
          "label": f.ClassLabel(names=render.SEMANTICS[1:]),
          "bbox": f.BBoxFeature(),
          "area": np.int64,
          "is_crowd": np.bool_,
        }
      ),
      "depth": array(dtype=np.float32),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      description="Scenes of coloured shapes with the truth for many tasks.",
      features=f.FeaturesDict(features),
      supervised_keys=("image", "label"),
      # Any 64 in a row are one of each kind only in the order they are made.
      disable_shuffling=self.builder_config.balanced,
    )

  def _split_generators(self, dl_manager):
    c = self.builder_config
    sizes = (c.num_train, c.num_validation, c.num_test)
    return {
      split: self._generate_examples(split, num)
      for split, num in zip(ss.SPLITS, sizes, strict=True)
    }

  def _generate_examples(self, split, num):
    c = self.builder_config
    for index in range(num):
      example = make_example(split, index, image_size=c.image_size, **c.scene)
      yield example["id"], example


Builder = Shapes


def make_scene(
  split: str, index: int, *, balanced: bool = False, seed: int = 0, **kw: Any
) -> tuple[ss.Scene, np.random.Generator]:
  """Makes the scene of one example, and the generator for texts about it.

  Args:
    split: "train", "validation" or "test".
    index: position in the split.
    balanced: see ShapesConfig.
    seed: see ShapesConfig.
    **kw: max_objects, near, far, see ShapesConfig.

  Returns:
    (scene.Scene, np.random.Generator).
  """
  rng = ss.generator(seed, split, index)
  main = None
  if balanced:
    # In steps that have no divisor with 64 in common, so that each is once.
    main = SHAPE_COLORS[index * 37 % len(SHAPE_COLORS)].split()[::-1]
  return ss.sample_scene(rng, main=main, **kw), rng


def make_example(
  split: str, index: int, *, image_size: int = 64, **scene: Any
) -> dict[str, Any]:
  """Makes one example as the TFDS builder stores it.

  Args:
    split: "train", "validation" or "test".
    index: position in the split.
    image_size: pixels.
    **scene: see `make_scene`.

  Returns:
    Dict with the features of the dataset; images are encoded bytes.
  """
  scene, rng = make_scene(split, index, **scene)
  picture = render.render(scene, image_size)
  main = scene.main
  boxes = [tfds.features.BBox(*box) for box in picture.boxes.tolist()]
  objects = zip(
    scene.objects,
    boxes,
    picture.visible,
    text.expressions(scene),
    strict=True,
  )
  panoptic_image, panoptic_objects = _coco_panoptic(picture.panoptic)
  return {
    "image": _encode(
      # Without chroma subsampling, which would smear small shapes.
      picture.image,
      "JPEG",
      quality=_JPEG_QUALITY,
      subsampling=0,
    ),
    "id": f"{split}_{index:06d}",
    # Unique in the dataset, for evaluators that name examples by number.
    "image/id": ss.SPLITS.index(split) * 10**9 + index,
    "label": main.shape,
    "color": main.color,
    "shape_color": main.kind,
    "num_objects": len(scene.objects),
    "captions": text.captions(scene, rng),
    "qa": text.questions(scene, rng),
    "boxes": [
      {
        "bbox": box,
        "label": o.shape,
        "color": o.color,
        "depth": o.depth,
        "visible": visible,
        "expression": expression,
      }
      for o, box, visible, expression in objects
    ],
    "panoptic": picture.panoptic,
    "panoptic_image": _encode(panoptic_image, "PNG"),
    "panoptic_objects": panoptic_objects,
    "depth": picture.depth,
  }


def prepare(
  data_dir: str | None = None, config: str | None = None, **overrides: Any
) -> tfds.core.DatasetBuilder:
  """Writes the dataset below `data_dir` unless it is there already.

  Args:
    data_dir: the TFDS folder; None means $TFDS_DATA_DIR, and without that
      ~/tensorflow_datasets.
    config: name of a config of `Shapes`; None means the default.
    **overrides: fields of ShapesConfig to change, such as `image_size=48`.
      The result is a config of its own; its name lists the changes, for
      example `shapes/64-image_size48`.

  Returns:
    The TFDS builder, ready for `as_dataset`.

  Raises:
    ValueError: unknown config or field, or a value out of range.
  """
  data_dir = embedded.default_data_dir(data_dir)
  chosen = make_config(config, **overrides)
  return embedded.prepare(lambda: Shapes(data_dir=data_dir, config=chosen))


def make_config(config: str | None = None, **overrides: Any) -> ShapesConfig:
  """Makes the ShapesConfig that `prepare` uses; same arguments and errors."""
  configs = {c.name: c for c in Shapes.BUILDER_CONFIGS}
  default = Shapes.BUILDER_CONFIGS[0].name
  base = configs.get(config or default)
  if base is None:
    raise lookup.unknown("config of the dataset 'shapes'", config, configs)
  for name in overrides:
    if name not in _OPTIONS:
      raise lookup.unknown("option of the dataset 'shapes'", name, _OPTIONS)
  changed = {
    k: v for k, v in sorted(overrides.items()) if v != getattr(base, k)
  }
  if not changed:
    return base  # TFDS insists on its own object for names that it knows.
  name = "-".join([base.name, *(f"{k}{v}" for k, v in changed.items())])
  return dataclasses.replace(base, name=name, **changed)


def _coco_panoptic(panoptic):
  """The two-channel map in COCO's layout: objects first, then wall, floor.

  Returns:
    image: [S, S, 3] uint8; red is the `id` of the segment, the rest is 0.
    segments: list of dicts.
  """
  semantic, instance = panoptic[..., 0], panoptic[..., 1]
  masks = [instance == i for i in range(1, instance.max() + 1)]
  for name in ("wall", "floor"):
    masks.append(semantic == render.SEMANTICS.index(name))
  size = len(panoptic)
  image = np.zeros((size, size, 3), np.uint8)
  segments = []
  for number, mask in enumerate((m for m in masks if m.any()), start=1):
    image[mask, 0] = number
    y, x = np.nonzero(mask)
    box = [y.min(), x.min(), y.max() + 1, x.max() + 1]
    segments.append(
      {
        "id": number,
        # The class labels leave out "void".
        "label": int(semantic[mask][0]) - 1,
        "bbox": tfds.features.BBox(*(float(v) / size for v in box)),
        "area": len(y),
        "is_crowd": False,
      }
    )
  return image, segments


def _encode(array, file_format, **kw):
  """Array of uint8 -> bytes; Pillow is an order faster here than TFDS."""
  out = io.BytesIO()
  Image.fromarray(array).save(out, format=file_format, **kw)
  return out.getvalue()
