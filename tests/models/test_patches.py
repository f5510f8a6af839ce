"""Images of patches."""

import numpy as np

from big_vision.models import patches
from big_vision.models.proj.mae import mae


def test_unpatchify_is_the_inverse():
  image = np.arange(2 * 6 * 4 * 3).reshape(2, 6, 4, 3)
  x = mae.patchify(image, (3, 2))
  np.testing.assert_array_equal(patches.unpatchify(x, (2, 2), (3, 2)), image)


def test_unpatchify_by_hand():
  x = np.array([[[1, 2, 3, 4], [5, 6, 7, 8]]])  # Two patches of 2 x 2 pixels.
  got = patches.unpatchify(x, (1, 2), (2, 2))
  assert got[0, ..., 0].tolist() == [[1, 2, 5, 6], [3, 4, 7, 8]]
