"""Axes: H height, W width, C channels."""

import numpy as np
import pytest
from pp.image_ops import coordinates, draw, encode, run, smooth_image
from scipy import stats

from big_vision.pp import builder, ops_crop, ops_image, rng
from big_vision.tf import tf

pytestmark = pytest.mark.tf


@pytest.mark.parametrize(
  "args, top, left, h, w",
  [
    ("20", 8, 16, 20, 20),
    ("(10, 17)", 13, 18, 10, 17),
    ("[37, 52]", 0, 0, 37, 52),
    ("", 0, 8, 37, 37),
  ],
)
def test_central_crop(args, top, left, h, w):
  image = smooth_image()
  static = [h, w, 3] if args else [None, None, 3]
  got = run(f"decode|central_crop({args})", encode(image, "PNG"), static)
  np.testing.assert_array_equal(got, image[top : top + h, left : left + w])


@pytest.mark.parametrize("pp", ["central_crop(38)", "random_crop((5, 54))"])
def test_crops_larger_than_the_image(pp):
  with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
    run(pp, smooth_image())
  error = "image of 53 x 37 pixels is smaller than the crop of .*resize_small"
  fn = builder.get_preprocess_fn(f"decode|{pp}", log_data=False)
  data = {"image": encode(smooth_image(), "PNG")}
  with pytest.raises(tf.errors.InvalidArgumentError, match=error):
    fn(dict(data))
  with pytest.raises(tf.errors.InvalidArgumentError, match=error):
    list(tf.data.Dataset.from_tensors(data).map(fn))


def test_random_crop():
  image = coordinates(6, 9)
  got = draw("random_crop((4, 7))", image, 900)
  corners = [tuple(x[0, 0, :2].astype(int)) for x in got]
  for crop, (y, x) in zip(got[:20], corners, strict=False):
    np.testing.assert_array_equal(crop, image[y : y + 4, x : x + 7])
  counts = np.zeros([3, 3])
  np.add.at(counts, tuple(np.transpose(corners)), 1)
  assert counts.sum() == 900 and stats.chisquare(counts.ravel())[1] > 1e-3
  png = encode(image.astype(np.uint8), "PNG")
  fn = builder.get_preprocess_fn("decode|random_crop(5)", log_data=False)
  ds = tf.data.Dataset.from_tensors({"image": png}).map(fn)
  assert ds.element_spec["image"].shape == [5, 5, 3]


def crop_facts(crops, h, w):
  """Area (share of the image), aspect ratio, and position in [0, 1]."""
  size = np.array([c.shape[:2] for c in crops])
  corner = np.array([c[0, 0, :2] for c in crops])
  area = size.prod(1) / (h * w)
  free = np.array([h, w]) - size
  return area, size[:, 1] / size[:, 0], corner / np.maximum(free, 1), free


def test_inception_crop_statistics():
  h, w = 100, 140
  image = coordinates(h, w)
  crops = draw("inception_crop(area_min=10, area_max=40)", image, 800)
  for crop in crops[:20]:
    y, x = crop[0, 0, :2].astype(int)
    window = image[y : y + crop.shape[0], x : x + crop.shape[1]]
    np.testing.assert_array_equal(crop, window)
  area, ratio, position, _ = crop_facts(crops, h, w)
  # Sides are rounded to pixels.
  assert 0.095 < area.min() < 0.13 and 0.37 < area.max() < 0.405
  assert 0.72 < ratio.min() < 0.78 and 1.28 < ratio.max() < 1.38
  # Within these limits, nothing keeps the ratio from being uniform.
  assert stats.kstest(ratio, stats.uniform(0.75, 0.58).cdf).pvalue > 1e-3
  for p in position.T:
    assert stats.kstest(p, "uniform").pvalue > 1e-4


def test_inception_crop_resizes():
  image = smooth_image()
  seed = [1, 2]
  with rng.example_seed(seed):
    crop = ops_crop.get_inception_crop()({"image": image})
  with rng.example_seed(seed):
    got = ops_crop.get_inception_crop((8, 9))({"image": image})["image"]
  want = ops_image.get_resize((8, 9))(crop)["image"]
  np.testing.assert_array_equal(got, want)
  assert got.dtype == np.uint8
  for pp, static in (
    ("decode|inception_crop", [None, None, 3]),
    ("decode|inception_crop(8)", [8, 8, 3]),
  ):
    fn = builder.get_preprocess_fn(pp, log_data=False)
    png = encode(image, "PNG")
    ds = tf.data.Dataset.from_tensors({"image": png}).map(fn)
    assert ds.element_spec["image"].shape.as_list() == static


def test_crop_that_does_not_exist_gives_the_whole_image():
  image = coordinates(10, 100)  # Too wide for 90% with a ratio up to 1.33.
  for crop in draw("inception_crop(area_min=90)", image, 5):
    np.testing.assert_array_equal(crop, image)


def test_jpeg_crop():
  """Decoding a part gives that part of the decoded image."""
  y, x = np.mgrid[:96, :128]
  image = np.stack([y * 2, x * 2, np.full_like(x, 128)], -1).astype(np.uint8)
  jpeg = encode(image, "JPEG", quality=95)
  whole = run("decode", jpeg)
  args = dict(area_min=30, area_max=60, ratio_min=0.5, ratio_max=2.0)
  op = ops_crop.get_decode_jpeg_and_inception_crop(**args)
  ratios = []
  for i in range(40):
    with rng.example_seed([0, i]):
      crop = op({"image": tf.constant(jpeg)})["image"].numpy().astype(int)
    h, w = crop.shape[:2]
    assert 0.29 < h * w / (96 * 128) < 0.61
    ratios.append(w / h)
    # Brightness is twice the position; its mean tells where the middle is.
    middle = crop.mean((0, 1))[:2] / 2
    corner = np.round(middle - [(h - 1) / 2, (w - 1) / 2])
    top, left = np.clip(corner, 0, [96 - h, 128 - w]).astype(int)
    window = whole[top : top + h, left : left + w]
    assert np.abs(window - crop).max() <= 4
  assert 0.48 < min(ratios) < 0.75 and 1.33 < max(ratios) < 2.05


@pytest.mark.parametrize("ratio", [1, 2, 4, 8])
def test_reduced_decoding_shows_the_same_part(ratio):
  # Odd sizes: the last row and column of pixels stand for less.
  y, x = np.mgrid[:101, :203]
  image = np.stack([y, x, np.full_like(x, 128)], -1).astype(np.uint8)
  jpeg = encode(image, "JPEG", quality=95, subsampling=0)
  for window in ([0, 0, 101, 203], [16, 40, 64, 128], [33, 71, 67, 130]):
    got = ops_crop._decode_window(jpeg, tf.constant(window), ratio).numpy()
    top, left, h, w = window
    part = image[top : top + h, left : left + w]
    assert np.abs(np.array(got.shape[:2]) * ratio - [h, w]).max() <= ratio
    want = tf.image.resize(part, got.shape[:2], "area").numpy()
    # Pixels are whole numbers of pixels of the image: half of one is lost.
    assert np.abs(got - want).mean() < 1 + ratio / 4
  # A window of less than a pixel is a pixel, also at the edge.
  tiny = ops_crop._decode_window(jpeg, tf.constant([100, 202, 1, 1]), ratio)
  assert tiny.shape == (1, 1, 3)


def test_reduced_decoding():
  y, x = np.mgrid[:300, :400]
  image = np.stack([y * 0.8, x * 0.6, x * 0 + 128], -1).astype(np.uint8)
  jpeg = encode(image, "JPEG", quality=95)
  crop = "decode_jpeg_and_inception_crop({}, dct_scale={})"
  fn = builder.get_preprocess_fn(crop.format(20, True), log_data=False)
  ds = tf.data.Dataset.from_tensors({"image": jpeg}).map(fn)
  assert ds.element_spec["image"].shape.as_list() == [20, 20, 3]

  images = {}
  for size in (20, 290):
    for scale in (True, False):
      images[size, scale] = draw(crop.format(size, scale), jpeg, 20)
  # Where a crop is smaller than twice the size, nothing changes.
  np.testing.assert_array_equal(images[290, True], images[290, False])
  a, b = (np.array(images[20, s], float) for s in (True, False))
  assert 0 < np.abs(a - b).mean() < 8


def test_jpeg_crop_shapes_and_errors():
  jpeg = encode(smooth_image(), "JPEG")
  for args, static in (("", [None, None, 3]), ("(6, 7)", [6, 7, 3])):
    pp = f"decode_jpeg_and_inception_crop({args})"
    fn = builder.get_preprocess_fn(pp, log_data=False)
    ds = tf.data.Dataset.from_tensors({"image": jpeg}).map(fn)
    assert ds.element_spec["image"].shape.as_list() == static
    assert next(iter(ds))["image"].dtype == tf.uint8
  op = ops_crop.get_decode_jpeg_and_inception_crop()
  for data in (b"", jpeg[:50], encode(smooth_image(), "PNG")[:50]):
    with pytest.raises(tf.errors.InvalidArgumentError):
      op({"image": tf.constant(data)})


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "WEBP"])
def test_crop_of_other_formats_than_jpeg(fmt):
  """The same box as that of a JPEG of the same size."""
  image = coordinates(60, 90).astype(np.uint8)
  data = encode(image, fmt, **(dict(lossless=True) if fmt == "WEBP" else {}))
  jpeg = encode(image, "JPEG")
  crop = "decode_jpeg_and_inception_crop"
  for got, part in zip(draw(crop, data, 10), draw(crop, jpeg, 10), strict=True):
    assert got.shape == part.shape
    top, left = got[0, 0, :2]
    window = image[top : top + got.shape[0], left : left + got.shape[1]]
    np.testing.assert_array_equal(got, window)
    assert np.abs(got - part.astype(int)).mean() < 6
  resized = draw(f"{crop}|resize(8)", data, 5)
  for got, want in zip(draw(f"{crop}(8)", data, 5), resized, strict=True):
    np.testing.assert_array_equal(got, want)
