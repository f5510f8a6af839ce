"""Resolves settings of an evaluator that differ between its datasets."""

from collections.abc import Mapping, Sequence
from typing import Any

from big_vision.lookup import ConfigError

# They apply where the user gives none, as far as the names are evaluated.
DEFAULT_OVERRIDES = (
  ("imagenet2012", (("class_names", "clip"), ("split", "validation"))),
)
OVERRIDE_KEYS = (
  "dataset_name",
  "data_dir",
  "class_names_dataset_name",
  "class_names",
  "pp_img",
  "pp_txt",
  "cache_final",
  "split",
  "pre_filter_fn",
  "prompt_templates",
  "canonicalize",
)


def resolve(
  defaults: Mapping[str, Any],
  dataset_names: Sequence[str],
  dataset_overrides: Any,
) -> dict[str, dict[str, Any]]:
  """Computes the settings for each name: the defaults with its overrides.

  Args:
    defaults: dict of `OVERRIDE_KEYS`, without the names of datasets.
    dataset_names: names of the datasets.
    dataset_overrides: dict of dicts, or pairs in place of any dict.

  Returns:
    Dict: name -> dict of `OVERRIDE_KEYS`.

  Raises:
    ConfigError: overrides of unknown names, or of unknown settings.
  """
  overrides = {k: dict(v) for k, v in dict(dataset_overrides).items()}
  if dataset_overrides is not DEFAULT_OVERRIDES:
    unknown = sorted(set(overrides) - set(dataset_names))
    if unknown:
      raise ConfigError(
        f"dataset_overrides of {', '.join(unknown)}, but dataset_names are "
        f"{', '.join(dataset_names)}."
      )
  settings = {}
  for name in dataset_names:
    own = overrides.get(name, {})
    unknown = sorted(set(own) - set(OVERRIDE_KEYS))
    if unknown:
      raise ConfigError(
        f"dataset_overrides.{name}: unknown {', '.join(unknown)}; there are "
        f"{', '.join(OVERRIDE_KEYS)}."
      )
    merged = {**defaults, "dataset_name": name, **own}
    merged.setdefault("class_names_dataset_name", merged["dataset_name"])
    settings[name] = merged
  return settings
