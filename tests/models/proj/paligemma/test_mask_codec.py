"""The VQ-VAE of masks, against convolutions that are written out in NumPy."""

import concurrent.futures

import jax
import numpy as np
import pytest

from big_vision import lookup
from big_vision.models.proj.paligemma import mask_codec

D, NUM_CODES = 6, 11


def conv_shapes():
  """Name -> (kernel as PyTorch stores it, number of outputs)."""
  enc = {"0": (5, 1, 4, 4), "2": (6, 5, 4, 4), "4": (7, 6, 4, 4)}
  enc |= {"6": (8, 7, 4, 4), "10": (D, 8, 1, 1)}
  dec = {"0": (8, D, 1, 1), "12": (1, 4, 1, 1), "4": (8, 7, 4, 4)}
  dec |= {"6": (7, 6, 4, 4), "8": (6, 5, 4, 4), "10": (5, 4, 4, 4)}
  for part, blocks in ((enc, (8, 9)), (dec, (2, 3))):
    for i in blocks:
      part[f"{i}.net.0"] = part[f"{i}.net.2"] = (8, 8, 3, 3)
      part[f"{i}.net.4"] = (8, 8, 1, 1)
  shapes = {f"encoder.{k}": (v, v[0]) for k, v in enc.items()}
  for k, v in dec.items():
    shapes[f"decoder.{k}"] = (v, v[1] if k in ("4", "6", "8", "10") else v[0])
  return shapes


@pytest.fixture(scope="module")
def weights():
  r = np.random.RandomState(0)
  out = {}
  for name, (shape, outputs) in conv_shapes().items():
    scale = (2 / np.prod(shape[1:])) ** 0.5
    out[f"{name}.weight"] = (r.randn(*shape) * scale).astype(np.float32)
    out[f"{name}.bias"] = (r.randn(outputs) * 0.1).astype(np.float32)
  # As training does, put codes where masks are.
  vectors = np.concatenate([encode_vectors(out, m) for m in make_masks(3)])
  codes = r.choice(len(vectors), NUM_CODES, replace=False)
  out["_vq_vae._embedding"] = vectors[codes].astype(np.float32)
  return out


@pytest.fixture
def path(weights, tmp_path):
  np.savez(tmp_path / "vae.npz", **weights)
  return str(tmp_path / "vae.npz")


def conv(p, name, x, stride=1):
  """[h, w, C]: each output pixel is a sum over a window."""
  kernel = p[f"{name}.weight"].astype(np.float64)
  size = kernel.shape[2]
  pad = (size - stride + 1) // 2  # All windows here are centered.
  x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
  h, w = ((n - size) // stride + 1 for n in x.shape[:2])
  out = np.zeros([h, w, len(kernel)])
  for i in range(h):
    for j in range(w):
      part = x[i * stride : i * stride + size, j * stride : j * stride + size]
      out[i, j] = np.einsum("hwc,ochw->o", part, kernel)
  return out + p[f"{name}.bias"]


def transposed_conv(p, name, x):
  """Each input pixel is written into a window: stride 2, padding 1 of 4."""
  kernel = p[f"{name}.weight"].astype(np.float64)
  h, w, _ = x.shape
  out = np.zeros([2 * h + 2, 2 * w + 2, kernel.shape[1]])
  for i in range(h):
    for j in range(w):
      window = np.einsum("c,cohw->hwo", x[i, j], kernel)
      out[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += window
  return out[1:-1, 1:-1] + p[f"{name}.bias"]


def residual(p, name, x):
  y = np.maximum(conv(p, f"{name}.0", x), 0)
  y = np.maximum(conv(p, f"{name}.2", y), 0)
  return x + conv(p, f"{name}.4", y)


def encode_vectors(p, mask):
  x = 2 * (mask - 0.5)
  for i in (0, 2, 4, 6):
    x = np.maximum(conv(p, f"encoder.{i}", x, stride=2), 0)
  for i in (8, 9):
    x = residual(p, f"encoder.{i}.net", x)
  return conv(p, "encoder.10", x).reshape(16, D)


def encode(p, mask):
  x = encode_vectors(p, mask)
  distances = [((x - code) ** 2).sum(-1) for code in p["_vq_vae._embedding"]]
  return np.argmin(distances, 0)


def decode(p, codes):
  x = p["_vq_vae._embedding"][codes].reshape(4, 4, D)
  x = np.maximum(conv(p, "decoder.0", x), 0)
  for i in (2, 3):
    x = residual(p, f"decoder.{i}.net", x)
  for i in (4, 6, 8, 10):
    x = np.maximum(transposed_conv(p, f"decoder.{i}", x), 0)
  return conv(p, "decoder.12", x)


def make_masks(num):
  """Ellipses."""
  r = np.random.RandomState(1)
  y, x = np.mgrid[:64, :64]
  masks = []
  for _ in range(num):
    (cy, cx), (a, b) = r.uniform(15, 50, 2), r.uniform(8, 40, 2)
    masks.append(((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1)
  return np.stack(masks)[..., None].astype(np.float32)


def test_encoder(weights):
  masks = make_masks(3)
  got = mask_codec.encode_to_codebook_indices(weights, masks)
  assert got.dtype == np.int32 and got.shape == (3, 16)
  want = [encode(weights, m) for m in masks]
  np.testing.assert_array_equal(got, want)
  assert len(np.unique(got)) == NUM_CODES


def test_decoder(weights, path):
  codes = np.random.RandomState(2).randint(0, NUM_CODES, (2, 16))
  got = mask_codec.get_reconstruct_masks(path)(codes)
  assert got.dtype == np.float32 and got.shape == (2, 64, 64, 1)
  want = [decode(weights, c) for c in codes]
  np.testing.assert_allclose(got, want, atol=1e-4)
  assert np.std(want) > 0.1


def test_no_implicit_transfers(weights, path):
  masks = make_masks(1)
  with jax.transfer_guard("disallow"):
    codes = mask_codec.encode_to_codebook_indices(weights, masks)
    mask_codec.get_reconstruct_masks(path)(codes)


def test_threads(weights):
  masks = make_masks(8)
  encode = lambda m: mask_codec.encode_to_codebook_indices(weights, m[None])[0]
  want = mask_codec.encode_to_codebook_indices(weights, masks)
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    np.testing.assert_array_equal(list(pool.map(encode, masks)), want)


def test_load(weights, path):
  got = mask_codec.load(path)
  assert got.keys() == weights.keys()
  np.testing.assert_array_equal(
    got["encoder.0.bias"], weights["encoder.0.bias"]
  )
  assert mask_codec.load(path) is got


def test_alias(weights, path, monkeypatch):
  monkeypatch.setitem(mask_codec.KNOWN_MODELS, "mine", path)
  assert mask_codec.load("mine").keys() == weights.keys()
  assert mask_codec.KNOWN_MODELS["oi"] == (
    "gs://big_vision/paligemma/vae-oid.npz"
  )


def test_files_that_are_no_codec(weights, tmp_path):
  with pytest.raises(ValueError, match="'oid'.*no file 'oid'.*mean 'oi'"):
    mask_codec.load("oid")
  np.save(tmp_path / "one.npy", np.zeros(3))
  with pytest.raises(ValueError, match="one.npy is one array"):
    mask_codec.load(str(tmp_path / "one.npy"))
  half = {k: v for k, v in weights.items() if k != "decoder.3.net.2.bias"}
  np.savez(tmp_path / "half.npz", **half)
  # It can encode.
  half = mask_codec.load(str(tmp_path / "half.npz"))
  mask_codec.encode_to_codebook_indices(half, make_masks(1))
  with pytest.raises(
    lookup.ConfigError, match=r"half.npz.*decoder needs.*'decoder.3.net.2.bias'"
  ):
    mask_codec.get_reconstruct_masks(str(tmp_path / "half.npz"))
  with pytest.raises(lookup.ConfigError, match="encoder needs.*_embedding"):
    mask_codec.encode_to_codebook_indices({}, make_masks(1))


def test_bad_arguments(weights, path):
  with pytest.raises(ValueError, match=r"64, 64, 1\], not \(1, 32, 32, 1\)"):
    mask_codec.encode_to_codebook_indices(weights, np.zeros([1, 32, 32, 1]))
  reconstruct = mask_codec.get_reconstruct_masks(path)
  with pytest.raises(ValueError, match=r"\[B, 16\], not \(16,\)"):
    reconstruct(np.zeros(16, int))
  for code in (-1, NUM_CODES):
    with pytest.raises(ValueError, match=r"in \[0, 11\)"):
      reconstruct(np.full([1, 16], code))
