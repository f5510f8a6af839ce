"""Example images for demos of a trained model."""

import functools
import itertools
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
  source = _open(evals[0].data)
  if source is None:
    return []
  total, out = source.total_examples, []
  # Not the first ones, which are often of one class.
  for index in np.linspace(0, total - 1, min(num, total)).astype(int):
    example = source.read(index)
    image = example["image"].numpy()
    label = example.get("label")
    out.append((image, "" if label is None else _name(label, class_names)))
  return out


def questions(
  config: ConfigLike, num: int
) -> list[tuple[np.ndarray | bytes, str]]:
  """Reads some pictures of the data of a model that answers prompts.

  Args:
    config: ConfigDict of a run.
    num: how many at most.

  Returns:
    List of (uint8 [H, W, C] or the content of a file, a prompt about it or "").
    They are of the data of all evaluators in turn, or of all parts of the training
    data; empty if none of it is on this machine and can be read by number.
  """
  evals = list((config.get("evals") or {}).values())
  given = config.get("input") or {}
  data = given.get("data") or {}
  is_single = isinstance(data.get("name"), str)
  parts = [given] if is_single else [given.get(name) for name in data]
  return _questions(evals, "pp_fn", num) or _questions(parts, "pp", num)


def _questions(parts, key, num):
  """Reads pictures of parts in turn, each with its preprocessing `key`."""
  opened = []
  for cfg in parts:
    if not cfg or isinstance(cfg, str) or not cfg.get("data"):
      continue
    if "name" in cfg["data"] and (source := _open(cfg["data"])) is not None:
      opened.append((source, cfg.get(key)))
  out = []
  sizes = [source.total_examples for source, _ in opened]
  num = min(num, max(sizes, default=0))
  for i in range(num):
    source, pp = opened[i % len(opened)]
    # Parts of the same data should not show the same pictures.
    index = np.linspace(0, source.total_examples - 1, num).astype(int)[i]
    example = source.read(index)
    image = example.get("image")
    if image is not None and len(image.shape) in (0, 3):  # No videos.
      out.append((image.numpy(), _prompt(pp, example)))
  return out


def _prompt(pp, example):
  """Makes the prompt of an example; "" where that is not `prefix`."""
  from big_vision.pp import builder, registry
  from big_vision.tf import tf

  is_text = lambda op: registry.parse_name(op)[0].strip() != "tok"
  ops = itertools.takewhile(is_text, builder.split_pipeline(pp))
  try:
    fn = builder.get_preprocess_fn("|".join(ops), log_data=False)
    prefix = fn(dict(example)).get("prefix")
  except (ValueError, KeyError, TypeError, tf.errors.OpError) as e:
    logging.warning("No example prompt: %s", e)
    return ""
  if prefix is None or prefix.dtype != tf.string or prefix.shape.rank:
    return ""
  return prefix.numpy().decode()


def _open(data):
  """Opens a source; None if it is not here or cannot be read by number."""
  data = dict(data)
  path = data.get("path") or data.get("fname")
  if path and not (isinstance(path, str) and fs.exists(path)):
    return None  # Nothing is downloaded for examples.
  from big_vision.datasets import core

  try:
    with lookup.stored_config():  # The run may be somebody else's.
      source: Any = core.get(**data)
  except (ValueError, OSError) as e:
    logging.warning("No example images: %s", e)
    return None
  return source if source.random_access or source.can_read_by_index else None


def _name(label, class_names):
  label = label.numpy()
  if isinstance(label, bytes):
    return label.decode()
  known = np.ndim(label) == 0 and 0 <= label < len(class_names)
  return class_names[int(label)] if known else ""
