"""A trained network: from pictures to features, and to classes.

Shapes: I pictures, C classes, D size of the features.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision import lookup, models
from big_vision.models.weights import sources
from big_vision.pretrained.embedder import Prepared
from big_vision.pretrained.pixels import Preprocess
from big_vision.types import ConfigLike, Params

BATCH_SIZE = 64
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


def model_key(config: ConfigLike) -> str:
  """Finds what a config calls the model that is trained.

  Args:
    config: ConfigDict of a run.

  Returns:
    "model", or "student" of a distillation.

  Raises:
    ValueError: it names none.
  """
  for key in ("model", "student"):
    if config.get(f"{key}_name"):
      return key
  raise ValueError(
    "The config names no model: config.model_name (or student_name) is missing."
  )


class Backbone:
  """A model with its parameters and preprocessing, from pictures to features.

  Attributes:
    config: ConfigDict of the run, or what one needs to use this model.
    model: linen module.
    params: tree of arrays on the first device.
    preprocess: picture -> the model's input, without a batch axis.
    pp: preprocessing string of pictures.
    name: where the parameters are from.
    call: further arguments of the model's call, such as `seqhw` of FlexiViT.
  """

  def __init__(
    self,
    config: ConfigLike,
    init: str,
    *,
    pp: Preprocess,
    name: str | None = None,
    dont_load: Sequence[str] = (),
  ):
    """Builds the model and loads its parameters.

    Args:
      config: reads the model's keys and `num_classes`.
      init: a checkpoint of the model, such as `<workdir>/checkpoint.bv`, or any
        that `config.model_init` may be.
      pp: preprocessing of pictures.
      name: None is `init`.
      dont_load: regexes of parameters that are initialized instead, as those of
        a new head.

    Raises:
      ValueError: the checkpoint does not fit the model.
    """
    self.config, self.name = config, name or init
    self.preprocess, self.pp = pp, pp.pp
    key = model_key(config)
    # A flexible model, at its largest.
    flexi = (config.get("flexi") or {}).items()
    self.call = {k: max(value.v) for k, value in flexi}
    example = pp.example()
    self.model, self.params = _load(config, key, init, example, dont_load)
    self._forward = jax.jit(self._apply)
    self._encode = jax.jit(self._tokens)
    shapes = jax.eval_shape(self._apply, self.params, _stack([example]))[0]
    self._check_outputs(shapes, f"config.{key}_name={config[f'{key}_name']!r}")

  def _check_outputs(self, outputs: Any, model: str) -> None:
    """Refuses models with other outputs than this class needs."""

  def _apply(self, params, image):
    logits, out = self.model.apply({"params": params}, image, **self.call)
    features = out.get("pre_logits", logits)
    return logits.astype(jnp.float32), features.astype(jnp.float32)

  def _tokens(self, params, image):
    out = self.model.apply({"params": params}, image, **self.call)[1]
    return out["encoded"].astype(jnp.float32)

  def features(self, images: Sequence[Any]) -> np.ndarray:
    """Computes what the last layer of the model classifies.

    Args:
      images: list of paths, contents of files, images of Pillow, or uint8
        [H, W, C].

    Returns:
      float32 [I, D]; [I, T, D] of a model that does not pool.

    Raises:
      ValueError: one of them is not a picture, or there are none.
    """
    return self.outputs(map(self.prepare, listed(images)))[1]

  def tokens(self, images: Sequence[Any]) -> np.ndarray:
    """Computes the last tokens of a transformer, after its last norm.

    Args:
      images: as for `features`.

    Returns:
      float32 [I, T, D]: class token, distillation token and registers, if the
      model has them, then the patches, row by row.

    Raises:
      ValueError: one of them is not a picture, or there are none; or the model
        is not a transformer.
    """
    prepared = [self.prepare(image) for image in listed(images)]
    try:
      return in_batches(lambda x: self._encode(self.params, x), prepared)
    except KeyError as e:
      raise ValueError(f"{self.name} has no tokens.") from e

  def prepare(self, image: Any) -> Prepared:
    """Reads and preprocesses a picture, also in another thread.

    Args:
      image: one as for `features`.

    Returns:
      What `outputs` takes.

    Raises:
      ValueError: it is not a picture.
    """
    return Prepared(self.preprocess(image))

  def outputs(
    self, prepared: Iterable[Prepared], batch_size: int | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Computes outputs of the model and features.

    Args:
      prepared: results of `prepare`.
      batch_size: how many pictures go through the model at once, fewer are
        padded; None: at most 64, padded to a power of two.

    Returns:
      (outputs [I, ...], features [I, D]), both float32.

    Raises:
      ValueError: there are none, or they differ in size.
    """
    return self.raw_outputs(prepared, batch_size)

  def raw_outputs(
    self, prepared: Iterable[Prepared], batch_size: int | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Computes logits and features.

    Args:
      prepared, batch_size: as for `outputs`.

    Returns:
      (logits [I, C], features [I, D]), both float32.

    Raises:
      ValueError: there are none, or they differ in size.
    """
    return in_batches(
      lambda x: self._forward(self.params, x), prepared, batch_size
    )


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


def listed(images: Any) -> Any:
  """Refuses a single picture where several are expected.

  Args:
    images: what the user gives.

  Returns:
    The same.

  Raises:
    ValueError: it is one picture.
  """
  one = isinstance(images, str | bytes | os.PathLike) or hasattr(
    images, "convert"
  )
  if one or (isinstance(images, np.ndarray) and images.ndim < 4):
    raise ValueError(
      f"Pictures should be in a list, not a single {type(images).__name__}: "
      "[picture]."
    )
  return images


def in_batches(
  fn: Callable[[Any], Any],
  prepared: Iterable[Prepared],
  batch_size: int | None = None,
) -> Any:
  """Calls a function of batches for all inputs, with few different sizes.

  Args:
    fn: batch -> tree of arrays [B, ...].
    prepared: the inputs.
    batch_size: as in `Classifier.outputs`.

  Returns:
    The tree, of NumPy arrays for all inputs.

  Raises:
    ValueError: there are none, or they differ in size.
  """
  results, inputs = [], (p.value for p in prepared)
  while batch := list(itertools.islice(inputs, batch_size or BATCH_SIZE)):
    size = batch_size or 1 << (len(batch) - 1).bit_length()
    padded = batch + batch[-1:] * (size - len(batch))
    out = fn(_stack(padded))
    results.append(jax.tree.map(lambda x: np.asarray(x)[: len(batch)], out))  # noqa: B023
  if not results:
    raise ValueError("There are no pictures: the list is empty.")
  return jax.tree.map(lambda *x: np.concatenate(x), *results)


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


def _stack(inputs):
  try:
    return jax.tree.map(lambda *x: np.stack(x), *inputs)
  except ValueError as e:
    sizes = sorted({str(list(np.shape(jax.tree.leaves(x)[0]))) for x in inputs})
    raise ValueError(
      f"The preprocessing makes pictures of different sizes, {', '.join(sizes)}: "
      'give one that ends with one size, such as pp="resize(224)|value_range".'
    ) from e


def _load(
  config: ConfigLike,
  key: str,
  init: str,
  example: Any,
  dont_load: Sequence[str],
) -> tuple[Any, Params]:
  """Builds a model and reads its parameters."""
  # The run may have started from another checkpoint, which is not read.
  own = {k: config[k] for k in (f"{key}_name", key) if k in config}
  kw = {"num_classes": config.num_classes} if "num_classes" in config else {}
  model, _ = models.build(own, key, **kw)
  make = lambda: nn.unbox(model.init(jax.random.key(0), _stack([example])))
  shapes = jax.eval_shape(make)["params"]
  # Positions of images of another size can be resampled.
  size = np.shape(example)[:2] if isinstance(example, np.ndarray) else None

  def load(**load_kw):
    _, fn = models.build(
      {**own, f"{key}_init": init, f"{key}_load": load_kw},
      key,
      image_size=size,
      **kw,
    )
    assert fn is not None  # There is a checkpoint.
    return fn(shapes)

  if dont_load:
    params = load(dont_load=list(dont_load))
    absent = lambda x: isinstance(x, jax.ShapeDtypeStruct)
    if any(map(absent, jax.tree.leaves(params))):
      random = jax.jit(make)()["params"]
      params = jax.tree.map(lambda x, r: r if absent(x) else x, params, random)
  elif sources.is_source(init):
    params = load()
  else:
    params, misfits = _fit(models.load_params(init), shapes)
    if misfits:
      params = load()
  params, misfits = _fit(params, shapes)
  if misfits:
    raise lookup.ConfigError(
      f"{init} does not fit config.{key}: {misfits[0]}"
      + (f", and {len(misfits) - 1} more." if misfits[1:] else ".")
    )
  return model, jax.device_put(params, jax.local_devices()[0])


def _fit(stored, shapes, name=""):
  """Takes from a checkpoint what a model has; (parameters, what does not fit)."""
  if not isinstance(shapes, dict):
    if np.shape(stored) == shapes.shape:
      return stored, []
    return None, [
      f"{name} is {list(np.shape(stored))}, should be {list(shapes.shape)}"
    ]
  out, misfits = {}, []
  for key, shape in shapes.items():
    path = f"{name}/{key}" if name else key
    if not isinstance(stored, dict) or key not in stored:
      misfits.append(f"{path} is missing")
      continue
    out[key], more = _fit(stored[key], shape, path)
    misfits += more
  return out, misfits
