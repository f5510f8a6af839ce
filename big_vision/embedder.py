"""Embeddings of images and texts by a trained model, for notebooks and demos.

  from big_vision import embedder

  model = embedder.load("workdirs/siglip")
  zimg = model.images([image])  # uint8 [H, W, 3], or the bytes of a JPEG, PNG...
  ztxt = model.texts(["a red circle", "a blue star"])
  model.probabilities(model.logits(zimg, ztxt))  # [1, 2]

Images and texts are preprocessed as by the evaluators of the run. Whole datasets
are for the evaluators in `evaluators/proj/image_text`, which use all devices.

Shapes: I images, T texts, E size of the embeddings.
"""

import functools
import io
import itertools
import json

import jax
import ml_collections as mlc
import numpy as np
from absl import logging

from big_vision import fs, lookup
from big_vision.evaluators.proj.image_text import embedding
from big_vision.models.proj.image_text import (
  huggingface_config,
  huggingface_files,
  preprocessing,
)

_BATCH_SIZE = 64
_MODELS = ("proj.image_text.two_towers", "proj.clippo.one_tower")


class Embedder:
  """A model with its parameters and preprocessing.

  Attributes:
    name: str, where the parameters are from.
    config: ConfigDict of the run.
    params: tree of arrays on the first device.
    loss_fn: str, "sigmoid" or "softmax": how the model was trained.
  """

  def __init__(self, config, init, *, name=None, pp_img=None, pp_txt=None):
    """Builds the model and loads its parameters.

    Args:
      config: ConfigDict; reads `model_name`, `model`, `pp_modules`, `loss_fn`,
        and the preprocessing, see `preprocessing_of`.
      init: str, what `load` of the model takes, such as
        `<workdir>/checkpoint.bv` or `hf://org/repo`.
      name: str; None is `init`.
      pp_img: str, preprocessing of the feature `image`, uint8 [H, W, 3], to
        `image`; None is that of the config.
      pp_txt: str, preprocessing of the feature `texts`, a string scalar, to
        `labels`; None is that of the config.

    Raises:
      ValueError: the config has no preprocessing, or the checkpoint does not
        fit the model.
    """
    from big_vision.pp import builder

    if config.get("model_name") not in _MODELS:
      raise ValueError(
        f"config.model_name={config.get('model_name')!r} is no model of images "
        f"and texts: {', '.join(_MODELS)} are."
      )
    self.name, self.config = name or init, config
    lookup.preprocessing(config)
    pp_img, pp_txt = preprocessing_of(config, pp_img, pp_txt)
    self._pp_img = builder.get_preprocess_fn(pp_img)
    self._pp_txt = builder.get_preprocess_fn(pp_txt)

    module = lookup.module(
      "models", config.model_name, kind="model", key="model_name"
    )
    self._model = module.Model(**config.get("model", {}))
    inputs = self._image(np.zeros([16, 16, 3], np.uint8)), self._text("")
    shapes = jax.eval_shape(
      self._model.init, jax.random.key(0), *_stack([inputs])
    )
    params = module.load(shapes["params"], init, config.get("model"))
    self.params = jax.device_put(params, jax.local_devices()[0])

    out = self._model.apply({"params": self.params}, None, None)[2]
    self._t = float(out["t"][0])
    self._b = float(out["b"][0]) if "b" in out else 0.0
    loss = config.get("loss_fn") or ("sigmoid" if "b" in out else "softmax")
    self.loss_fn = loss.removeprefix("chunked_")

  @functools.cached_property
  def _embed_images(self):
    apply = self._model.apply
    return jax.jit(lambda params, x: apply({"params": params}, x, None)[0])

  @functools.cached_property
  def _embed_texts(self):
    apply = self._model.apply
    return jax.jit(lambda params, x: apply({"params": params}, None, x)[1])

  def _image(self, image):
    """What the model takes for one image."""
    image = decode(image) if isinstance(image, bytes) else np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
      raise ValueError(
        "An image should be uint8 [height, width, 3], or the bytes of a file, "
        f"not {image.dtype} {list(image.shape)}."
      )
    return _numpy(self._pp_img({"image": image})["image"])

  def _text(self, text):
    """What the model takes for one text."""
    return _numpy(self._pp_txt({"texts": text})["labels"])

  def images(self, images):
    """Embeds images.

    Args:
      images: sequence of uint8 arrays [H, W, 3] of any sizes, or of bytes, the
        content of files (JPEG, PNG, WebP, GIF...).

    Returns:
      float32 [I, E], of unit length.

    Raises:
      ValueError: one of them is no image.
    """
    return self._batches(self._embed_images, map(self._image, images))

  def texts(self, texts):
    """Embeds texts.

    Args:
      texts: sequence of str.

    Returns:
      float32 [T, E], of unit length.
    """
    return self._batches(self._embed_texts, map(self._text, texts))

  def _batches(self, fn, inputs):
    """Embeddings of an iterable of inputs of the model."""
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

  def logits(self, zimg, ztxt):
    """What the loss compares: scaled and shifted similarities.

    Args:
      zimg: [I, E] array, see `images`.
      ztxt: [T, E] array, see `texts`.

    Returns:
      float32 [I, T].
    """
    return np.float32(self._t * (zimg @ ztxt.T) + self._b)

  def probabilities(self, logits, loss_fn=None):
    """Probabilities that a text belongs to an image.

    Args:
      logits: [I, T] array.
      loss_fn: str, "sigmoid": of each text on its own; "softmax": given that
        one of these texts does. None is that of the training.

    Returns:
      float32 [I, T].

    Raises:
      ValueError: another `loss_fn`.
    """
    loss_fn = loss_fn or self.loss_fn
    if loss_fn == "sigmoid":
      return np.float32(0.5 * (1 + np.tanh(0.5 * logits)))  # Never overflows.
    if loss_fn == "softmax":
      exp = np.exp(logits - logits.max(axis=1, keepdims=True))
      return np.float32(exp / exp.sum(axis=1, keepdims=True))
    raise lookup.unknown("contrastive loss", loss_fn, ["sigmoid", "softmax"])


def load(path, *, init=None, **kw):
  """The model of a run, or of Hugging Face.

  Args:
    path: str, a workdir, a folder for `transformers`, or `hf://org/repo`.
    init: str, another checkpoint than the last one of a workdir.
    **kw: `pp_img` and `pp_txt` of `Embedder`.

  Returns:
    Embedder.

  Raises:
    ValueError: `init` for what is no workdir; or as `from_workdir` and
      `from_huggingface`.
  """
  if not huggingface_files.is_checkpoint(str(path)):
    return from_workdir(path, init=init, **kw)
  if init:
    raise ValueError(f"{path} is a checkpoint itself: leave out init={init!r}.")
  return from_huggingface(str(path), **kw)


def from_workdir(workdir, *, init=None, **kw):
  """The model of a run.

  Args:
    workdir: str, with `config.json` and, unless `init` is given, a checkpoint.
    init: str, another checkpoint than the last; see `Embedder`.
    **kw: `pp_img` and `pp_txt` of `Embedder`.

  Returns:
    Embedder.

  Raises:
    ValueError: there is no such run, it is not of images and texts, or as
      `Embedder`.
  """
  path = fs.join(str(workdir), "config.json")
  if not fs.exists(path):
    raise ValueError(
      f"{workdir} is no workdir of a run: it has no config.json. Train first, "
      "for example with configs/proj/image_text/siglip_pretrain.py:demo."
    )
  with fs.open(path) as f:
    config = mlc.ConfigDict(json.load(f))
  name, last = str(workdir), fs.join(str(workdir), "checkpoint.bv")
  return Embedder(config, init or last, name=init or name, **kw)


def from_huggingface(path, **kw):
  """A SigLIP or SigLIP 2 of Hugging Face, with its tokenizer.

  Args:
    path: str, `hf://org/repo[@revision]` or a folder.
    **kw: `pp_img` and `pp_txt` of `Embedder`.

  Returns:
    Embedder.

  Raises:
    ValueError: there is no such checkpoint, or none of both towers.
  """
  hf_config = huggingface_files.read_config(path)
  if huggingface_config.parts_of(hf_config) != huggingface_config.PARTS:
    raise ValueError(f"{path} is of one tower: it can not compare.")
  pp_img, pp_txt = preprocessing.of_huggingface(path, hf_config)
  config = mlc.ConfigDict(
    dict(
      model_name=_MODELS[0],
      model=huggingface_config.model_config(hf_config),
      pp_modules=preprocessing.MODULES,
      embed=dict(pp_img=pp_img, pp_txt=pp_txt),
    )
  )
  return Embedder(config, path, **kw)


def preprocessing_of(config, pp_img=None, pp_txt=None):
  """What a config says about preprocessing any image and any text.

  Args:
    config: ConfigDict; reads `embed.pp_img` and `embed.pp_txt`, else those of
      the first evaluator of retrieval.
    pp_img: str, instead of it.
    pp_txt: str, instead of it.

  Returns:
    (pp_img, pp_txt).

  Raises:
    ValueError: there is none.
  """
  found = config.get("embed") or _retrieval(config) or {}
  pp_img, pp_txt = pp_img or found.get("pp_img"), pp_txt or found.get("pp_txt")
  for name, pp in (("pp_img", pp_img), ("pp_txt", pp_txt)):
    if not pp:
      raise ValueError(
        f"No {name}: the config has neither config.embed.{name} nor an "
        "evaluator of retrieval. Say how to preprocess, for example "
        'pp_img="resize(224)|value_range(-1, 1)" and pp_txt="tokenize(max_len='
        "64, model='c4_en', eos='sticky', pad_value=1, inkey='texts')\"."
      )
  return pp_img, pp_txt


def _retrieval(config):
  """Config of the first evaluator of retrieval, or None."""
  for cfg in (config.get("evals") or {}).values():
    if cfg.get("type") == "proj.image_text.retrieval":
      return cfg
  return None


def decode(data):
  """Reads an image file as people see it.

  Unlike the op `decode` of training data it turns photos that were taken on the
  side, and puts transparent pictures on white.

  Args:
    data: bytes, content of the file.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: it is no image.
  """
  from PIL import Image, ImageOps, UnidentifiedImageError

  try:
    with Image.open(io.BytesIO(data)) as image:
      image = ImageOps.exif_transpose(image).convert("RGBA")
  except UnidentifiedImageError as e:
    raise ValueError("This is no image that can be read.") from e
  except (OSError, Image.DecompressionBombError) as e:
    raise ValueError(f"This image can not be read: {e}") from e
  white = Image.new("RGBA", image.size, "white")
  return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def example_images(config, num):
  """First pictures of what the run evaluates retrieval on.

  Args:
    config: ConfigDict of a run.
    num: int, how many at most.

  Returns:
    List of (uint8 [H, W, 3], str: a caption); empty if the config has no such
    evaluator or its data is not on this machine.
  """
  cfg = _retrieval(config)
  if cfg is None:
    return []
  split, data_dir = cfg.get("split", "test"), cfg.get("data_dir")
  try:
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


def _numpy(tree):
  return jax.tree.map(np.asarray, tree)


def _stack(inputs):
  """Inputs of the model for several examples, as a batch."""
  return jax.tree.map(lambda *x: np.stack(x), *inputs)
