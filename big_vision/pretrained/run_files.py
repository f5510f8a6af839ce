"""Reads what a run has written into its workdir for those who use its model."""

import os
from typing import Any

from ml_collections import ConfigDict

from big_vision import checkpoints, fs, lookup, untrusted

DATA_FILE = "data.json"  # Written by `training/data_file.py`.


def read_config(workdir: str | os.PathLike[str]) -> ConfigDict:
  """Reads the config of a run.

  Args:
    workdir: its folder.

  Returns:
    The config; it may be from somebody else, see `lookup.stored_config`.

  Raises:
    ValueError: the folder is not that of a run.
    ConfigError: the file is damaged.
  """
  path = fs.join(str(workdir), "config.json")
  if not fs.exists(path):
    raise ValueError(
      f"{workdir} is not a workdir of a run: it has no config.json. Train first, "
      "for example with configs/quickstart.py, or "
      "configs/proj/image_text/siglip_pretrain.py:demo for images and texts; "
      "models of others are hf://org/repo, timm/NAME, folders or files, see "
      "docs/weights.md."
    )
  try:
    return ConfigDict(_read_json(path))
  except (TypeError, ValueError) as e:  # For example, names with dots.
    raise lookup.ConfigError(f"{path} is not the config of a run: {e}") from e


def workdir_of(checkpoint: str) -> str | None:
  """Finds the run that has written a checkpoint.

  Args:
    checkpoint: path of a folder, a prefix or an npz file, perhaps with
      `:<sub/tree>`.

  Returns:
    Its workdir, whose config tells more than names and shapes of parameters; None
    if there is none.
  """
  head, _, name = checkpoint.rstrip("/").rpartition("/")
  path = fs.join(head, "config.json")
  if not head or not name or not fs.exists(path):
    return None
  # Of a run, not of another library.
  return head if "model_name" in _read_json(path) else None


def read_data(workdir: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads what a run has stored about its labels and preprocessing.

  Args:
    workdir: its folder.

  Returns:
    Dict with `class_names`, `num_classes`, `pp`, `label`, see docs/predict.md;
    empty if the run is older than that file.

  Raises:
    ConfigError: the file is damaged.
  """
  path = fs.join(str(workdir), DATA_FILE)
  return _read_json(path) if fs.exists(path) else {}


def _read_json(path):
  with fs.open(path) as f:
    try:
      content = untrusted.json_value(f.read())
      if isinstance(content, dict):
        return content
      e = f"found a {type(content).__name__}"
    except (ValueError, TypeError) as error:
      e = error
  raise lookup.ConfigError(
    f"{path} cannot be read: it should be a JSON object as a run writes it ({e})."
  )


def checkpoint_of(workdir: str | os.PathLike[str]) -> str:
  """Finds the last checkpoint of a run.

  Args:
    workdir: its folder.

  Returns:
    Prefix of its checkpoints, for `checkpoints.load_params`.

  Raises:
    ValueError: there is none.
  """
  prefix = fs.join(str(workdir), "checkpoint.bv")
  if checkpoints.latest(prefix) is None:
    raise ValueError(
      f"{workdir} has no checkpoint: the run has written none yet. The last state "
      "is saved at the end, earlier ones with --config.ckpt_steps=100, say."
    )
  return prefix
