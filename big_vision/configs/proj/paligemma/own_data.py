"""Implements the config argument `source` for PaliGemma: pictures with texts of one's own.

For example, in place of the data of `transfers/forkme.py`:

  forkme.py:source=csv,path=qa.csv,image=photo,prefix=question,suffix=answer,lora=16

  source, path: "csv" or "jsonl" and a file; "hf", a dataset of Hugging Face; "tfds" and
    the name of one; "webdataset" and tar shards; "folder" and a folder with a folder of
    pictures per class, whose name is the answer.
  image, suffix: columns, keys, features or extensions, of the picture and of the
    answer, or of several of which one is drawn. By default of these names, but `file`
    of pictures in CSV files, and in tar shards `jpg` and others, and `txt`.
  prefix: that of the prompt, of which JSON lines alone have a default.
  prompt: the prompt where there is none, by default "caption en".
  split, val_split, val, split_seed, root: see `configs/own_data.py`.
"""

import json
from typing import Any

import ml_collections as mlc

from big_vision import lookup
from big_vision.configs import own_sources

ARGS: dict[str, Any] = dict(
  source="",
  path="",
  split="",
  val_split="",
  val="",
  split_seed=0,
  image="",
  prefix="",
  suffix="",
  root="",
  prompt="caption en",
)


def find(arg: Any) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
  """Opens the data that the arguments of a config name.

  Args:
    arg: parsed arguments, those of `ARGS` among them, with a `source`.

  Returns:
    (data to train on, data held out, ops that make `prefix` and `suffix`).

  Raises:
    ValueError: there is no such data.
  """
  if arg.source not in own_sources.SOURCES:
    raise lookup.unknown("source", arg.source, own_sources.SOURCES, "source")
  if not arg.path:
    raise lookup.ConfigError(
      f"Config arg path: source={arg.source} needs the place of the data, such "
      "as path=qa.csv."
    )
  if arg.source == "folder" and (arg.prefix or arg.suffix):
    raise lookup.ConfigError(
      "Config args prefix and suffix: source=folder has none; the answer is the "
      "name of the folder that a picture is in, and prompt= is the prompt."
    )
  arg = mlc.ConfigDict({**arg, "val": arg.val or "10%"})
  parts = own_sources.open_splits(arg, "suffix")
  ops = [f'setdefault("prefix", {json.dumps(arg.prompt)})']
  if arg.source != "jsonl":  # What is written into files of answers.
    ops += ['copy("tfds_id", "id")']
  if arg.source == "folder":
    return *_splits(arg, parts), [*ops, 'copy("class_name", "suffix")']
  # One of several answers.
  ops += ['reshape([-1], key="suffix")', 'choice(key="suffix")']
  if arg.source == "tfds":
    names = {new: arg[new] for new in ("image", "prefix", "suffix") if arg[new]}
    copies = [f'copy("{old}", "{new}")' for new, old in names.items()]
    return *_splits(arg, parts), ["flatten", *copies, *ops]
  if arg.prefix:
    # Those of a CSV file are all or none.
    usual = dict(image="file", suffix="suffix") if arg.source == "csv" else {}
    for data in parts.values():
      data.setdefault("features", dict(usual))["prefix"] = arg.prefix
  return *_splits(arg, parts), ops


def _splits(arg, parts):
  """Returns (data to train on, data held out)."""
  train, held_out = own_sources.choose_splits(arg, list(parts))
  return tuple(
    own_sources.data_of_split(arg, parts, split)
    for split in (train, held_out["val"])
  )
