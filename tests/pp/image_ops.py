"""Images for the tests of preprocessing ops, and ways to run these.

Axes: H height, W width, C channels.
"""

import io

import numpy as np
import PIL.Image

from big_vision.pp import builder, rng
from big_vision.tf import tf


def smooth_image(h=37, w=53, seed=0):
  """A smooth image with all brightnesses, uint8 [h, w, 3]."""
  r = np.random.RandomState(seed)
  y, x = np.mgrid[:h, :w] / 10
  out = []
  for _ in range(3):
    fy, fx, phase = r.uniform(0.5, 2, 3)
    out.append(np.sin(fy * y + phase) * np.cos(fx * x - phase))
  return np.round(127.5 + 127.5 * np.stack(out, -1)).astype(np.uint8)


def coordinates(h, w):
  """Image whose channels are row and column, float32 [h, w, 3]."""
  y, x = np.mgrid[:h, :w].astype(np.float32)
  return np.stack([y, x, np.ones_like(x)], -1)


def encode(image, fmt, **kw):
  out = io.BytesIO()
  PIL.Image.fromarray(image).save(out, fmt, **kw)
  return out.getvalue()


def run(pp, image, static=None):
  """Result in eager mode, after a check that graphs give the same."""
  fn = builder.get_preprocess_fn(pp, log_data=False)
  eager = np.asarray(fn({"image": tf.constant(image)})["image"])
  ds = tf.data.Dataset.from_tensors({"image": image}).map(fn)
  graph = next(iter(ds))["image"]
  if eager.dtype == np.float32:
    np.testing.assert_allclose(eager, graph, rtol=1e-5, atol=1e-5)
  else:
    np.testing.assert_array_equal(eager, graph)
  if static:
    assert ds.element_spec["image"].shape.as_list() == static
  return eager


def draw(pp, image, num, seed=5):
  """`num` results with different seeds, in a graph with two threads."""
  fn = builder.get_preprocess_fn(pp, log_data=False)

  def prepare(i):
    with rng.example_seed(tf.stack([seed, i])):
      return fn({"image": tf.constant(image)})["image"]

  ds = tf.data.Dataset.range(num).map(prepare, 2, deterministic=True)
  return list(ds.as_numpy_iterator())
