"""Finds the grid of positions that a run trained with, in its workdir.

Checkpoints store positions as a list: 16 of them may be a grid of 4x4 or of 2x8.
The config of the run, beside its checkpoints, tells which.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from absl import logging

from big_vision import fs, lookup
from big_vision.types import ConfigLike


def find(init_file: Any, num: int) -> tuple[int, int] | None:
  """Finds the grid of a checkpoint in a workdir.

  Args:
    init_file: the checkpoint; anything but a path `<path>[:<sub/tree>]` has no
      workdir.
    num: number of positions in the checkpoint.

  Returns:
    (rows, columns); None if there is no such workdir, or its images do not
    have that many patches.
  """
  config = _run_config(init_file)
  try:
    for grid in _grids(config) if config else ():
      if math.prod(grid) == num:
        return grid
  # Anything may be wrong with somebody's config, which need not be used.
  except Exception as e:
    logging.info("No grid in the config beside %s: %s", init_file, e)
  return None


def _run_config(init_file):
  """Reads the config beside a checkpoint; None if there is none of a run."""
  match = re.fullmatch(r"(.*?/.*?)(?::[\w/]+)?", str(init_file))
  if not match:
    return None
  path = match[1].rstrip("/")
  if ".npz" in path and not fs.is_local(path):
    return None  # A published file; runs write folders.
  try:
    with fs.open(fs.join(fs.dirname(path), "config.json")) as f:
      config = json.load(f)
  except Exception as e:  # Each file system has errors of its own.
    logging.debug("No config beside %s: %s", path, e)
    return None
  if not isinstance(config, dict) or "input" not in config:
    return None
  from ml_collections import ConfigDict  # Models alone work without it.

  return ConfigDict(config)


def _grids(config: ConfigLike) -> Iterator[tuple[int, int]]:
  """Yields the grids of the models of a run."""
  pp = (config.get("input") or {}).get("pp")
  texts = [pp] if isinstance(pp, str) else list((pp or {}).values())
  for size in filter(None, map(_image_size, texts)):
    for key in ("model", "student"):
      name = config.get(f"{key}_name")
      # Nothing of the user's is imported because a file names it.
      if name in lookup.known_modules("models", "Model"):
        module = lookup.module("models", name, kind="model", needs="Model")
        if hasattr(module, "image_grid"):
          try:
            with lookup.stored_config():
              grid = module.image_grid(config.get(key), size)
          except lookup.ConfigError:
            continue  # Of images that are not this model's.
          if grid is not None:
            yield grid.stored


def _image_size(pp):
  """Computes (height, width) of the images that a preprocessing makes."""
  try:  # The TensorFlow wing, which a machine may lack.
    from big_vision.pp import builder, ops_crop, ops_image, registry
    from big_vision.tf import tf
  except ImportError:
    return None
  prefix, own = "preprocess_ops.", (ops_crop.__name__, ops_image.__name__)
  sections = builder.split_pipeline(pp)
  image = tf.zeros([64, 64, 3], tf.uint8)
  if sections and sections[0].startswith("decode"):
    image = tf.io.encode_jpeg(image)
  data = {"image": image}
  for section in sections:
    # Others do not change the size, and may need files or other features.
    if registry.Registry.knows(prefix + section):
      op = registry.Registry.lookup(prefix + section)
      if op.func.__module__ in own:
        try:
          data = op()(data)
        except Exception as e:  # Of features that only data has.
          logging.info("No image size in the pp of a stored config: %s", e)
          return None
  return tuple(data["image"].shape[:2])
