"""Frames around a part of an image."""

import numpy as np
import pytest

from big_vision.pp import builder
from big_vision.pp.proj.paligemma import widgetcap
from big_vision.tf import tf

pytestmark = pytest.mark.tf

assert widgetcap  # Importing it registers its ops.


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(21, 31, 3), (1, 31, 3), (21, 1, 3)])
def test_draw_bbox(shape, dtype):
  """The frame is red, all else stays."""
  image = np.random.RandomState(0).randint(0, 250, shape).astype(dtype)
  data = {"i": image, "b": [0.25, 0.1, 0.75, 0.5]}
  fn = builder.get_preprocess_fn("draw_bbox('i', 'b')", log_data=False)
  got = fn(dict(data))["i"]
  ds = tf.data.Dataset.from_tensors(data).map(fn)
  assert ds.element_spec["i"].shape == shape
  np.testing.assert_array_equal(next(ds.as_numpy_iterator())["i"], got)
  assert got.dtype == tf.float32 and got.shape == shape
  h, w, _ = shape
  top, bottom = int(0.25 * (h - 1)), int(0.75 * (h - 1))
  left, right = int(0.1 * (w - 1)), int(0.5 * (w - 1))
  y, x = np.mgrid[:h, :w]
  inside = (y >= top) & (y <= bottom) & (x >= left) & (x <= right)
  edge = inside & ((y == top) | (y == bottom) | (x == left) | (x == right))
  want = np.where(edge[..., None], [255, 0, 0], image)
  np.testing.assert_array_equal(got, want)
