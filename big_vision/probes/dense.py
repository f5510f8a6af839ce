"""Fits a linear layer to the patches of pictures, for maps of classes or depth.

Features are standardized by mean and variance over all training patches, which
is what the batch normalization of DINOv2's probes converges to.

Shapes: N pictures, B of a batch, h, w patches, D features, H, W pixels of maps,
K outputs of the linear layer.

References: Oquab et al. 2023, section 7.4, https://arxiv.org/abs/2304.07193;
  depth from bins: Bhat et al. 2020, https://arxiv.org/abs/2011.14141;
  its loss: Eigen et al. 2014, https://arxiv.org/abs/1406.2283.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import devices as bv_devices
from big_vision.probes import sgd
from big_vision.types import AnyArray, Array, Devices

# (mean [D], 1 / standard deviation [D], weights [D, K], biases [K]).
Head = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

_WARMUP = 0.05  # Of all steps.
_UPSAMPLE = 4  # Of scores of bins of depth, as in DINOv2.


def resize(x: Array, size: tuple[int, int]) -> Array:
  """Interpolates bilinearly, with pixels as squares (`align_corners=False`).

  Args:
    x: [B, h, w, K].
    size: (H, W).

  Returns:
    [B, H, W, K].
  """
  shape = (len(x), *size, x.shape[-1])
  # Without smoothing, as PyTorch's `interpolate`, where it becomes smaller.
  return jax.image.resize(x, shape, "bilinear", antialias=False)


@dataclasses.dataclass(frozen=True)
class Segmentation:
  """Predicts a class for each pixel.

  Attributes:
    num_classes: C.
    ignore: the class of pixels without label; None if all have one.
  """

  num_classes: int
  ignore: int | None = None

  invalid = -1  # Value of pixels that do not count.

  @property
  def num_outputs(self) -> int:
    """K."""
    return self.num_classes

  def valid(self, maps: Any) -> Any:
    """Tells which pixels count: [..., H, W] -> bool."""
    valid = (maps >= 0) & (maps < self.num_classes)
    return valid if self.ignore is None else valid & (maps != self.ignore)

  def loss(self, outputs: Array, maps: Array) -> Array:
    """Computes the mean cross entropy of pixels: [B, h, w, K], [B, H, W] -> []."""
    logits = resize(outputs, maps.shape[1:3])
    valid = self.valid(maps)
    labels = jnp.where(valid, maps, 0).astype(jnp.int32)
    xent = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(xent * valid) / jnp.maximum(jnp.sum(valid), 1)

  def predict(self, outputs: Array, size: tuple[int, int]) -> Array:
    """Predicts classes: [B, h, w, K] -> [B, H, W] int32."""
    logits = resize(outputs, size)
    if self.ignore is not None:  # It has never been learned.
      classes = jnp.arange(self.num_classes)[None, None, None]
      logits = jnp.where(classes == self.ignore, -jnp.inf, logits)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Depth:
  """Predicts the distance of each pixel, a mean of bins.

  Attributes:
    min_depth: smallest distance, lower end of the first bin.
    max_depth: largest distance; pixels beyond do not count.
    num_bins: number of bins, of equal size.
  """

  min_depth: float = 1e-3
  max_depth: float = 10.0
  num_bins: int = 256

  invalid = 0  # Value of pixels that do not count.

  @property
  def num_outputs(self) -> int:
    """K."""
    return self.num_bins

  def valid(self, maps: Any) -> Any:
    """Tells which pixels count: [..., H, W] -> bool."""
    return (maps > self.min_depth) & (maps <= self.max_depth)

  def loss(self, outputs: Array, maps: Array) -> Array:
    """Computes the scale-invariant error: [B, h, w, K], [B, H, W] -> []."""
    valid = self.valid(maps)
    truth = jnp.where(valid, maps, 1).astype(jnp.float32)
    predicted = self.predict(outputs, maps.shape[1:3])
    g = jnp.where(valid, jnp.log(predicted) - jnp.log(truth), 0)
    num = jnp.maximum(jnp.sum(valid), 1)
    mean = jnp.sum(g) / num
    variance = jnp.sum(jnp.square(jnp.where(valid, g - mean, 0))) / num
    return jnp.sqrt(variance + 0.15 * jnp.square(mean) + 1e-9)

  def predict(self, outputs: Array, size: tuple[int, int]) -> Array:
    """Predicts distances: [B, h, w, K] -> [B, H, W] float32."""
    _, h, w, _ = outputs.shape
    scores = resize(outputs, (_UPSAMPLE * h, _UPSAMPLE * w))
    scores = jnp.maximum(scores, 0) + 0.1
    scores = scores / jnp.sum(scores, axis=-1, keepdims=True)
    ends = np.linspace(self.min_depth, self.max_depth, self.num_bins + 1)
    centers = jnp.asarray((ends[1:] + ends[:-1]) / 2, jnp.float32)
    depth = jnp.matmul(scores, centers[:, None], precision="highest")
    return resize(depth, size)[..., 0]


Task = Segmentation | Depth


def fit(
  tokens: AnyArray,
  maps: AnyArray,
  task: Task,
  devices: Devices,
  *,
  steps: int,
  batch_size: int,
  learning_rate: float,
  weight_decay: float,
  seed: int = 0,
) -> Head:
  """Fits the linear layer by AdamW; the learning rate falls linearly to 0.

  Args:
    tokens: [N, h, w, D].
    maps: [N, H, W], classes or distances.
    task: what the maps are.
    devices: those to use.
    steps: number of batches.
    batch_size: B; at most N, rounded to a multiple of the number of devices.
    learning_rate: after a warm-up of 5% of the steps.
    weight_decay: of AdamW, for the weights alone.
    seed: of initial weights and order.

  Returns:
    The head.
  """
  rng = np.random.default_rng(seed)
  mean, inverse = _statistics(tokens)
  split, everywhere, num_devices = _shardings(devices)
  kernel = rng.normal(0, 0.01, (len(mean), task.num_outputs))
  params = (kernel.astype(np.float32), np.zeros(task.num_outputs, np.float32))
  scale = bv_devices.reshard((mean, inverse), everywhere)
  params = bv_devices.reshard(params, everywhere)
  init, update = _update_fn(
    task, everywhere, steps, learning_rate, weight_decay
  )
  state = init(params)
  size = sgd.fit_batch(batch_size, len(tokens), num_devices)
  for rows in sgd.batches(rng, len(tokens), size, steps):
    pad = -len(rows) % num_devices
    batch = _pad(tokens[rows], pad, 0), _pad(maps[rows], pad, task.invalid)
    batch = bv_devices.reshard(batch, split)
    jax.block_until_ready(params)  # One step at a time, for memory.
    params, state = update(params, state, scale, *batch)
  kernel, bias = jax.device_get(params)
  return mean, inverse, np.asarray(kernel), np.asarray(bias)


def predict(
  head: Head,
  tokens: AnyArray,
  task: Task,
  size: tuple[int, int],
  devices: Devices,
) -> np.ndarray:
  """Predicts maps of a batch.

  Args:
    head: result of `fit`.
    tokens: [B, h, w, D].
    task: what the maps are.
    size: (H, W).
    devices: those to use.

  Returns:
    [B, H, W] classes or distances.
  """
  split, everywhere, num_devices = _shardings(devices)
  batch = _pad(np.asarray(tokens), -len(tokens) % num_devices, 0)
  batch = bv_devices.reshard(batch, split)
  parts = bv_devices.reshard(head, everywhere)
  predicted = _predict_fn(task, size, everywhere)(parts, batch)
  return np.asarray(jax.device_get(predicted))[: len(tokens)]


def _statistics(tokens):
  """Returns mean and 1 / standard deviation of all patches, float32 [D]."""
  axes, num = (0, 1, 2), np.prod(tokens.shape[:3])
  mean = np.zeros(tokens.shape[-1])
  square = np.zeros(tokens.shape[-1])
  for i in range(0, len(tokens), 64):
    part = np.asarray(tokens[i : i + 64], np.float64)
    mean += part.sum(axis=axes) / num
    square += np.square(part).sum(axis=axes) / num
  variance = np.maximum(square - np.square(mean), 0)
  inverse = 1 / np.sqrt(variance + 1e-5)  # As in a batch normalization.
  return mean.astype(np.float32), inverse.astype(np.float32)


def _shardings(devices):
  mesh = Mesh(np.asarray(devices), ("devices",))
  split = NamedSharding(mesh, PartitionSpec("devices"))
  return split, NamedSharding(mesh, PartitionSpec()), len(mesh.devices)


def _pad(x, num, value):
  """Adds rows at the end."""
  more = [(0, num)] + [(0, 0)] * (x.ndim - 1)
  return np.pad(x, more, constant_values=value)


def _outputs(scale, params, tokens):
  """Applies the standardization and the linear layer."""
  (mean, inverse), (kernel, bias) = scale, params
  x = (tokens.astype(jnp.float32) - mean) * inverse
  return jnp.matmul(x, kernel, precision="highest") + bias


@functools.cache
def _predict_fn(task, size, everywhere):
  def fn(head, tokens):
    head = [x if x.ndim == 2 else x[None, None, None] for x in head]
    return task.predict(_outputs(head[:2], head[2:], tokens), size)

  return jax.jit(fn, out_shardings=everywhere)


@functools.cache
def _update_fn(task, everywhere, steps, learning_rate, weight_decay):
  """Compiles the first state of the optimizer, and a step."""
  warmup = int(_WARMUP * steps)
  schedule = optax.join_schedules(
    [
      optax.linear_schedule(0, learning_rate, max(warmup, 1)),
      optax.linear_schedule(learning_rate, 0, max(steps - warmup, 1)),
    ],
    [warmup],
  )
  tx = optax.adamw(schedule, weight_decay=weight_decay, mask=(True, False))

  def loss(params, scale, tokens, maps):
    kernel, bias = params
    scale = [x[None, None, None] for x in scale]
    params = kernel, bias[None, None, None]
    return task.loss(_outputs(scale, params, tokens), maps)

  def update(params, state, scale, tokens, maps):
    grads = jax.grad(loss)(params, scale, tokens, maps)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  out = dict(out_shardings=everywhere)
  return jax.jit(tx.init, **out), jax.jit(update, donate_argnums=(0, 1), **out)
