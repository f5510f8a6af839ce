"""Preprocessing within a function makes the pixels that evaluations see."""

import jax
import numpy as np
import pytest

from big_vision import lookup, resizing
from big_vision.export import forward, preprocess
from big_vision.pretrained import pixels

SIZE = (37, 53)


@pytest.fixture(scope="module")
def pictures():
  """Noise, a smooth picture, and white, which has to stay 255."""
  noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3))
  down, across = np.mgrid[: SIZE[0], : SIZE[1]]
  smooth = (np.sin(down / 7) * np.cos(across / 9) + 1) * 127
  smooth = np.repeat(smooth[..., None], 3, axis=2)
  return np.stack([noise, smooth, np.full_like(noise, 255)]).astype(np.uint8)


def identity(pp, shape, size=None):
  """A function that returns its preprocessed pictures."""
  image = forward.Input("image", ("batch", *shape), "float32")
  whole = forward.Forward(
    lambda params, arrays: arrays, {}, (image,), {"pp": pp}
  )
  return preprocess.include(whole, size)


@pytest.mark.parametrize(
  "pp",
  [
    "resize(32)|value_range(-1, 1)",
    "resize((20, 60))|value_range(0, 1)",
    'resize(64, method="bicubic", antialias=True)|value_range(-1, 1)',
    'resize(24, "area")|vgg_value_range',
    "resize_small(40)|central_crop(32)|clip_value_range()",
    'resize_small(20, method="lanczos3", antialias=True)|central_crop(16)'
    '|value_range(-1, 1)|keep("image", "labels")',
    "decode(channels=3)|central_crop|resize_long(30)"
    "|value_range(0, 1, 20, 200, clip_values=True)",
    'value_range(0, 1)|resize(16, method="nearest")',
    "resize(16)|vgg_value_range(mean=[1, 2, 3], std=[4, 5, 6])",
  ],
)
def test_pixels(pp, pictures):
  numpy = pixels.Preprocess(pp)
  want = np.stack([numpy(picture) for picture in pictures])
  fn = identity(numpy.pp, want.shape[1:], SIZE)
  assert fn.inputs[0] == forward.Input("image", ("batch", *SIZE, 3), "uint8")
  got = jax.jit(fn.fn)({}, {"image": pictures})["image"]
  assert got.dtype == np.float32 and got.shape == want.shape
  # One pixel more or less where a sum is next to an integer, as on white.
  step = np.ptp(want, axis=(0, 1, 2)).max() / 180
  error = np.abs(np.asarray(got) - want)
  assert error.max() < 1.5 * step and error.mean() < 0.7 * step
  assert error[:2].mean() < 0.01 * step


@pytest.mark.parametrize("method", resizing.METHODS)
@pytest.mark.parametrize("antialias", [False, True])
def test_resizing_is_a_matrix(method, antialias):
  image = np.random.default_rng(0).uniform(0, 1, (17, 23, 2)).astype("f")
  rows = preprocess.resize_matrix(17, 11, method, antialias)
  columns = preprocess.resize_matrix(23, 40, method, antialias)
  want = resizing.resize(image, (11, 40), method, antialias, keep_dtype=False)
  got = np.einsum("hH,HWC,wW->hwC", rows, image, columns)
  np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
  "pp, size",
  [
    ("resize(16)|value_range(-1, 1)", (16, 16)),
    ("resize_small(20)|central_crop(16)|value_range(-1, 1)", (20, 20)),
    ("central_crop(16)|value_range(-1, 1)", (16, 16)),
  ],
)
def test_size_by_default(pp, size):
  assert identity(pp, (16, 16, 3)).inputs[0].shape == ("batch", *size, 3)


def test_mistakes():
  def error(pp, size=None, shape=(16, 16, 3)):
    with pytest.raises(lookup.ConfigError) as e:
      identity(pp, shape, size)
    return str(e.value)

  assert "op 'flip_ud()' cannot be exported" in error("flip_ud()|resize(16)")
  assert "randaug" in error("resize(16)|randaug")
  assert 'resize(16, key="other")' in error('resize(16, key="other")')
  assert "resize(16, 3, 4, 5)" in error("resize(16, 3, 4, 5)")
  assert "does not take pictures of 8 x 8" in error("central_crop(16)", (8, 8))
  assert "makes [12, 12, 3] of pictures" in error("resize(12)")
  assert "are patches" in error_of_patches()


def error_of_patches():
  patches = forward.Input("patches", ("batch", 4, 3), "float32")
  whole = forward.Forward(lambda p, x: x, {}, (patches,), {"pp": ""})
  with pytest.raises(lookup.ConfigError) as e:
    preprocess.include(whole)
  return str(e.value)
