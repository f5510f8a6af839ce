"""A trained network: from pictures to features.

Shapes: I pictures, T tokens, D size of the features.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

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
    self.model, self.params = load_network(
      config, key, init, example, dont_load=dont_load
    )
    self._forward = jax.jit(self._apply)
    self._encode = jax.jit(self._tokens)
    shapes = jax.eval_shape(self._apply, self.params, stacked([example]))[0]
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
    out = fn(stacked(padded))
    results.append(jax.tree.map(lambda x: np.asarray(x)[: len(batch)], out))  # noqa: B023
  if not results:
    raise ValueError("There are no pictures: the list is empty.")
  return jax.tree.map(lambda *x: np.concatenate(x), *results)


def stacked(inputs: Sequence[Any]) -> Any:
  """Makes a batch of inputs.

  Args:
    inputs: arrays or trees of them, all of one shape.

  Returns:
    The tree of arrays [B, ...].

  Raises:
    ValueError: they differ in size.
  """
  try:
    return jax.tree.map(lambda *x: np.stack(x), *inputs)
  except ValueError as e:
    sizes = sorted({str(list(np.shape(jax.tree.leaves(x)[0]))) for x in inputs})
    raise ValueError(
      f"The preprocessing makes pictures of different sizes, {', '.join(sizes)}: "
      'give one that ends with one size, such as pp="resize(224)|value_range".'
    ) from e


def load_network(
  config: ConfigLike,
  key: str,
  init: str,
  example: Any,
  *texts: Any,
  dont_load: Sequence[str] = (),
) -> tuple[Any, Params]:
  """Builds a model and reads its parameters.

  Args:
    config: reads the model's keys and `num_classes`.
    key: what it calls the model.
    init: a checkpoint of the model.
    example: a preprocessed picture.
    *texts: what else the model takes, with a batch axis.
    dont_load: regexes of parameters that are initialized instead.

  Returns:
    (linen module, its parameters on the first device).

  Raises:
    ConfigError: the checkpoint does not fit the model.
  """
  # The run may have started from another checkpoint, which is not read.
  own = {k: config[k] for k in (f"{key}_name", key, "precision") if k in config}
  kw = {"num_classes": config.num_classes} if "num_classes" in config else {}
  model, _ = models.build(own, key, **kw)
  make = lambda: nn.unbox(
    model.init(jax.random.key(0), stacked([example]), *texts)
  )
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
    params, misfits = fit(models.load_params(init), shapes)
    if misfits:
      params = load()
  params, misfits = fit(params, shapes)
  if misfits:
    raise lookup.ConfigError(
      f"{init} does not fit config.{key}: {misfits[0]}"
      + (f", and {len(misfits) - 1} more." if misfits[1:] else ".")
    )
  return model, jax.device_put(params, jax.local_devices()[0])


def fit(stored: Any, shapes: Any, name: str = "") -> tuple[Any, list[str]]:
  """Takes from a checkpoint what a model has.

  Args:
    stored: nested dict of arrays.
    shapes: nested dict of ShapeDtypeStruct.
    name: of this part, for what does not fit.

  Returns:
    (parameters, list of what is missing or has another shape).
  """
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
    out[key], more = fit(stored[key], shape, path)
    misfits += more
  return out, misfits
