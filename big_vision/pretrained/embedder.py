"""Embeddings of images and texts by a trained model.

Images and texts are preprocessed as by the evaluators of the run. Whole datasets
are for the evaluators in `evaluators/proj/image_text`, which use all devices.

Shapes: I images, T texts, E size of the embeddings.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from big_vision import lookup, models
from big_vision.pretrained import images
from big_vision.pretrained.pixels import Preprocess
from big_vision.pretrained.preprocessing import (
  decoding_of,
  preprocessing_of,
)
from big_vision.types import ConfigLike

MODELS = ("proj.image_text.two_towers", "proj.clippo.one_tower")
_BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Prepared:
  """Holds an image as the model takes it.

  Attributes:
    value: array or tuple of arrays.
  """

  value: Any


class Embedder:
  """A model with its parameters and preprocessing.

  Attributes:
    name: where the parameters are from.
    config: ConfigDict of the run.
    model: linen module.
    params: tree of arrays on the first device.
    preprocess: image -> the model's input, without a batch axis.
    pp_txt: preprocessing string of texts.
    example_text: a text as the model takes it, without a batch axis.
    loss_fn: "sigmoid" or "softmax": the loss of the model's training.
  """

  def __init__(
    self,
    config: ConfigLike,
    init: str,
    *,
    name: str | None = None,
    pp_img: str | None = None,
    pp_txt: str | None = None,
    text_length: int | None = None,
  ):
    """Builds the model and loads its parameters.

    Args:
      config: reads `model_name`, `model`, `pp_modules`, `loss_fn`, and the
        preprocessing, see `preprocessing_of`.
      init: a checkpoint that the model can load, such as
        `<workdir>/checkpoint.bv` or `hf://org/repo`.
      name: None is `init`.
      pp_img: preprocessing of the feature `image`, uint8 [H, W, 3], to `image`;
        None is that of the config. Files are decoded as its first op says if
        that is `decode`, else as that of `config.input.pp`.
      pp_txt: preprocessing of the feature `texts`, a string scalar, to `labels`;
        None is that of the config.
      text_length: number of tokens of texts, if it is known: the tokenizer is
        then loaded when the first text comes.

    Raises:
      ValueError: the config has no preprocessing, or the checkpoint does not
        fit the model.
    """
    if config.get("model_name") not in MODELS:
      raise ValueError(
        f"config.model_name={config.get('model_name')!r} is not a model of images "
        f"and texts: {', '.join(MODELS)} are."
      )
    self.name, self.config = name or init, config
    pp_img, self.pp_txt = preprocessing_of(config, pp_img, pp_txt)
    decode, pp_img = decoding_of(config, pp_img)
    self._decode = decode
    self.preprocess = Preprocess(pp_img, decode, config)

    # The run started from another checkpoint, which is not read.
    own = {
      k: config[k] for k in ("model_name", "model", "precision") if k in config
    }
    text = np.zeros(text_length, np.int32) if text_length else self._text("")
    inputs = self.preprocess.example(), text
    self.example_text = text
    shape = np.shape(inputs[0]) if isinstance(inputs[0], np.ndarray) else ()
    self.model, load = models.build(
      {**own, "model_init": init},
      image_size=shape[:2] if len(shape) == 3 else None,
    )
    if load is None:
      raise ValueError(f"No checkpoint: init={init!r}.")
    shapes = jax.eval_shape(
      self.model.init, jax.random.key(0), *_stack([inputs])
    )
    params = load(shapes["params"])
    self.params = jax.device_put(params, jax.local_devices()[0])

    out = self.model.apply({"params": self.params}, None, None)[2]
    self._t = float(out["t"][0])
    self._b = float(out["b"][0]) if "b" in out else 0.0
    loss = config.get("loss_fn") or ("sigmoid" if "b" in out else "softmax")
    self.loss_fn = loss.removeprefix("chunked_")

  @functools.cached_property
  def _embed_images(self):
    apply = self.model.apply
    return jax.jit(lambda params, x: apply({"params": params}, x, None)[0])

  @functools.cached_property
  def _embed_texts(self):
    apply = self.model.apply
    return jax.jit(lambda params, x: apply({"params": params}, None, x)[1])

  def embed_batch(self, images: Any) -> jax.Array:
    """Embeds a batch of preprocessed images.

    Args:
      images: what the model takes, with a batch axis.

    Returns:
      [I, E], on the device.
    """
    return self._embed_images(self.params, images)

  def _image(self, image):
    """Turns one image into the model's input."""
    if isinstance(image, Prepared):
      return image.value
    if not isinstance(image, bytes):
      image = np.asarray(image)
      if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(
          "An image should be uint8 [height, width, 3], or the bytes of a file, "
          f"not {image.dtype} {list(image.shape)}."
        )
    return self.preprocess(image)

  def _text(self, text):
    """Turns one text into the model's input."""
    return _numpy(self._tokenize({"texts": text})["labels"])

  @functools.cached_property
  def _tokenize(self):
    from big_vision.pp import builder

    lookup.preprocessing(self.config)
    return builder.get_preprocess_fn(self.pp_txt)

  def decode(self, data: bytes) -> np.ndarray:
    """Reads an image file as the run that trained the model does.

    Args:
      data: content of the file.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ValueError: it is not an image, is damaged, or has too many pixels.
    """
    return images.decode(data, **self._decode)

  def prepare(
    self, image: np.ndarray | bytes, formats: Sequence[str] | None = None
  ) -> "Prepared":
    """Decodes and preprocesses an image, for `images`.

    Args:
      image: as for `images`.
      formats: those that a file may have, out of `image_files.FORMATS`; None for
        all that can be read.

    Returns:
      What `images` takes instead of the image.

    Raises:
      ValueError: it is not an image.
    """
    if formats is not None and isinstance(image, bytes):
      from big_vision.pp import image_files

      image_files.check_format(image, formats)
    return Prepared(self._image(image))

  def images(
    self, images: "Sequence[np.ndarray | bytes | Prepared]"
  ) -> np.ndarray:
    """Embeds images.

    Args:
      images: uint8 arrays [H, W, 3] of any sizes, contents of files (JPEG, PNG,
        WebP, GIF...), which are decoded as in training, or what `prepare` made.

    Returns:
      float32 [I, E], of unit length.

    Raises:
      ValueError: one of them is not an image, or there are none.
    """
    return self._batches(self._embed_images, map(self._image, images))

  def texts(self, texts: Sequence[str]) -> np.ndarray:
    """Embeds texts.

    Args:
      texts: of any language that the tokenizer knows.

    Returns:
      float32 [T, E], of unit length.

    Raises:
      ValueError: there are none, or it is a single text.
    """
    if isinstance(texts, str):  # Its characters would be texts.
      raise ValueError(
        f"Texts should be in a list, not a single str: [{texts!r}]."
      )
    return self._batches(self._embed_texts, map(self._text, texts))

  def _batches(self, fn, inputs):
    """Embeds inputs of the model, in batches."""
    results = []
    while batch := list(itertools.islice(inputs, _BATCH_SIZE)):
      # Few different sizes: each is compiled once.
      size = 1 << (len(batch) - 1).bit_length()
      padded = batch + batch[-1:] * (size - len(batch))
      z = fn(self.params, _stack(padded))[: len(batch)]
      results.append(np.asarray(z, np.float32))
    if not results:
      raise ValueError("Nothing to embed: the list is empty.")
    return np.concatenate(results)

  def logits(self, zimg: np.ndarray, ztxt: np.ndarray) -> np.ndarray:
    """Computes the logits of the loss: scaled and shifted similarities.

    Args:
      zimg: [I, E] array, see `images`.
      ztxt: [T, E] array, see `texts`.

    Returns:
      float32 [I, T].
    """
    return np.asarray(self._t * (zimg @ ztxt.T) + self._b, np.float32)

  def probabilities(
    self, logits: np.ndarray, loss_fn: str | None = None
  ) -> np.ndarray:
    """Computes the probabilities that a text belongs to an image.

    Args:
      logits: [I, T] array.
      loss_fn: "sigmoid": of each text on its own; "softmax": given that one of
        these texts does. None is that of the training.

    Returns:
      float32 [I, T].

    Raises:
      ValueError: another `loss_fn`.
    """
    loss_fn = str(loss_fn or self.loss_fn)
    if loss_fn == "sigmoid":
      # This form of the sigmoid never overflows.
      return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float32)
    if loss_fn == "softmax":
      exp = np.exp(logits - logits.max(axis=1, keepdims=True))
      return np.asarray(exp / exp.sum(axis=1, keepdims=True), np.float32)
    raise lookup.unknown("contrastive loss", loss_fn, ["sigmoid", "softmax"])


def _numpy(tree):
  return jax.tree.map(np.asarray, tree)


def _stack(inputs):
  """Stacks the inputs of several examples to a batch."""
  return jax.tree.map(lambda *x: np.stack(x), *inputs)
