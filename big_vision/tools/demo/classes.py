"""Computes the classes of an image for the demo.

The model is passed in (`big_vision.pretrained.Classifier` or an object with its
methods), so that this file needs neither jax nor TensorFlow.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision.pp import image_files
from big_vision.tools.demo import similarity

TOPK = 10  # Classes on the page.


class Demo(similarity.Pictures):
  """Holds a classifier and example images.

  Args:
    classifier: `Classifier`.
    examples: list of `similarity.Example`.
  """

  path = "/api/classes"

  def __init__(
    self, classifier: Any, examples: Sequence[similarity.Example] = ()
  ) -> None:
    super().__init__(examples)
    self.classifier = classifier

  @property
  def name(self) -> str:
    """Name of the model."""
    return self.classifier.name

  def model(self) -> dict[str, Any]:
    """Returns the facts about the model that the page shows."""
    return super().model() | {
      "loss_fn": self.classifier.loss,
      "num_classes": len(self.classifier.class_names),
    }

  def answer(self, request: Any) -> dict[str, Any]:
    """Answers a request of the page.

    Args:
      request: see `classify`.

    Returns:
      See `classify`.
    """
    return self.classify(request)

  def classify(self, request: Any) -> dict[str, Any]:
    """Finds the most probable classes of an image.

    Args:
      request: dict with one of "image", a file in base64; "example", its number;
        "hash", of an image sent before.

    Returns:
      Dict: "names" and "probabilities", lists of at most `TOPK` str and floats,
      the most probable first, and "hash", which stands for the image in later
      requests.

    Raises:
      RequestError: 400 if the request is wrong, 404 if the example does not
        exist, 410 if the image of the hash must be sent again, 413 if it is
        too large, 500 if the model gives no finite numbers.
    """
    if not isinstance(request, dict):
      raise similarity.RequestError(400, "The request should be a JSON object.")
    probabilities, key = self._image(request)  # [C]
    if not np.isfinite(probabilities).all():
      raise similarity.RequestError(
        500, "The model's probabilities are NaN or infinite."
      )
    (best,) = self.classifier.top(probabilities[None], TOPK)
    return {
      "names": [p.name for p in best],
      "probabilities": [p.probability for p in best],
      "hash": key,
    }

  def _prepare(self, data):
    image_files.check_format(data, image_files.FORMATS)
    return self.classifier.prepare(data)

  def _compute(self, image):
    return self.classifier.outputs([image])[0][0]
