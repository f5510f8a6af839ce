"""Implements the config arguments `source` and `path`: any recipe on own data.

  python -m big_vision.train \
    --config big_vision/configs/transfer.py:model=vit-s16,source=folder,path=/data/pets \
    --workdir /path/to/workdir

Only the first two arguments are needed where the data is laid out as usual, see
docs/datasets.md:

  source: `folder`, `csv`, `jsonl`, `hf`, `tfds` or `webdataset`.
  path: what it reads: a folder with a sub-folder of pictures per class, a file, a
    dataset of Hugging Face or TFDS, tar shards.
  split, val_split: names of splits and slices as in TFDS. By default `train`,
    and `val`, `valid`, `validation`, `dev` or else `test`, as they are called.
  val: how much of the training data is held out where there is nothing to
    evaluate on: `10%`, or a number of examples.
  split_seed: which examples are held out. They are drawn from all of the data,
    whatever its order.
  image, label: the column, key, extension or feature with the image (or its
    path) and with the label.
  labels: in place of `label`, for pictures that have any number of labels: the
    column with lists of them (in a CSV file `cat;dog`), or several columns with 0
    or 1, `labels=cat,dog,bird`. The sources are `csv`, `jsonl` and `hf`.
  targets: in place of `label`, columns of numbers to predict: `targets=price,age`.
    From the same sources.
  normalize: whether targets are learned with mean 0 and variance 1; predictions
    and metrics have their own units all the same.
  root: the folder that the paths in a CSV or JSON-lines file are relative to, by
    default that of the file.
  num_classes: where the source does not tell it, in tar shards.

`apply` changes the finished config of a recipe. Classes are counted when the
config is made. A config offers this with `**own_data.ARGS` among the arguments
that it parses, and with `own_data.apply(config, arg)` near its end.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import demo, demo_pp, own_labels, own_sources
from big_vision.configs.own_sources import ARGS, OwnData

# Name of the data in metrics: `val/prec@1`, `a/own_5shot-seed-0`.
_NAME = "own"
# By the kind of labels, see `OwnData.kind`.
_LOSSES = dict(labels="sigmoid_xent", targets="mse")
_EVALUATORS = dict(labels="multilabel", targets="regression")


def split_arg(arg: Any) -> tuple[Any, mlc.ConfigDict]:
  """Takes own data out of the argument of a config that does not parse it.

  Args:
    arg: words separated by commas, or any other value.

  Returns:
    (`arg` without the keys of `ARGS`, these parsed).
  """
  if not isinstance(arg, str):
    return arg, bvcc.parse_arg("", **ARGS)
  own, rest, several = [], [], False
  for word in arg.split(","):
    key, equals, _ = word.partition("=")
    if equals and key in ARGS:
      several = key in ("labels", "targets")
    mine = (equals and key in ARGS) or (several and not equals)
    (own if mine else rest).append(word)
  return ",".join(rest), bvcc.parse_arg(",".join(own), **ARGS)


def apply(
  config: Any,
  arg: Any,
  *,
  total_steps: Callable[[int, int], int] | None = None,
  per_batch: tuple[str, ...] = (),
) -> OwnData | None:
  """Makes a config train and evaluate on the data of the arguments, in place.

  Labels, evaluators and few-shot evaluation become those of the data; several
  labels are learned with `sigmoid_xent`, targets with `mse`, and neither has
  few-shot evaluation. The batch
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
    ValueError: see `own_sources.find`.
  """
  if own_labels.kind_of(arg) != "label" and "student_name" in config:
    own_labels.refuse(arg, "a distillation")
  own = own_sources.find(arg)
  if own is None:
    return None
  with config.ignore_type():
    config.num_classes = own.num_classes
    if own.kind != "label":
      config.loss = _LOSSES[own.kind]
    if "init_head_bias" in config:
      config.init_head_bias = -math.log(own.num_classes)
      if own.kind == "targets":
        config.init_head_bias = 0.0
    batch_size = own_sources.fit_batch(config.input.batch_size, own.num_train)
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


def _adapt(pp, own):
  """Returns preprocessing with the labels of own data."""
  from big_vision.pp import builder  # The TensorFlow wing.

  ops = [demo_pp.Op(section) for section in builder.split_pipeline(pp)]
  for i, op in enumerate(ops):
    if op.name != "onehot":
      continue
    if own.kind == "targets":
      key = op.get("key_result") or op.get("key", "labels")
      ops[i] = demo_pp.Op(_targets_op(own, key))
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


def _targets_op(own, key):
  """Returns the op that makes the entry `key` of the targets."""
  if own.mean is None:
    return f'copy("targets", "{key}")'
  mean, std = list(own.mean), list(own.std)
  return f'standardize({mean}, {std}, inkey="targets", outkey="{key}")'


def _set_evals(config, own):
  """Keeps one evaluator of each kind, on own data."""
  evals = dict(config.get("evals") or {})
  config.evals = {}
  by_val = sorted(evals, key=lambda name: not re.search("(^|_)val", name))
  found = set()
  for name in by_val:
    cfg = evals[name]
    cfg = cfg.to_dict() if hasattr(cfg, "to_dict") else dict(cfg)
    if cfg.get("type") == "fewshot_lsr" and own.kind == "label":
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
    if own.kind != "label" and cfg.get("type") == "classification":
      cfg["type"], cfg["loss_name"] = _EVALUATORS[own.kind], config.loss
    if "distances" in cfg:  # Of distillation; some are of the k best classes.
      fits = lambda d: d.get("k", 1) <= own.num_classes
      cfg["distances"] = tuple(filter(fits, cfg["distances"]))
    for split, data in own.held_out.items():
      new = re.sub("(?<![a-z])(val|test|train)(?![a-z])", split, name)
      new = new if new != name or split == "val" else f"{name}_{split}"
      config.evals[new] = {**cfg, "data": data}
      if cfg.get("type") == "multilabel":
        config.evals[new].per_class = f"{{workdir}}/{new}_per_class.csv"
  if "fewshot" in config and own.kind == "label":
    set_fewshot(config.fewshot, own)


def _shorten(config, num_train):
  """Makes warm-up and intervals at most a tenth of the run.

  As percentages, which fit if the length is changed on the command line.
  """
  total = config.get("total_steps")
  if total is None:
    total = config.total_epochs * num_train / config.input.batch_size
  most = max(1, int(total) // 10)
  rules = config.get("schedule") or {}
  rules = [(".*", rules)] if hasattr(rules, "items") else rules
  places = [(schedule, "warmup") for _, schedule in rules if schedule]
  places += [(config, "ckpt")]
  places += [(cfg, "log") for cfg in config.evals.values()]
  for cfg, name in places:
    if cfg.get(f"{name}_steps", 0) > most:
      demo.set_duration(cfg, name, **{f"{name}_percent": 0.1})
  if "log_training_steps" in config:
    config.log_training_steps = min(config.log_training_steps, most)
