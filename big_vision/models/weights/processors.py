"""Preprocessing of images: files of other libraries and strings of this package.

  transformers   preprocessor_config.json, or image_processor of
                 processor_config.json
  timm           pretrained_cfg of config.json
  open_clip      preprocess_cfg of open_clip_config.json

What an image goes through is a resize, perhaps a crop, and a shift and a scale of
its values. All three libraries smooth where they make images smaller.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (
  (0.48145466, 0.4578275, 0.40821073),
  (0.26862954, 0.26130258, 0.27577711),
)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

Size = tuple[int, int]


class Steps(NamedTuple):
  """Describes a preprocessing.

  Attributes:
    resize: (height, width) in pixels; or the length of the shorter side.
    crop: (height, width) of what is cut out of the middle, or None.
    method: of `tf.image.resize`.
    mean: of the values in [0, 1], of three channels.
    std: the same.
  """

  resize: Size | int | None
  crop: Size | None = None
  method: str = "bicubic"
  mean: Sequence[float] = HALF[0]
  std: Sequence[float] = HALF[1]


# Numbers of Pillow's filters -> methods.
_FILTERS = {0: "nearest", 1: "lanczos3", 2: "bilinear", 3: "bicubic", 4: "area"}
_VALUES: dict[Any, str] = {
  HALF: "value_range(-1, 1)",
  IMAGENET: "vgg_value_range",
}
_VALUES |= {CLIP: "clip_value_range"}
_VALUES[((0.0,) * 3, (1.0,) * 3)] = "value_range(0, 1)"


def of_transformers(config: Mapping[str, Any]) -> Steps:
  """Reads the settings of an image processor of transformers.

  Args:
    config: content of preprocessor_config.json.

  Returns:
    The steps.

  Raises:
    ValueError: they do anything else.
  """
  kind = str(
    config.get("image_processor_type") or config.get("feature_extractor_type")
  )
  # One number means a square, but for these.
  short = kind.startswith(("CLIP", "Bit", "ConvNext"))
  resize = crop = None
  if config.get("do_resize", True):
    resize = _size(config.get("size", 224), "size", short)
  if config.get("do_center_crop", False):
    crop = _size(config.get("crop_size", 224), "crop_size")
    assert not isinstance(crop, int)
  factor = float(config.get("rescale_factor", 1 / 255))
  if not config.get("do_rescale", True):
    factor = 1.0
  mean, std = [0.0] * 3, [1.0] * 3
  if config.get("do_normalize", True):
    mean, std = config.get("image_mean", mean), config.get("image_std", std)
  # To values in [0, 1]: (x * factor - mean) / std.
  mean, std = (
    tuple(round(float(v) / (255 * factor), 8) for v in values)
    for values in (mean, std)
  )
  number = config.get("resample", 2)
  if number not in _FILTERS:
    raise ValueError(f"preprocessor_config.json: resample = {number!r}.")
  return Steps(resize, crop, _FILTERS[number], mean, std)


def _size(value, key, short=False) -> Any:
  """Reads (height, width), or the length of the shorter side."""
  if isinstance(value, int):
    return value if short else (value, value)
  if isinstance(value, Sequence) and len(value) == 2:
    return tuple(value)
  if isinstance(value, Mapping):
    if "shortest_edge" in value and "longest_edge" not in value:
      return int(value["shortest_edge"])
    if {"height", "width"} <= value.keys():
      return int(value["height"]), int(value["width"])
  raise ValueError(f"preprocessor_config.json: {key} = {value!r}.")


def of_timm(config: Mapping[str, Any]) -> Steps:
  """Reads the settings of a model of timm.

  Args:
    config: `pretrained_cfg` of config.json.

  Returns:
    The steps of its evaluations.

  Raises:
    ValueError: they do anything else.
  """
  size = _pair(config.get("input_size", (3, 224, 224))[1:])
  percent = float(config.get("crop_pct") or 0.875)
  mode = config.get("crop_mode") or "center"
  scaled = math.floor(size[0] / percent), math.floor(size[1] / percent)
  mean, std = (
    tuple(config.get(key) or default)
    for key, default in zip(("mean", "std"), IMAGENET, strict=True)
  )
  method = _method(config.get("interpolation") or "bicubic", "interpolation")
  if mode not in ("center", "squash"):
    raise ValueError(f"config.json: crop_mode = {mode!r} is not supported.")
  if mode == "center" and size[0] == size[1]:
    return Steps(scaled[0], size, method, mean, std)
  # A rectangle is squashed, too; timm would keep the aspect ratio.
  if scaled == size:
    return Steps(size, None, method, mean, std)
  return Steps(scaled, size, method, mean, std)


def of_open_clip(config: Mapping[str, Any], size: Size) -> Steps:
  """Reads the settings of a model of open_clip.

  Args:
    config: `preprocess_cfg` of open_clip_config.json.
    size: (height, width) of the model's images.

  Returns:
    The steps of its evaluations.

  Raises:
    ValueError: they do anything else.
  """
  mean, std = (
    tuple(config.get(key) or default)
    for key, default in zip(("mean", "std"), CLIP, strict=True)
  )
  given = config.get("size") or size
  size = _pair((given, given) if isinstance(given, int) else given)
  mode = config.get("resize_mode") or "shortest"
  method = _method(config.get("interpolation") or "bicubic", "interpolation")
  if mode == "shortest" and size[0] == size[1]:
    return Steps(size[0], size, method, mean, std)
  if mode not in ("squash", "shortest"):
    raise ValueError(
      f"open_clip_config.json: resize_mode = {mode!r} is not supported."
    )
  return Steps(size, None, method, mean, std)


def _pair(value) -> Size:
  height, width = value
  return int(height), int(width)


def _method(name, key):
  known = {"lanczos": "lanczos3", "box": "area", "random": "bicubic"}
  known |= {name: name for name in ("bilinear", "bicubic", "nearest")}
  if name not in known:
    raise ValueError(f"config.json: {key} = {name!r} is not supported.")
  return known[name]


def scaled(steps: Steps, size: Size) -> Steps:
  """Changes the size of the images that a model gets.

  Args:
    steps: the steps.
    size: (height, width) in pixels.

  Returns:
    The steps, with a resize in the same proportion to the crop.
  """
  if steps.crop is None:
    return steps._replace(resize=size)
  if isinstance(steps.resize, int):
    ratio = steps.resize / min(steps.crop)
    return steps._replace(resize=round(max(size) * ratio), crop=size)
  resize = steps.resize and tuple(
    round(new * old / cut)
    for new, old, cut in zip(size, steps.resize, steps.crop, strict=True)
  )
  return steps._replace(resize=resize, crop=size)


def write(steps: Steps) -> str:
  """Writes a preprocessing string.

  Args:
    steps: the steps.

  Returns:
    For example 'resize(224, "bilinear", pil=True)|value_range(-1, 1)'.
  """
  out = []
  how = f'"{steps.method}", pil=True'
  if isinstance(steps.resize, int):
    out.append(f"resize_small({steps.resize}, {how})")
  elif steps.resize:
    out.append(f"resize({_side(steps.resize)}, {how})")
  if steps.crop:
    out.append(f"central_crop({_side(steps.crop)})")
  return "|".join([*out, _values(steps.mean, steps.std)])


def _side(size):
  return str(size[0] if size[0] == size[1] else tuple(size))


def _values(mean, std):
  known = _VALUES.get((tuple(mean), tuple(std)))
  if known:
    return known
  mean, std = (tuple(round(v * 255, 6) for v in x) for x in (mean, std))
  return f"vgg_value_range({mean}, {std})"


def _argument(args, kw, index, key, default):
  return args[index] if len(args) > index else kw.get(key, default)


def parse(pp: str) -> Steps:
  """Reads a preprocessing string, the inverse of `write`.

  Args:
    pp: preprocessing of the entry `image`.

  Returns:
    The steps. Whether a resize smooths is lost: other libraries always do.

  Raises:
    ValueError: an op has no counterpart.
  """
  from big_vision.pp import builder, registry

  steps, mean, std = Steps(None), (0.0,) * 3, (1.0 / 255,) * 3
  for section in builder.split_pipeline(pp):
    name, args, kw = registry.parse_name(section)
    name = name.strip()
    take = functools.partial(_argument, args, kw)
    if name in ("decode", "keep", "copy", "onehot"):
      continue
    if name == "resize":
      size = take(0, "size", None)
      steps = steps._replace(
        resize=(size, size) if isinstance(size, int) else tuple(size),
        method=take(1, "method", "bilinear"),
      )
    elif name == "resize_small":
      steps = steps._replace(
        resize=take(0, "smaller_size", None), method=take(1, "method", "area")
      )
    elif name == "central_crop":
      size = take(0, "crop_size", None)
      if size is None:
        raise ValueError(f"{section}: without a size it has no counterpart.")
      steps = steps._replace(
        crop=(size, size) if isinstance(size, int) else tuple(size)
      )
    elif name == "value_range":
      low, high = take(0, "vmin", -1), take(1, "vmax", 1)
      bottom, top = take(2, "in_min", 0), take(3, "in_max", 255.0)
      if not all(isinstance(v, int | float) for v in (bottom, top)):
        raise ValueError(f"{section}: its range has no counterpart.")
      std = ((top - bottom) / (high - low),) * 3
      mean = (bottom - low * std[0],) * 3
    elif name == "vgg_value_range":
      mean, std = (
        tuple(take(i, key, [v * 255 for v in IMAGENET[i]]))
        for i, key in enumerate(("mean", "std"))
      )
    elif name == "clip_value_range":
      mean, std = (tuple(v * 255 for v in x) for x in CLIP)
    else:
      raise ValueError(f"The preprocessing op {section} has no counterpart.")
  mean, std = (tuple(round(v / 255, 8) for v in x) for x in (mean, std))
  return steps._replace(mean=mean, std=std)


def to_transformers(steps: Steps, kind: str) -> dict[str, Any]:
  """Writes the settings of an image processor of transformers.

  Args:
    steps: the steps.
    kind: `model_type` of config.json.

  Returns:
    Content of preprocessor_config.json.

  Raises:
    ValueError: transformers has no such filter.
  """
  filters = {method: number for number, method in _FILTERS.items()}
  if steps.method not in filters:
    raise ValueError(f"transformers cannot resize by {steps.method!r}.")
  name = "ViT"
  if steps.crop:
    name = "Bit" if isinstance(steps.resize, int) else "DeiT"
  for start, other in (
    ("clip", "CLIP"), ("siglip", "Siglip"), ("paligemma", "Siglip")
  ):  # fmt: skip
    if kind.startswith(start):
      name = other
  out: dict[str, Any] = {
    "image_processor_type": f"{name}ImageProcessor",
    "do_resize": steps.resize is not None,
    "resample": filters[steps.method],
    "do_center_crop": steps.crop is not None,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(steps.mean),
    "image_std": list(steps.std),
  }
  both = lambda size: {"height": size[0], "width": size[1]}
  if isinstance(steps.resize, int):
    out["size"] = {"shortest_edge": steps.resize}
  elif steps.resize:
    out["size"] = both(steps.resize)
  if steps.crop:
    out["crop_size"] = both(steps.crop)
  return out


def to_timm(steps: Steps) -> dict[str, Any]:
  """Writes the settings of a model of timm.

  Args:
    steps: the steps.

  Returns:
    Entries of `pretrained_cfg` in config.json.
  """
  names = {"lanczos3": "lanczos", "area": "box"}
  size = steps.crop or steps.resize or (224, 224)
  percent, mode = 1.0, "squash"
  if steps.crop and isinstance(steps.resize, int):
    percent, mode = min(steps.crop) / steps.resize, "center"
  elif steps.crop and steps.resize:
    assert not isinstance(steps.resize, int)
    percent = steps.crop[0] / steps.resize[0]
  return {
    "input_size": [3, *(size if not isinstance(size, int) else (size, size))],
    "interpolation": names.get(steps.method, steps.method),
    "crop_pct": percent,
    "crop_mode": mode,
    "mean": list(steps.mean),
    "std": list(steps.std),
  }


def to_open_clip(steps: Steps) -> dict[str, Any]:
  """Writes the settings of a model of open_clip.

  Args:
    steps: the steps.

  Returns:
    `preprocess_cfg` of open_clip_config.json.
  """
  squash = not isinstance(steps.resize, int)
  return {
    "mean": list(steps.mean),
    "std": list(steps.std),
    "interpolation": "bicubic" if steps.method == "bicubic" else "bilinear",
    "resize_mode": "squash" if squash else "shortest",
  }
