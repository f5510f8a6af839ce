"""Finds the names of the classes of zero-shot classification, and checks them."""

from collections.abc import Mapping, Sequence
from typing import Any

from big_vision.evaluators.proj.image_text import prompt_engineering
from big_vision.lookup import ConfigError


def names(s: Mapping[str, Any]) -> list[str]:
  """Returns the names of the classes of one dataset.

  Args:
    s: settings of the dataset, see `overrides.resolve`.

  Returns:
    A string for each class: its names, separated by commas.

  Raises:
    KeyError: unknown class names.
  """
  return prompt_engineering.get_class_names(
    dataset_name=s["class_names_dataset_name"],
    source=s["class_names"],
    canonicalize=s["canonicalize"],
    data_dir=s["data_dir"],
  )


def check_names(
  s: Mapping[str, Any],
  class_names: Sequence[str],
  builder: Any,
  key: str = "class_names",
) -> None:
  """Refuses fewer names than labels, as far as these are known.

  Images of the other classes would count as wrong, whatever the model says.
  More names are fine: they are further choices.

  Args:
    s: settings of the dataset, see `overrides.resolve`.
    class_names: of its classes, see `names`.
    builder: its TFDS builder.
    key: config key of the names, for the error message.

  Raises:
    ConfigError: a label can be without a name.
  """
  from big_vision.datasets import tfds as tfds_source
  from big_vision.pipeline import labels

  if s["pre_filter_fn"] is not None or builder.info is None:
    return  # A filter may leave the classes with names.
  try:
    found = labels.trace(
      tfds_source.example_spec(builder, skip_decode=()),
      lambda feature: tfds_source.classes_of(builder, feature),
      s["pp_img"],
      "label",
    ).outputs.get("label")
  except ConfigError as e:
    raise ConfigError(f"pp_img: of {s['dataset_name']}, {e}") from e
  if found is not None and found.largest >= len(class_names):
    more = "" if found.unchanged else " after pp_img"
    raise ConfigError(
      f"{key}: there are {len(class_names)} names, but {s['dataset_name']} has labels "
      f"up to {found.largest}{more} ({found.feature!r}, classes {found.classes}). "
      f"Give {found.largest + 1} names, or map the labels in pp_img."
    )
