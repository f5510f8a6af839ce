"""Kernels are quantized by output channel, all else is not."""

import numpy as np
import pytest

from big_vision.export import quantize

RNG = np.random.default_rng(0)


def draw(*shape):
  return RNG.normal(0, 1, shape).astype(np.float32)


# Name -> (shape, axes that a layer sums over).
KERNELS = {
  "head/kernel": ((5, 3), (0,)),
  "stem/kernel": ((2, 2, 3, 4), (0, 1, 2)),
  "block/attention/query/kernel": ((6, 2, 3), (0,)),
  "block/attention/out/kernel": ((2, 3, 6), (0, 1)),
  "scanned/attention/query/kernel": ((4, 6, 2, 3), (1,)),
  "scanned/attention/out/kernel": ((4, 2, 3, 6), (1, 2)),
  "scanned/mlp/Dense_0/kernel": ((4, 6, 8), (1,)),
  "Embed_0/embedding": ((7, 6), (1,)),
}
OTHERS = {
  "head/bias": (3,),
  "norm/scale": (6,),
  "pos_embedding": (1, 4, 6),
  "cls": (1, 1, 6),
  "t": (1,),
  "block/attention/query/bias": (2, 3),
}


@pytest.fixture(scope="module")
def params():
  shapes = {k: shape for k, (shape, _) in KERNELS.items()} | OTHERS
  return {k: draw(*shape) for k, shape in shapes.items()}


def test_weights_and_scales(params):
  got = quantize.quantize(params)
  assert set(got) == {*params, *(f"{name}:scale" for name in KERNELS)}
  for name, (_, axes) in KERNELS.items():
    w, q, scale = params[name], got[name], got[f"{name}:scale"]
    assert q.dtype == np.int8 and q.shape == w.shape
    assert scale.dtype == np.float32
    largest = np.abs(w).max(axis=axes, keepdims=True)
    np.testing.assert_allclose(scale, largest / 127, rtol=1e-6)
    assert np.abs(q).max(axis=axes).min() == 127
    # Rounded to the nearest: off by half a step at most.
    assert (np.abs(q * scale - w) <= 0.5001 * scale).all()
  for name in OTHERS:
    np.testing.assert_array_equal(got[name], params[name])


def test_dequantize(params):
  got = quantize.dequantize(quantize.quantize(params))
  assert set(got) == set(params)
  for name, w in params.items():
    assert got[name].dtype == np.float32
    assert np.abs(np.asarray(got[name]) - w).max() <= np.abs(w).max() / 127 / 2
  same = quantize.dequantize(params)
  assert all(same[name] is params[name] for name in params)


def test_zeros_and_bytes():
  got = quantize.quantize({"head/kernel": np.zeros([4, 2], np.float32)})
  np.testing.assert_array_equal(got["head/kernel:scale"], [[1, 1]])
  np.testing.assert_array_equal(quantize.dequantize(got)["head/kernel"], 0)
  assert quantize.num_bytes(got) == 8 + 8
