"""Preprocessing of images and texts of one's own, as a run's evaluators do it."""

from typing import Any

from big_vision.types import ConfigLike

# Arguments of the op `decode`, in their order.
_DECODE = ("channels", "precise", "exif", "background", "max_pixels")


def preprocessing_of(
  config: ConfigLike, pp_img: str | None = None, pp_txt: str | None = None
) -> tuple[str, str]:
  """Finds the preprocessing of any image and any text in a config.

  Args:
    config: reads `embed.pp_img` and `embed.pp_txt`, else those of the first
      evaluator of retrieval.
    pp_img: replaces the config's preprocessing of images.
    pp_txt: replaces the config's preprocessing of texts.

  Returns:
    (pp_img, pp_txt).

  Raises:
    ValueError: there is none.
  """
  found = config.get("embed") or retrieval(config) or {}
  pp_img, pp_txt = pp_img or found.get("pp_img"), pp_txt or found.get("pp_txt")
  for name, pp in (("pp_img", pp_img), ("pp_txt", pp_txt)):
    if not pp:
      raise ValueError(
        f"No {name}: the config has neither config.embed.{name} nor an "
        "evaluator of retrieval. Say how to preprocess, for example "
        'pp_img="resize(224)|value_range(-1, 1)" and pp_txt="tokenize(max_len='
        "64, model='c4_en', eos='sticky', pad_value=1, inkey='texts')\"."
      )
  return str(pp_img), str(pp_txt)


def decoding_of(
  config: ConfigLike, pp_img: str, *, channels: bool = False
) -> tuple[dict[str, Any], str]:
  """Finds how a run decodes the files of images.

  Args:
    config: reads the op `decode` of `input.pp`, a str or one per dataset.
    pp_img: preprocessing of images; if it begins with `decode` itself, that
      counts.
    channels: whether the run's number of channels counts; if not, there are 3.

  Returns:
    (arguments of `decode`, `pp_img` without it).
  """
  from big_vision.pp import builder

  own = builder.split_pipeline(pp_img)
  if own and (found := _arguments_of_decode(own[0], channels)) is not None:
    return found, "|".join(own[1:])
  for pp in training_pps(config):
    for section in builder.split_pipeline(pp):
      if (found := _arguments_of_decode(section, channels)) is not None:
        return found, pp_img
  return {}, pp_img


def _arguments_of_decode(section, channels):
  """Reads the arguments of the op `decode`; None for other ops."""
  from big_vision.pp import registry

  name, args, kw = registry.parse_name(section)
  if name.strip() != "decode" or "image" != (
    kw.get("key") or kw.get("inkey") or "image"
  ):
    return None
  given = dict(zip(_DECODE, args, strict=False)) | kw
  wanted = _DECODE if channels else _DECODE[1:]
  return {k: v for k, v in given.items() if k in wanted}


def retrieval(config: ConfigLike) -> Any:
  """Finds the config of the first evaluator of retrieval.

  Args:
    config: ConfigDict of a run.

  Returns:
    The evaluator's config, or None.
  """
  for cfg in (config.get("evals") or {}).values():
    if cfg and cfg.get("type") == "proj.image_text.retrieval":
      return cfg
  return None


# Random ops -> what stands for them in an evaluation.
_CROPS = ("inception_crop", "decode_jpeg_and_inception_crop", "random_crop")
_RANDOM = ("autoaugment", "flip_lr", "randaug", "random_affine")
_RANDOM += ("inception_box", "crop_box", "randu", "det_fliplr")


def evaluation_pp(config: ConfigLike) -> str:
  """Finds how a run preprocesses the pictures that it evaluates.

  Args:
    config: ConfigDict of a run.

  Returns:
    The preprocessing of the first evaluator of classification, regression or
    retrieval, else of the first other one that has any; else that of training
    without what is random.

  Raises:
    ValueError: there is none.
  """
  evals = [cfg for cfg in (config.get("evals") or {}).values() if cfg]
  first = ("classification", "multilabel", "regression")
  first += ("proj.image_text.retrieval",)
  evals.sort(key=lambda cfg: cfg.get("type") not in first)  # Stable.
  for cfg in evals:
    for key in ("pp_fn", "pp_img", "pp_eval"):
      if isinstance(cfg.get(key), str) and cfg[key]:
        return cfg[key]
  pps = training_pps(config)
  if not pps:
    raise ValueError(
      "The config has neither an evaluator nor config.input.pp, which say how to "
      'preprocess pictures: give it, as pp="resize(224)|value_range(-1, 1)".'
    )
  return _deterministic(pps[0])


def all_pps(config: ConfigLike) -> list[str]:
  """Lists the preprocessing of training and of all evaluators.

  Args:
    config: ConfigDict of a run.

  Returns:
    List of str.
  """
  evals = [cfg for cfg in (config.get("evals") or {}).values() if cfg]
  found = [cfg.get("pp_fn") for cfg in evals]
  return training_pps(config) + [pp for pp in found if isinstance(pp, str)]


def training_pps(config: ConfigLike) -> list[str]:
  """Lists the preprocessing of the datasets of training.

  Args:
    config: ConfigDict of a run.

  Returns:
    Preprocessing strings, none if there is no training.
  """
  given = config.get("input") or {}
  pps = given.get("pp")
  if pps is None:  # A mixture: each dataset has its own.
    parts = (given.get(name) or {} for name in given.get("data") or {})
    pps = [part.get("pp") for part in parts if not isinstance(part, str)]
  elif not isinstance(pps, str):
    pps = list(pps.values())
  return [pps] if isinstance(pps, str) else [pp for pp in pps if pp]


def _deterministic(pp):
  """Replaces random crops by the middle, and leaves out other random ops."""
  from big_vision.pp import builder, registry

  out = []
  for section in builder.split_pipeline(pp):
    name, args, kw = registry.parse_name(section)
    name, size = name.strip(), next(iter(args), kw.get("size"))
    if name in _RANDOM:
      continue
    if name not in _CROPS:
      out.append(section)
      continue
    if name.startswith("decode"):
      out.append("decode")
    if name == "random_crop":
      out.append(f"central_crop({size or kw.get('crop_size')})")
    elif size:
      sides = [size] * 2 if isinstance(size, int) else size
      out += [f"resize_small({max(sides) * 8 // 7})", f"central_crop({size})"]
  return "|".join(out)
