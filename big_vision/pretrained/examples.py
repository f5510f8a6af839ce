"""Example images for demos of a trained model."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from big_vision import fs, lookup
from big_vision.evaluators.proj.image_text import embedding
from big_vision.pretrained import preprocessing
from big_vision.types import ConfigLike


def example_images(
  config: ConfigLike, num: int
) -> list[tuple[np.ndarray, str]]:
  """Reads the first pictures of the data that a run evaluates retrieval on.

  Args:
    config: ConfigDict of a run.
    num: how many at most.

  Returns:
    List of (uint8 [H, W, 3], str: a caption); empty if the config has no such
    evaluator or its data is not on this machine.
  """
  cfg = preprocessing.retrieval(config)
  if cfg is None:
    return []
  split, data_dir = cfg.get("split", "test"), cfg.get("data_dir")
  try:
    with lookup.stored_config():  # The run may be somebody else's.
      _, examples = embedding.open_split(cfg.dataset, split, data_dir)
  except ValueError as e:
    logging.warning("No example images: %s", e)
    return []
  keys = [cfg.txt_name] if isinstance(cfg.txt_name, str) else cfg.txt_name
  out = []
  for example in examples.take(num).as_numpy_iterator():
    texts = np.ravel(functools.reduce(lambda x, key: x[key], keys, example))
    out.append((example["image"], texts[0].decode() if len(texts) else ""))
  return out


def labeled_images(
  config: ConfigLike, class_names: Sequence[str], num: int
) -> list[tuple[np.ndarray | bytes, str]]:
  """Reads some pictures of the data that a run evaluates a classifier on.

  Args:
    config: ConfigDict of a run.
    class_names: by label.
    num: how many at most.

  Returns:
    List of (uint8 [H, W, C] or the content of a file, name of the class or "");
    empty if the config has no such evaluator, or its data is not on this machine
    or cannot be read by number.
  """
  evals = [cfg for cfg in (config.get("evals") or {}).values() if cfg]
  types = ("classification", "multilabel")
  evals = [cfg for cfg in evals if cfg.get("type") in types]
  if not evals or not evals[0].get("data"):
    return []
  data = dict(evals[0].data)
  path = data.get("path") or data.get("fname")
  if path and not (isinstance(path, str) and fs.exists(path)):
    return []  # Nothing is downloaded for examples.
  from big_vision.datasets import core

  try:
    with lookup.stored_config():  # The run may be somebody else's.
      source: Any = core.get(**data)
  except (ValueError, OSError) as e:
    logging.warning("No example images: %s", e)
    return []
  if not source.random_access:
    return []
  total, out = source.total_examples, []
  # Not the first ones, which are often of one class.
  for index in np.linspace(0, total - 1, min(num, total)).astype(int):
    example = source.read(index)
    image = example["image"].numpy()
    label = example.get("label")
    out.append((image, "" if label is None else _name(label, class_names)))
  return out


def _name(label, class_names):
  label = label.numpy()
  if isinstance(label, bytes):
    return label.decode()
  known = np.ndim(label) == 0 and 0 <= label < len(class_names)
  return class_names[int(label)] if known else ""
