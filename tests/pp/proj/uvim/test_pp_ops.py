"""Axes: H height, W width, C channels, N objects."""

import collections

import numpy as np
import pytest
from scipy import stats

from big_vision.pp import builder, ops_image, rng  # noqa: F401  (Registers decode.)
from big_vision.pp.proj.uvim import pp_ops
from big_vision.tf import tf

pytestmark = pytest.mark.tf


def run(pp, data, seed=0):
  """Result in eager mode, after a check that graphs give the same."""
  fn = builder.get_preprocess_fn(pp, log_data=False)

  def seeded(data):
    with rng.example_seed([seed, 1]):
      return fn(dict(data))

  eager = tf.nest.map_structure(np.asarray, seeded(data))
  graph = tf.data.Dataset.from_tensors(data).map(seeded)
  tf.nest.map_structure(np.testing.assert_array_equal, eager, next(iter(graph)))
  return eager


def draw(pp, labels, num=300, threads=1):
  """`num` results with different seeds, in a graph."""
  fn = builder.get_preprocess_fn(pp, log_data=False)

  def prepare(i):
    with rng.example_seed(tf.stack([i, 5])):
      return fn({"labels": tf.constant(labels)})["labels"]

  ds = tf.data.Dataset.range(num).map(prepare, threads, deterministic=True)
  return list(ds.as_numpy_iterator())


def fails(pp, data, match, error=ValueError):
  """In eager mode and in a graph."""
  fn = builder.get_preprocess_fn(pp, log_data=False)
  with pytest.raises(error, match=match):
    fn(dict(data))
  with pytest.raises(error, match=match):
    list(tf.data.Dataset.from_tensors(data).map(fn))


def image(h=12, w=17, c=3, dtype=np.uint8, seed=0):
  return np.random.RandomState(seed).randint(0, 100, (h, w, c)).astype(dtype)


def test_golden_values():
  """Of the first implementation."""
  labels = [[[0, 3], [5, 3]], [[5, 3], [-1, 8]], [[8, 0], [0, 5]]]
  labels = np.array(labels, np.int32)
  want = [[[0, 1], [5, 1]], [[5, 1], [-1, 2]], [[8, 0], [0, 3]]]
  for axis in "yx":
    op = pp_ops.get_make_canonical(main_sort_axis=axis)
    assert op({"labels": labels})["labels"].numpy().tolist() == want
  for name, want in (
    ("abc", 6082792511551865374),
    ("train__3", 3300203600046693894),
  ):
    got = run("strong_hash", {"tfds_id": name})["tfds_id"]
    assert got == want and got.dtype == np.int64


def canonical_by_hand(ids, axis):
  """One instance after the other."""
  places = []
  for i in set(ids.flat):
    if i > 0:
      y, x = (at.mean() for at in np.nonzero(ids == i))
      h, w = ids.shape
      places.append((x + h * y if axis == "y" else y + w * x, i))
  new = np.where(ids < 0, -1, 0)
  for n, (_, i) in enumerate(sorted(places)):
    new[ids == i] = n + 1
  return new


@pytest.mark.parametrize("axis", ["y", "x"])
def test_make_canonical(axis):
  r = np.random.RandomState(0)
  for h, w, num in ((1, 1, 1), (9, 14, 5), (30, 21, 40), (8, 8, 0)):
    values = r.randint(1, 2**31 - 1, num).tolist() + [0, -1, -(2**31)]
    labels = r.choice(values, (h, w, 2)).astype(np.int32)
    labels[0, 0, 1] = 2**31 - 1
    got = run(f"make_canonical(main_sort_axis={axis!r})", {"labels": labels})
    got = got["labels"]
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got[..., 0], labels[..., 0])
    want = canonical_by_hand(labels[..., 1], axis)
    np.testing.assert_array_equal(got[..., 1], want)
  # What is canonical stays.
  again = run(f"make_canonical(main_sort_axis={axis!r})", {"labels": got})
  np.testing.assert_array_equal(again["labels"], got)


def test_canonical_order_of_one_column():
  """Instances side by side are sorted by the minor axis."""
  ids = np.array([[9, 9, 4, 4, 7, 7]], np.int32)[..., None]
  got = run("make_canonical", {"labels": ids})["labels"][..., 0]
  assert got.tolist() == [[1, 1, 2, 2, 3, 3]]
  got = run("make_canonical", {"labels": ids[:, ::-1]})["labels"][..., 0]
  assert got.tolist() == [[1, 1, 2, 2, 3, 3]]


def test_random_canonical_order():
  ids = np.array([[-7, 0, 50, 20, 30, 20]], np.int32)[..., None]
  draws = [tuple(x.flat) for x in draw("make_canonical(random=True)", ids)]
  for numbers in draws:
    assert numbers[:2] == (-1, 0) and numbers[3] == numbers[5]
    assert sorted(numbers[2:5]) == [1, 2, 3]
  counts = collections.Counter(draws)
  assert len(counts) == 6
  assert stats.chisquare(list(counts.values())).pvalue > 1e-3
  again = draw("make_canonical(random=True)", ids, threads=3)
  assert [tuple(x.flat) for x in again] == draws


def test_coco_panoptic():
  r = np.random.RandomState(0)
  ids = np.concatenate([r.choice(2**24, 30, replace=False), [2**24 - 1]])
  labels = r.randint(0, 133, 31)
  # A third of the pixels belongs to no object.
  which = r.randint(-15, 31, (20, 23))
  free = (set(range(100)) - set(ids)).pop()
  colors = np.where(which < 0, free, ids[which])
  colors = np.stack([colors >> (8 * i) & 255 for i in range(3)], -1)
  data = {
    "panoptic_image": colors.astype(np.uint8),
    "panoptic_objects": {"id": ids, "label": labels},
  }
  got = run("coco_panoptic", data)
  assert got["instances"].dtype == got["semantics"].dtype == np.int32
  want = np.where(which < 0, 0, which + 1)[..., None]
  np.testing.assert_array_equal(got["instances"], want)
  want = np.where(which < 0, 0, labels[which] + 1)[..., None]
  np.testing.assert_array_equal(got["semantics"], want)

  none = {k: v[:0] for k, v in data["panoptic_objects"].items()}
  got = run("coco_panoptic", data | {"panoptic_objects": none})
  assert not got["instances"].any() and not got["semantics"].any()
  op = pp_ops.get_coco_panoptic_pp()
  ds = tf.data.Dataset.from_tensors(data).map(op)
  assert ds.element_spec["semantics"].shape == [20, 23, 1]


def test_crops_of_nyu_depth():
  y, x = np.mgrid[:480, :640].astype(np.float16)
  data = {"image": image(480, 640), "depth": y + x / 1024}
  got = run("nyu_depth|nyu_eval_crop", data)
  assert got["labels"].dtype == np.float32
  assert got["labels"].shape == (426, 560, 1)
  depth = (y + x / 1024).astype(np.float32)[54:480, 41:601, None]
  np.testing.assert_array_equal(got["labels"], depth)
  np.testing.assert_array_equal(got["image"], data["image"][54:480, 41:601])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int32])
def test_flips_keep_image_and_labels_together(dtype):
  data = {"image": image(dtype=dtype), "labels": image(12, 17, 2, np.int32)}
  pp = "randu('r')|" + "|".join(
    f"det_fliplr(key={key!r}, randkey='r')" for key in data
  )
  flipped = []
  for seed in range(10):
    got = run(pp, data, seed)
    flipped.append(got["r"] > 0.5)
    for key, x in data.items():
      want = x[:, ::-1] if flipped[-1] else x
      np.testing.assert_array_equal(got[key], want)
      assert got[key].dtype == x.dtype
  assert 0 < sum(flipped) < 10


def test_boxes_select_the_same_pixels_of_any_size():
  """A sampled box has whole pixels, which rounding must not lose."""
  op = pp_ops.get_inception_box(area=(0.01, 0.6))

  @tf.function
  def sample(i, shape):
    with rng.example_seed(tf.stack([i, 3])):
      (by, bx), (h, w) = map(tf.unstack, op({"image": tf.zeros(shape)})["box"])
    return tf.stack([by, bx, h, w])

  for shape in ((37, 53, 3), (480, 640, 1)):
    extent = np.float32([*shape[:2], *shape[:2]])
    boxes = np.stack([sample(i, tf.constant(shape)) for i in range(100)])
    pixels = boxes * extent
    assert (np.abs(pixels - np.round(pixels)) < 1e-3).all()
    np.testing.assert_array_equal(np.floor(pixels), np.round(pixels))
    assert (boxes[:, :2] + boxes[:, 2:] < 1 + 1e-6).all()
    area = boxes[:, 2] * boxes[:, 3]
    assert 0.008 < area.min() < 0.05 and 0.5 < area.max() < 0.61

  data = {"image": image(40, 60), "labels": image(20, 30, 1, np.int32)}
  pp = "inception_box|crop_box(key='image')|crop_box(key='labels')"
  for seed in range(5):
    got = run(pp, data, seed)
    begin, size = (np.asarray(x) for x in got["box"])
    for key, (h, w) in (("image", (40, 60)), ("labels", (20, 30))):
      y, x = (begin * np.float32([h, w])).astype(int)
      dy, dx = (size * np.float32([h, w])).astype(int)
      want = data[key][y : y + dy, x : x + dx]
      np.testing.assert_array_equal(got[key], want)


def test_boxes_cover_an_object():
  bbox = np.float32([[0.1, 0.2, 0.4, 0.5]])
  data = {"image": image(100, 100), "objects": {"bbox": bbox}}

  def cover(pp, seed):
    (top, left), (h, w) = run(pp, data, seed)["box"]
    inside = max(min(top + h, 0.4) - max(top, 0.1), 0)
    inside *= max(min(left + w, 0.5) - max(left, 0.2), 0)
    return inside / 0.09

  free = [cover("inception_box", i) for i in range(20)]
  kept = [cover("inception_box(min_obj_cover=0.9)", i) for i in range(20)]
  assert min(free) < 0.5 and min(kept) > 0.89
  data["objects"]["bbox"] = np.zeros([0, 4], np.float32)
  assert run("inception_box(min_obj_cover=0.9)", data)["box"][1].shape == (2,)


def test_whole_box():
  data = {
    "image": image(33, 47),
    "b": (np.zeros(2, np.float32), np.ones(2, np.float32)),
  }
  got = run("crop_box(boxkey='b')", data)
  np.testing.assert_array_equal(got["image"], data["image"])


def test_grayscale():
  for dtype, tolerance in ((np.uint8, 1), (np.float32, 1e-4)):
    x = image(dtype=dtype)
    got = run("rgb_to_grayscale_to_rgb", {"image": x})["image"]
    assert got.dtype == dtype and got.shape == x.shape
    want = x @ [0.2989, 0.587, 0.114]
    for channel in range(3):
      np.testing.assert_allclose(got[..., channel], want, atol=tolerance)


def test_random_numbers_do_not_depend_on_threads():
  fn = builder.get_preprocess_fn("randu('a')|randu('b')", log_data=False)

  def draw(i):
    with rng.example_seed(tf.stack([i, 2])):
      out = fn({})
    return tf.stack([out["a"], out["b"]])

  ds = tf.data.Dataset.range(500)
  first, second = (
    np.stack(list(ds.map(draw, n, deterministic=True).as_numpy_iterator()))
    for n in (1, 4)
  )
  np.testing.assert_array_equal(first, second)
  assert first.dtype == np.float32
  assert 0 <= first.min() and first.max() < 1
  # The mean of 500 numbers has a standard deviation of 0.013.
  assert (np.abs(first.mean(0) - 0.5) < 0.06).all()
  assert abs(np.corrcoef(first.T)[0, 1]) < 0.2


def test_errors():
  rgb = image()
  i32 = image(c=1, dtype=np.int32)
  fails(
    "make_canonical", {"labels": i32.astype(np.int64)}, "must be int32, not"
  )
  fails("make_canonical", {"labels": i32[..., 0]}, "make_canonical: .*shape")
  with pytest.raises(
    ValueError, match="axis of make_canonical 'z'. Known: x, y"
  ):
    builder.get_preprocess_fn("make_canonical(main_sort_axis='z')")
  for args in ("area=(0.5, 0.1)", "area=(0, 1)", "area=(0.1, 1.5)"):
    with pytest.raises(ValueError, match="inception_box: area.*two numbers in"):
      builder.get_preprocess_fn(f"inception_box({args})")
  with pytest.raises(ValueError, match="inception_box: aspect"):
    builder.get_preprocess_fn("inception_box(aspect=(1, 0.5))")
  fails("crop_box", {"image": rgb}, "crop_box: no entry 'box'.*inception_box")
  fails("det_fliplr", {"image": rgb}, r"no entry 'fliplr'.*randu\('fliplr'\)")
  fails(
    "inception_box(inkey='x')", {"image": rgb}, "inception_box: no entry 'x'"
  )
  pp = "inception_box(min_obj_cover=0.5)"
  fails(pp, {"image": rgb}, "inception_box: no entry 'objects'")
  fails("det_fliplr", {"image": b"JPEG", "fliplr": 0.0}, "det_fliplr.*decode")
  fails("rgb_to_grayscale_to_rgb", {"image": i32}, "gray.*height, width, 3")
  fails("coco_panoptic", {"image": rgb}, "no entry 'panoptic_image'.*coco/2017")
  data = {"panoptic_image": rgb, "panoptic_objects": {"label": np.arange(3)}}
  fails("coco_panoptic", data, "coco_panoptic: no entry 'id'")
  fails("nyu_depth", {"depth": rgb}, "nyu_depth: depth must have the shape")
  fails("strong_hash", {"tfds_id": 3}, "strong_hash needs a string, not int32")


def test_sizes_of_nyu_eval_crop():
  small = {"image": image(48, 64), "labels": np.zeros([48, 64, 1], np.float32)}
  error = (ValueError, tf.errors.InvalidArgumentError)
  fails("nyu_eval_crop", small, "nyu_eval_crop: labels has 64 x 48", error)
  fails("nyu_eval_crop", {"image": image(480, 640)}, "no entry 'labels'")
  # When sizes are only known in the graph.
  png = tf.io.encode_png(image(24, 32)).numpy()
  depth = np.zeros([480, 640, 1], np.float32)
  pp = "decode|nyu_eval_crop"
  fails(pp, {"image": png, "labels": depth}, "image has 32 x 24", error)
