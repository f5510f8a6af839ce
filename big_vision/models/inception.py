"""The Inception-v3 network whose features the Fréchet inception distance uses.

The distance (https://arxiv.org/abs/1706.08500) is that of one network with one set
of weights, an Inception-v3 (https://arxiv.org/abs/1512.00567) with 1008 classes
from 2015, which pytorch-fid publishes as a state dict of PyTorch. It differs
from the Inception-v3 of torchvision: average pooling does not count the padding,
and the last block takes a maximum. Names of parameters are those of the state dict.

Shapes: B batch size, H and W sides of pictures, h and w of what is made of them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision import download, lookup
from big_vision.models.weights import tensor_files
from big_vision.types import Array, PyTree

WEIGHTS = (
  "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
  "pt_inception-2015-12-05-6726825d.pth"
)
NUM_CLASSES = 1008
WIDTH = 2048  # Number of features.
SIZE = 299  # Pixels.


class Conv(NamedTuple):
  """Describes a convolution, which normalization and ReLU follow.

  Attributes:
    name: of its parameters.
    features: number of channels.
    kernel: height and width.
    stride: in both directions.
    padding: "SAME" or "VALID".
  """

  name: str
  features: int
  kernel: tuple[int, int] = (1, 1)
  stride: int = 1
  padding: str = "SAME"


class Fork(NamedTuple):
  """Describes convolutions of the same input, whose channels are joined."""

  convs: tuple[Conv, ...]


def _mean_pool(x):
  """Averages what is inside of the picture."""
  return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _max_pool(x):
  return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def _reduce(x):
  """Halves the sides."""
  return nn.max_pool(x, (3, 3), (2, 2), "VALID")


Step = Conv | Fork | Callable[[Array], Array]
Branches = tuple[tuple[Step, ...], ...]


def _block_a(pooled: int) -> Branches:
  return (
    (Conv("branch1x1", 64),),
    (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
    (
      Conv("branch3x3dbl_1", 64),
      Conv("branch3x3dbl_2", 96, (3, 3)),
      Conv("branch3x3dbl_3", 96, (3, 3)),
    ),
    (_mean_pool, Conv("branch_pool", pooled)),
  )


def _block_b() -> Branches:
  return (
    (Conv("branch3x3", 384, (3, 3), 2, "VALID"),),
    (
      Conv("branch3x3dbl_1", 64),
      Conv("branch3x3dbl_2", 96, (3, 3)),
      Conv("branch3x3dbl_3", 96, (3, 3), 2, "VALID"),
    ),
    (_reduce,),
  )


def _block_c(inner: int) -> Branches:
  row, column = (1, 7), (7, 1)
  return (
    (Conv("branch1x1", 192),),
    (
      Conv("branch7x7_1", inner),
      Conv("branch7x7_2", inner, row),
      Conv("branch7x7_3", 192, column),
    ),
    (
      Conv("branch7x7dbl_1", inner),
      Conv("branch7x7dbl_2", inner, column),
      Conv("branch7x7dbl_3", inner, row),
      Conv("branch7x7dbl_4", inner, column),
      Conv("branch7x7dbl_5", 192, row),
    ),
    (_mean_pool, Conv("branch_pool", 192)),
  )


def _block_d() -> Branches:
  return (
    (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2, "VALID")),
    (
      Conv("branch7x7x3_1", 192),
      Conv("branch7x7x3_2", 192, (1, 7)),
      Conv("branch7x7x3_3", 192, (7, 1)),
      Conv("branch7x7x3_4", 192, (3, 3), 2, "VALID"),
    ),
    (_reduce,),
  )


def _block_e(pool: Step) -> Branches:
  def fork(first, second):
    return Fork((Conv(first, 384, (1, 3)), Conv(second, 384, (3, 1))))

  return (
    (Conv("branch1x1", 320),),
    (Conv("branch3x3_1", 384), fork("branch3x3_2a", "branch3x3_2b")),
    (
      Conv("branch3x3dbl_1", 448),
      Conv("branch3x3dbl_2", 384, (3, 3)),
      fork("branch3x3dbl_3a", "branch3x3dbl_3b"),
    ),
    (pool, Conv("branch_pool", 192)),
  )


# Before the blocks.
STEM: tuple[Step, ...] = (
  Conv("Conv2d_1a_3x3", 32, (3, 3), 2, "VALID"),
  Conv("Conv2d_2a_3x3", 32, (3, 3), 1, "VALID"),
  Conv("Conv2d_2b_3x3", 64, (3, 3)),
  _reduce,
  Conv("Conv2d_3b_1x1", 80),
  Conv("Conv2d_4a_3x3", 192, (3, 3), 1, "VALID"),
  _reduce,
)
BLOCKS: dict[str, Branches] = {
  "Mixed_5b": _block_a(32),
  "Mixed_5c": _block_a(64),
  "Mixed_5d": _block_a(64),
  "Mixed_6a": _block_b(),
  "Mixed_6b": _block_c(128),
  "Mixed_6c": _block_c(160),
  "Mixed_6d": _block_c(160),
  "Mixed_6e": _block_c(192),
  "Mixed_7a": _block_d(),
  "Mixed_7b": _block_e(_mean_pool),
  "Mixed_7c": _block_e(_max_pool),
}


class ConvUnit(nn.Module):
  """Convolves, normalizes by the statistics of training, and rectifies."""

  conv: Conv

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Computes [B, h, w, features] of [B, h, w, channels]."""
    c = self.conv
    x = nn.Conv(
      c.features, c.kernel, c.stride, c.padding, use_bias=False, name="conv"
    )(x)
    x = nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x)
    return nn.relu(x)


class Block(nn.Module):
  """Joins the channels of several branches."""

  branches: Branches

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Computes [B, h, w, channels of all branches] of [B, h, w, channels]."""
    outputs = []
    for branch in self.branches:
      y = x
      for step in branch:
        y = _apply(step, y)
      outputs.append(y)
    return jnp.concatenate(outputs, axis=-1)


def _apply(step, x):
  if isinstance(step, Conv):
    return ConvUnit(step, name=step.name)(x)
  if isinstance(step, Fork):
    return jnp.concatenate([_apply(conv, x) for conv in step.convs], axis=-1)
  return step(x)


class InceptionV3(nn.Module):
  """Computes logits and features of pictures.

  Attributes:
    num_classes: number of logits; 0 leaves them out.
  """

  num_classes: int = NUM_CLASSES

  @nn.compact
  def __call__(self, images: Array) -> tuple[Array, dict[str, Array]]:
    """Applies the network.

    Args:
      images: float [B, H, W, 3] in [-1, 1], H and W at least 75; `SIZE` in
        the Fréchet inception distance.

    Returns:
      (logits [B, num_classes], output of each layer of the stem and of each
      block by its name, and `pre_logits` [B, 2048]). Without logits the first
      is `pre_logits`, too.
    """
    x, out = images, {}
    for step in STEM:
      x = _apply(step, x)
      if isinstance(step, Conv):
        out[step.name] = x
    for name, branches in BLOCKS.items():
      x = out[name] = Block(branches, name=name)(x)
    x = out["pre_logits"] = x.mean(axis=(1, 2))
    if self.num_classes:
      x = out["logits"] = nn.Dense(self.num_classes, name="fc")(x)
    return x, out


def features(variables: PyTree, images: Array) -> Array:
  """Computes what the Fréchet inception distance compares.

  Args:
    variables: result of `load`.
    images: float [B, H, W, 3] in [-1, 1] of any size. They are resized to `SIZE`
      by bilinear interpolation, without smoothing where that makes them smaller.

  Returns:
    float32 [B, 2048].
  """
  num, _, _, channels = images.shape
  x = jax.image.resize(
    images.astype(jnp.float32),
    (num, SIZE, SIZE, channels),
    "bilinear",
    antialias=False,
  )
  # Accelerators would round to bfloat16, which moves the distance.
  with jax.default_matmul_precision("highest"):
    return InceptionV3(num_classes=0).apply(variables, x)[0]  # pyright: ignore[reportReturnType, reportIndexIssue]


# Name in the state dict -> (collection, name here).
_NAMES = {
  "conv.weight": ("params", "conv/kernel"),
  "bn.weight": ("params", "bn/scale"),
  "bn.bias": ("params", "bn/bias"),
  "bn.running_mean": ("batch_stats", "bn/mean"),
  "bn.running_var": ("batch_stats", "bn/var"),
}
# What other files have and this network does not need.
_UNUSED = ("AuxLogits.", "fc.")
_COUNTER = ".num_batches_tracked"


def load(weights: str = WEIGHTS) -> PyTree:
  """Reads the weights of the network without its logits.

  Args:
    weights: path or URL (`hf://` and `gs://`, too) of the state dict of
      pytorch-fid, see `download.fetch`.

  Returns:
    Dict of `params` and `batch_stats` of `InceptionV3(num_classes=0)`, float32
    NumPy arrays.

  Raises:
    lookup.ConfigError: as `fetch`.
  """
  path = fetch(weights)
  tensors = tensor_files.read(path, list(_layout()))
  variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
  for name, (collection, keys, _) in _layout().items():
    x = np.asarray(tensors[name], np.float32)
    x = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x
    at = variables[collection]
    for key in keys[:-1]:
      at = at.setdefault(key, {})
    at[keys[-1]] = x
  return variables


def fetch(weights: str = WEIGHTS) -> str:
  """Makes a file of weights local and checks that it is of this network.

  Args:
    weights: see `load`.

  Returns:
    Its path.

  Raises:
    lookup.ConfigError: the file cannot be had, or is of another network; in one
      line, with what to do.
  """
  published = f"The file of this metric is {WEIGHTS}, or a copy of it."
  if not isinstance(weights, str) or not weights:
    raise lookup.ConfigError(
      f"{weights!r} should be a path or URL. {published}"
    )
  try:
    path = download.fetch(weights)
    found = tensor_files.shapes(path)
  except ValueError as e:
    said = " ".join(str(e).split())
    hint = "" if WEIGHTS in said else f" {published}"
    raise lookup.ConfigError(f"{said}{hint}") from e
  expected = {name: shape for name, (_, _, shape) in _layout().items()}
  classes = found.get("fc.weight", (NUM_CLASSES,))[0]
  missing = expected.keys() - found.keys()
  other = {
    name
    for name in found.keys() - expected.keys()
    if not name.startswith(_UNUSED) and not name.endswith(_COUNTER)
  }
  wrong = [k for k, s in expected.items() if k in found and found[k] != s]
  what = None
  if missing:
    what = f"it lacks the tensor {min(missing)!r}"
  elif other:
    what = f"it has a tensor {min(other)!r:.200}"
  elif wrong:
    name = wrong[0]
    what = f"{name!r} has the shape {found[name]}, not {expected[name]}"
  elif classes != NUM_CLASSES:
    # The same layers, but trained anew: distances would be other ones.
    what = (
      f"it has {classes} classes, as torchvision's, instead of {NUM_CLASSES}"
    )
  if what:
    raise lookup.ConfigError(
      f"{weights} is not the Inception-v3 of this metric: {what}. {published}"
    )
  return path


@functools.cache
def _layout() -> dict[str, tuple[str, tuple[str, ...], tuple[int, ...]]]:
  """Lists the tensors: name -> (collection, names here, shape in the file)."""
  init = InceptionV3(num_classes=0).init
  variables: Any = jax.eval_shape(
    lambda: init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
  )
  layout = {}
  for theirs, (collection, ours) in _NAMES.items():
    unit, leaf = ours.split("/")
    for keys, shape in _leaves(variables[collection]):
      if keys[-2:] == (unit, leaf):
        name = ".".join((*keys[:-2], theirs))
        layout[name] = (collection, keys, shape)
  return layout


def _leaves(tree, keys=()):
  for key, x in tree.items():
    if isinstance(x, dict):
      yield from _leaves(x, (*keys, key))
    elif len(x.shape) == 4:
      yield (*keys, key), tuple(x.shape[i] for i in (3, 2, 0, 1))
    else:
      yield (*keys, key), x.shape
