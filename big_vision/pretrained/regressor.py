"""A trained model of numbers: from pictures to targets in their own units.

Shapes: I pictures, T targets, D size of the features.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision.pp import targets as targets_lib
from big_vision.pretrained import backbone, classifier, preprocessing
from big_vision.pretrained.embedder import Prepared
from big_vision.types import ConfigLike

_LOSSES = ("mse", "mae", "huber")


def describe(config: ConfigLike) -> dict[str, Any] | None:
  """Finds the targets of a run in its config.

  Args:
    config: ConfigDict of a run.

  Returns:
    Dict of `names`, `mean` and `std`, T each: an output of the model times `std`
    plus `mean` has the units of the data; the last two are None if it has them
    already. None if the run is not a regression.
  """
  evals = [cfg for cfg in (config.get("evals") or {}).values() if cfg]
  measured = any(cfg.get("type") == "regression" for cfg in evals)
  num = config.get("num_classes")
  if not isinstance(num, int) or not (
    config.get("loss") in _LOSSES or measured
  ):
    return None
  data: Any = (config.get("input") or {}).get("data") or {}
  plain = data.to_dict() if hasattr(data, "to_dict") else data
  found = None
  for pp in preprocessing.all_pps(config):
    found = found or targets_lib.units(pp)
  mean, std = found or (None, None)
  as_list = lambda x: np.broadcast_to(x, [num]).tolist()
  return {
    "names": targets_lib.names(plain, num),
    "mean": None if mean is None else as_list(mean),
    "std": None if std is None else as_list(std),
  }


class Regressor:
  """Predicts numbers.

  Attributes:
    target_names: tuple of T str.
    mean, std: float32 [T], of the data that the model was trained with; 0 and 1 if
      it was trained with their own units.
    config: ConfigDict of the run.
    model: linen module.
    params: tree of arrays on the first device.
    preprocess: picture -> the model's input, without a batch axis.
    pp: preprocessing string of pictures.
    name: where the parameters are from.
  """

  def __init__(
    self, network: classifier.Classifier, targets: Mapping[str, Any]
  ):
    """Takes over a network.

    Args:
      network: of T outputs.
      targets: see `describe`.

    Raises:
      ValueError: there are not as many targets as outputs.
    """
    self.network, self.config = network, network.config
    self.model, self.params = network.model, network.params
    self.preprocess, self.pp = network.preprocess, network.pp
    self.name = network.name
    self.target_names = tuple(map(str, targets["names"]))
    num, outputs = len(self.target_names), len(network.class_names)
    if num != outputs:
      raise ValueError(
        f"{self.name}: data.json names {num} targets, but the model has {outputs} "
        "outputs: correct `targets` in that file."
      )
    value = lambda key, default: np.array(
      default if targets.get(key) is None else targets[key], np.float32
    )
    self.mean = np.broadcast_to(value("mean", 0.0), [num])
    self.std = np.broadcast_to(value("std", 1.0), [num])

  def predict(self, images: Sequence[Any]) -> list[dict[str, float]]:
    """Predicts the targets of pictures.

    Args:
      images: paths, contents of files, images of Pillow, or uint8 [H, W, C].

    Returns:
      List of I dicts of name -> value.

    Raises:
      ValueError: one of them is not a picture, or there are none.
    """
    return self.named(self.values(images))

  def named(self, values: np.ndarray) -> list[dict[str, float]]:
    """Names values.

    Args:
      values: [I, T].

    Returns:
      List of I dicts of name -> value.
    """
    return [
      dict(zip(self.target_names, map(float, row), strict=True))
      for row in values
    ]

  def values(self, images: Sequence[Any]) -> np.ndarray:
    """Predicts the targets of pictures, as an array.

    Args:
      images: as for `predict`.

    Returns:
      float32 [I, T].

    Raises:
      ValueError: one of them is not a picture, or there are none.
    """
    return self.outputs(map(self.prepare, backbone.listed(images)))[0]

  def features(self, images: Sequence[Any]) -> np.ndarray:
    """Computes what the last layer of the model reads, float32 [I, D]."""
    return self.network.features(images)

  def prepare(self, image: Any) -> Prepared:
    """Reads and preprocesses a picture, as `Classifier.prepare` does."""
    return self.network.prepare(image)

  def outputs(
    self, prepared: Iterable[Prepared], batch_size: int | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Computes values and features.

    Args:
      prepared: results of `prepare`.
      batch_size: as for `Classifier.outputs`.

    Returns:
      (values [I, T], features [I, D]), float32.

    Raises:
      ValueError: there are none, or they differ in size.
    """
    raw, features = self.network.raw_outputs(prepared, batch_size)
    return raw * self.std + self.mean, features
