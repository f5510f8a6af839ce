"""Adapts preprocessing strings to small images, few classes and few steps."""

import math
import pathlib
from typing import Any

from big_vision import lookup

# First arguments of the ops that are changed.
_ARGS = {
  "bert_tokenize": ("vocab_path",),
  "central_crop": ("crop_size",),
  "decode_jpeg_and_inception_crop": ("size", "area_min"),
  "inception_crop": ("size", "area_min"),
  "onehot": ("depth", "key"),
  "randaug": ("num_layers", "magnitude"),
  "render_unifont": ("image_size",),
  "random_crop": ("crop_size",),
  "resize": ("size",),
  "resize_long": ("longer_size",),
  "resize_small": ("smaller_size",),
}
_PIXELS = ("crop_size", "image_size", "longer_size", "size", "smaller_size")

# Captions of the embedded dataset, and vocabularies of them.
_CAPTIONS = "captions"
_BERT = str(pathlib.Path(lookup.__file__).parent / "pp/vocabs/shapes_words.txt")
_VOCABS = {
  "locca": ("tokenizer", 'sp("shapes")'),
  "tokenize": ("model", "shapes"),
  "bert_tokenize": ("vocab_path", _BERT),
}

# Crops keep at least this percentage of the area: the objects in small images
# are lost otherwise.
AREA_MIN = 50
# RandAugment of more layers or magnitude takes much longer to learn from.
RANDAUG = dict(num_layers=1, magnitude=5)


def shrink(pp: str, *, size: int, num_classes: int, label: str) -> str:
  """Adapts a preprocessing string to small data.

  Args:
    pp: ops separated by `|`.
    size: pixels of the images that models get. All sizes of a feature change in
      the same proportion as the last one.
    num_classes: length of one-hot vectors.
    label: feature of the dataset that takes the place of any label.

  Returns:
    The string. Ops that need no change stay letter by letter.
  """
  from big_vision.pp import builder  # The TensorFlow wing.

  ops = [Op(section) for section in builder.split_pipeline(pp)]
  sizes = [_larger(op.get(op.pixels)) for op in ops]
  last = {op.feature: old for op, old in zip(ops, sizes, strict=True) if old}

  labels = {}  # As an ordered set.
  for op, old in zip(ops, sizes, strict=True):
    if old:
      op.set(op.pixels, _scaled(op.get(op.pixels), size / last[op.feature]))
    if op.name.endswith("inception_crop"):
      op.set("area_min", max(op.get("area_min", 0), AREA_MIN))
    elif op.name == "randaug":
      for key, most in RANDAUG.items():
        op.set(key, min(op.get(key, math.inf), most))
    elif op.name == "onehot":
      labels[op.get("key", "labels")] = None
      op.set("depth", num_classes)
    elif op.name == "keep" and "label" in op.args:
      labels["label"] = None
    elif op.name in _VOCABS:
      op.set(*_VOCABS[op.name])
    for key in ("inkey", "key", "caption"):
      if op.get(key) in ("captions/text", "text"):  # COCO, and others.
        op.set(key, _CAPTIONS)
  copies = [f'copy("{label}", "{key}")' for key in labels]
  return "|".join([*copies, *map(str, ops)])


class Op:
  """Represents an op of a preprocessing string with mutable arguments.

  Args:
    section: the op as it is written.
  """

  def __init__(self, section: str):
    from big_vision.pp import registry

    self.name, args, self.kw = registry.parse_name(section)
    self.args = list(args)
    self.keys = _ARGS.get(self.name, ())
    # The argument that is in pixels, None if there is none.
    self.pixels = next((k for k in self.keys if k in _PIXELS), None)
    # The feature that becomes of this size.
    self.feature = self.kw.get("outkey", self.kw.get("key", "image"))
    self._text = section

  def get(self, key: str, default: Any = None) -> Any:
    """Returns the value of an argument.

    Args:
      key: its name.
      default: the value where it is not given.

    Returns:
      The value.
    """
    given = dict(zip(self.keys, self.args, strict=False)) | self.kw
    return given.get(key, default)

  def set(self, key: str, value: Any) -> None:
    """Changes an argument, or adds it.

    Args:
      key: its name.
      value: the new value.
    """
    if key in self.keys[: len(self.args)]:
      self.args[self.keys.index(key)] = value
    else:
      self.kw[key] = value
    words = [*map(repr, self.args)]
    words += [f"{k}={v!r}" for k, v in self.kw.items()]
    self._text = f"{self.name}({', '.join(words)})"

  def __str__(self):
    return self._text


def _larger(size):
  """Returns the larger side of a size, which is an int, a pair or None."""
  return max(size) if isinstance(size, (tuple, list)) else size


def _scaled(size, factor):
  """Multiplies a size by a factor; returns whole pixels."""
  if isinstance(size, (tuple, list)):
    return tuple(round(s * factor) for s in size)
  return round(size * factor)
