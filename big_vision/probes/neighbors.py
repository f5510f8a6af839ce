"""Classifies by the k nearest neighbors among training examples.

Shapes: N training examples, M test examples, D features, C classes, K neighbors.

References: Caron et al. 2021, Emerging properties in self-supervised vision
  transformers, appendix F.1, https://arxiv.org/abs/2104.14294; the weights are
  those of Wu et al. 2018, section 3.4, https://arxiv.org/abs/1805.01978.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import devices as bv_devices
from big_vision import lookup
from big_vision.types import AnyArray, Array, Devices

# Of the similarities that are on a device at a time: 256 MB.
_NUM_SIMILARITIES = 2**26
_MIN_CHUNK = 256  # Training examples, for shapes that compile well.
_TEST_ROWS = 2**16  # Test examples at a time.
_VOTE_ROWS = 4096  # Test examples whose votes are counted at a time.


def normalize(x: AnyArray) -> np.ndarray:
  """Divides rows by their norm.

  Args:
    x: [N, D] features.

  Returns:
    [N, D] float32; rows of zeros stay.
  """
  x = np.asarray(x, np.float32)
  norm = np.linalg.norm(x, axis=1, keepdims=True)
  return x / np.maximum(norm, 1e-12)


def find(
  train: AnyArray, test: AnyArray, k: int, devices: Devices
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the training examples with the largest cosine similarity.

  Similarities are computed in float32, test examples spread over the devices,
  training examples in chunks: memory does not grow with N.

  Args:
    train: [N, D] features.
    test: [M, D] features.
    k: K, at most N.
    devices: those to use.

  Returns:
    (similarities [M, K] float32, largest first; indices [M, K] int32). Among
    equal similarities the first training example comes first.

  Raises:
    ConfigError: K is not in [1, N].
  """
  if not 1 <= k <= len(train):
    raise lookup.ConfigError(
      f"k={k}: there are {len(train)} training examples; use 1 to {len(train)}."
    )
  train, test = normalize(train), normalize(test)
  found = [
    _find(train, test[i : i + _TEST_ROWS], k, devices)
    for i in range(0, len(test), _TEST_ROWS)
  ]
  values, indices = zip(*found, strict=True)
  return np.concatenate(values), np.concatenate(indices)


def _find(train, test, k, devices):
  """Does `find` for normalized test rows that fit on the devices."""
  devices = np.asarray(devices)
  mesh = Mesh(devices, ("devices",))
  everywhere = NamedSharding(mesh, PartitionSpec())
  split = NamedSharding(mesh, PartitionSpec("devices"))
  rows = -(-len(test) // len(devices))  # On each device.
  chunk = max(_NUM_SIMILARITIES // rows, _MIN_CHUNK)
  chunk = min(chunk, -(-len(train) // _MIN_CHUNK) * _MIN_CHUNK)
  pad = rows * len(devices) - len(test)
  padded = np.pad(test, ((0, pad), (0, 0)))
  best = (
    np.full((len(padded), k), -np.inf, np.float32),
    np.zeros((len(padded), k), np.int32),
  )
  padded, best = bv_devices.reshard((padded, best), split)
  merge = _merge_fn(k, split, everywhere)
  for start in range(0, len(train), chunk):
    part = train[start : start + chunk]
    size = np.int32(len(part))
    part = np.pad(part, ((0, chunk - len(part)), (0, 0)))
    part, first, size = bv_devices.reshard(
      (part, np.int32(start), size), everywhere
    )
    best = merge(padded, part, first, size, best)
  values, indices = jax.device_get(_gather_fn(everywhere)(best))
  return values[: len(test)], indices[: len(test)]


@functools.cache
def _merge_fn(k, split, everywhere):
  """Compiles the search in one more chunk of training examples."""

  def fn(test, train, first, size, best):
    similar = jnp.matmul(test, train.T, precision="highest")
    position = jnp.arange(len(train), dtype=jnp.int32)[None]
    similar = jnp.where(position < size, similar, -jnp.inf)
    # Those found before come first: `top_k` prefers them among equals.
    values = jnp.concatenate([best[0], similar], axis=1)
    indices = jnp.broadcast_to(position + first, similar.shape)
    indices = jnp.concatenate([best[1], indices], axis=1)
    values, chosen = jax.lax.top_k(values, k)
    return values, jnp.take_along_axis(indices, chosen, axis=1)

  shardings = (split, everywhere, everywhere, everywhere, (split, split))
  return jax.jit(fn, in_shardings=shardings, out_shardings=(split, split))


@functools.cache
def _gather_fn(everywhere):
  """Compiles the copy to all devices, and so to all hosts."""

  def fn(x: tuple[Array, Array]) -> tuple[Array, Array]:
    return x

  return jax.jit(fn, out_shardings=everywhere)


def votes(
  similarities: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  temperature: float,
) -> np.ndarray:
  """Sums the weights exp(similarity / temperature) of neighbors by class.

  Args:
    similarities: [M, K] of the neighbors.
    labels: [M, K] int labels of the neighbors; one outside of [0, C) votes for
      nothing.
    num_classes: C.
    temperature: of the weights.

  Returns:
    [M, C] float64. Each row is divided by the weight of its first neighbor,
    which changes neither order nor ties, and cannot overflow.
  """
  logits = similarities.astype(np.float64)
  weights = np.exp((logits - logits[:, :1]) / temperature)
  known = (labels >= 0) & (labels < num_classes)
  out = np.zeros((len(labels), num_classes))
  row = np.broadcast_to(np.arange(len(labels))[:, None], labels.shape)
  np.add.at(out, (row[known], labels[known]), weights[known])
  return out


def accuracies(
  similarities: np.ndarray,
  neighbor_labels: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  temperature: float,
  tops: tuple[int, ...] = (1, 5),
) -> list[float]:
  """Measures how often the right class is among those with the most votes.

  Args:
    similarities: [M, K] of the neighbors.
    neighbor_labels: [M, K] int labels of the neighbors.
    labels: [M] int labels.
    num_classes: C.
    temperature: see `votes`.
    tops: numbers of classes with the most votes that count.

  Returns:
    A fraction for each of `tops`. Among classes with equal votes, such as those
    without any, the first one comes first.
  """
  correct = np.zeros(len(tops), np.int64)
  for start in range(0, len(labels), _VOTE_ROWS):
    rows = slice(start, start + _VOTE_ROWS)
    ranked = np.argsort(
      -votes(
        similarities[rows], neighbor_labels[rows], num_classes, temperature
      ),
      axis=1,
      kind="stable",
    )
    right = ranked[:, : max(tops)] == labels[rows, None]
    correct += [right[:, :top].any(axis=1).sum() for top in tops]
  return [float(c / len(labels)) for c in correct]
