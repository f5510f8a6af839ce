"""Counts how many training examples each class has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from big_vision.datasets import core
from big_vision.datasets.label_sets import LabelSets
from big_vision.lookup import ConfigError
from big_vision.pipeline import balance
from big_vision.pipeline import labels as labels_lib
from big_vision.types import ConfigLike


class Total(int):
  """A number of examples, which knows of which datasets they are.

  Attributes:
    parts: key of a mixture's dataset -> (its part of the batches, its number of
      examples); empty for a single dataset.
  """

  parts: Mapping[str, tuple[float, int]] = {}


def total(
  sizes: Sequence[int | None], weights: Mapping[str, float] | None = None
) -> Total:
  """Adds numbers of examples.

  Args:
    sizes: of each dataset; None where it is not known, which counts as 0.
    weights: of a mixture, in the order of `sizes`.

  Returns:
    The Total.
  """
  out = Total(sum(size or 0 for size in sizes))
  if weights:
    whole = sum(weights.values())
    pairs = zip(weights.items(), sizes, strict=True)
    out.parts = {k: (w / whole, size) for (k, w), size in pairs if size}
  return out


def of_classes(
  config: ConfigLike, num_classes: int, key: str
) -> tuple[np.ndarray, int]:
  """Counts the labels of training.

  Args:
    config: `config.input`.
    num_classes: C.
    key: the config key that asks for it, for errors.

  Returns:
    (int64 [C], examples with each label; number of examples with a label).

  Raises:
    ConfigError: they are not known without reading all data, or out of range.
  """
  data = config.get("data") or {}
  if not isinstance(data.get("name"), str):
    raise ConfigError(
      f"config.{key}: labels of a mixture are not counted. Give a list of "
      "config.num_classes numbers."
    )
  source = core.get(**data)
  feature = _feature(source, config.get("pp"), key)
  labels = balance.labels_of(source, feature, key)
  if isinstance(labels, LabelSets):
    owner = np.repeat(np.arange(len(labels)), np.diff(labels.splits))
    pairs = np.unique(np.stack([owner, labels.values]), axis=1)
    pairs = pairs[:, pairs[1] >= 0]
    values, num_examples = pairs[1], len(np.unique(pairs[0]))
  else:
    values = np.asarray(labels, np.int64)
    values = values[values >= 0]
    num_examples = len(values)
  if not len(values) or values.max() >= num_classes:
    found = f"labels up to {values.max()}" if len(values) else "no labels"
    raise ConfigError(
      f"config.{key}: {feature!r} of config.input.data has {found}, which does not "
      f"fit config.num_classes = {num_classes}."
    )
  return np.bincount(values, minlength=num_classes), num_examples


def _feature(source, pp, key):
  """Finds the feature with the labels that `onehot` of `pp` reads."""
  trace = labels_lib.trace(source.example_spec(), source.classes_of, pp)
  for onehot in trace.onehots:
    if onehot.use.key_result != "labels":
      continue
    if onehot.labels is None:
      return onehot.use.key
    if not onehot.labels.unchanged:
      raise ConfigError(
        f"config.{key}: config.input.pp makes other labels of "
        f"{onehot.labels.feature!r}. Give a list of config.num_classes numbers."
      )
    return onehot.labels.feature
  return "label"
