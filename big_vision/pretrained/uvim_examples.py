"""Pictures with their labels, of the data that a run of UViM is evaluated on."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision import lookup
from big_vision.pretrained import uvim_labels
from big_vision.types import ConfigLike


def examples(
  config: ConfigLike, num: int
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Reads the first pictures of a run's evaluation.

  Args:
    config: ConfigDict of a run of stage I or II.
    num: how many at most.

  Returns:
    List of (picture uint8 [H, W, 3], labels as of `uvim_labels.to_model`, in the
    size of the picture).

  Raises:
    ValueError: the config has no such evaluator; or its data cannot be read.
  """
  from big_vision.datasets import core
  from big_vision.pp import decoding

  task = uvim_labels.task_of(config.get("oracle") or config)
  with lookup.stored_config():  # The run may be somebody else's.
    source = core.get(**data_of(config))
  found = source.get_tfdata(ordered=True).take(num).as_numpy_iterator()
  out = []
  for example in found:
    image = example["image"]
    if isinstance(image, bytes):
      image = decoding.decode(image)
    out.append((image, labels_of(task, image, example)))
  return out


def data_of(config: ConfigLike) -> dict[str, Any]:
  """Finds the data of a run's evaluators.

  Args:
    config: ConfigDict of a run.

  Returns:
    Arguments of `datasets.core.get`: of the first evaluator of predictions, else
    of any.

  Raises:
    ValueError: there is none.
  """
  evals = [cfg for cfg in (config.get("evals") or {}).values() if cfg]
  evals.sort(key=lambda cfg: cfg.get("pred", "predict") != "predict")  # Stable.
  for cfg in evals:
    if cfg.get("data"):
      return dict(cfg["data"])
    if cfg.get("dataset"):
      data = dict(name=cfg["dataset"], split=cfg.get("split", "validation"))
      folder = cfg.get("dataset_dir")
      return {**data, "data_dir": folder} if folder else data
  raise ValueError(
    "The config has no evaluator with `data` or `dataset`, which would tell "
    "where pictures with labels are."
  )


def labels_of(
  task: str, image: np.ndarray, example: Mapping[str, Any]
) -> np.ndarray:
  """Finds the labels of a raw example, as the preprocessing ops do.

  Args:
    task: see `uvim_labels.task_of`.
    image: uint8 [H, W, 3].
    example: `depth` [H, W], or `panoptic_image` and `panoptic_objects`.

  Returns:
    int32 [H, W, 2], float32 [H, W], or the image.
  """
  if task == uvim_labels.COLOR:
    return image
  if task == uvim_labels.DEPTH:
    return np.asarray(example["depth"], np.float32)
  ids = np.asarray(example["panoptic_image"]).astype(np.int32)
  ids = ids @ np.array([1, 256, 256**2], np.int32)
  out = np.zeros([*ids.shape, 2], np.int32)
  objects = example["panoptic_objects"]
  pairs = zip(objects["id"], objects["label"], strict=True)
  for number, (key, label) in enumerate(pairs, start=1):
    out[ids == key] = label + 1, number
  return out
