"""Implements the config arguments `labels` and `targets`, of `own_data.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from big_vision import lookup


def kind_of(arg: Any) -> str:
  """Tells what examples have besides their image.

  Args:
    arg: parsed arguments, those of `own_data.ARGS` among them.

  Returns:
    "label", "labels" or "targets", see `own_sources.OwnData`.
  """
  return next((key for key in ("labels", "targets") if arg.get(key)), "label")


def check(arg: Any) -> None:
  """Refuses arguments about labels that contradict each other or the source.

  Args:
    arg: parsed arguments.

  Raises:
    ConfigError: they do.
  """
  kinds = [key for key in ("label", "labels", "targets") if arg[key]]
  if len(kinds) > 1:
    raise lookup.ConfigError(
      f"Config args {' and '.join(kinds)}: give one of them. label= has one class "
      "per picture, labels= any number of them, targets= has numbers."
    )
  if arg.targets and arg.num_classes:
    raise lookup.ConfigError(
      f"Config arg num_classes={arg.num_classes}: targets= are numbers without "
      "classes; leave it out."
    )
  kind = kind_of(arg)
  if kind != "label" and arg.source not in ("csv", "jsonl", "hf"):
    raise lookup.ConfigError(
      f"Config arg {kind}={arg[kind]}: source={arg.source} does not have it; csv, "
      "jsonl and hf do."
    )


def features(
  arg: Any, image: str, target: str, name: str
) -> dict[str, str | list[str]]:
  """Says which columns hold what.

  Args:
    arg: parsed arguments.
    image: column of the image by default.
    target: what comes with images if they have one label, "label" or "text".
    name: its column by default.

  Returns:
    Feature -> column, or columns of several labels or targets.
  """
  kind = kind_of(arg)
  if kind == "label":
    return {"image": arg.image or image, target: arg[target] or name}
  names = [name for name in arg[kind].split("+") if name]
  if not names:
    raise lookup.ConfigError(
      f"Config arg {kind}={arg[kind]}: write names of columns, such as {kind}=a,b."
    )
  feature = "label" if kind == "labels" else "targets"
  return {"image": arg.image or image, feature: names}


def refuse(arg: Any, what: str) -> None:
  """Refuses several labels and targets where there has to be one label.

  Args:
    arg: parsed arguments, those of `own_data.ARGS` among them.
    what: what does not take them.

  Raises:
    ConfigError: they are given.
  """
  kind = kind_of(arg)
  if kind != "label":
    raise lookup.ConfigError(
      f"Config arg {kind}={arg[kind]}: {what} takes one label per picture, label=."
    )


def measure(
  arg: Any, data: dict[str, dict[str, Any]]
) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
  """Measures the targets of training.

  Args:
    arg: parsed arguments.
    data: configs of the data by what it is for, "train" among them.

  Returns:
    (number of examples, mean, standard deviation); the latter with six digits.

  Raises:
    ConfigError: the splits differ in how many targets they have, or one is constant.
  """
  from big_vision.datasets import core

  sources = {name: core.get(**kw) for name, kw in data.items()}
  values = {name: s.values_of("targets") for name, s in sources.items()}
  sizes = {name: found.shape[1] for name, found in values.items()}
  if len(set(sizes.values())) > 1:
    raise lookup.ConfigError(
      f"Config arg targets={arg.targets}: the splits have lists of different "
      f"lengths, {sizes}."
    )
  train = values["train"].astype(float)
  for i in np.flatnonzero(train.min(axis=0) == train.max(axis=0)):
    raise lookup.ConfigError(
      f"Config arg targets={arg.targets}: target {i} (from 0) is {train[0, i]:g} in "
      "all examples to train on: there is nothing to learn. Leave it out."
    )
  mean, std = train.mean(axis=0), train.std(axis=0)
  short = lambda x: tuple(float(f"{v:.6g}") for v in x)
  return len(train), short(mean), short(std)
