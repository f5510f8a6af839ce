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


def decoding_of(config: ConfigLike, pp_img: str) -> tuple[dict[str, Any], str]:
  """Finds how a run decodes the files of images.

  Args:
    config: reads the op `decode` of `input.pp`, a str or one per dataset.
    pp_img: preprocessing of images; if it begins with `decode` itself, that
      counts.

  Returns:
    (arguments of `decode`, `pp_img` without it).
  """
  from big_vision.pp import builder

  own = builder.split_pipeline(pp_img)
  if own and (found := _arguments_of_decode(own[0])) is not None:
    return found, "|".join(own[1:])
  pps = (config.get("input") or {}).get("pp") or ""
  for pp in [pps] if isinstance(pps, str) else pps.values():
    for section in builder.split_pipeline(pp):
      if (found := _arguments_of_decode(section)) is not None:
        return found, pp_img
  return {}, pp_img


def _arguments_of_decode(section):
  """Reads the arguments of the op `decode`; None for other ops."""
  from big_vision.pp import registry

  name, args, kw = registry.parse_name(section)
  if name.strip() != "decode" or "image" != (
    kw.get("key") or kw.get("inkey") or "image"
  ):
    return None
  given = dict(zip(_DECODE, args, strict=False)) | kw
  # Whatever the run reads, a model here is given three channels.
  return {k: v for k, v in given.items() if k in _DECODE and k != "channels"}


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
