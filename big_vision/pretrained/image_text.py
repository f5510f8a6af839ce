"""A trained model of images and texts, used as a classifier is.

Shapes: I pictures, T texts, E size of the embeddings.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from big_vision.pretrained import backbone, classifier
from big_vision.pretrained.captions import Captions
from big_vision.pretrained.embedder import Embedder, Prepared


class ImageText:
  """Embeds pictures and texts, and compares them.

  Attributes:
    embedder: the `Embedder`, which has more.
    config: ConfigDict of the run.
    model: linen module.
    params: tree of arrays on the first device.
    preprocess: picture -> the model's input, without a batch axis.
    pp: preprocessing string of pictures.
    class_names: texts that `predict` selects from, see `with_texts`.
    loss: "sigmoid" or "softmax".
    name: where the parameters are from.
    captioner: the `Captions` of a run with `config.captioning`, else None.
  """

  def __init__(self, embedder: Embedder, captioner: Captions | None = None):
    """Takes over an `Embedder`.

    Args:
      embedder: the Embedder.
      captioner: describes pictures.
    """
    self.captioner = captioner
    self.embedder, self.config = embedder, embedder.config
    self.model, self.params = embedder.model, embedder.params
    self.preprocess, self.pp = embedder.preprocess, embedder.preprocess.pp
    self.loss, self.name = embedder.loss_fn, embedder.name
    self.class_names: tuple[str, ...] = ()
    self._ztxt: Any = None

  def with_texts(self, texts: Sequence[str]) -> "ImageText":
    """Makes texts the classes of `predict`.

    Args:
      texts: for example "a photo of a cat".

    Returns:
      A model of the same parameters.

    Raises:
      ValueError: there are none, or it is a single text.
    """
    out = copy.copy(self)
    out._ztxt, out.class_names = self.embedder.texts(texts), tuple(texts)
    return out

  def features(
    self,
    images: Sequence[Any] | None = None,
    *,
    texts: Sequence[str] | None = None,
  ) -> np.ndarray:
    """Embeds pictures, or texts.

    Args:
      images: paths, contents of files, images of Pillow, or uint8 [H, W, C].
      texts: str, instead of pictures.

    Returns:
      float32 [I, E] or [T, E], of unit length.

    Raises:
      ValueError: one of them is not a picture; there are none; or both are given.
      FileNotFoundError: there is no such file.
    """
    if (images is None) == (texts is None):
      raise ValueError("Give either images or texts.")
    if texts is not None:
      return self.embedder.texts(texts)
    try:
      return self.outputs(map(self.prepare, backbone.listed(images)))[1]
    except FileNotFoundError as e:
      raise FileNotFoundError(
        f"There is no picture {str(e.filename)!r}. Texts are features(texts=[…])."
      ) from e

  def similarity(
    self, images: Sequence[Any], texts: Sequence[str]
  ) -> np.ndarray:
    """Computes the probabilities that texts belong to pictures.

    Args:
      images: as for `features`.
      texts: list of str.

    Returns:
      float32 [I, T]: of each text on its own if `loss` is "sigmoid"; given that
      one of these texts does if it is "softmax".

    Raises:
      ValueError: one of them is not a picture, or there are none.
    """
    return self.with_texts(texts).probabilities(images)

  def predict(
    self,
    images: Sequence[Any],
    topk: int | None = None,
    threshold: float | None = None,
  ) -> list[list[classifier.Prediction]]:
    """Finds the texts of `with_texts` that fit pictures best.

    Args:
      images: as for `features`.
      topk: how many texts; of fewer, all. By default 5, or with a threshold all.
      threshold: probability that a text has to have.

    Returns:
      List of I lists of `Prediction`, the most probable first.

    Raises:
      ValueError: the model has no texts; or one of them is not a picture.
    """
    return self.top(self.probabilities(images), topk, threshold)

  def top(
    self,
    probabilities: np.ndarray,
    topk: int | None = None,
    threshold: float | None = None,
  ) -> list[list[classifier.Prediction]]:
    """Names the most probable texts, as `Classifier.top` does with classes."""
    return classifier.top(probabilities, self.class_names, topk, threshold)

  def probabilities(self, images: Sequence[Any]) -> np.ndarray:
    """Computes the probabilities of the texts of `with_texts`.

    Args:
      images: as for `features`.

    Returns:
      float32 [I, T].

    Raises:
      ValueError: the model has no texts; or one of them is not a picture.
    """
    if self._ztxt is None:
      raise ValueError(
        f"{self.name} is a model of images and texts: it has no classes of its "
        "own. Use similarity(images, texts), or with_texts(texts).predict(images)."
      )
    return self.outputs(map(self.prepare, backbone.listed(images)))[0]

  def captions(self, images: Sequence[Any]) -> list[str]:
    """Describes pictures, always with the most probable next token.

    Args:
      images: as for `features`.

    Returns:
      List of I texts.

    Raises:
      ValueError: the run was not trained with `config.captioning`; or one of
        them is not a picture, or there are none.
    """
    return self.caption(map(self.prepare, backbone.listed(images)))

  def caption(
    self, prepared: Iterable[Prepared], batch_size: int | None = None
  ) -> list[str]:
    """Describes pictures that are prepared.

    Args:
      prepared: results of `prepare`.
      batch_size: as for `Classifier.outputs`.

    Returns:
      List of I texts.

    Raises:
      ValueError: the run was not trained with `config.captioning`; there are no
        pictures, or they differ in size.
    """
    if self.captioner is None:
      raise ValueError(
        f"{self.name} has no decoder of captions: train with config.captioning, "
        "for example siglip_pretrain.py:captioning, see docs/siglip2.md."
      )
    tokens = backbone.in_batches(self.captioner.tokens, prepared, batch_size)
    return self.captioner.texts(tokens)

  def prepare(self, image: Any) -> Prepared:
    """Reads and preprocesses a picture, as `Classifier.prepare` does."""
    return Prepared(self.preprocess(image))

  def outputs(
    self, prepared: Iterable[Prepared], batch_size: int | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Computes probabilities and embeddings.

    Args:
      prepared: results of `prepare`.
      batch_size: as for `Classifier.outputs`.

    Returns:
      (probabilities [I, T] of the texts, [I, 0] without any; [I, E]), float32.

    Raises:
      ValueError: there are none, or they differ in size.
    """
    z = backbone.in_batches(
      self.embedder.embed_batch, prepared, batch_size
    ).astype(np.float32)
    if self._ztxt is None:
      return np.zeros([len(z), 0], np.float32), z
    logits = self.embedder.logits(z, self._ztxt)
    return self.embedder.probabilities(logits), z
