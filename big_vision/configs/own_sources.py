"""Opens data of one's own that the arguments of a config name.

Finds splits, or holds out a part, and counts classes and examples. `own_data.py`
describes the arguments and changes configs.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import re
from typing import Any

from absl import logging

import big_vision.configs.common as bvcc
from big_vision import fs, lookup
from big_vision.configs import own_labels

SOURCES = ("folder", "csv", "jsonl", "hf", "tfds", "webdataset")
ARGS: dict[str, Any] = dict(
  source="",
  path="",
  split="",
  val_split="",
  val="10%",
  split_seed=0,
  image="",
  label="",
  labels=("", bvcc.Names),
  targets=("", bvcc.Names),
  normalize=True,
  root="",
  num_classes=0,
)

_TRAIN = ("train", "training")
_VAL = ("val", "valid", "validation", "dev")
_TEST = ("test", "testing", "eval")
_ALL = "all"


@dataclasses.dataclass(frozen=True)
class OwnData:
  """Describes the data that arguments name.

  Attributes:
    train: `config.input.data`.
    held_out: `data` of evaluators by name, "val" and perhaps "test".
    num_classes: number of classes, or of targets.
    num_train: number of examples in `train`.
    pp: ops that every preprocessing begins with, empty or ending in "|".
    kind: "label" if each example has one, "labels" if it has any number of them,
      "targets" if it has numbers.
    mean, std: of each target in training; None if they stay as they are.
  """

  train: dict[str, Any]
  held_out: dict[str, dict[str, Any]]
  num_classes: int
  num_train: int
  pp: str = ""
  kind: str = "label"
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None


def find(arg: Any) -> OwnData | None:
  """Opens the data that the arguments of a config name.

  Args:
    arg: parsed arguments, those of `ARGS` among them.

  Returns:
    What was found; None if the arguments name no data.

  Raises:
    ValueError: there is no such data, it has one class, or its number of classes
      is unknown.
  """
  if not arg.source:
    _refuse_without_source(arg)
    return None
  if arg.get("demo"):
    raise lookup.ConfigError(
      "Config arg demo has its own data: leave out either demo or source. "
      "configs/quickstart.py:source=... has a tiny model."
    )
  if arg.source not in SOURCES:
    raise lookup.unknown("source", arg.source, SOURCES, "source")
  if not arg.path:
    raise lookup.ConfigError(
      f"Config arg path: source={arg.source} needs the place of the data, such "
      "as path=/data/pets."
    )
  for key in ("path", "root"):  # Within an argument, shells leave `~` as it is.
    arg[key] = os.path.expanduser(arg[key])
  if not re.fullmatch(r"[1-9]\d?%|[1-9]\d*", str(arg.val)):
    raise lookup.ConfigError(
      f"Config arg val={arg.val!r} should be a percentage or a number of "
      "examples, such as val=10% or val=500."
    )
  own_labels.check(arg)
  parts = open_splits(arg)
  train, held_out = choose_splits(arg, list(parts))
  data = {
    name: data_of_split(arg, parts, split)
    for name, split in {"train": train, **held_out}.items()
  }
  mean = std = None
  if arg.targets:
    num_train, mean, std = own_labels.measure(arg, data)
    num_classes = len(mean)
  else:
    num_classes, num_train = _count(arg, data)
  return OwnData(
    train=data.pop("train"),
    held_out=data,
    num_classes=num_classes,
    num_train=num_train,
    pp=_copies(arg),
    kind=own_labels.kind_of(arg),
    mean=mean if arg.normalize else None,
    std=std if arg.normalize else None,
  )


def fit_batch(batch_size: int, num_examples: int) -> int:
  """Makes a batch no larger than the data.

  Args:
    batch_size: the largest.
    num_examples: number of examples to train on.

  Returns:
    `batch_size`, or the largest power of two that is not above `num_examples`.
  """
  return min(batch_size, 2 ** (num_examples.bit_length() - 1))


def open_splits(arg: Any, target: str = "label") -> dict[str, dict[str, Any]]:
  """Lists the splits of a dataset.

  Args:
    arg: parsed arguments, with `source`, `path`, `root`, `image` and one that is
      named as the target.
    target: what comes with images, "label", "text" or "suffix".

  Returns:
    Dict of split -> arguments of the source, without the split; "all" is the
    split of data that has none.

  Raises:
    ValueError: there is no such data.
  """
  return _OPEN[arg.source](arg, target)


def _refuse_without_source(arg):
  """Refuses arguments that would be without effect."""
  default = lambda key: bvcc.get_type_with_default(ARGS[key])[0]
  given = [key for key in ARGS if arg[key] != default(key)]
  if given:
    raise lookup.ConfigError(
      f"Config arg {given[0]}={arg[given[0]]} is about data of your own: add "
      f"source=, one of {', '.join(SOURCES)}."
    )


def _open_folder(arg, target):
  from big_vision.datasets import folder_listing

  _refuse(arg, "image", target, "root")
  if not fs.isdir(arg.path):
    raise lookup.ConfigError(f"Config arg path: no folder {arg.path!r}.")
  names = folder_listing.split_names(arg.path.rstrip("/") + "/")
  return dict.fromkeys(names or [_ALL], dict(name="bv:folder", path=arg.path))


def _open_csv(arg, target):
  from big_vision.datasets import folder, text_files

  _check_file(arg)
  data: dict[str, Any] = dict(
    name="bv:folder", path=_root(arg), labels=arg.path
  )
  features = own_labels.features(arg, "file", target, target)
  labels = features.get("label")
  if isinstance(labels, list) and len(labels) == 1:  # Of cells with several.
    features["label"], data["multi_label"] = labels[0], True
  image = (str(features["image"]),)
  rows = text_files.read_table(arg.path, image, "input.data.labels")
  _check_first(arg, [file for _, (file,) in rows[:1]])
  if features != dict(image="file", label="label"):  # The default.
    data["features"] = features
  return dict.fromkeys(folder.split_names(arg.path, image) or [_ALL], data)


def _open_jsonl(arg, target):
  from big_vision.datasets import jsonl

  keys = own_labels.features(arg, "image", target, target)
  data: dict[str, Any] = dict(
    name="bv:jsonl", fopen_keys=dict(image=_root(arg))
  )
  if renamed := {k: v for k, v in keys.items() if k != v}:
    data["features"] = renamed
  if fs.isdir(arg.path):  # A file for each split.
    files = _by_split(arg.path, ".jsonl")
    return {name: {**data, "fname": path} for name, (path, *_) in files.items()}
  _check_file(arg)
  data["fname"] = arg.path
  source = jsonl.DataSource(
    arg.path, features={k: keys[k] for k in keys if k != "image"}
  )
  if keys["image"] in source.example_spec():
    rows = source.get_tfdata(ordered=True).take(1).as_numpy_iterator()
    _check_first(arg, [row[keys["image"]] for row in rows])
  return dict.fromkeys(source.split_names() or [_ALL], data)


def _open_hf(arg, target):
  from big_vision.datasets import hf_files

  _refuse(arg, "root")
  data = dict(
    name="bv:hf",
    path=arg.path,
    features=own_labels.features(arg, "image", target, target),
  )
  names = hf_files.split_names(arg.path)
  # What has one nameless split is called "train".
  return dict.fromkeys(names or ["train"], data)


def _open_tfds(arg, target):
  from big_vision.datasets import tfds

  _refuse(arg, "root")
  builder: Any = tfds.get_builder(arg.path)
  for key in ("image", target):
    name = (arg[key] or key).split("/")[0]
    if name not in builder.info.features:
      features = list(builder.info.features)
      raise lookup.unknown(f"feature of {arg.path}", name, features, key)
  if builder.info.disable_shuffling:
    logging.info("%s keeps an order: slices may lack classes.", arg.path)
  return dict.fromkeys(builder.info.splits, dict(name=arg.path))


def _open_webdataset(arg, target):
  _refuse(arg, "root")
  data = dict(
    name="bv:webdataset",
    path=arg.path,
    features={
      "image": arg.image or "jpg;jpeg;png;webp",
      target: arg[target] or ("cls" if target == "label" else "txt"),
    },
  )
  names = [_ALL]
  if not re.search(r"[*?\[{]", arg.path) and fs.isdir(arg.path):
    files = _by_split(arg.path, ".tar")
    data["path"], names = files, list(files)
  return dict.fromkeys(names, data)


_OPEN = dict(
  folder=_open_folder,
  csv=_open_csv,
  jsonl=_open_jsonl,
  hf=_open_hf,
  tfds=_open_tfds,
  webdataset=_open_webdataset,
)


def _refuse(arg, *keys):
  """Refuses arguments that the source does not have."""
  for key in keys:
    if arg[key]:
      raise lookup.ConfigError(
        f"Config arg {key}={arg[key]}: source={arg.source} does not have it; "
        "leave it out."
      )


def _check_file(arg):
  if fs.isdir(arg.path):
    raise lookup.ConfigError(
      f"Config arg path: {arg.path!r} is a folder, source={arg.source} reads a "
      "file. For a folder of class folders write source=folder."
    )
  if not fs.exists(arg.path):
    raise lookup.ConfigError(f"Config arg path: no file {arg.path!r}.")


def _check_first(arg, files):
  """Checks that the first picture is where it should be."""
  for file in files:
    path = fs.join(_root(arg), os.fsdecode(file))
    if not fs.exists(path):
      raise lookup.ConfigError(
        f"Config arg root: there is no {path!r}, the first file that {arg.path} "
        "names; root= is the folder that its paths are relative to."
      )


def _root(arg):
  """Returns the folder that paths in the file `arg.path` are relative to."""
  inside = arg.path if fs.isdir(arg.path) else os.path.dirname(arg.path)
  return arg.root or inside or "."


def _by_split(folder, suffix):
  """dict of split -> files in a folder, by how their names begin."""
  files = sorted(fs.glob(fs.join(folder, f"*{suffix}")))
  if not files:
    raise lookup.ConfigError(
      f"Config arg path: the folder {folder!r} has no files *{suffix}."
    )
  found = {}
  for file in files:
    word = re.split(r"[-_.\d]", os.path.basename(file))[0]
    is_split = word.lower() in (*_TRAIN, *_VAL, *_TEST)
    found.setdefault(word if is_split else _ALL, []).append(file)
  return found


def choose_splits(arg: Any, names: list[str]) -> tuple[str, dict[str, str]]:
  """Chooses what to train on and what to hold out.

  Args:
    arg: parsed arguments, with `path`, `split`, `val_split` and `val`.
    names: of the splits that there are.

  Returns:
    (split for training, those held out by name: "val" and perhaps "test").

  Raises:
    ConfigError: it is not clear which; names the argument.
  """
  known = {
    key: next((n for n in names if n.lower() in words), None)
    for key, words in dict(train=_TRAIN, val=_VAL, test=_TEST).items()
  }
  train = arg.split or known["train"] or (names[0] if len(names) == 1 else None)
  if train is None:
    raise lookup.ConfigError(
      f"Config arg split: {arg.path} has the splits {', '.join(names)}; name the "
      "one to train on."
    )
  if arg.val_split:
    return train, dict(val=arg.val_split)
  trained = [part.partition("[")[0].strip() for part in train.split("+")]
  held_out = {
    key: known[key]
    for key in ("val", "test")
    if known[key] and known[key] not in trained
  }
  if "test" in held_out and "val" not in held_out:
    held_out = dict(val=held_out["test"])
  if held_out:
    return train, held_out
  if "[" in train or "+" in train:
    raise lookup.ConfigError(
      f"Config arg split={train}: name the part to evaluate on, too, such as "
      f"val_split={trained[0]}[90%:]."
    )
  return f"{train}[{arg.val}:]", dict(val=f"{train}[:{arg.val}]")


def data_of_split(
  arg: Any, parts: dict[str, dict[str, Any]], split: str
) -> dict[str, Any]:
  """Makes the config of the data in a split.

  Args:
    arg: parsed arguments.
    parts: result of `open_splits`.
    split: names and slices as in TFDS; what is not known is an error of the
      source.

  Returns:
    Dict for `config.input.data`.
  """
  name = split.partition("[")[0].partition("+")[0].strip()
  data = copy.deepcopy(parts.get(name) or next(iter(parts.values())))
  if arg.source == "jsonl" and fs.isdir(arg.path):
    split = split.replace(name, _ALL, 1)  # Each file is one.
  if split != _ALL or arg.source == "tfds":
    data["split"] = split
  if "[" in split and arg.source != "tfds":  # TFDS shuffles what it prepares.
    data["split_seed"] = arg.get("split_seed", 0)
  if arg.get("num_classes") and arg.source != "tfds":
    data["num_classes"] = arg.num_classes
  return data


def _count(arg, data):
  """Counts (classes, training examples); completes `data` with the classes."""
  from big_vision.datasets import core

  sources = {name: core.get(**kw) for name, kw in data.items()}
  if arg.source == "jsonl":
    _refuse_lists(arg, sources["train"])
  texts = [source.labels_as_text() or () for source in sources.values()]
  if any(texts):
    classes = sorted(set().union(*texts))
    for kw in data.values():
      kw.pop("num_classes", None)
      kw["classes"] = classes
    sources = {name: core.get(**kw) for name, kw in data.items()}
  feature = "label"
  if arg.source == "tfds" and arg.label:
    feature = arg.label
  found = [source.classes_of(feature) for source in sources.values()]
  num = max((c.num for c in found if c is not None), default=0)
  if not num:
    _refuse_lists(arg, sources["train"])
    raise lookup.ConfigError(
      f"Config arg num_classes: source={arg.source} does not tell how many "
      f"classes {arg.path} has; add num_classes=N."
    )
  num = max(num, arg.num_classes)
  if num < 2 and not arg.labels:
    names = next((c.names for c in found if c is not None), None)
    raise lookup.ConfigError(
      f"Config arg path: {arg.path} has one class only ({names or '0'}); "
      "classification needs two."
    )
  if any(c is not None and c.names is None for c in found) and (
    arg.source in ("hf", "jsonl")
  ):
    for kw in data.values():  # Of all splits; each of them has a largest.
      kw["num_classes"] = num
  return num, sources["train"].total_examples


def _refuse_lists(arg, source):
  """Refuses lists where there has to be one label."""
  spec = source.example_spec().get("label")
  if not arg.labels and spec is not None and spec.shape.rank:
    name = arg.label or "label"
    raise lookup.ConfigError(
      f"Config arg label={name}: examples have lists of labels; write labels={name}."
    )


def _copies(arg):
  """Renames features of TFDS, which sources of other kinds do by themselves."""
  if arg.source != "tfds":
    return ""
  names = dict(image=arg.image, label=arg.label)
  return "".join(
    f'copy("{old}", "{new}")|'
    for new, old in names.items()
    if old not in ("", new)
  )
