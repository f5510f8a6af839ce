"""Random parts of images."""

import jax
import numpy as np

from big_vision import views


def test_random_boxes():
  boxes = views.random_boxes(jax.random.key(0), (500, 4), (0.05, 0.4))
  assert boxes.shape == (500, 4, 4)
  low, high = np.asarray(boxes[..., :2]), np.asarray(boxes[..., 2:])
  assert (low >= 0).all() and (high <= 1 + 1e-6).all()
  height, width = np.moveaxis(high - low, -1, 0)
  area, ratio = height * width, width / height
  for x, limits in ((area, (0.05, 0.4)), (ratio, (3 / 4, 4 / 3))):
    np.testing.assert_allclose([x.min(), x.max()], limits, rtol=0.05)
  assert abs(area.mean() - 0.225) < 0.01
  # Every place of the image is seen.
  assert low.min() < 0.01 and high.max() > 0.99
  whole = views.random_boxes(jax.random.key(0), (50,), (1.0, 1.0))
  assert (whole[:, 2:] - whole[:, :2] <= 1).all()


def test_crop():
  # A pixel is where it is, so that a part tells what it shows.
  y, x = np.mgrid[:16, :24].astype(np.float32) + 0.5
  image = np.stack([y, x], axis=-1)[None]
  boxes = np.array([[[0, 0, 1, 1], [0.25, 0.5, 0.75, 1], [0.5, 0, 1, 0.5]]])
  got = np.asarray(jax.jit(views.crop, static_argnums=2)(image, boxes, 8))
  assert got.shape == (1, 3, 8, 8, 2)
  for part, (y0, x0, y1, x1) in zip(got[0], boxes[0], strict=True):
    at = (np.arange(8) + 0.5) / 8
    inner = slice(1, -1)  # Where the edge of the image has no influence.
    want = 16 * (y0 + at * (y1 - y0))
    np.testing.assert_allclose(part[inner, 3, 0], want[inner], atol=0.05)
    want = 24 * (x0 + at * (x1 - x0))
    np.testing.assert_allclose(part[3, inner, 1], want[inner], atol=0.05)
  same = views.crop(image[:, :, :16], np.array([[[0, 0, 1, 1.0]]]), 16)
  np.testing.assert_allclose(same[:, 0], image[:, :, :16], atol=1e-4)
