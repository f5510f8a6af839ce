"""Images stored as plain pixels: the pixels are those that were stored."""

import numpy as np
import pytest

from big_vision.pp import decoding, ops_crop, ops_image, raw_images, rng
from big_vision.tf import tf

pytestmark = pytest.mark.tf

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
RAW = raw_images.encode(IMAGE)


def png():
  return tf.io.encode_png(IMAGE).numpy()


def in_graph(fn, data):
  """What a function of a string gives in a pipeline."""
  ds = tf.data.Dataset.from_tensors(tf.constant(data)).map(fn)
  return ds.get_single_element().numpy()


def test_layout():
  assert RAW[:8] == b"\x89BVPIX\r\n" and len(RAW) == 64 + 40 * 50 * 3
  assert list(RAW[8:20]) == [0, 0, 0, 40, 0, 0, 0, 50, 0, 0, 0, 3]
  assert RAW[64:] == IMAGE.tobytes()
  assert raw_images.encode_tensor(tf.constant(IMAGE)).numpy() == RAW


@pytest.mark.parametrize(
  "kw", [{}, {"channels": 0}, {"exif": True}, {"background": "white"}]
)
def test_decoded_to_the_stored_pixels(kw):
  op = ops_image.get_decode(key="x", **kw)
  got = in_graph(lambda x: op({"x": x})["x"], RAW)
  np.testing.assert_array_equal(got, IMAGE)
  decoder = decoding.Decoder(**kw)
  np.testing.assert_array_equal(decoder.read(RAW)[0], IMAGE)
  np.testing.assert_array_equal(decoder.read_with_pillow(RAW), IMAGE)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_those_of_pillow(channels):
  from PIL import Image

  mode = {1: "L", 4: "RGBA"}[channels]
  want = np.asarray(Image.fromarray(IMAGE).convert(mode)).reshape(40, 50, -1)
  got = in_graph(decoding.Decoder(channels=channels), RAW)
  np.testing.assert_allclose(got.astype(int), want.astype(int), atol=1)
  assert got.shape == (40, 50, channels)


def test_decoding_calls_no_python(monkeypatch):
  def fail(*_, **__):
    raise ValueError("called Python")

  monkeypatch.setattr(decoding.Decoder, "read", fail)
  op = ops_crop.get_decode_jpeg_and_inception_crop(8, key="x")
  assert in_graph(lambda x: op({"x": x})["x"], RAW).shape == (8, 8, 3)
  assert in_graph(decoding.Decoder(), RAW).shape == (40, 50, 3)
  with pytest.raises(tf.errors.InvalidArgumentError, match="called Python"):
    in_graph(lambda x: op({"x": x})["x"], png())


@pytest.mark.parametrize("size", [None, 16])
def test_crop_is_that_of_the_same_image_in_another_format(size):
  op = ops_crop.get_decode_jpeg_and_inception_crop(size, key="x")

  def crop(data):
    with rng.example_seed([1, 2]), rng.op_scope(0):
      return op({"x": data})["x"]

  raw, other = in_graph(crop, RAW), in_graph(crop, png())
  np.testing.assert_array_equal(raw, other)
  assert raw.size < IMAGE.size


@pytest.mark.parametrize(
  "data", [RAW[:-1], RAW + b"x", RAW[:10], RAW[:8] + bytes(100)]
)
def test_damaged_files_are_errors(data):
  for fn in (decoding.Decoder().read, decoding.Decoder().read_with_pillow):
    with pytest.raises(ValueError, match="cut off"):
      fn(data)
  op = ops_crop.get_decode_jpeg_and_inception_crop(8, key="x")
  for fn in (decoding.Decoder(), lambda x: op({"x": x})["x"]):
    with pytest.raises(tf.errors.InvalidArgumentError, match="cut off"):
      in_graph(fn, data)


def test_too_many_pixels_are_an_error():
  decoder = decoding.Decoder(max_pixels=1999)
  op = ops_crop.get_decode_jpeg_and_inception_crop(8, max_pixels=1999, key="x")
  for fn in (decoder, lambda x: op({"x": x})["x"]):
    with pytest.raises(tf.errors.InvalidArgumentError, match="50 x 40 = 2,000"):
      in_graph(fn, RAW)
