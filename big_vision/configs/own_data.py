"""Implements the config arguments `source` and `path`: any recipe on own data.

  python -m big_vision.train \
    --config big_vision/configs/transfer.py:model=vit-s16,source=folder,path=/data/pets \
    --workdir /path/to/workdir

`source` is one of `SOURCES`, `path` what it reads, see docs/datasets.md. Further
arguments, none of which is needed if the data is laid out as usual:

  split, val_split: names of splits and slices as in TFDS. By default `train`,
    and `val`, `valid`, `validation`, `dev` or else `test`, as they are called.
  val: how much of the training data is held out where there is nothing to
    evaluate on: `10%`, or a number of examples.
  split_seed: which examples are held out. They are drawn from all of the data,
    whatever its order.
  image, label: the column, key, extension or feature with the image (or its
    path) and with the label.
  root: the folder that the paths in a CSV or JSON-lines file are relative to, by
    default that of the file.
  num_classes: where the source does not tell it, in tar shards.

`apply` changes the finished config of a recipe. Classes are counted when the
config is made. A config offers this with `**own_data.ARGS` among the arguments
that it parses, and with `own_data.apply(config, arg)` near its end.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable
from typing import Any

import ml_collections as mlc
from absl import logging

from big_vision import fs, lookup
from big_vision.configs import demo_pp

SOURCES = ("folder", "csv", "jsonl", "hf", "tfds", "webdataset")
ARGS = dict(
  source="",
  path="",
  split="",
  val_split="",
  val="10%",
  split_seed=0,
  image="",
  label="",
  root="",
  num_classes=0,
)

_TRAIN = ("train", "training")
_VAL = ("val", "valid", "validation", "dev")
_TEST = ("test", "testing", "eval")
_ALL = "all"
# Name of the data in metrics: `val/prec@1`, `a/own_5shot-seed-0`.
_NAME = "own"


@dataclasses.dataclass(frozen=True)
class OwnData:
  """Describes the data that arguments name.

  Attributes:
    train: `config.input.data`.
    held_out: `data` of evaluators by name, "val" and perhaps "test".
    num_classes: number of classes.
    num_train: number of examples in `train`.
    pp: ops that every preprocessing begins with, empty or ending in "|".
  """

  train: dict[str, Any]
  held_out: dict[str, dict[str, Any]]
  num_classes: int
  num_train: int
  pp: str = ""


def split_arg(arg: Any) -> tuple[Any, mlc.ConfigDict]:
  """Takes own data out of the argument of a config that does not parse it.

  Args:
    arg: words separated by commas, or any other value.

  Returns:
    (`arg` without the keys of `ARGS`, these parsed).
  """
  import big_vision.configs.common as bvcc

  if not isinstance(arg, str):
    return arg, bvcc.parse_arg("", **ARGS)
  is_own = lambda word: word.partition("=")[0] in ARGS and "=" in word
  words = arg.split(",")
  own = ",".join(filter(is_own, words))
  rest = ",".join(word for word in words if not is_own(word))
  return rest, bvcc.parse_arg(own, **ARGS)


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
  if arg.source not in SOURCES:
    raise lookup.unknown("source", arg.source, SOURCES, "source")
  if not arg.path:
    raise lookup.ConfigError(
      f"Config arg path: source={arg.source} needs the place of the data, such "
      "as path=/data/pets."
    )
  if not re.fullmatch(r"\d+%?", str(arg.val)):
    raise lookup.ConfigError(
      f"Config arg val={arg.val!r} should be a percentage or a number of "
      "examples, such as val=10% or val=500."
    )
  parts = _OPEN[arg.source](arg)
  train, held_out = _choose(arg, list(parts))
  data = {
    name: _data(arg, parts, split)
    for name, split in {"train": train, **held_out}.items()
  }
  num_classes, num_train = _count(arg, data)
  return OwnData(
    train=data.pop("train"),
    held_out=data,
    num_classes=num_classes,
    num_train=num_train,
    pp=_copies(arg),
  )


def apply(
  config: mlc.ConfigDict,
  arg: Any,
  *,
  total_steps: Callable[[int, int], int] | None = None,
  per_batch: tuple[str, ...] = (),
) -> OwnData | None:
  """Makes a config train and evaluate on the data of the arguments, in place.

  Labels, evaluators and few-shot evaluation become those of the data. The batch
  becomes no larger than the training data; warm-up and intervals at most a tenth
  of the run.

  Args:
    config: ConfigDict, complete.
    arg: parsed arguments, those of `ARGS` among them.
    total_steps: function of the numbers of examples and of those in a batch;
      by default the recipe's number of epochs stays.
    per_batch: keys whose values are in proportion to the size of the batch.

  Returns:
    What was found; None if the arguments name no data: nothing changes then.

  Raises:
    ValueError: see `find`.
  """
  own = find(arg)
  if own is None:
    return None
  if arg.get("demo"):
    raise lookup.ConfigError(
      "Config arg demo has its own data: leave out either demo or source. "
      "configs/quickstart.py:source=… has a tiny model."
    )
  with config.ignore_type():
    config.num_classes = own.num_classes
    if "init_head_bias" in config:
      config.init_head_bias = -math.log(own.num_classes)
    batch_size = min(config.input.batch_size, _power_of_2(own.num_train))
    for key in per_batch:
      config[key] *= batch_size / config.input.batch_size
    config.input.update(data=own.train, batch_size=batch_size)
    config.input.pp = _adapt(config.input.pp, own)
    _set_evals(config, own)
    if total_steps is not None:
      config.total_steps = total_steps(own.num_train, batch_size)
    _shorten(config, own.num_train)
  return own


def set_fewshot(cfg: Any, own: OwnData) -> None:
  """Changes an evaluator `fewshot_lsr` to own data, in place.

  Args:
    cfg: dict of its settings.
    own: the data.
  """
  cfg["datasets"] = {_NAME: dict(train=own.train, test=own.held_out["val"])}
  cfg["display_first"] = [(_NAME, 10)]
  for key in ("pp_train", "pp_eval"):
    cfg[key] = _adapt(cfg[key], own)


def _refuse_without_source(arg):
  """Refuses arguments that would be without effect."""
  given = [key for key, default in ARGS.items() if arg[key] != default]
  if given:
    raise lookup.ConfigError(
      f"Config arg {given[0]}={arg[given[0]]} is about data of your own: add "
      f"source=, one of {', '.join(SOURCES)}."
    )


def _open_folder(arg):
  """Returns the arguments of the source for each split, "all" for no splits."""
  from big_vision.datasets import folder_listing

  _refuse(arg, "image", "label", "root")
  if not fs.isdir(arg.path):
    raise lookup.ConfigError(f"Config arg path: no folder {arg.path!r}.")
  names = folder_listing.split_names(arg.path.rstrip("/") + "/")
  return dict.fromkeys(names or [_ALL], dict(name="bv:folder", path=arg.path))


def _open_csv(arg):
  from big_vision.datasets import folder

  _check_file(arg)
  data = dict(name="bv:folder", path=_root(arg), labels=arg.path)
  if arg.image or arg.label:
    data["features"] = dict(
      image=arg.image or "file", label=arg.label or "label"
    )
  return dict.fromkeys(folder.split_names(arg.path) or [_ALL], data)


def _open_jsonl(arg):
  from big_vision.datasets import jsonl

  keys = dict(image=arg.image or "image", label=arg.label or "label")
  data = dict(name="bv:jsonl", fopen_keys=dict(image=_root(arg)))
  if renamed := {k: v for k, v in keys.items() if k != v}:
    data["features"] = renamed
  if fs.isdir(arg.path):  # A file for each split.
    files = _by_split(arg.path, ".jsonl")
    return {name: {**data, "fname": path} for name, (path, *_) in files.items()}
  _check_file(arg)
  data["fname"] = arg.path
  names = jsonl.DataSource(arg.path).split_names()
  return dict.fromkeys(names or [_ALL], data)


def _open_hf(arg):
  from big_vision.datasets import hf_files

  _refuse(arg, "root")
  data = dict(
    name="bv:hf",
    path=arg.path,
    features=dict(image=arg.image or "image", label=arg.label or "label"),
  )
  names = hf_files.split_names(arg.path)
  # What has one nameless split is called "train".
  return dict.fromkeys(names or ["train"], data)


def _open_tfds(arg):
  from big_vision.datasets import tfds

  _refuse(arg, "root")
  builder = tfds.get_builder(arg.path)
  if builder.info.disable_shuffling:
    logging.info("%s keeps an order: slices may lack classes.", arg.path)
  return dict.fromkeys(builder.info.splits, dict(name=arg.path))


def _open_webdataset(arg):
  _refuse(arg, "root")
  data = dict(
    name="bv:webdataset",
    path=arg.path,
    features=dict(
      image=arg.image or "jpg;jpeg;png;webp", label=arg.label or "cls"
    ),
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
  if not fs.exists(arg.path) or fs.isdir(arg.path):
    raise lookup.ConfigError(f"Config arg path: no file {arg.path!r}.")


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


def _choose(arg, names):
  """Chooses splits: for training, and a dict of those held out."""
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


def _data(arg, parts, split):
  """Returns the arguments of a source for a split string."""
  name = split.partition("[")[0].partition("+")[0].strip()
  # Names that are not known are errors of the source.
  data = dict(parts.get(name) or next(iter(parts.values())))
  if arg.source == "jsonl" and fs.isdir(arg.path):
    split = split.replace(name, _ALL, 1)  # Each file is one.
  if split != _ALL or arg.source == "tfds":
    data["split"] = split
  if "[" in split and arg.source != "tfds":  # TFDS shuffles what it prepares.
    data["split_seed"] = arg.split_seed
  if arg.num_classes and arg.source != "tfds":
    data["num_classes"] = arg.num_classes
  return data


def _count(arg, data):
  """Counts (classes, training examples); completes `data` with the classes."""
  from big_vision.datasets import core

  sources = {name: core.get(**kw) for name, kw in data.items()}
  texts = {
    name: source.labels_as_text()
    for name, source in sources.items()
    if hasattr(source, "labels_as_text")
  }
  if any(texts.values()):
    classes = sorted(set().union(*map(set, filter(None, texts.values()))))
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
    raise lookup.ConfigError(
      f"Config arg num_classes: source={arg.source} does not tell how many "
      f"classes {arg.path} has; add num_classes=N."
    )
  num = max(num, arg.num_classes)
  if num < 2:
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


def _adapt(pp, own):
  """Returns preprocessing with the labels of own data."""
  from big_vision.pp import builder  # The TensorFlow wing.

  ops = [demo_pp.Op(section) for section in builder.split_pipeline(pp)]
  for op in ops:
    if op.name != "onehot":
      continue
    smoothing = op.get("off", 0.0) * op.get("depth")
    op.set("key_result", op.get("key_result") or op.get("key", "labels"))
    op.set("key", "label")
    op.set("depth", own.num_classes)
    if smoothing:  # Labels stay as smooth with another number of classes.
      off = smoothing / own.num_classes
      op.set("on", op.get("on", 1.0) - op.get("off") + off)
      op.set("off", off)
  return own.pp + "|".join(map(str, ops))


def _set_evals(config, own):
  """Keeps one evaluator of each kind, on own data."""
  evals = dict(config.get("evals") or {})
  config.evals = {}
  by_val = sorted(evals, key=lambda name: not re.search("(^|_)val", name))
  found = set()
  for name in by_val:
    cfg = evals[name]
    cfg = cfg.to_dict() if hasattr(cfg, "to_dict") else dict(cfg)
    if cfg.get("type") == "fewshot_lsr":
      set_fewshot(cfg, own)
      config.evals[name] = cfg
    if "data" not in cfg or "label_mapping" in cfg:
      continue
    shared = {
      k: v
      for k, v in cfg.items()
      if k not in ("data", "pp_fn") and not k.startswith("log_")
    }
    key = json.dumps(shared, sort_keys=True, default=str)
    if key in found:
      continue
    found.add(key)
    cfg["pp_fn"] = _adapt(cfg["pp_fn"], own)
    for split, data in own.held_out.items():
      new = re.sub("(?<![a-z])(val|test|train)(?![a-z])", split, name)
      new = new if new != name or split == "val" else f"{name}_{split}"
      config.evals[new] = {**cfg, "data": data}
  if "fewshot" in config:
    set_fewshot(config.fewshot, own)


def _power_of_2(number):
  """Returns the largest power of two that is not above a number."""
  return 2 ** int(math.log2(number))


def _shorten(config, num_train):
  """Makes warm-up and intervals fit into the run."""
  total = config.get("total_steps")
  if total is None:
    total = config.total_epochs * num_train / config.input.batch_size
  most = max(1, int(total) // 10)
  rules = config.get("schedule") or {}
  rules = [(".*", rules)] if hasattr(rules, "items") else rules
  places = [(schedule, "warmup_steps") for _, schedule in rules if schedule]
  places += [(config, "log_training_steps"), (config, "ckpt_steps")]
  places += [(cfg, "log_steps") for cfg in config.evals.values()]
  for cfg, key in places:
    if cfg.get(key):
      cfg[key] = min(cfg[key], most)
