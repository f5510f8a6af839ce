"""A trained classifier: from pictures to classes.

Shapes: I pictures, C classes, D size of the features.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from big_vision import lookup
from big_vision.pretrained.backbone import Backbone, listed, model_key
from big_vision.pretrained.embedder import Prepared
from big_vision.pretrained.pixels import Preprocess
from big_vision.types import ConfigLike

TOPK = 5


class Prediction(NamedTuple):
  """A class that a picture may be of.

  Attributes:
    name: of the class; its number if the run knows no names.
    probability: in [0, 1].
    label: number of the class.
  """

  name: str
  probability: float
  label: int


class Classifier(Backbone):
  """A model with its parameters, preprocessing and the names of its classes.

  Attributes, besides those of `Backbone`:
    class_names: tuple of C str.
    loss: "softmax" if each picture has one class, "sigmoid" if it may have
      several: the loss of the model's training.
  """

  def __init__(
    self,
    config: ConfigLike,
    init: str,
    *,
    pp: Preprocess,
    class_names: Sequence[str] | None = None,
    name: str | None = None,
    dont_load: Sequence[str] = (),
  ):
    """Builds the model and loads its parameters.

    Args:
      config: reads the model's keys, `num_classes` and `loss`.
      init, pp, name, dont_load: as for `Backbone`.
      class_names: None: the classes are called by their numbers.

    Raises:
      ValueError: the checkpoint does not fit the model.
    """
    self.loss = _loss_of(config)
    names = self.class_names = tuple(map(str, class_names or ()))
    super().__init__(config, init, pp=pp, name=name, dont_load=dont_load)
    names = names[: self._num]
    self.class_names = (*names, *map(str, range(len(names), self._num)))

  def _check_outputs(self, outputs, model):
    if outputs.ndim != 2:
      raise lookup.ConfigError(
        f"{model} returns logits of shape {list(outputs.shape)} for a picture: it "
        "does not classify."
      )
    self._num = outputs.shape[-1]

  def predict(
    self,
    images: Sequence[Any],
    topk: int | None = None,
    threshold: float | None = None,
  ) -> list[list[Prediction]]:
    """Finds the most probable classes of pictures.

    Args:
      images: paths, contents of files, images of Pillow, or uint8 [H, W, C].
      topk: how many classes; of fewer, all. By default 5, or with a threshold all.
      threshold: probability that a class has to have, for pictures that may be of
        several classes, or of none.

    Returns:
      List of I lists of `Prediction`, the most probable first.

    Raises:
      ValueError: one of them is not a picture, or there are none.
    """
    return self.top(self.probabilities(images), topk, threshold)

  def top(
    self,
    probabilities: np.ndarray,
    topk: int | None = None,
    threshold: float | None = None,
  ) -> list[list[Prediction]]:
    """Names the most probable classes.

    Args:
      probabilities: [I, C] array.
      topk, threshold: as for `predict`.

    Returns:
      List of I lists of `Prediction`, the most probable first.

    Raises:
      ValueError: `topk` is not positive.
    """
    return top(probabilities, self.class_names, topk, threshold)

  def probabilities(self, images: Sequence[Any]) -> np.ndarray:
    """Computes the probabilities of all classes.

    Args:
      images: as for `predict`.

    Returns:
      float32 [I, C]. They sum to 1 if `loss` is "softmax".

    Raises:
      ValueError: one of them is not a picture, or there are none.
    """
    return self.outputs(map(self.prepare, listed(images)))[0]

  def outputs(
    self, prepared: Iterable[Prepared], batch_size: int | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Computes probabilities and features.

    Args:
      prepared: results of `prepare`.
      batch_size: how many pictures go through the model at once, fewer are
        padded; None: at most 64, padded to a power of two.

    Returns:
      (probabilities [I, C], features [I, D]), both float32.

    Raises:
      ValueError: there are none, or they differ in size.
    """
    logits, features = self.raw_outputs(prepared, batch_size)
    return probabilities(logits, self.loss), features


def probabilities(logits: np.ndarray, loss: str) -> np.ndarray:
  """Computes probabilities of classes.

  Args:
    logits: [I, C] array.
    loss: "softmax" or "sigmoid".

  Returns:
    float32 [I, C].
  """
  if loss == "sigmoid":
    # This form of the sigmoid never overflows.
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float32)
  exp = np.exp(logits - logits.max(axis=1, keepdims=True))
  return np.asarray(exp / exp.sum(axis=1, keepdims=True), np.float32)


def top(
  probabilities: np.ndarray,
  class_names: tuple[str, ...],
  topk: int | None = None,
  threshold: float | None = None,
) -> list[list[Prediction]]:
  """Names the most probable classes.

  Args:
    probabilities: [I, C] array.
    class_names: C str.
    topk: how many classes; of fewer, all. By default 5, or with a threshold all.
    threshold: probability that a class has to have.

  Returns:
    List of I lists of `Prediction`, the most probable first.

  Raises:
    ValueError: `topk` is not positive, or `threshold` is outside of [0, 1].
  """
  if topk is None:
    topk = TOPK if threshold is None else len(class_names)
  if topk < 1:
    raise ValueError(f"topk={topk}: it should be at least 1.")
  least = 0.0 if threshold is None else threshold
  if not 0 <= least <= 1:
    raise ValueError(f"threshold={threshold}: it should be between 0 and 1.")
  order = np.argsort(-probabilities, axis=1, kind="stable")[:, :topk]
  return [
    [
      Prediction(class_names[i], float(row[i]), int(i))
      for i in best
      if row[i] >= least
    ]
    for row, best in zip(probabilities, order, strict=True)
  ]


def _loss_of(config):
  """Tells whether a picture has one class ("softmax") or several ("sigmoid")."""
  if model_key(config) == "student":  # Distances are of distributions.
    return "softmax"
  name = str(config.get("loss") or "sigmoid_xent")  # As the trainer.
  return "sigmoid" if "sigmoid" in name else "softmax"
