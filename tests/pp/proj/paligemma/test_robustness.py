"""Random resizing and JPEG compression."""

import collections

import numpy as np
import pytest
from scipy import stats

from big_vision.pp import builder, ops_image, rng
from big_vision.pp.proj.paligemma import robustness
from big_vision.tf import tf

pytestmark = pytest.mark.tf

assert ops_image and robustness  # Importing them registers their ops.


def image(h=18, w=23, c=3):
  y, x, i = np.mgrid[:h, :w, :c]
  wave = np.sin(0.9 * y) + np.cos(0.7 * x * (i + 1))
  return (60 * wave + 127).astype(np.uint8)


def draw(pp, x, num, threads=1):
  """`num` results with different seeds, in a graph."""
  fn = builder.get_preprocess_fn(pp, log_data=False)

  def prepare(i):
    with rng.example_seed(tf.stack([i, 5])):
      return fn({"image": tf.constant(x)})["image"]

  ds = tf.data.Dataset.range(num).map(prepare, threads, deterministic=True)
  return ds.element_spec.shape, list(ds.as_numpy_iterator())


def same(a, b):
  return [x.tobytes() for x in a] == [x.tobytes() for x in b]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_resize_r(dtype):
  x = image().astype(dtype)
  shape, got = draw("resize_r((9, 11))", x, 300)
  assert shape == [9, 11, 3] and got[0].dtype == dtype
  known = {}
  for method in ("bilinear", "bicubic", "lanczos3", "area", "mitchellcubic"):
    for antialias in (True, False):
      pp = f"resize((9, 11), {method!r}, {antialias})"
      fn = builder.get_preprocess_fn(pp, log_data=False)
      y = fn({"image": tf.constant(x)})["image"].numpy()
      known[y.tobytes()] = method, antialias
  # The method "area" is the same with and without antialias.
  assert len(known) == 9
  counts = collections.Counter(known[y.tobytes()] for y in got)
  expected = [60 if name[0] == "area" else 30 for name in known.values()]
  seen = [counts[name] for name in known.values()]
  assert stats.chisquare(seen, expected).pvalue > 1e-3
  assert same(got, draw("resize_r((9, 11))", x, 300, threads=4)[1])


def test_resize_r_to_a_square():
  assert draw("resize_r(6)", image(), 1)[0] == [6, 6, 3]


def compressed(x):
  """Result -> (method, quality)."""
  return {
    tf.io.decode_jpeg(
      tf.io.encode_jpeg(x, quality=quality), dct_method=method
    ).numpy().tobytes(): (method, quality)
    for method in ("INTEGER_ACCURATE", "INTEGER_FAST")
    for quality in range(75, 96)
  }  # fmt: skip


def test_random_jpeg():
  x = image(48, 40)
  known = compressed(x)
  shape, got = draw("random_jpeg(0.7)", x, 600)
  assert shape == x.shape
  kinds = collections.Counter()
  qualities = set()
  for y in got:
    if np.array_equal(y, x):
      kinds["none"] += 1
    else:
      method, quality = known[y.tobytes()]
      kinds[method] += 1
      qualities.add(quality)
  expected = {"none": 180, "INTEGER_FAST": 210, "INTEGER_ACCURATE": 210}
  seen = [kinds[k] for k in expected]
  assert stats.chisquare(seen, list(expected.values())).pvalue > 1e-3
  assert qualities == set(range(75, 96))
  assert same(got, draw("random_jpeg(0.7)", x, 600, threads=4)[1])


def test_random_jpeg_always_and_never():
  x = image()
  _, never = draw("random_jpeg(0)", x, 20)
  assert all(np.array_equal(y, x) for y in never)
  known = compressed(x)
  _, always = draw("random_jpeg(1.0)", x, 20)
  assert all(y.tobytes() in known for y in always)


def test_random_jpeg_of_floats_and_gray():
  x = image(c=1)
  _, got = draw("random_jpeg(1)", x, 1)
  assert got[0].shape == x.shape and np.abs(got[0].astype(int) - x).max() < 60
  x = image().astype(np.float32) / 255
  _, got = draw("random_jpeg(1)", x, 1)
  assert got[0].dtype == np.float32 and 0 < np.abs(got[0] - x).max() < 0.5


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_probabilities_that_are_none(p):
  with pytest.raises(ValueError, match="random_jpeg: p=.* a probability"):
    builder.get_preprocess_fn(f"random_jpeg({p})")
