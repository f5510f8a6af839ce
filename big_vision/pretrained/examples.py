"""Example images for demos of a trained model."""

import functools

import numpy as np
from absl import logging

from big_vision import lookup
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
