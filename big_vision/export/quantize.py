"""Stores weights as int8: a quarter of the size, computed in float32.

Only matrices are quantized: kernels of dense layers, of convolutions and of
attention, and the embeddings of tokens. Norms, biases and positions stay as they
are. The scale of an output channel is that of its largest weight, symmetric around
zero:

  scale = max |w| / 127,  q = round(w / scale),  w = q * scale

as in Jacob et al. 2018, https://arxiv.org/abs/1712.05877, without zero points.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

METHODS = ("int8",)
_SCALE = ":scale"  # A quantized array is followed by its scale.
_LARGEST = 127


def quantize(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Quantizes the kernels.

  Args:
    params: name, with slashes, -> array.

  Returns:
    Name -> array: of kernels int8, and as `<name>:scale` their float32 scales,
    which broadcast to them; all else as it was.
  """
  out = {}
  for name, value in params.items():
    value = np.asarray(value)
    axes = _summed_axes(name, value, params)
    if axes is None:
      out[name] = value
      continue
    weights = value.astype(np.float32)
    scale = np.abs(weights).max(axis=axes, keepdims=True) / _LARGEST
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    out[name] = np.rint(weights / scale).astype(np.int8)
    out[name + _SCALE] = scale
  return out


def dequantize(params: Mapping[str, Any]) -> dict[str, Any]:
  """Computes the kernels of quantized parameters.

  Args:
    params: as `quantize` returns them, or not quantized.

  Returns:
    Name -> array, without scales.
  """
  return {
    name: value.astype(jnp.float32) * params[name + _SCALE]
    if name + _SCALE in params
    else value
    for name, value in params.items()
    if not name.endswith(_SCALE)
  }


def num_bytes(params: Mapping[str, Any]) -> int:
  """Adds up the sizes of arrays.

  Args:
    params: name -> array.

  Returns:
    Bytes.
  """
  return sum(x.size * x.dtype.itemsize for x in params.values())


def _summed_axes(name, value, params):
  """Finds the axes that a layer sums over; None: it is not a kernel.

  Kernels may have the layers of a scan as their first axis; each has own scales.
  """
  parent, _, leaf = name.rpartition("/")
  floating = jnp.issubdtype(value.dtype, jnp.floating)
  if not floating or value.ndim < 2:
    return None
  if leaf == "embedding":  # Of tokens: each has its own scale.
    return (-1,)
  if leaf != "kernel":
    return None
  layer = parent.rpartition("/")
  if layer[2] in ("query", "key", "value") and value.ndim >= 3:
    return (-3,)  # [D, heads, size of a head].
  if layer[2] == "out" and f"{layer[0]}/query/kernel" in params:
    return (-3, -2)  # [heads, size of a head, D].
  return (-2,) if value.ndim <= 3 else (-4, -3, -2)  # [H, W, in, out].
