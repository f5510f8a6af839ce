"""Pillow and NumPy make the pixels that the preprocessing of training makes."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from big_vision import lookup, resizing
from big_vision.pp import decoding, fast_jpeg
from big_vision.pretrained import pixels

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def photo():
  return datasets.load_sample_images().images[0]


def encoded(image, kind, **kw):
  file = io.BytesIO()
  image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
  image.save(file, kind, **kw)
  return file.getvalue()


def differences(a, b):
  a, b = np.asarray(a), np.asarray(b)
  assert a.shape == b.shape and a.dtype == b.dtype
  return np.abs(a.astype(float) - b)


@pytest.mark.parametrize(
  "size", [(427, 640), (101, 67), (3, 3), (17, 5), (4, 2), (1, 9), (9, 1)]
)
def test_jpeg_is_that_of_tensorflow(photo, size):
  """Also where blocks are cut, and colors have half the resolution or not."""
  image = photo[100:, 200:][: size[0], : size[1]]
  for quality in (40, 95):
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
      for channels in (1, 3):
        for progressive in (False, True):
          data = encoded(
            image,
            "JPEG",
            quality=quality,
            subsampling=subsampling,
            progressive=progressive,
          )
          want = decoding.decode(data, channels=channels)
          got = fast_jpeg.read(data, channels, 10**9)
          np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
  "kind, mode",
  [
    ("PNG", "RGB"),
    ("PNG", "L"),
    ("PNG", "LA"),
    ("PNG", "RGBA"),
    ("PNG", "P"),
    ("PNG", "1"),
    ("GIF", "P"),
    ("BMP", "RGB"),
    ("WEBP", "RGB"),
    ("WEBP", "RGBA"),
    ("TIFF", "RGB"),
    ("JPEG", "L"),
  ],
)
def test_other_files(photo, kind, mode, channels):
  image = Image.fromarray(photo[:90, :110]).convert(mode)
  if "A" in mode:
    image.putalpha(Image.fromarray(photo[:90, 100:210, 0]))
  data = encoded(image, kind)
  decoder = decoding.Decoder(channels=channels)
  want = decoder.read(data)[0]
  np.testing.assert_array_equal(decoder.read_with_pillow(data), want)
  if channels == 3:
    decoder = decoding.Decoder(background="white")
    want = decoder.read(data)[0]
    np.testing.assert_array_equal(decoder.read_with_pillow(data), want)


def test_turned_jpeg_and_cmyk(photo):
  exif = Image.Exif()
  exif[0x0112] = 6
  data = encoded(photo[:60, :90], "JPEG", exif=exif)
  decoder = decoding.Decoder(exif=True)
  got = decoder.read_with_pillow(data)
  assert got.shape == (90, 60, 3)
  np.testing.assert_array_equal(got, decoder.read(data)[0])
  data = encoded(Image.fromarray(photo[:60, :90]).convert("CMYK"), "JPEG")
  decoder = decoding.Decoder()
  worst = differences(decoder.read_with_pillow(data), decoder.read(data)[0])
  assert worst.mean() < 3  # Another transform and other rounding of the inks.
  with pytest.raises(ValueError, match="more than|at most 100 can be"):
    decoding.Decoder(max_pixels=100).read_with_pillow(data)
  with pytest.raises(ValueError, match="truncated"):
    decoder.read_with_pillow(encoded(photo, "JPEG")[:9000])


@pytest.mark.parametrize("method", resizing.METHODS)
@pytest.mark.parametrize("antialias", [False, True])
def test_resize(photo, method, antialias):
  from big_vision.pp import resizing as of_tensorflow

  exact = "nearest", "area", "bilinear", "mitchellcubic"
  white = np.full([61, 83, 3], 255, np.uint8)
  for image in (photo, photo[:31, :47, :1], white):
    for size in ((224, 224), (50, 91), (image.shape[0] // 2, 20), (600, 7)):
      want = of_tensorflow.resize(image, size, method, antialias)
      got = resizing.resize(image, size, method, antialias)
      difference = differences(got, want)
      assert difference.max() <= (method not in exact)
      if image is not white:  # Elsewhere sums are rarely whole numbers.
        assert difference.mean() < 0.05
  with pytest.raises(ValueError, match="Did you mean 'bilinear'"):
    resizing.resize(photo, (2, 2), "bilinaer")


@pytest.mark.parametrize(
  "pp",
  [
    "decode|resize_small(64)|central_crop(48)|value_range(-1, 1)"
    '|onehot(1000, key="{label}", key_result="labels")|keep("image", "labels")',
    "copy('{label}', 'label')|decode|resize((40, 50))|value_range(0, 1, clip_values=True)|keep('image')",
    "decode(precise=True)|resize(64, antialias=True)|vgg_value_range",
    "decode|resize_long(70)|clip_value_range",
    "decode|resize_small(50, method='bicubic', antialias=True)|central_crop",
    "decode(channels=1)|pad_to_shape((450, 650, 1), where='both')|resize(30)"
    "|squeeze_last_dim|reshape((-1, 10))",
    "decode|copy('image', 'x')|resize(9, key='x')|copy('x', 'image')"
    "|value_range(-1, 1, (0, 1, 2), [255, 254, 253.0])",
  ],
)
def test_preprocessing(photo, pp):
  from big_vision.pp import builder, ops_general, ops_image

  assert ops_general and ops_image, "Registers the ops."
  data = encoded(photo, "JPEG")
  example = {"image": data, "{label}": 3}
  want = builder.get_preprocess_fn(pp, log_data=False)(example)["image"]
  fn = pixels.Preprocess(pp)
  assert fn.needs_tensorflow is None and "onehot" not in fn.pp
  got = fn(data)
  assert differences(got, want).max() <= 1e-6
  np.testing.assert_array_equal(fn(io.BytesIO(data).getvalue()), got)


def test_kinds_of_pictures(photo, tmp_path):
  path = tmp_path / "x.png"
  path.write_bytes(encoded(photo, "PNG"))
  fn = pixels.Preprocess("resize(32)|value_range(-1, 1)")
  assert fn.pp.startswith("decode()|")
  for picture in (path, str(path), path.read_bytes(), Image.open(path), photo):
    np.testing.assert_array_equal(fn(picture), fn(photo))
  assert fn(photo[..., 0]).shape == (32, 32, 3)
  with pytest.raises(ValueError, match="not float64"):
    fn(photo / 255)
  path.write_bytes(b"no picture")
  with pytest.raises(ValueError, match="x.png: This is not an image"):
    fn(path)
  with pytest.raises(FileNotFoundError):
    fn(tmp_path / "none.png")
  with pytest.raises(ValueError, match="smaller than the crop of 999 x 999"):
    pixels.Preprocess("central_crop(999)")(photo)


def test_other_ops_need_tensorflow(photo, monkeypatch):
  from big_vision.pp import ops_image

  assert ops_image, "Registers the ops."
  pp = "decode|resize(20)|random_affine()|value_range(-1, 1)|onehot(3)"
  fn = pixels.Preprocess(pp)
  assert fn.needs_tensorflow == "random_affine()"
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  monkeypatch.setattr("big_vision.tf._modules", {})
  with pytest.raises(lookup.ConfigError, match="'random_affine\\(\\)' needs"):
    pixels.Preprocess(pp)


def test_without_tensorflow():
  code = """
import sys
sys.modules["tensorflow"] = None
import numpy as np
from big_vision.pretrained import pixels
fn = pixels.Preprocess("decode|resize_small(9)|central_crop(8)|value_range")
assert fn(np.zeros([20, 30, 3], np.uint8)).mean() == -1
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-2000:]
