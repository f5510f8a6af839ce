"""Compares what labels mean in training, in evaluation and in the model.

At the start of a run: no example is read, nothing is compiled.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from absl import logging

from big_vision import lookup
from big_vision.datasets.classes import Classes, comparable, first_difference
from big_vision.types import ConfigLike


@dataclasses.dataclass(frozen=True)
class Space:
  """Classes that an `onehot` writes, unchanged labels of a source.

  Attributes:
    key: the config key of the source.
    classes: those of the source.
    is_folder: whether the user named the classes, in folders or a CSV file.
    depth: of the `onehot`.
    key_result: the entry that it writes.
  """

  key: str
  classes: Classes
  is_folder: bool
  depth: int
  key_result: str


def check(config: ConfigLike) -> list[Space]:
  """Checks the labels of training and of all evaluators.

  Args:
    config: ConfigDict of a run.

  Returns:
    What labels mean in training, as far as it is known.

  Raises:
    ConfigError: labels of some data are not in the range that its preprocessing
      knows, or mean other classes elsewhere.
  """
  trained = list(_training(config.input))
  for a, b in itertools.combinations(trained, 2):
    _compare(a, b)
  check_evaluators(config, trained)
  _check_panoptic(config)
  return trained


def check_evaluators(
  config: ConfigLike, trained: list[Space] | None = None
) -> None:
  """Checks the labels of all evaluators.

  Args:
    config: ConfigDict of a run.
    trained: what labels mean in training, if there is any.

  Raises:
    ConfigError: see `check`.
  """
  from big_vision.evaluators import build

  for name, cfg in build.entries(config).items():
    cfg, where = build.as_dict(cfg), f"evals.{name}"
    module = build.module_of(cfg.get("type", name), name)
    if hasattr(module, "check_labels"):
      _check_by_itself(module, cfg, where)
      continue
    data, pp = cfg.get("data"), cfg.get("pp_fn")
    if not isinstance(data, Mapping) or not isinstance(pp, str):
      continue
    spaces = list(_spaces(data, pp, f"{where}.pp_fn", f"{where}.data"))
    if module.__name__.startswith("big_vision."):  # They read every example.
      _refuse_bad_examples(data, f"{where}.data")
    if trained and getattr(module.Evaluator, "classes_of_training", False):
      outputs = {space.key_result for space in trained}
      for a, b in itertools.product(trained, spaces):
        # Whatever an evaluator calls them, these are the labels of training.
        if b.key_result == cfg.get("label_key") not in outputs:
          b = dataclasses.replace(b, key_result=a.key_result)
        _compare(a, b)


def _refuse_bad_examples(data: Mapping[str, Any], key: str) -> None:
  """Refuses what is known to fail before it is read: there is no skipping."""
  from big_vision.datasets import core

  bad = core.get(**data).bad_examples()
  if bad:
    raise lookup.ConfigError(
      f"config.{key}: {len(bad)} examples cannot be evaluated, the first: {bad[0]}"
    )


def _check_by_itself(
  module: ModuleType, cfg: Mapping[str, Any], where: str
) -> None:
  """Has an evaluator check its labels; errors name the config key."""
  try:
    module.check_labels(cfg)
  except lookup.ConfigError as e:
    raise lookup.ConfigError(f"config.{where}.{e}") from e


def _training(config: ConfigLike) -> Iterator[Space]:
  """Yields what labels mean in the datasets of `config.input`."""
  from big_vision.pipeline import mixture, validate  # The TensorFlow wing.

  if validate.is_single(config):
    datasets = {"input": config}
  else:
    names = mixture.weights_of(config)
    datasets = {f"input.{name}": config[name] for name in names}
  for key, dataset in datasets.items():
    pp = dataset.get("pp")
    # What filters leave is only known when they run.
    filtered = dataset.get("pre_filter_fn") or dataset.get("post_filter_fn")
    if isinstance(pp, str):
      data = dataset.data.to_dict()
      yield from _spaces(data, pp, f"{key}.pp", f"{key}.data", bool(filtered))


def _spaces(
  data: Mapping[str, Any],
  pp: str,
  pp_key: str,
  data_key: str,
  filtered: bool = False,
) -> Iterator[Space]:
  """Checks the labels of one dataset; yields what they mean."""
  from big_vision.pipeline import labels

  if "onehot" not in pp:
    return
  is_folder = data.get("name") == "bv:folder"
  for onehot in labels.check_data(data, pp, pp_key, data_key, filtered):
    known, use = onehot.labels, onehot.use
    if known is not None and known.unchanged:
      yield Space(data_key, known.classes, is_folder, use.depth, use.key_result)


def _check_panoptic(config: ConfigLike) -> None:
  """Refuses maps of more classes than UViM's stage I has.

  Nothing would be learned of the others, without an error.
  """
  from big_vision.datasets import core

  where = "oracle.model" if config.get("oracle") else "model"
  model = (config.get("oracle") or config).get("model") or {}
  shape = (model.get("inputs") or {}).get("semantics")
  pp = config.input.get("pp")
  if not shape or not isinstance(pp, str) or "coco_panoptic" not in pp:
    return
  source = core.get(**config.input.data.to_dict())
  classes = source.classes_of("panoptic_objects/label")
  if classes and classes.num >= shape[0]:
    right = (classes.num + 1, *shape[1:])
    raise lookup.ConfigError(
      f"config.{where}.inputs.semantics = {tuple(shape)} is for {shape[0] - 1} "
      f"classes and none of them, but config.input.data has {classes.num}. Write "
      f"{right}, and the same in outputs."
    )


def _compare(a: Space, b: Space) -> None:
  """Refuses labels that mean other classes in another dataset."""
  if (a.depth, a.key_result) != (b.depth, b.key_result):
    return  # Labels of other kinds, for other outputs.
  if a.classes.numbered and b.classes.numbered:
    return
  alike = comparable(a.classes, b.classes)
  # Names that differ are other classes if the user chose both, in folders or
  # CSV files. Elsewhere they may be another spelling.
  surely = a.is_folder and b.is_folder
  if not alike and (a.classes.numbered or b.classes.numbered):
    if surely:
      by_number, by_name = (a, b) if a.classes.numbered else (b, a)
      logging.warning(
        "The labels of config.%s are numbers (%s), those of config.%s have names "
        "(%s): whether they mean the same cannot be told. data.classes gives "
        "names to numbers.", by_number.key, by_number.classes, by_name.key,
        by_name.classes,
      )  # fmt: skip
    return
  label = first_difference(a.classes, b.classes, moved_only=not surely)
  if label is None:
    if not alike:
      logging.warning(
        "config.%s and config.%s have no class name in common (%s; %s): labels "
        "are compared by their numbers.", a.key, b.key, a.classes, b.classes
      )  # fmt: skip
    return
  raise lookup.ConfigError(
    f"config.{b.key}: the label {label} means {b.classes.known[label]!r} here, "
    f"but {a.classes.known[label]!r} in config.{a.key}. Classes here are "
    f"{b.classes}; there {a.classes}. Give both the same list of classes "
    "(data.classes of bv:folder), or put them into one folder and name the "
    "split of each."
  )
