"""Preprocessing of images and texts of one's own, as a run's evaluators do it."""

from typing import Any

from big_vision.types import ConfigLike


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


def retrieval(config: ConfigLike) -> Any:
  """Finds the config of the first evaluator of retrieval.

  Args:
    config: ConfigDict of a run.

  Returns:
    The evaluator's config, or None.
  """
  for cfg in (config.get("evals") or {}).values():
    if cfg.get("type") == "proj.image_text.retrieval":
      return cfg
  return None
