"""Images for the tests of augmentations, and the ways kernels are run."""

import numpy as np

from big_vision.tf import tf


def noise(h, w, seed=0):
  """uint8 [h, w, 3]."""
  rng = np.random.RandomState(seed)
  return rng.randint(0, 256, (h, w, 3)).astype(np.uint8)


def dark(h, w, seed=0):
  """Of low contrast, uint8 [h, w, 3]."""
  rng = np.random.RandomState(seed)
  return rng.randint(60, 140, (h, w, 3)).astype(np.uint8)


def run(fn, image):
  """`fn(image)`, after a check that it is the same wherever it is computed.

  Args:
    fn: uint8 [H, W, 3] -> uint8 of the same shape.
    image: such an image, NumPy.

  Returns:
    The result, NumPy.
  """
  eager = fn(tf.constant(image)).numpy()
  assert eager.dtype == np.uint8
  for shape in (image.shape, (None, None, 3)):  # Known in the graph, or not.
    ds = tf.data.Dataset.from_generator(
      lambda: [image], output_signature=tf.TensorSpec(shape, tf.uint8)
    )
    ds = ds.map(fn)
    assert ds.element_spec.shape.is_compatible_with(shape)
    assert ds.element_spec.shape.is_fully_defined() or None in shape
    np.testing.assert_array_equal(next(iter(ds)), eager)
  return eager
