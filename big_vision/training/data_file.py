"""Stores what a trained model needs besides its config: `data.json`.

Names of classes, and how pictures are preprocessed. `pretrained/run_files.py`
reads it; docs/predict.md describes it.
"""

import json
from collections.abc import Sequence
from typing import Any

from big_vision.pretrained import preprocessing, regressor, run_files
from big_vision.training.label_check import Space
from big_vision.types import ConfigLike


def files(config: ConfigLike, labels: Sequence[Space]) -> dict[str, str]:
  """Makes the files for a workdir.

  Args:
    config: ConfigDict of a run.
    labels: what labels mean in training, as far as it is known.

  Returns:
    Name of the file -> its text.
  """
  return {run_files.DATA_FILE: json.dumps(describe(config, labels), indent=2)}


def describe(config: ConfigLike, labels: Sequence[Space]) -> dict[str, Any]:
  """Describes classes and preprocessing of a run.

  Args:
    config: ConfigDict of a run.
    labels: what labels mean in training, as far as it is known.

  Returns:
    Dict of
      class_names: list of str, by label; None if they are numbers or unknown.
      num_classes: number of outputs of the model; None if the config has none.
      pp: preprocessing of pictures in evaluation; None if there is none.
      label: None, or a dict: `key`, the config key of the data that labels are
        from; `data`, what it holds; `onehot`, number of classes of the
        preprocessing.
      targets: of a regression only, see `regressor.describe`.
  """
  num = config.get("num_classes")
  # Other labels may be trained with, for other outputs.
  found = [s for s in labels if num is None or s.depth == num]
  found.sort(key=lambda space: space.key_result != "labels")  # Stable.
  label = found[0] if found else None
  names = label and label.classes.names
  targets = regressor.describe(config)
  return {
    "class_names": list(names[: label.depth]) if label and names else None,
    "num_classes": num if isinstance(num, int) else None,
    "pp": _pp(config),
    "label": label
    and {
      "key": label.key,
      "data": _data(config, label.key),
      "onehot": label.depth,
    },
    **({"targets": targets} if targets else {}),
  }


def _pp(config):
  try:
    return preprocessing.evaluation_pp(config)
  except (ValueError, SyntaxError):  # A string that only its own op parses.
    return None


def _data(config, key):
  """Returns what the config has at a key, as JSON can hold it."""
  for part in key.split("."):
    config = config[part]
  plain = config.to_dict() if hasattr(config, "to_dict") else config
  return json.loads(json.dumps(plain, default=str))
