"""Fits linear classifiers by SGD, one for each learning rate, all in one pass.

Shapes: N training examples, D features, C classes, L learning rates, B batch.

References: Oquab et al. 2023, DINOv2, section B.3 (linear probing),
  https://arxiv.org/abs/2304.07193: SGD with momentum 0.9 without weight decay,
  a cosine schedule, and a grid of learning rates times B / 256.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import devices as bv_devices
from big_vision.types import AnyArray, Devices

_MOMENTUM = 0.9
_INIT_STD = 0.01
# Steps of one call of a device: so many at most, with so many features.
_MAX_STEPS = 100
_NUM_FEATURES = 2**24


def fit(
  x: AnyArray,
  y: AnyArray,
  num_classes: int,
  learning_rates: Sequence[float],
  devices: Devices,
  *,
  steps: int,
  batch_size: int,
  seed: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Fits a classifier for each learning rate.

  All of them start from the same random weights and see the same batches. In
  each epoch the examples are in another order, and the last ones, which do not
  fill a batch, are left out.

  Args:
    x: [N, D] features.
    y: [N] int labels.
    num_classes: C.
    learning_rates: the first ones of the cosine schedules, before they are
      multiplied by B / 256.
    devices: those to use.
    steps: number of batches.
    batch_size: B; at most N, rounded to a multiple of the number of devices.
    seed: of initial weights and order.

  Returns:
    (weights [D, C], biases [C]) float32 for each of `learning_rates`.
  """
  mesh = Mesh(np.asarray(devices), ("devices",))
  along = lambda axis: NamedSharding(
    mesh, PartitionSpec(*[None] * axis, "devices")
  )
  everywhere = NamedSharding(mesh, PartitionSpec())
  num_devices = len(mesh.devices)
  size = fit_batch(batch_size, len(x), num_devices)
  rates = np.asarray(learning_rates, np.float32) * size / 256
  rng = np.random.default_rng(seed)
  kernel = rng.normal(0, _INIT_STD, (x.shape[1], num_classes))
  w = np.concatenate([kernel, np.zeros((1, num_classes))])
  w = np.repeat(w[None].astype(np.float32), len(rates), axis=0)
  w, momentum, rates = bv_devices.reshard((w, 0 * w, rates), everywhere)
  update = _update_fn(everywhere)
  width = -(-size // num_devices) * num_devices
  weight = np.pad(np.full(size, 1 / size, np.float32), (0, width - size))
  weight = bv_devices.reshard(weight, along(0))
  drawn = batches(rng, len(x), size, steps)
  several = max(1, min(_MAX_STEPS, _NUM_FEATURES // (width * x.shape[1])))
  for start in range(0, steps, several):
    rows = np.stack(list(itertools.islice(drawn, several)))  # [S, B]
    step = np.arange(start, start + len(rows))
    decay = ((1 + np.cos(np.pi * step / steps)) / 2).astype(np.float32)
    pad = ((0, 0), (0, width - size))
    data = (
      np.pad(np.asarray(x[rows], np.float32), (*pad, (0, 0))),
      np.pad(np.asarray(y[rows], np.int32), pad),
    )
    data = bv_devices.reshard(data, along(1))
    decay = bv_devices.reshard(decay, everywhere)
    jax.block_until_ready(w)  # One call at a time, for memory.
    w, momentum = update(w, momentum, rates, decay, *data, weight)
  w = np.asarray(jax.device_get(w))
  return [(head[:-1], head[-1]) for head in w]


def num_steps(num_examples: int, batch_size: int) -> int:
  """Chooses how long to train: as DINOv2 where there is as much data.

  Args:
    num_examples: N.
    batch_size: B.

  Returns:
    100 epochs, but not less than 1000 batches and not more than 12 500.
  """
  return int(np.clip(100 * num_examples // batch_size, 1000, 12_500))


def fit_batch(batch_size: int, num_examples: int, num_devices: int) -> int:
  """Makes a batch no larger than the data.

  Args:
    batch_size: the largest.
    num_examples: N.
    num_devices: a divisor of the result, where N allows it.

  Returns:
    The size of batches.
  """
  size = min(batch_size, num_examples)
  return max(size // num_devices * num_devices, min(size, num_devices))


def batches(
  rng: np.random.Generator, num_examples: int, size: int, steps: int
) -> Iterator[np.ndarray]:
  """Draws batches, in each epoch in another order.

  Args:
    rng: draws the orders.
    num_examples: N.
    size: of a batch; what does not fill one is left out in that epoch.
    steps: number of batches.

  Yields:
    [size] indices.
  """
  per_epoch = num_examples // size
  order = np.arange(num_examples)
  for step in range(steps):
    position = step % per_epoch
    if position == 0:
      order = rng.permutation(num_examples)
    yield order[position * size : (position + 1) * size]


@functools.cache
def _update_fn(everywhere):
  """Compiles steps of all classifiers, whose weights are [L, D + 1, C]."""

  def loss(w, x, y, weight):
    logits = jnp.einsum("bd,ldc->lbc", x, w[:, :-1], precision="highest")
    logits = logits + w[:, -1:]
    labels = jnp.broadcast_to(y[None], logits.shape[:2])
    xent = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    # A sum over classifiers, of which none changes another's gradient.
    return jnp.sum(xent * weight[None])

  def update(w, momentum, rates, decays, x, y, weight):
    def step(carry, batch):
      w, momentum = carry
      decay, x, y = batch
      momentum = _MOMENTUM * momentum + jax.grad(loss)(w, x, y, weight)
      return (w - (rates * decay)[:, None, None] * momentum, momentum), None

    carry, _ = jax.lax.scan(step, (w, momentum), (decays, x, y))
    return carry

  return jax.jit(update, donate_argnums=(0, 1), out_shardings=everywhere)
