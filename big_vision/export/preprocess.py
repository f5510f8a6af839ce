"""Preprocesses pictures within an exported function, with JAX.

The ops of preprocessing strings that `pretrained/pixels.py` has in NumPy, for
batches of pictures of one size. Resizing is two products with matrices, whose
weights are those of `resizing.py`.

Axes: B batch, H height, W width, C channels; h, w of a result.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import lookup, resizing
from big_vision.export.forward import Forward, Input
from big_vision.pp import builder, registry
from big_vision.pp import utils as pp_utils
from big_vision.types import Array

_Op = Callable[[Array], Array]
_KEYS = ("key", "inkey", "outkey")


def include(forward: Forward, size: tuple[int, int] | None = None) -> Forward:
  """Puts the preprocessing into the function.

  Args:
    forward: with `info["pp"]`.
    size: (height, width) of the pictures; None: that of the first op that
      resizes, else that of the model's input.

  Returns:
    Forward with the input `image`, uint8 [B, H, W, C].

  Raises:
    ConfigError: an op cannot be exported, or there is no single picture.
  """
  old = {i.name: i for i in forward.inputs}
  pp = forward.info["pp"]
  image = old.get("image")
  if image is None or len(image.shape) != 4:
    raise lookup.ConfigError(
      "--preprocess is for models of pictures [height, width, channels]; the "
      f"inputs of this one are {', '.join(old)}: leave it out."
    )
  ops, channels, own_size = _parse(pp)
  size = size or own_size or (int(image.shape[1]), int(image.shape[2]))

  def preprocess(x):
    for op in ops:
      x = op(x)
    return x.astype(image.dtype)

  shape = (image.shape[0], *size, channels)
  try:
    found = jax.eval_shape(
      preprocess, jax.ShapeDtypeStruct((1, *shape[1:]), jnp.uint8)
    )
  except ValueError as e:
    raise lookup.ConfigError(
      f"The preprocessing {pp} does not take pictures of {size[0]} x {size[1]} "
      f"pixels: {e} Give another --input_size=HEIGHTxWIDTH."
    ) from e
  if found.shape[1:] != image.shape[1:]:
    raise lookup.ConfigError(
      f"The preprocessing {pp} makes {list(found.shape[1:])} of pictures of "
      f"{size[0]} x {size[1]} pixels, but the exported model takes "
      f"{list(image.shape[1:])}: give another --input_size=HEIGHTxWIDTH."
    )
  fn = forward.fn
  new = {**old, "image": Input("image", shape, "uint8")}
  return dataclasses.replace(
    forward,
    fn=lambda params, arrays: fn(
      params, {**arrays, "image": preprocess(arrays["image"])}
    ),
    inputs=tuple(new[name] for name in old),
  )


def _parse(pp):
  """Reads a preprocessing string: (ops, channels, size of the first resizing)."""
  ops, channels, size = [], 3, None
  for section in builder.split_pipeline(pp):
    name, args, kw = registry.parse_name(section)
    name = name.strip()
    if name == "decode":
      channels = args[0] if args else kw.get("channels", 3)
      continue
    if name in ("keep", "drop"):
      continue
    moved = [k for k in _KEYS if kw.get(k, "image") != "image"]
    if name not in _OPS or moved:
      raise lookup.ConfigError(
        f"The preprocessing op {section!r} cannot be exported: leave out "
        f"--preprocess, or give --pp with some of {', '.join(_OPS)}."
      )
    kw = {k: v for k, v in kw.items() if k not in _KEYS}
    try:
      op = _OPS[name](*args, **kw)
    except (TypeError, ValueError) as e:
      raise lookup.ConfigError(
        f"The preprocessing op {section!r} cannot be read: {e}."
      ) from e
    if name.startswith("resize") and size is None and not ops:
      size = _pair(args[0] if args else next(iter(kw.values())))
    ops.append(op)
  return ops, channels, size


def _pair(size):
  height, width = pp_utils.maybe_repeat(size, 2)
  return int(height), int(width)


def _resize_to(x: Array, size: Any, method: str, antialias: bool) -> Array:
  """Resizes a batch; integers are rounded down, as by the op."""
  height, width = x.shape[1:3]
  h, w = (int(side) for side in size)
  if (h, w) == (height, width):
    return x
  rows, columns = (
    resize_matrix(old, new, method, antialias)
    for old, new in ((height, h), (width, w))
  )
  exact = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  out = exact("hH,BHWC->BhWC", rows, x.astype(jnp.float32))
  out = exact("wW,BhWC->BhwC", columns, out)
  if not jnp.issubdtype(x.dtype, jnp.integer):
    return out.astype(x.dtype)
  info = jnp.iinfo(x.dtype)
  out = jnp.clip(jnp.floor(out), info.min, info.max)
  return out.astype(x.dtype)


def resize_matrix(
  old: int, new: int, method: str = "bilinear", antialias: bool = False
) -> np.ndarray:
  """Computes what resizing does along one axis.

  Args:
    old, new: sizes, pixels.
    method, antialias: as for `resizing.resize`.

  Returns:
    float32 [new, old]: the weights of the old pixels in each new one.

  Raises:
    ValueError: there is no such method.
  """
  # Resizing is linear: this is what becomes of single pixels.
  pixels = np.eye(old, dtype=np.float32)[:, None]
  return resizing.resize(pixels, (new, 1), method, antialias, keep_dtype=False)[
    :, 0
  ]


def _resize(size, method="bilinear", antialias=False):
  size = _pair(size)
  return lambda x: _resize_to(x, size, method, antialias)


def _resize_side(side_of, target, method, antialias):
  def resize(x):
    sides = np.array(x.shape[1:3], np.float32)
    sides *= np.float32(target) / side_of(sides)
    return _resize_to(x, np.round(sides), method, antialias)

  return resize


def _resize_small(smaller_size, method="area", antialias=False):
  return _resize_side(np.min, smaller_size, method, antialias)


def _resize_long(longer_size, method="area", antialias=True):
  return _resize_side(np.max, longer_size, method, antialias)


def _central_crop(crop_size=None):
  def crop(x):
    height, width = x.shape[1:3]
    h, w = _pair(crop_size or min(height, width))
    if height < h or width < w:
      raise ValueError(
        f"central_crop({crop_size}) of {height} x {width} pixels is too large."
      )
    top, left = (height - h) // 2, (width - w) // 2
    return x[:, top : top + h, left : left + w]

  return crop


def _value_range(vmin=-1, vmax=1, in_min=0, in_max=255.0, clip_values=False):
  low, high = np.asarray(in_min, np.float32), np.asarray(in_max, np.float32)

  def value_range(x):
    x = (x.astype(jnp.float32) - _row(low)) / _row(high - low)
    x = np.float32(vmin) + x * np.float32(vmax - vmin)
    return jnp.clip(x, vmin, vmax) if clip_values else x

  return value_range


def _standardize(mean, std):
  mean, std = _row(mean), _row(std)
  return lambda x: (x.astype(jnp.float32) - mean) / std


def _row(x):
  """Makes a number, or one per channel, broadcast to [B, H, W, C]."""
  return np.asarray(x, np.float32).reshape(1, 1, 1, -1)


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


_OPS: dict[str, Callable[..., _Op]] = {
  "resize": _resize,
  "resize_small": _resize_small,
  "resize_long": _resize_long,
  "central_crop": _central_crop,
  "value_range": _value_range,
  "vgg_value_range": _vgg_value_range,
  "clip_value_range": _clip_value_range,
  "standardize": _standardize,
}
