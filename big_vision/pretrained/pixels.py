"""Preprocesses pictures as evaluations do, with Pillow and NumPy.

The ops of preprocessing strings that do not draw random numbers, with the pixels
that TensorFlow computes. A string with other ops is left to TensorFlow.

Axes: H height, W width, C channels, N patches.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import logging

from big_vision import fs, lookup, resizing
from big_vision.pp import builder, decoding, image_files, registry, utils
from big_vision.types import ConfigLike

_f = np.float32
_SIDES = (64, 8, 1, 1024)  # Of examples, pixels.
_Op = Callable[[dict[str, Any]], dict[str, Any]]


class _Unknown(Exception):
  """An op is not one of these."""


class Preprocess:
  """Turns pictures into inputs of a model.

  Attributes:
    pp: the ops that are applied to pictures; those of labels are left out.
    needs_tensorflow: the first op that only TensorFlow knows, or None.
  """

  def __init__(
    self,
    pp: str,
    decode: Mapping[str, Any] | None = None,
    config: ConfigLike | None = None,
  ):
    """Reads the preprocessing string.

    Args:
      pp: preprocessing of the entry `image` to the entry `image`.
      decode: arguments of the op `decode` for files, if `pp` does not begin with
        it, since the data of the run are pixels.
      config: of the run; `pp_modules` are imported if TensorFlow is needed.

    Raises:
      ValueError: an op cannot be parsed or does not exist.
      ConfigError: an op only exists in TensorFlow, which is not installed.
    """
    # What else there is of an example, labels mostly, is unknown here.
    sections = _of_image(builder.split_pipeline(pp))
    if not sections or not _is_decode(sections[0]):
      kw = ", ".join(f"{k}={v!r}" for k, v in (decode or {}).items())
      sections = [f"decode({kw})", *sections]
    self.pp = "|".join(sections)
    _, args, kw = registry.parse_name(sections[0])
    wanted = decoding.wanted_by(*sections[1:2]) if sections[1:] else None
    self._decoder = decoding.Decoder(*args, **_without_keys(kw), wanted=wanted)
    self.needs_tensorflow = None
    try:
      self._ops = [_make_op(section) for section in sections[1:]]
    except _Unknown as e:
      self.needs_tensorflow = str(e)
      self._ops = [_tensorflow("|".join(sections[1:]), str(e), config)]

  def __call__(self, picture: Any) -> Any:
    """Reads and preprocesses a picture.

    Args:
      picture: path, content of a file, image of Pillow, or uint8 [H, W, C] or
        [H, W].

    Returns:
      The model's input: an array, or a tuple of arrays; without a batch axis.

    Raises:
      ValueError: it is not a picture, or of a size that an op does not take.
      FileNotFoundError: there is no such file.
    """
    return self.inputs(self.pixels(picture))["image"]

  def inputs(self, image: np.ndarray) -> dict[str, Any]:
    """Preprocesses pixels, for models with several inputs.

    Args:
      image: uint8 [H, W, C], of `pixels`.

    Returns:
      Dict of `image` and what else the ops make of it, such as `image_ctx`.

    Raises:
      ValueError: it is of a size that an op does not take.
    """
    data: dict[str, Any] = {"image": image}
    height, width = image.shape[:2]
    try:
      for op in self._ops:
        data = op(data)
    except ValueError as e:
      raise ValueError(
        f"The preprocessing of this model does not take an image of {width} x "
        f"{height} pixels: {e}"
      ) from e
    return data

  def example(self) -> Any:
    """Preprocesses a black picture, of any size that the ops take.

    Returns:
      The model's input, without a batch axis.

    Raises:
      ValueError: no size fits.
    """
    for side in _SIDES[:-1]:
      with contextlib.suppress(ValueError):
        return self(np.zeros([side, side, 3], np.uint8))
    return self(np.zeros([_SIDES[-1]] * 2 + [3], np.uint8))

  def pixels(self, picture: Any) -> np.ndarray:
    """Reads a picture without changing its size.

    Args:
      picture: as for a call.

    Returns:
      uint8 [H, W, C], with the channels that the preprocessing asks for.

    Raises:
      ValueError: it is not a picture.
      FileNotFoundError: there is no such file.
    """
    if isinstance(picture, str | os.PathLike):
      with fs.open(picture, "rb") as f:
        data = f.read()
      try:
        return self._decoder.read_with_pillow(data)
      except ValueError as e:
        raise ValueError(f"{os.fspath(picture)}: {e}") from e
    if isinstance(picture, bytes):
      return self._decoder.read_with_pillow(picture)
    if hasattr(picture, "convert"):
      if self._decoder.exif:
        from PIL import ImageOps

        picture = ImageOps.exif_transpose(picture)
      return self._decoder.finish(picture)
    image = np.asarray(picture)
    if image.ndim == 2:
      image = image[..., None]
    if (
      image.dtype != np.uint8
      or image.ndim != 3
      or image.shape[-1] not in (1, 3, 4)
    ):
      raise ValueError(
        "A picture should be a path, the bytes of a file, an image of Pillow or "
        f"uint8 [height, width, 3], not {image.dtype} {list(image.shape)}."
      )
    return self._decoder.finish(image)


def _is_decode(section):
  return registry.parse_name(section)[0].strip() == "decode"


def _without_keys(kw):
  return {k: v for k, v in kw.items() if k not in ("key", "inkey", "outkey")}


def _of_image(sections):
  """Leaves out the ops that read an entry which does not follow from the image."""
  known, kept = {"image"}, []
  for section in sections:
    try:
      name, args, kw = registry.parse_name(section)
    except (SyntaxError, ValueError) as e:
      raise ValueError(f"Syntax error on: {section}") from e
    inkey = kw.get("key") or kw.get("inkey") or _INKEY.get(name.strip())
    if name.strip() in ("copy", "concat") and args:
      inkey = args[0]
    inkey = inkey[0] if isinstance(inkey, list | tuple) else inkey
    if isinstance(inkey, str) and inkey.split("/")[0] not in known:
      continue
    outkeys = kw.get("outkey"), kw.get("key"), kw.get("key_result")
    known |= {k for k in (*outkeys, *args[1:2]) if isinstance(k, str)}
    kept.append(section)
  return kept


# Ops of labels and texts -> what they read if nothing is said.
_INKEY = {
  "onehot": "labels",
  "tokenize": "text",
  "standardize": "targets",
  "concat": "labels",
  "coco_panoptic": "panoptic_image",
  "make_canonical": "labels",
  "nyu_depth": "depth",
  "nyu_eval_crop": "labels",
  "strong_hash": "tfds_id",
}


def _make_op(section: str) -> _Op:
  """Makes the function of an op, of an example to an example."""
  name, args, kw = registry.parse_name(section)
  name = name.strip()
  if name in _EXAMPLE_OPS:
    return _call(section, _EXAMPLE_OPS[name], args, kw)
  if name not in _OPS:
    raise _Unknown(section)
  key = kw.get("key")
  inkey = key or kw.get("inkey") or "image"
  outkey = key or kw.get("outkey") or "image"
  fn = _call(section, _OPS[name], args, _without_keys(kw))
  return lambda data: {**data, outkey: fn(data[inkey])}


def _call(section, factory, args, kw):
  try:
    return factory(*args, **kw)
  except TypeError as e:
    raise ValueError(f"{section}: {e}.") from e


def _tensorflow(pp: str, op: str, config: ConfigLike | None) -> _Op:
  """Leaves a preprocessing to TensorFlow."""
  try:
    from big_vision.tf import tf

    tf.constant(0)
  except ImportError as e:
    raise lookup.ConfigError(
      f"The preprocessing op {op!r} needs TensorFlow, which is not installed: "
      "install it, or say how to preprocess without it, for example "
      'pp="resize(224)|value_range(-1, 1)".'
    ) from e
  logging.warning("Pictures are preprocessed by TensorFlow, due to %s.", op)
  lookup.preprocessing(config or {})
  fn = builder.get_preprocess_fn(pp, log_data=False)
  from big_vision.pipeline import failures

  def preprocess(data):
    import jax

    try:
      out = fn(dict(data))
    except tf.errors.InvalidArgumentError as e:
      raise ValueError(failures.reason(e)) from e
    names = [name for name in ("image", "image_ctx") if name in out]
    return {name: jax.tree.map(np.asarray, out[name]) for name in names}

  return preprocess


# The ops, as `big_vision/pp` describes them.


def _resize(size, method="bilinear", antialias=False, pil=False):
  size = tuple(utils.maybe_repeat(size, 2))
  return lambda x: resizing.resize(x, size, method, antialias, pil=pil)


def _resize_side(op, side_of, target, method, antialias, pil=False):
  limit = image_files.limit()

  def resize(x):
    sides = np.array(x.shape[:2], np.float32)
    sides *= _f(target) / side_of(sides)
    if np.prod(sides) > limit:
      raise ValueError(
        f"{op}({target}) of an image of {x.shape[1]} x {x.shape[0]} pixels, so "
        f"long and thin, has more than {limit:,}."
      )
    size = np.round(sides).astype(int)
    if pil:
      size = target * np.array(x.shape[:2]) // side_of(x.shape[:2])
    return resizing.resize(x, size, method, antialias, pil=pil)

  return resize


def _resize_small(smaller_size, method="area", antialias=False, pil=False):
  return _resize_side(
    "resize_small", np.min, smaller_size, method, antialias, pil
  )


def _resize_long(longer_size, method="area", antialias=True):
  return _resize_side("resize_long", np.max, longer_size, method, antialias)


def _central_crop(crop_size=None):
  def crop(x):
    height, width = x.shape[:2]
    h, w = utils.maybe_repeat(crop_size or min(height, width), 2)
    if height < h or width < w:
      raise ValueError(
        f"central_crop: the image of {width} x {height} pixels is smaller than "
        f"the crop of {w} x {h}: resize it before, such as by "
        f"resize_small({max(h, w)})."
      )
    top, left = (height - h) // 2, (width - w) // 2
    return x[top : top + h, left : left + w]

  return crop


def _value_range(vmin=-1, vmax=1, in_min=0, in_max=255.0, clip_values=False):
  low, high = np.asarray(in_min, _f), np.asarray(in_max, _f)

  def value_range(x):
    x = (x.astype(_f) - low) / (high - low)
    x = _f(vmin) + x * _f(vmax - vmin)
    return np.clip(x, vmin, vmax) if clip_values else x

  return value_range


def _standardize(mean, std):
  mean, std = np.asarray(mean, _f), np.asarray(std, _f)
  return lambda x: (x.astype(_f) - mean) / std


def _vgg_value_range(
  mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
  std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
):
  return _standardize(mean, std)


def _clip_value_range():
  return _standardize(
    [m * 255 for m in (0.48145466, 0.4578275, 0.40821073)],
    [s * 255 for s in (0.26862954, 0.26130258, 0.27577711)],
  )


def _pad_to_shape(shape, pad_value=0, where="after"):
  def pad(x):
    missing = [
      0 if new is None else new - old
      for old, new in zip(x.shape, shape, strict=True)
    ]
    if min(missing) < 0:
      raise ValueError(
        f"pad_to_shape({shape}): the image is larger, {list(x.shape)}."
      )
    before = {"before": 1.0, "after": 0.0, "both": 0.5}[where]
    pads = [(int(m * before), m - int(m * before)) for m in missing]
    return np.pad(x, pads, constant_values=pad_value)

  return pad


def _rgb_to_grayscale_to_rgb():
  weights = np.asarray((0.2989, 0.587, 0.114), _f)  # Of TensorFlow.

  def gray(x):
    if x.shape[-1] != 3:
      raise ValueError(
        f"rgb_to_grayscale_to_rgb: the image has {x.shape[-1]} channels, not 3."
      )
    is_float = np.issubdtype(x.dtype, np.floating)
    parts = (x if is_float else x.astype(_f) * _f(1 / 255)).astype(_f) * weights
    y = parts[..., 0] + parts[..., 1] + parts[..., 2]
    y = y if is_float else np.minimum(y * _f(255.5), 255)
    return np.repeat(y.astype(x.dtype)[..., None], 3, axis=-1)

  return gray


def _convert_to_video(num_frames):
  return lambda x: np.pad(
    x[None], [(0, num_frames - 1), (0, 0), (0, 0), (0, 0)]
  )


_OPS: dict[str, Callable[..., Callable[[Any], Any]]] = {
  "resize": _resize,
  "resize_small": _resize_small,
  "resize_long": _resize_long,
  "central_crop": _central_crop,
  "value_range": _value_range,
  "vgg_value_range": _vgg_value_range,
  "clip_value_range": _clip_value_range,
  "pad_to_shape": _pad_to_shape,
  "convert_to_video": _convert_to_video,
  "rgb_to_grayscale_to_rgb": _rgb_to_grayscale_to_rgb,
  "squeeze_last_dim": lambda: lambda x: np.squeeze(x, axis=-1),
  "reshape": lambda new_shape: lambda x: np.reshape(x, new_shape),
}


def _keep(*keys):
  return lambda data: {k: v for k, v in data.items() if k in keys}


def _drop(*keys):
  return lambda data: {k: v for k, v in data.items() if k not in keys}


def _copy(inkey, outkey):
  return lambda data: {**data, outkey: data[inkey]}


_EXAMPLE_OPS: dict[str, Callable[..., _Op]] = {
  "keep": _keep,
  "drop": _drop,
  "copy": _copy,
}
