"""Random erasing, color jitter and 3-Augment, against NumPy, SciPy and Pillow.

Axes: H height, W width, C channels.
"""

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps
import pytest
import scipy.stats
from pp import image_ops
from pp.image_ops import run, smooth_image
from scipy import ndimage

from big_vision import lookup
from big_vision.pp import builder, ops_augment, ops_image  # noqa: F401
from big_vision.tf import tf

pytestmark = pytest.mark.tf

H, W = 24, 36


def draw(*args):
  return np.array(image_ops.draw(*args))


def boxes(images):
  """Which pixels of images of value 9 changed, without images that did not."""
  changed = (images != 9).any(axis=-1)
  return changed[changed.any(axis=(1, 2))]


def sides(box):
  rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
  assert box.sum() == len(rows) * len(columns)  # A full rectangle.
  assert np.ptp(rows) == len(rows) - 1 and np.ptp(columns) == len(columns) - 1
  return rows[0], columns[0], len(rows), len(columns)


def test_erases_boxes_as_in_the_paper():
  image = np.full((H, W, 3), 9, np.float32)
  images = draw("random_erasing(0.5)", image, 800)
  found = boxes(images)
  assert abs(len(found) / 800 - 0.5) < 0.06
  top, left, height, width = np.array([sides(b) for b in found]).T
  # The same loop in NumPy.
  r, want = np.random.default_rng(0), []
  while len(want) < 4000:
    area = r.uniform(0.02, 1 / 3) * H * W
    aspect = np.exp(r.uniform(np.log(0.3), -np.log(0.3)))
    h, w = np.round(np.sqrt([area * aspect, area / aspect]))
    if h < H and w < W:
      want.append((r.integers(0, H - h + 1), r.integers(0, W - w + 1), h, w))
  for got, column in zip(
    (top, left, height, width), np.array(want).T, strict=True
  ):
    assert scipy.stats.ks_2samp(got, column).pvalue > 1e-3
  noise = images[(images != 9).any(axis=-1)].ravel()
  assert scipy.stats.kstest(noise[:5000], "norm").pvalue > 1e-3


def test_modes():
  image = np.full((H, W, 3), 9, np.float32)
  for mode in ("rand", "const"):
    images = draw(f"random_erasing(1, mode='{mode}')", image, 20)
    for x in images:
      values = np.unique(x[(x != 9).any(axis=-1)], axis=0)
      assert len(values) == 1
      assert (values == 0).all() == (mode == "const")
  np.testing.assert_array_equal(
    run("random_erasing(0)", image, [H, W, 3]), image
  )
  # Where nothing fits, nothing is erased.
  one = np.full((1, 1, 3), 9, np.float32)
  np.testing.assert_array_equal(run("random_erasing(1)", one), one)


def test_repeats_with_the_seed():
  image = np.zeros((H, W, 3), np.float32)
  a, b = (draw("random_erasing(1)", image, 4) for _ in range(2))
  np.testing.assert_array_equal(a, b)
  assert not np.array_equal(a[0], a[1])


def test_blur_is_that_of_scipy():
  image = smooth_image()
  r = np.random.default_rng(0)
  image = np.where(r.uniform(size=image.shape) < 0.2, 255, image).astype(
    np.uint8
  )
  for sigma in (0.1, 0.7, 2.0):
    want = ndimage.gaussian_filter(
      image.astype(np.float64),
      (sigma, sigma, 0),
      mode="nearest",
      radius=(6, 6, 0),
    )
    got = ops_augment.gaussian_blur(image, sigma)
    np.testing.assert_allclose(got, want, atol=0.51)


def test_three_augment_is_one_of_three():
  image = smooth_image()
  picture = PIL.Image.fromarray(image)
  gray = np.asarray(PIL.ImageOps.grayscale(picture))[..., None]
  inverted = np.asarray(PIL.ImageOps.solarize(picture, 128))
  counts = dict.fromkeys(("gray", "inverted", "blurred"), 0)
  for x in draw("three_augment(0)", image, 150):
    if np.abs(x.astype(int) - gray).max() <= 1:
      counts["gray"] += 1
    elif np.array_equal(x, inverted):
      counts["inverted"] += 1
    else:
      wide = ndimage.gaussian_filter(
        image.astype(float), (2, 2, 0), mode="nearest"
      )
      low, high = np.minimum(image, wide), np.maximum(image, wide)
      assert ((x > low - 8) & (x < high + 8)).mean() > 0.99
      counts["blurred"] += 1
  assert min(counts.values()) > 30
  jittered = draw("three_augment", image, 2)
  assert jittered.dtype == np.uint8 and jittered.shape == (2, 37, 53, 3)


@pytest.mark.parametrize(
  "name, kernel",
  [
    ("brightness", "Brightness"),
    ("contrast", "Contrast"),
    ("saturation", "Color"),
  ],
)
def test_jitter_is_that_of_pillow(name, kernel):
  """Each result is Pillow's for some factor; these are uniform."""
  image = smooth_image(16, 16)
  enhance = getattr(PIL.ImageEnhance, kernel)(
    PIL.Image.fromarray(image)
  ).enhance
  grid = np.linspace(0.6, 1.4, 161)
  table = np.array([np.asarray(enhance(f), np.float32) for f in grid])
  found = []
  for x in draw(f"color_jitter({name}=0.4)", image, 100):
    error = np.abs(table - x).mean(axis=(1, 2, 3))
    assert error.min() < 1.0
    found.append(grid[error.argmin()])
  assert scipy.stats.kstest(found, "uniform", (0.6, 0.8)).pvalue > 1e-3


def test_order_of_jitter_is_random():
  image = np.full((1, 1, 3), [200, 100, 50], np.uint8)
  seen = draw("color_jitter(0.4, 0.4, 0.4)", image, 50)
  assert len(np.unique(seen.reshape(50, -1), axis=0)) > 45
  np.testing.assert_array_equal(run("color_jitter()", image), image)


@pytest.mark.parametrize(
  "pp, dtype, message",
  [
    (
      "random_erasing(2)",
      np.float32,
      r"probability=2 should be a number in \[0, 1\]",
    ),
    ("random_erasing(min_area=0.5)", np.float32, "min_area=0.5 should be"),
    ("random_erasing(mode='noise')", np.float32, "mode.*'noise'"),
    ("random_erasing", np.uint8, "after value_range"),
    ("color_jitter(-1)", np.uint8, "brightness=-1 should be"),
    ("three_augment", np.float32, "Put the op before value_range"),
  ],
)
def test_bad_input(pp, dtype, message):
  with pytest.raises(lookup.ConfigError, match=message) as e:
    fn = builder.get_preprocess_fn(pp, log_data=False)
    fn({"image": tf.zeros([8, 8, 3], dtype)})
  assert "\n" not in str(e.value)
