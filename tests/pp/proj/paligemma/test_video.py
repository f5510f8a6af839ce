"""Videos, and several images of one example."""

import collections

import numpy as np
import pytest
from scipy import stats

from big_vision.pp import builder, rng
from big_vision.pp.proj.paligemma import video
from big_vision.tf import tf

pytestmark = pytest.mark.tf


def run(pp, **data):
  """Result in eager mode, after a check that graphs give the same."""
  fn = builder.get_preprocess_fn(pp, log_data=False)
  eager = tf.nest.map_structure(np.asarray, fn(dict(data)))
  ds = tf.data.Dataset.from_tensors(data).map(fn)
  graph = next(ds.as_numpy_iterator())
  for key in eager:
    if eager[key].dtype.kind != "U":
      np.testing.assert_array_equal(eager[key], graph[key])
  return eager, {k: v.shape for k, v in ds.element_spec.items()}


def image(seed, h=24, w=32, c=3):
  r = np.random.RandomState(seed)
  return r.randint(0, 256, (h, w, c)).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_video_decode(channels):
  frames = [
    tf.io.encode_jpeg(image(i, 24 + i, 32, channels)).numpy() for i in range(3)
  ]
  got, shapes = run("video_decode(8)", episodic_images=np.array(frames, object))
  got = got["image"]
  assert got.dtype == np.float32 and got.shape == (3, 8, 8, channels)
  assert shapes["image"][:3] == [3, 8, 8]
  for x, frame in zip(got, frames, strict=True):
    want = tf.image.resize(tf.io.decode_jpeg(frame), (8, 8)).numpy()
    np.testing.assert_allclose(x, want / 127.5 - 1, atol=1e-6)
  assert got.min() < -0.3 and got.max() > 0.3


def test_video_ensure_shape():
  op = video.video_ensure_shape("x", (2, None))
  ds = tf.data.Dataset.from_tensors(np.zeros([2, 3]))
  ds = ds.map(lambda x: op({"x": tf.ensure_shape(x[:2], [None, 3])}))
  assert ds.element_spec["x"].shape == [2, 3]
  with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
    op({"x": tf.zeros([3, 3])})


def test_video_replicate_img():
  x = np.arange(16, dtype=np.float32).reshape(2, 2, 4, 1)
  got, shapes = run("video_replicate_img(3, 5)", image=x)
  np.testing.assert_array_equal(got["image"], x[[0, 1, 0, 1, 0]])
  assert shapes["image"] == [5, 2, 4, 1]
  got, _ = run("video_replicate_img(1, 5)", image=x)
  np.testing.assert_array_equal(got["image"], x)


def choices(values, args="", num=200):
  fn = builder.get_preprocess_fn(f"video_choice({args})", log_data=False)

  def prepare(i):
    with rng.example_seed(tf.stack([i, 5])):
      return fn({"image": values})["image"]

  ds = tf.data.Dataset.range(num).map(prepare, 2, deterministic=True)
  assert ds.element_spec.shape == []
  return list(ds.as_numpy_iterator())


def test_video_choice():
  seen = collections.Counter(choices(tf.constant([["a", "b"], ["c", "d"]])))
  assert sorted(seen) == [b"a", b"b", b"c", b"d"]
  assert stats.chisquare(list(seen.values())).pvalue > 1e-3
  ragged = tf.ragged.constant([["a"], [], ["b", "c"]])
  assert set(choices(ragged)) == {b"a", b"b", b"c"}
  assert choices(tf.constant("x"), num=1) == [b"x"]


def test_video_choice_of_nothing():
  assert choices(tf.constant([], tf.string), num=1) == [b""]
  assert choices(tf.constant([], tf.string), "'none'", 1) == [b"none"]
  (got,) = choices(tf.zeros([0, 3], tf.uint8), num=1)
  assert got == 0 and got.dtype == np.uint8
  assert choices(tf.zeros([0]), "empty_fallback=0.5", 1) == [0.5]


def test_stack_images():
  a, b = image(0), image(1)
  got, shapes = run("stack_images(('a', 'b'))", a=a, b=b)
  np.testing.assert_array_equal(got["image"], np.stack([a, b]))
  assert shapes["image"] == [2, 24, 32, 3]
  got, _ = run("stack_images(inkeys=['a'], outkey='v')", a=a)
  np.testing.assert_array_equal(got["v"], a[None])
  with pytest.raises(ValueError, match="inkeys must name the images"):
    builder.get_preprocess_fn("stack_images()")
