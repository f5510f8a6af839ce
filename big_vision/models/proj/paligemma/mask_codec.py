"""Masks of objects as 16 codes each, and back: the VQ-VAE that PaliGemma uses.

A mask of 64 x 64 pixels covers the box of its object. Published weights, of
PyTorch, are in `gs://big_vision/paligemma/vae-oid.npz`. Both directions run on
the CPU.

References:
  Ning et al. 2023, All in Tokens, https://arxiv.org/abs/2301.02229
  Beyer et al. 2024, PaliGemma, https://arxiv.org/abs/2407.07726

Shapes: B masks, D size of a code's vector.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import checkpoint_npz, devices, download, guards, lookup
from big_vision.types import Array

KNOWN_MODELS = {"oi": "gs://big_vision/paligemma/vae-oid.npz"}
SIDE = 64  # Pixels of a mask.
_GRID = 4  # Codes along a side.

CODEBOOK = "_vq_vae._embedding"  # [number of codes, D]
_BLOCK = ("0", "2", "4")  # Convolutions of a residual block.
_DOWN = (0, 2, 4, 6)
_UP = (4, 6, 8, 10)


@functools.cache
def load(model: str = "oi") -> dict[str, np.ndarray]:
  """Reads the weights, once per name.

  Args:
    model: one of KNOWN_MODELS, or path or URL of an npz file, see
      `download.py`.

  Returns:
    Dict of name -> array, as in the file; the same object for the same name.

  Raises:
    ValueError: the file cannot be had or read; says what to do.
  """
  uri = KNOWN_MODELS.get(model, model)
  try:
    path = download.fetch(uri)
  except ValueError as e:
    hint = lookup.did_you_mean(model, KNOWN_MODELS)
    raise lookup.ConfigError(f"Mask codec model={model!r}: {e}{hint}") from e
  stored = checkpoint_npz.npload(path)
  if isinstance(stored, np.ndarray):
    raise lookup.ConfigError(
      f"{uri} is one array; the weights of a mask codec are named arrays "
      "(.npz)."
    )
  return stored


def check(checkpoint: Mapping[str, Any], part: str, model: str = "") -> None:
  """Checks that weights are complete.

  Args:
    checkpoint: result of `load`.
    part: "encoder" or "decoder".
    model: where they are from, for the error.

  Raises:
    ConfigError: an array is missing.
  """
  missing = [n for n in _arrays(part) if n not in checkpoint]
  if missing:
    where = f" of {model}" if model else ""
    raise lookup.ConfigError(
      f"The weights{where} are not those of a mask codec: its {part} needs the "
      f"array {missing[0]!r}{lookup.did_you_mean(missing[0], checkpoint)}"
    )


def encode_to_codebook_indices(
  checkpoint: Mapping[str, Any], masks: Any
) -> np.ndarray:
  """Encodes masks.

  Args:
    checkpoint: result of `load`.
    masks: [B, 64, 64, 1], 1 inside and 0 outside of the object.

  Returns:
    int32 [B, 16], indices of codes, row by row.

  Raises:
    ConfigError: the masks have another shape, or an array is missing.
  """
  check(checkpoint, "encoder")
  masks = np.asarray(masks, np.float32)
  if masks.shape[1:] != (SIDE, SIDE, 1):
    raise lookup.ConfigError(
      f"Masks should have the shape [B, {SIDE}, {SIDE}, 1], not {masks.shape}."
    )
  return np.asarray(_encode(_weights(checkpoint, "encoder"), masks))


def get_reconstruct_masks(
  model: str = "oi",
) -> Callable[[Any], np.ndarray]:
  """Makes the function that decodes masks.

  Args:
    model: see `load`.

  Returns:
    `codes -> masks`: int [B, 16] -> float32 [B, 64, 64, 1], of which what is
    larger than 0 is inside of the object. It raises ConfigError for other
    shapes and for codes that do not exist.

  Raises:
    ValueError: as `load`, or an array is missing.
  """
  checkpoint = load(model)
  check(checkpoint, "decoder", model)
  weights = devices.put_cpu(_weights(checkpoint, "decoder"))
  num_codes = len(checkpoint[CODEBOOK])

  def reconstruct_masks(codes):
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[1] != _GRID**2:
      raise lookup.ConfigError(
        f"Codes should have the shape [B, {_GRID**2}], not {codes.shape}."
      )
    if codes.size and not 0 <= codes.min() <= codes.max() < num_codes:
      raise lookup.ConfigError(f"Codes should be in [0, {num_codes}).")
    return np.asarray(_decode(weights, codes.astype(np.int32)))

  return reconstruct_masks


def embed(params: Mapping[str, Any], masks: Array) -> Array:
  """Computes the vectors that codes stand for; differentiable.

  Args:
    params: float32 arrays of the encoder, by name.
    masks: float32 [B, 64, 64, 1], 1 inside and 0 outside of the object.

  Returns:
    float32 [B, 16, D].
  """
  x = 2 * (masks - 0.5)
  for i in _DOWN:
    x = jax.nn.relu(_conv(params, f"encoder.{i}", x, stride=2))
  for i in (8, 9):
    x = _residual(params, f"encoder.{i}.net", x)
  x = _conv(params, "encoder.10", x)
  return x.reshape(len(x), _GRID**2, x.shape[-1])


def nearest(params: Mapping[str, Any], vectors: Array) -> Array:
  """Finds the code of each vector, the nearest one.

  Args:
    params: arrays by name, of which those of the codes are used.
    vectors: float32 [B, 16, D].

  Returns:
    int32 [B, 16].
  """
  codes = params[CODEBOOK][None, None]
  distance = jnp.square(vectors[:, :, None] - codes).sum(-1)
  return jnp.argmin(distance, -1).astype(jnp.int32)


def draw(params: Mapping[str, Any], vectors: Array) -> Array:
  """Makes masks of vectors; differentiable.

  Args:
    params: float32 arrays of the decoder, by name.
    vectors: float32 [B, 16, D].

  Returns:
    float32 [B, 64, 64, 1], larger than 0 inside of the object.
  """
  x = vectors.reshape(len(vectors), _GRID, _GRID, vectors.shape[-1])
  x = jax.nn.relu(_conv(params, "decoder.0", x))
  for i in (2, 3):
    x = _residual(params, f"decoder.{i}.net", x)
  for i in _UP:
    x = jax.nn.relu(_transposed_conv(params, f"decoder.{i}", x))
  return _conv(params, "decoder.12", x)


def _arrays(part):
  """Lists the names of the arrays that a part needs."""
  if part == "encoder":
    convs = [*_DOWN, *(f"{i}.net.{j}" for i in (8, 9) for j in _BLOCK), 10]
  else:
    convs = [0, *(f"{i}.net.{j}" for i in (2, 3) for j in _BLOCK), *_UP, 12]
  kinds = ("weight", "bias")
  return [CODEBOOK, *(f"{part}.{i}.{kind}" for i in convs for kind in kinds)]


def _weights(checkpoint, part):
  return {n: np.asarray(checkpoint[n], np.float32) for n in _arrays(part)}


@guards.transfers
@devices.jit_cpu()
def _encode(p, masks):
  """float32 [B, 64, 64, 1] -> int32 [B, 16]."""
  return nearest(p, embed(p, masks))


@guards.transfers
@devices.jit_cpu()
def _decode(p, codes):
  """int32 [B, 16] -> float32 [B, 64, 64, 1]."""
  return draw(p, p[CODEBOOK][codes])


def _residual(p, name, x):
  y = jax.nn.relu(_conv(p, f"{name}.0", x))
  y = jax.nn.relu(_conv(p, f"{name}.2", y))
  return x + _conv(p, f"{name}.4", y)


def _conv(p, name, x, stride=1):
  """Convolves [B, h, w, C]; PyTorch stores kernels as [out, in, h, w]."""
  y = jax.lax.conv_general_dilated(
    x,
    p[f"{name}.weight"],
    window_strides=(stride, stride),
    padding="SAME",
    dimension_numbers=("NHWC", "OIHW", "NHWC"),
  )
  return y + p[f"{name}.bias"][None, None, None]


def _transposed_conv(p, name, x):
  """Doubles the sides; PyTorch stores these kernels as [in, out, h, w]."""
  y = jax.lax.conv_transpose(
    x,
    p[f"{name}.weight"].transpose(2, 3, 1, 0),
    strides=(2, 2),
    padding=((2, 2), (2, 2)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    transpose_kernel=True,
  )
  return y + p[f"{name}.bias"][None, None, None]
