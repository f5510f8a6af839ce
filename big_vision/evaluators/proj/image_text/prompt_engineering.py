"""Provides class names and prompts for zero-shot classification."""

import string
from collections.abc import Sequence

from absl import logging

from big_vision import download
from big_vision.datasets.imagenet import class_names as imagenet
from big_vision.evaluators.proj.image_text import embedding
from big_vision.evaluators.proj.image_text.prompt_engineering_constants import (
  CLIP_BEST_PROMPT_TEMPLATES,
  CLIP_PAPER_PROMPT_TEMPLATES,
)
from big_vision.lookup import ConfigError

_PROMPT_TEMPLATES = {
  "class_name_only": ("{}",),
  "clip_paper": CLIP_PAPER_PROMPT_TEMPLATES,
  "clip_best": CLIP_BEST_PROMPT_TEMPLATES,
}

# Of each dataset, the labels (among the 1000 of ImageNet) that its classes are;
# None are all of them.
_LABELSETS = {
  "imagenet2012": None,
  "grand-vision:imagenet2012": None,
  "imagenet_v2": None,
  "imagenet_a": "IMAGENET_A_LABELSET",
  "imagenet_r": "IMAGENET_R_LABELSET",
}

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def canonicalize_text(
  text: str, *, keep_punctuation_exact_string: str | None = None
) -> str:
  """Spells a text in a uniform way: lower case, no punctuation, single spaces.

  Args:
    text: the text; underscores count as spaces.
    keep_punctuation_exact_string: what survives where it occurs, for example
      "{}"; None for nothing.

  Returns:
    The new text.
  """
  text = text.replace("_", " ")
  keep = keep_punctuation_exact_string
  parts = text.split(keep) if keep else [text]
  text = (keep or "").join(part.translate(_NO_PUNCTUATION) for part in parts)
  return " ".join(text.lower().split())


def get_class_names(
  *,
  dataset_name: str,
  source: str | Sequence[str] = "dataset_info",
  canonicalize: bool = True,
  data_dir: str | None = None,
) -> list[str]:
  """Returns the names of the classes of a dataset.

  Args:
    dataset_name: for example "imagenet2012".
    source: where they are from: "dataset_info:<feature>" for those that TFDS has
      for this feature of the dataset; "clip" for those of CLIP, which are of
      ImageNet and datasets with its classes; "file:<path>" for the lines of a
      text file, a path or URL; or a sequence of str, the names.
    canonicalize: whether to apply `canonicalize_text`, keeping commas.
    data_dir: the TFDS folder, if `source` is "dataset_info:...".

  Returns:
    New list of str in the order of the labels. A name may consist of several,
    separated by commas.

  Raises:
    KeyError: there are no such names.
    ValueError: the dataset or file does not exist, the feature is not one of
      names, or the file has none.
    ConfigError: `source` is something else.
  """
  if isinstance(source, str) and source.startswith("dataset_info:"):
    feature = source.removeprefix("dataset_info:")
    names = _tfds_names(dataset_name, feature, data_dir)
  elif isinstance(source, str) and source.startswith("file:"):
    names = _names_in_file(source.removeprefix("file:"))
  elif isinstance(source, str):
    names = _known_names(dataset_name, source)
  else:
    if not isinstance(source, Sequence) or not all(
      isinstance(name, str) for name in source
    ):
      raise ConfigError(
        f"class_names={source!r} should be a str or a sequence of str."
      )
    names = list(source)
  if canonicalize:
    names = [
      canonicalize_text(name, keep_punctuation_exact_string=",")
      for name in names
    ]
  logging.info("Class names of %s: %s", dataset_name, names)
  return names


def _tfds_names(
  dataset_name: str, feature_name: str, data_dir: str | None
) -> list[str]:
  """Returns the names of a ClassLabel of a TFDS dataset, which need not be prepared."""
  features = embedding.get_builder(dataset_name, data_dir).info.features
  if feature_name not in features:
    raise KeyError(
      f"class_names='dataset_info:{feature_name}': {dataset_name} has the "
      f"features {', '.join(sorted(features))}."
    )
  feature = features[feature_name]
  feature = getattr(feature, "feature", feature)  # Of a sequence of labels.
  names = getattr(feature, "names", None)
  if names is None:
    raise ValueError(
      f"class_names='dataset_info:{feature_name}': TFDS has no names for this "
      f"feature of {dataset_name}; give the evaluator a list of names."
    )
  return list(names)


def _names_in_file(path: str) -> list[str]:
  """Reads the lines of a text file, without empty ones at its end."""
  try:
    with open(download.fetch(path), encoding="utf-8-sig") as f:
      text = f.read().rstrip()
  except UnicodeDecodeError as e:
    raise ValueError(f"class_names='file:{path}' is not UTF-8: {e}.") from e
  # `splitlines` would also split names with U+2028 and the like.
  names = [line.strip() for line in text.split("\n")] if text else []
  if not names or not all(names):
    where = f"line {names.index('') + 1} is empty" if names else "it is empty"
    raise ValueError(
      f"class_names='file:{path}' should have one name a line, but {where}."
    )
  return names


def _known_names(dataset_name: str, source: str) -> list[str]:
  """Returns names that this project comes with."""
  if source != "clip" or dataset_name not in _LABELSETS:
    raise KeyError(
      f"class_names={source!r}: no such names of {dataset_name!r}. Use "
      "'dataset_info:<feature>' for those of a TFDS feature, 'file:<path>' for "
      "those in a text file, a list of names, "
      f"or 'clip', which has {', '.join(sorted(_LABELSETS))}; "
      "class_names_dataset_name in dataset_overrides says which of them."
    )
  names = imagenet.CLIP_IMAGENET_CLASS_NAMES
  labelset = _LABELSETS[dataset_name]
  if labelset is None:
    return list(names)
  return [names[label] for label in getattr(imagenet, labelset)]


def get_prompt_templates(
  name: str | Sequence[str] | None = None,
  *,
  canonicalize: bool = True,
  prompt_templates_name: str | Sequence[str] | None = None,
) -> list[str]:
  """Returns sentences in which "{}" stands for the name of a class.

  Args:
    name: "class_name_only", "clip_paper" (CLIP's 80 and the bare name) or
      "clip_best" (the 7 that contribute most, and the bare name); or a sequence
      of str, the templates.
    canonicalize: whether to apply `canonicalize_text`, keeping "{}".
    prompt_templates_name: another name of `name`.

  Returns:
    New list of str.

  Raises:
    KeyError: unknown name.
  """
  name = prompt_templates_name if name is None else name
  if isinstance(name, Sequence) and not isinstance(name, str):
    templates = list(name)
  elif name in _PROMPT_TEMPLATES:
    templates = list(_PROMPT_TEMPLATES[name])
  else:
    raise KeyError(
      f"prompt_templates={name!r} is none of "
      f"{', '.join(sorted(_PROMPT_TEMPLATES))}."
    )
  if canonicalize:
    templates = [
      canonicalize_text(template, keep_punctuation_exact_string="{}")
      for template in templates
    ]
  logging.info("Prompt templates %s: %s", name, templates)
  return templates


def prompts(
  class_names: Sequence[str], prompt_templates: Sequence[str]
) -> list[tuple[int, str]]:
  """Puts the names of classes into templates.

  Args:
    class_names: a string for each class: its names, separated by commas.
    prompt_templates: sentences, each with one "{}" for the name.

  Returns:
    Pairs of the index of a class and a text: by class, its names, templates.

  Raises:
    ConfigError: no templates, or not one "{}" in one of them.
  """
  if not prompt_templates:
    raise ConfigError("There are no prompt_templates.")
  for template in prompt_templates:
    if template.count("{}") != 1:
      raise ConfigError(
        f"prompt_templates: {template!r} should have exactly one '{{}}'."
      )
  return [
    (c, template.replace("{}", name.strip()))
    for c, names in enumerate(class_names)
    for name in names.split(",")
    for template in prompt_templates
  ]
