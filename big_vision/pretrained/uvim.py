"""Trained models of UViM: from labels to codes and back, from pictures to labels.

References: Kolesnikov et al. 2022, https://arxiv.org/abs/2205.10337.

Shapes: I pictures, H, W pixels of a picture, h, w of the model, n codes.
"""

import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import lookup, models
from big_vision.models.proj.uvim import guiding_codes
from big_vision.models.proj.uvim.guiding_codes import TEMPERATURE
from big_vision.pretrained import backbone, uvim_labels
from big_vision.pretrained.embedder import Prepared
from big_vision.pretrained.pixels import Preprocess
from big_vision.types import ConfigLike, Params

_INPUTS = ("image", "image_ctx")  # What models may see of a picture.


class UViMOracle:
  """Stage I: turns labels into codes, and codes into labels.

  Labels are int [H, W, 2] (class and instance), float [H, W] in meters, or pictures.

  Attributes:
    config: ConfigDict of the run, or `config.oracle` of stage II.
    task: "panoptic", "depth" or "color".
    model: linen module.
    variables: dict of `params` and `state`, trees of arrays on the first device.
    size: (h, w).
    num_codes: n.
    preprocess: picture -> the model's inputs.
    name: where the parameters are from.
  """

  def __init__(
    self,
    config: ConfigLike,
    params: Params,
    state: Params,
    *,
    preprocess: Preprocess,
    name: str,
  ):
    """Builds the model.

    Args:
      config: reads `task`, its settings, `model_name` and `model`.
      params, state: see `uvim_files.read_oracle`.
      preprocess: of pictures.
      name: where the parameters are from.

    Raises:
      ConfigError: the parameters do not fit the model.
    """
    self.config, self.name, self.preprocess = config, name, preprocess
    self.task = uvim_labels.task_of(config)
    self.functions = guiding_codes.get_task(config)
    self.model = _build(config)
    self.size = tuple(config.model.input_size)
    self.num_codes = self.model.code_len

    def init():
      x = {
        k: jnp.zeros([1, np.prod(self.model.grid), *shape])
        for k, shape in config.model.inputs.items()
      }
      keys = {"params": jax.random.key(0), "state": jax.random.key(0)}
      return self.model.init(keys, x, ctx=jnp.zeros([1, *self.size, 3]))

    shapes = jax.eval_shape(init)
    self.variables = _fit(
      {"params": params, "state": state},
      {"params": shapes["params"], "state": shapes.get("state", {})},
      name,
    )
    self._encode = jax.jit(self.encode_batch)
    self._decode = jax.jit(self.decode_batch, static_argnames=("kw",))

  def encode_batch(self, variables: Params, batch: Any) -> jax.Array:
    """Computes codes of a batch.

    Args:
      variables: see the attribute.
      batch: `labels`, `image`, `image_ctx` [I, h, w, ...].

    Returns:
      int32 [I, n].
    """
    return guiding_codes.of_labels(self.model, self.functions, variables, batch)

  def decode_batch(
    self, variables: Params, codes: Any, batch: Any, kw: Any = ()
  ) -> Any:
    """Computes labels of a batch.

    Args:
      variables: see the attribute.
      codes: int [I, n].
      batch: `image`, `image_ctx` [I, h, w, 3], as far as there are.
      kw: pairs of keywords of the task's `predict_outputs`.

    Returns:
      What `predict_outputs` returns.
    """
    logits = guiding_codes.to_logits(
      self.model, self.functions, variables, codes, batch
    )
    return self.functions.predict_outputs(logits, **dict(kw))

  def encode(
    self, labels: Sequence[Any], images: Sequence[Any] | None = None
  ) -> np.ndarray:
    """Encodes labels.

    Args:
      labels: I arrays of any size: int [H, W, 2], or [H, W] in meters. For
        colorization pictures in color, see `images`.
      images: paths, contents of files, images of Pillow, or uint8 [H, W, 3]; the
        labels themselves in colorization if not given.

    Returns:
      int32 [I, n], from 0.

    Raises:
      ValueError: labels have another shape, or there are not as many images.
    """
    labels = list(labels)
    if images is None and self.task == uvim_labels.COLOR:
      images = labels
    examples = self._pictures(images, len(labels))
    for example, label in zip(examples, labels, strict=True):
      example.pop("size", None)
      if self.task == uvim_labels.COLOR:
        label = self.preprocess.pixels(label)
      example["labels"] = uvim_labels.to_model(self.task, label, self.size)
    fn = lambda batch: self._encode(self.variables, batch)
    return backbone.in_batches(fn, map(Prepared, examples))

  def decode(
    self, codes: Any, images: Sequence[Any] | None = None, **kw: Any
  ) -> list[np.ndarray]:
    """Decodes labels.

    Args:
      codes: int [I, n].
      images: as for `encode`; the decoder may have learned to see them.
      **kw: of the task's `predict_outputs`, such as `min_fraction`.

    Returns:
      I arrays of the size of the images, or of the model without images: int32
      [H, W, 2], float32 [H, W] in meters, or uint8 [H, W, 3].

    Raises:
      ValueError: there are not as many images as codes, or codes out of range.
    """
    codes = np.asarray(codes, np.int32)
    if codes.ndim != 2 or codes.shape[1] != self.num_codes:
      raise ValueError(
        f"Codes should be int [pictures, {self.num_codes}], got "
        f"{list(codes.shape)}."
      )
    if (
      codes.size and not 0 <= codes.min() <= codes.max() < self.model.dict_size
    ):
      raise ValueError(
        f"Codes should be from 0 to {self.model.dict_size - 1}, got "
        f"{codes.min()} to {codes.max()}."
      )
    examples = self._pictures(images, len(codes))
    sizes = [e.pop("size", self.size) for e in examples]
    for example, code in zip(examples, codes, strict=True):
      example["codes"] = code
    kw_ = tuple(sorted(kw.items()))
    fn = lambda batch: self._decode(self.variables, batch["codes"], batch, kw_)
    outputs = backbone.in_batches(fn, map(Prepared, examples))
    return unstacked(self.task, outputs, sizes)

  def reconstruct(
    self, labels: Sequence[Any], images: Sequence[Any] | None = None, **kw: Any
  ) -> list[np.ndarray]:
    """Encodes labels and decodes them again.

    Args:
      labels, images, **kw: as for `encode` and `decode`.

    Returns:
      See `decode`.
    """
    if images is None and self.task == uvim_labels.COLOR:
      images = labels
    return self.decode(self.encode(labels, images), images, **kw)

  def draw(self, labels: Any, max_depth: float | None = None) -> np.ndarray:
    """Draws labels.

    Args:
      labels: as of `decode`.
      max_depth: meters that are darkest; None: `config.max_depth`.

    Returns:
      uint8 [H, W, 3].
    """
    max_depth = max_depth or self.config.get("max_depth")
    return uvim_labels.draw(self.task, labels, max_depth)

  def _pictures(self, images, num):
    """Preprocesses pictures; without any, dicts of nothing."""
    if images is None:
      c = self.config.model
      if c.get("with_encoder_ctx") or c.get("with_decoder_ctx"):
        raise ValueError(
          f"{self.name} sees the pictures of labels: give them as images=[...]."
        )
      return [{} for _ in range(num)]
    examples = [inputs_of(self.preprocess, x) for x in backbone.listed(images)]
    if len(examples) != num:
      raise ValueError(f"There are {len(examples)} images for {num} labels.")
    return examples


class UViM:
  """Both stages: predicts the codes of a picture's labels, and decodes them.

  Attributes:
    config: ConfigDict of the run of stage II.
    oracle: UViMOracle.
    task: "panoptic", "depth" or "color".
    model: linen module.
    params: tree of arrays on the first device.
    preprocess: picture -> the model's inputs.
    pp: preprocessing string of pictures.
    name: where the parameters are from.
    class_names: class -> name, of label maps; empty if they are not known.
  """

  def __init__(
    self,
    config: ConfigLike,
    params: Params,
    oracle: UViMOracle,
    *,
    preprocess: Preprocess,
    name: str,
    class_names: Mapping[int, str] | None = None,
  ):
    """Builds the model.

    Args:
      config: reads `model_name` and `model`.
      params: of the model.
      oracle: stage I.
      preprocess: of pictures.
      name: where the parameters are from.
      class_names: see the attribute.

    Raises:
      ConfigError: the parameters do not fit the model.
    """
    self.config, self.oracle, self.name = config, oracle, name
    self.class_names = dict(class_names or {})
    self.task, self.preprocess, self.pp = oracle.task, preprocess, preprocess.pp
    self.model = _build(config)
    size = tuple(config.model.get("input_size", (256, 256)))

    def init():
      image = jnp.zeros([1, *size, 3])
      text = jnp.zeros([1, oracle.num_codes], jnp.int32)
      return self.model.init(jax.random.key(0), image, text)["params"]

    self.params = _fit(params, jax.eval_shape(init), name)
    self._predict = jax.jit(self._apply, static_argnames=("kw",))

  def prepare(self, image: Any) -> Prepared:
    """Reads and preprocesses a picture, also in another thread.

    Args:
      image: path, content of a file, image of Pillow, or uint8 [H, W, C].

    Returns:
      What `outputs` takes.

    Raises:
      ValueError: it is not a picture.
    """
    inputs = inputs_of(self.preprocess, image)
    # So that what is drawn for a picture does not depend on other pictures.
    inputs["number"] = np.uint32(zlib.crc32(inputs["image"].tobytes()))
    return Prepared(inputs)

  def _apply(self, params, variables, batch, seed, temperature, kw):
    """Predicts codes [I, n] and labels of a batch."""
    key = jax.random.key(seed)
    keys = jax.vmap(lambda x: jax.random.fold_in(key, x))(batch["number"])
    codes = guiding_codes.of_images(
      self.model,
      params,
      batch["image"],
      keys,
      self.oracle.model,
      temperature,
    )
    return codes, self.oracle.decode_batch(variables, codes, batch, kw)

  def outputs(
    self,
    prepared: Iterable[Prepared],
    batch_size: int | None = None,
    *,
    temperature: float = TEMPERATURE,
    seed: int = 0,
    **kw: Any,
  ) -> tuple[np.ndarray, list[np.ndarray]]:
    """Predicts codes and labels.

    Args:
      prepared: results of `prepare`.
      batch_size: how many pictures go through the model at once, fewer are
        padded; None: at most 64, padded to a power of two.
      temperature, seed, **kw: as for `predict`.

    Returns:
      (codes int32 [I, n], labels as of `predict`).

    Raises:
      ValueError: there are none, or they differ in size.
    """
    values = [dict(p.value) for p in prepared]
    sizes = [value.pop("size") for value in values]
    kw_ = tuple(sorted(kw.items()))

    def fn(batch):
      return self._predict(
        self.params,
        self.oracle.variables,
        batch,
        np.uint32(seed),
        np.float32(temperature),
        kw_,
      )

    found = backbone.in_batches(fn, map(Prepared, values), batch_size)
    return found[0], unstacked(self.task, found[1], sizes)

  def predict(
    self,
    images: Sequence[Any],
    *,
    temperature: float = TEMPERATURE,
    seed: int = 0,
    **kw: Any,
  ) -> list[np.ndarray]:
    """Predicts the labels of pictures.

    Args:
      images: paths, contents of files, images of Pillow, or uint8 [H, W, C].
      temperature: of sampling: the higher, the more random, 1 is that of the
        training; near 0 are the most probable codes.
      seed: of sampling; with another one other labels are drawn.
      **kw: of the task's `predict_outputs`, such as `min_fraction`.

    Returns:
      I arrays of the size of the pictures: int32 [H, W, 2] (class and instance),
      float32 [H, W] in meters, or uint8 [H, W, 3].

    Raises:
      ValueError: one of them is not a picture, or there are none.
    """
    prepared = map(self.prepare, backbone.listed(images))
    return self.outputs(prepared, temperature=temperature, seed=seed, **kw)[1]

  def codes(
    self,
    images: Sequence[Any],
    *,
    temperature: float = TEMPERATURE,
    seed: int = 0,
  ) -> np.ndarray:
    """Predicts the codes of the labels of pictures.

    Args:
      images, temperature, seed: as for `predict`.

    Returns:
      int32 [I, n], from 0, as of `oracle.encode`.

    Raises:
      ValueError: one of them is not a picture, or there are none.
    """
    prepared = map(self.prepare, backbone.listed(images))
    return self.outputs(prepared, temperature=temperature, seed=seed)[0]

  def draw(self, labels: Any, max_depth: float | None = None) -> np.ndarray:
    """Draws labels.

    Args:
      labels: as of `predict`.
      max_depth: meters that are darkest; None: `config.oracle.max_depth`.

    Returns:
      uint8 [H, W, 3].
    """
    return self.oracle.draw(labels, max_depth)

  def describe(self, labels: np.ndarray) -> dict[str, Any]:
    """Says in a few values what is in labels.

    Args:
      labels: as of `predict`.

    Returns:
      See `uvim_labels.describe`.
    """
    return uvim_labels.describe(self.task, labels, self.class_names)


def inputs_of(preprocess: Preprocess, image: Any) -> dict[str, Any]:
  """Preprocesses a picture.

  Args:
    preprocess: of pictures.
    image: path, content of a file, image of Pillow, or uint8 [H, W, C].

  Returns:
    `image`, `image_ctx` if there is one, and `size`, (H, W) of the picture.

  Raises:
    ValueError: it is not a picture.
  """
  pixels = preprocess.pixels(image)
  found = preprocess.inputs(pixels)
  inputs = {k: found[k] for k in _INPUTS if k in found}
  return {**inputs, "size": tuple(pixels.shape[:2])}


def unstacked(
  task: str, outputs: Any, sizes: Sequence[Sequence[int]]
) -> list[np.ndarray]:
  """Makes labels of each picture in its size.

  Args:
    task: see `uvim_labels.task_of`.
    outputs: tree of arrays [I, h, w, ...].
    sizes: I pairs (H, W).

  Returns:
    I arrays, see `uvim_labels.from_model`.
  """
  return [
    uvim_labels.from_model(task, jax.tree.map(lambda x, i=i: x[i], outputs), s)
    for i, s in zip(itertools.count(), sizes, strict=False)
  ]


def _build(config):
  """Builds the model of a config."""
  keys = ("model_name", "model", "precision")
  return models.build({k: config[k] for k in keys if k in config})[0]


def _fit(stored, shapes, name):
  """Takes what a model has, on the first device."""
  tree, misfits = backbone.fit(stored, shapes)
  if misfits:
    more = f", and {len(misfits) - 1} more" if misfits[1:] else ""
    raise lookup.ConfigError(
      f"{name} does not fit its config: {misfits[0]}{more}."
    )
  return jax.device_put(tree, jax.local_devices()[0])
