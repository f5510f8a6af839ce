import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from pp.augment_images import dark, noise, run

from big_vision.pp import augment_color
from big_vision.tf import tf

pytestmark = pytest.mark.tf

SIZES = [(24, 18), (7, 5), (1, 4)]
FACTORS = [0.0, 0.35, 1.0, 1.9, -0.3]


def blended(a, b, factor):
  """In float32, like the kernels."""
  a, b = a.astype(np.float32), b.astype(np.float32)
  mixed = a + np.float32(factor) * (b - a)
  return np.clip(mixed, 0, 255).astype(np.uint8)


def gray(image):
  """uint8 [H, W, 3], by an op of TensorFlow."""
  return np.repeat(tf.image.rgb_to_grayscale(image), 3, -1)


@pytest.mark.parametrize("factor", FACTORS)
def test_blend(factor):
  a, b = noise(9, 7, 1), noise(9, 7, 2)
  got = run(lambda x: augment_color.blend(x, b, factor), a)
  np.testing.assert_array_equal(got, blended(a, b, factor))


def test_blend_of_tensor_factor():
  a, b = noise(9, 7, 1), noise(9, 7, 2)
  for factor in (0.0, 0.4, 1.0, 1.9):
    got = run(lambda x, f=factor: augment_color.blend(x, b, tf.constant(f)), a)
    np.testing.assert_array_equal(got, blended(a, b, factor))


@pytest.mark.parametrize("factor", FACTORS)
def test_brightness(factor):
  image = noise(9, 7)
  got = run(lambda x: augment_color.brightness(x, factor), image)
  np.testing.assert_array_equal(
    got, blended(np.zeros_like(image), image, factor)
  )


@pytest.mark.parametrize("factor", FACTORS)
def test_color(factor):
  for size in SIZES:
    image = noise(*size)
    got = run(lambda x: augment_color.color(x, factor), image)
    np.testing.assert_array_equal(got, blended(gray(image), image, factor))


def test_grey_of_all_colors():
  levels = np.arange(0, 256, 3, np.uint8)
  colors = np.stack(np.meshgrid(levels, levels, levels), -1)
  colors = colors.reshape(-1, len(levels), 3)
  got = augment_color.color(colors, 0.0)
  np.testing.assert_array_equal(got, gray(colors))


@pytest.mark.parametrize(
  "size, level", [((24, 18), 1), ((16, 20), 1), ((224, 224), 196), ((9, 9), 0)]
)
def test_contrast(size, level):
  image = noise(*size)
  got = run(lambda x: augment_color.contrast(x, 1.9), image)
  want = blended(np.full_like(image, level), image, 1.9)
  np.testing.assert_array_equal(got, want)


def test_contrast_of_large_image():
  image = np.zeros([256, 300, 3], np.uint8)
  np.testing.assert_array_equal(augment_color.contrast(image, 0.0), image + 255)


def test_contrast_corrected():
  image = dark(24, 18)
  level = np.floor(gray(image).mean() + 0.5)
  got = run(lambda x: augment_color.contrast(x, 0.5, corrected=True), image)
  want = blended(np.full_like(image, level), image, 0.5)
  np.testing.assert_array_equal(got, want)
  # Mean brightness stays, which it does not by default.
  assert abs(got.mean() - image.mean()) < 1
  assert got.std() < 0.6 * image.std()


@pytest.mark.parametrize("factor", [0.0, 1.9])
def test_sharpness(factor):
  for size in [*SIZES, (6, 11), (2, 2), (3, 3)]:
    image = noise(*size)
    smooth = image.astype(int)
    for y in range(1, size[0] - 1):
      for x in range(1, size[1] - 1):
        around = image[y - 1 : y + 2, x - 1 : x + 2].astype(int)
        smooth[y, x] = (around.sum((0, 1)) + 4 * image[y, x].astype(int)) // 13
    got = run(lambda x: augment_color.sharpness(x, factor), image)
    np.testing.assert_array_equal(got, blended(smooth, image, factor))


def test_sharpness_of_uniform_image():
  for value in range(256):
    image = np.full([4, 5, 3], value, np.uint8)
    np.testing.assert_array_equal(augment_color.sharpness(image, 0.0), image)


def test_autocontrast():
  for image in (noise(9, 7), dark(24, 18), dark(1, 2)):
    got = run(augment_color.autocontrast, image)
    pil = PIL.ImageOps.autocontrast(PIL.Image.fromarray(image))
    # The same formula, rounded at another place.
    np.testing.assert_allclose(got, np.asarray(pil), atol=1)
    assert got.min() == 0 and got.max() >= 254


def test_constant_channels_stay():
  image = dark(40, 30)
  image[..., 1] = 77
  for fn in (augment_color.autocontrast, augment_color.equalize):
    got = run(fn, image)
    assert (got[..., 1] == 77).all()
    assert (got[..., 0] != image[..., 0]).any()


@pytest.mark.parametrize("size", [(7, 5), (41, 43), (64, 50)])
def test_equalize(size):
  for image in (noise(*size), dark(*size)):
    got = run(augment_color.equalize, image)
    pil = PIL.ImageOps.equalize(PIL.Image.fromarray(image))
    np.testing.assert_array_equal(got, np.asarray(pil))


def test_equalize_makes_equal():
  got = augment_color.equalize(dark(200, 200)).numpy()
  quarters = np.histogram(got[..., 0], [0, 64, 128, 192, 256])[0] / 200**2
  np.testing.assert_allclose(quarters, 0.25, atol=0.02)
