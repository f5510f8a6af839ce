"""What the pixels of odd files are, compared with Pillow's.

Axes: H height, W width, C channels.
"""

import functools
import io
import struct
import zlib

import numpy as np
import PIL.features
import PIL.Image
import pytest

from big_vision import lookup
from big_vision.pp import builder, decoding, image_files, ops_image  # noqa: F401
from big_vision.tf import tf

pytestmark = pytest.mark.tf

H, W = 13, 17


def picture():
  """RGB of all brightnesses, uint8 [H, W, 3]."""
  y, x = np.mgrid[:H, :W]
  colors = [y * 255 // (H - 1), x * 255 // (W - 1), (x * 7 + y * 11) % 256]
  return np.stack(colors, -1).astype(np.uint8)


def with_alpha():
  alpha = np.linspace(0, 255, H * W).reshape(H, W, 1)
  return np.concatenate([picture(), alpha.astype(np.uint8)], -1)


def encode(image, fmt, **kw):
  if isinstance(image, np.ndarray):
    image = PIL.Image.fromarray(image)
  out = io.BytesIO()
  image.save(out, fmt, **kw)
  return out.getvalue()


def png(rows, width, height, bits, color_type):
  """A PNG of its raw parts."""

  def chunk(name, data):
    crc = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

  header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
  data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows), 9)
  parts = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def files():
  """Name -> content, of all kinds of files."""
  rgb, rgba = picture(), with_alpha()
  color, clear = PIL.Image.fromarray(rgb), PIL.Image.fromarray(rgba)
  gray, few = color.convert("L"), color.quantize(64)
  other = [color.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)]
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  out = {
    "jpeg": encode(rgb, "JPEG"),
    "jpeg gray": encode(gray, "JPEG"),
    "jpeg progressive": encode(rgb, "JPEG", progressive=True),
    "jpeg cmyk": encode(color.convert("CMYK"), "JPEG", quality=95),
    "jpeg exif": encode(rgb, "JPEG", exif=exif),
    "png": encode(rgb, "PNG"),
    "png alpha": encode(rgba, "PNG"),
    "png gray alpha": encode(clear.convert("LA"), "PNG"),
    "png palette": encode(few, "PNG"),
    "png palette clear": encode(few, "PNG", transparency=bytes(range(64))),
    "png palette 2": encode(color.quantize(4), "PNG", bits=2),
    "png bits": encode(gray.convert("1"), "PNG"),
    "png gray": encode(gray, "PNG"),
    "png gray clear": encode(gray, "PNG", transparency=100),
    "png exif": encode(rgb, "PNG", exif=exif),
    "png animated": encode(color, "PNG", save_all=True, append_images=other),
    "bmp": encode(rgb, "BMP"),
    "bmp palette": encode(few, "BMP"),
    "bmp gray": encode(gray, "BMP"),
    "bmp bits": encode(gray.convert("1"), "BMP"),
    "bmp 32": encode(rgba, "BMP"),
    "gif": encode(few, "GIF"),
    "gif clear": encode(few, "GIF", transparency=5),
    "gif animated": encode(color, "GIF", save_all=True, append_images=other),
    "webp": encode(rgb, "WEBP"),
    "webp lossless": encode(rgb, "WEBP", lossless=True),
    "webp alpha": encode(rgba, "WEBP", exact=True),
    "webp alpha lossless": encode(rgba, "WEBP", lossless=True, exact=True),
    "webp exif": encode(rgb, "WEBP", lossless=True, exif=exif),
    "webp animated": encode(
      color, "WEBP", lossless=True, save_all=True, append_images=other
    ),
    "tiff": encode(rgb, "TIFF"),
    "ppm": encode(rgb, "PPM"),
  }
  # Of 16 bits per color, the upper 8 count.
  deep = (rgba.astype(">u2") << 8) + 99
  for name, channels, kind in (
    ("gray", [0], 0),
    ("gray alpha", [0, 3], 4),
    ("color", [0, 1, 2], 2),
    ("alpha", [0, 1, 2, 3], 6),
  ):
    out[f"png 16 {name}"] = png(deep[..., channels], W, H, 16, kind)
  part = bytearray(out["gif"])  # The frame is smaller than the picture.
  part[6:10] = struct.pack("<HH", W + 9, H + 4)
  out["gif small frame"] = bytes(part)
  upside_down = bytearray(out["bmp"])
  upside_down[22:26] = struct.pack("<i", -H)
  out["bmp upside down"] = bytes(upside_down)
  return out


FILES = files()
# Where TensorFlow alone is wrong, for three channels; elsewhere it is right.
MENDED = {
  *("bmp palette", "bmp bits", "gif clear", "gif small frame", "webp alpha"),
  *("webp alpha lossless", "webp animated", "tiff", "ppm"),
}


def pillow(data, mode):
  """Pixels as Pillow has them, but of 16 bits the upper 8."""
  image = PIL.Image.open(io.BytesIO(data))
  if image.mode.startswith("I"):
    image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  pixels = np.asarray(image.convert(mode))
  return pixels if pixels.ndim == 3 else pixels[..., None]


@pytest.fixture(scope="module")
def ops():
  """Preprocessing string -> function of bytes that checks eager and graph."""

  @functools.cache
  def make(pp):
    fn = builder.get_preprocess_fn(pp, log_data=False)
    apply = lambda data: fn({"image": data})["image"]
    spec = tf.TensorSpec([], tf.string)
    graph = tf.function(apply, input_signature=[spec], autograph=False)

    def run(data):
      image = apply(data).numpy()
      np.testing.assert_array_equal(graph(data), image)
      return image

    return run

  return make


@pytest.mark.parametrize("name", FILES)
def test_pixels(ops, name):
  data = FILES[name]
  # JPEG decoders round differently.
  tolerance = 5 if name.startswith("jpeg") else 0
  for channels, mode in ((3, "RGB"), (1, "L"), (4, "RGBA")):
    if name == "bmp 32" and channels == 4:
      continue  # Pillow drops the fourth byte.
    got = ops(f"decode({channels})")(data)
    want = pillow(data, mode)
    assert got.dtype == np.uint8 and got.shape == want.shape
    # Both compute the brightness of colors, and round differently.
    off = max(tolerance, int(channels == 1))
    assert np.abs(got - want.astype(int)).max() <= off
    again = decoding.decode(data, channels=channels)
    np.testing.assert_array_equal(again, got)


@pytest.mark.parametrize("name", sorted(set(FILES) - MENDED))
def test_what_tensorflow_reads_right_stays_equal(ops, name):
  data = FILES[name]
  for channels in (0, 3):
    want = tf.io.decode_image(data, channels, expand_animations=False)
    np.testing.assert_array_equal(ops(f"decode({channels})")(data), want)


def test_as_many_channels_as_there_are(ops):
  for name, num in {
    "bmp palette": 3,
    "bmp bits": 1,
    "gif clear": 3,
    "webp alpha": 4,
    "png palette clear": 4,
    "tiff": 3,
  }.items():
    assert ops("decode(0)")(FILES[name]).shape == (H, W, num)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_orientation(ops, fmt, orientation):
  from PIL import ImageOps

  exif = PIL.Image.Exif()
  exif[0x0112] = orientation
  kw = dict(lossless=True) if fmt == "WEBP" else {}
  data = encode(picture(), fmt, exif=exif, **kw)
  image = PIL.Image.open(io.BytesIO(data))
  want = np.asarray(ImageOps.exif_transpose(image)).astype(int)
  got = ops("decode(exif=True)")(data)
  assert got.shape == want.shape
  assert np.abs(got - want).max() <= (5 if fmt == "JPEG" else 0)
  np.testing.assert_array_equal(decoding.decode(data, exif=True), got)
  assert ops("decode")(data).shape == (H, W, 3)


@pytest.mark.parametrize("kind", ["profile", "xmp", "AVIF"])
def test_orientation_of_other_metadata(kind):
  from PIL import PngImagePlugin

  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  info, fmt = PngImagePlugin.PngInfo(), "PNG"
  if kind == "profile":  # As ImageMagick writes it.
    text = exif.tobytes()
    info.add_text("Raw profile type exif", f"\nexif\n{len(text)}\n{text.hex()}")
    kw = dict(pnginfo=info)
  elif kind == "xmp":
    xmp = '<rdf tiff:Orientation="6"/>'
    info.add_itxt("XML:com.adobe.xmp", xmp, zip=True)
    kw = dict(pnginfo=info)
  elif PIL.features.check("avif"):
    fmt, kw = "AVIF", dict(exif=exif)
  else:
    pytest.skip("Pillow knows AVIF from 11.3 on; we allow 10.0.")
  data = encode(picture(), fmt, **kw)
  plain = decoding.decode(data)
  assert plain.shape == (H, W, 3)
  turned = decoding.decode(data, exif=True)
  np.testing.assert_array_equal(turned, np.rot90(plain, -1))


@pytest.mark.parametrize("name", FILES)
def test_background(ops, name):
  data = FILES[name]
  got = ops("decode(background=(255, 128, 0))")(data)
  image = PIL.Image.fromarray(pillow(data, "RGBA"))
  ground = PIL.Image.new("RGBA", image.size, (255, 128, 0, 255))
  want = np.asarray(PIL.Image.alpha_composite(ground, image).convert("RGB"))
  off = 5 if name.startswith("jpeg") else 1
  assert np.abs(got - want.astype(int)).max() <= off
  np.testing.assert_array_equal(
    decoding.decode(data, background=(255, 128, 0)), got
  )


def test_background_by_name(ops):
  data = encode(np.zeros([2, 3, 4], np.uint8), "PNG")
  for color, value in (("'white'", 255), ("'black'", 0), ("77", 77)):
    assert (ops(f"decode(background={color})")(data) == value).all()


@pytest.mark.parametrize(
  "args, message",
  [
    ("background='mauve'", "background='mauve'.*'white', 'black', 'gray'"),
    ("background=(1, 2)", r"background=\(1, 2\)"),
    ("background=256", "background=256"),
    ("background=0, channels=4", "3 channels"),
    ("channels=2", r"channels=2\).*1 \(gray\)"),
    ("max_pixels=0", "max_pixels=...*0.*number of pixels"),
    ("max_pixels='many'", "'many'"),
  ],
)
def test_wrong_arguments(args, message):
  with pytest.raises(lookup.ConfigError, match=message) as e:
    builder.get_preprocess_fn(f"decode({args})")
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  "name",
  ["jpeg", "png", "gif", "bmp", "bmp palette", "webp", "webp alpha", "tiff"],
)
@pytest.mark.parametrize("op", ["decode", "decode_jpeg_and_inception_crop"])
def test_limit(name, op):
  error = f"{W} x {H} = {W * H} pixels, at most {W * H - 1} can be"
  fn = builder.get_preprocess_fn(f"{op}(max_pixels={W * H - 1})", False)
  data = {"image": FILES[name]}
  with pytest.raises(tf.errors.InvalidArgumentError, match=error):
    list(tf.data.Dataset.from_tensors(data).map(fn))
  with pytest.raises(tf.errors.InvalidArgumentError, match=error):
    fn(dict(data))
  with pytest.raises(ValueError, match=error):
    decoding.decode(FILES[name], max_pixels=W * H - 1)
  builder.get_preprocess_fn(f"{op}(max_pixels={W * H})", False)(data)


def test_limit_by_the_environment(monkeypatch):
  monkeypatch.setenv("BV_MAX_IMAGE_PIXELS", str(W * H - 1))
  with pytest.raises(ValueError, match="environment variable BV_MAX_IMAGE_PIX"):
    decoding.decode(FILES["png"])
  decoding.decode(FILES["png"], max_pixels=W * H)
  monkeypatch.setenv("BV_MAX_IMAGE_PIXELS", "1e6")
  with pytest.raises(lookup.ConfigError, match="BV_MAX_IMAGE_PIXELS is '1e6'"):
    decoding.decode(FILES["png"])


@pytest.mark.parametrize("op", ["decode", "decode_jpeg_and_inception_crop(8)"])
def test_bombs(op):
  """Fail by their header: nothing of their size is made."""
  side = 20_000
  gray = png([np.zeros(4, np.uint8)], side, side, 8, 0)
  gif = FILES["gif"][:6] + struct.pack("<HH", side, side) + FILES["gif"][10:]
  webp = bytearray(FILES["webp alpha"])
  webp[24:30] = struct.pack("<I", side - 1)[:3] * 2
  fn = builder.get_preprocess_fn(op, log_data=False)
  for bomb in (gray, gif, bytes(webp)):
    ds = tf.data.Dataset.from_tensors({"image": bomb}).map(fn)
    with pytest.raises(tf.errors.InvalidArgumentError, match="400,000,000 pix"):
      list(ds)


@pytest.mark.parametrize(
  "data, message",
  [
    (b"", "not an image that can be read: it is empty"),
    (b"<!DOCTYPE html>", "not an image.*begins with <!DOCTYPE ht"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    (FILES["gif"][:9], "not an image that can be read"),
    (FILES["png"][:70], "cannot be read: .*truncated"),
    (FILES["png"][:-8], "cannot be read: the PNG is damaged"),
    (FILES["png"][:-16], "cannot be read: the PNG is damaged"),
    (FILES["jpeg"][:300], "cannot be read"),
    (FILES["webp alpha"][:60], "cannot be read"),
  ],
)
def test_what_cannot_be_read(data, message):
  with pytest.raises(ValueError, match=message) as e:
    decoding.decode(data)
  assert "\n" not in str(e.value)
  fn = builder.get_preprocess_fn("decode", log_data=False)
  with pytest.raises(tf.errors.InvalidArgumentError):
    list(tf.data.Dataset.from_tensors({"image": data}).map(fn))


def test_jpegs_of_four_colors_without_a_mark_of_adobe():
  """These are not inverted, for any number of channels."""
  data = FILES["jpeg cmyk"]
  begin = data.index(b"Adobe") - 4
  data = data[:begin] + data[begin + 16 :]
  want = tf.io.decode_jpeg(data, 3).numpy()
  np.testing.assert_array_equal(decoding.decode(data), want)
  gray = np.asarray(PIL.Image.fromarray(want).convert("L"))[..., None]
  np.testing.assert_array_equal(decoding.decode(data, channels=1), gray)


@pytest.mark.parametrize("exif", ["", "exif=True"])
@pytest.mark.parametrize("fmt", ["TIFF", "WEBP", "GIF", "PNG"])
def test_other_huge_images_become_smaller_at_once(fmt, exif, monkeypatch):
  y, x = np.mgrid[:403, :800]
  image = np.stack([y * 0.6, x * 0.3, y * 0 + 128], -1).astype(np.uint8)
  kw = dict(lossless=True) if fmt == "WEBP" else {}
  data = {"image": encode(image, fmt, **kw)}

  def run(pp):
    return builder.get_preprocess_fn(pp, False)(dict(data))["image"].numpy()

  pp = f"decode({exif})|resize(16, 'area')"
  want, whole = run(pp), run(f"decode({exif})")
  monkeypatch.setattr(decoding, "HUGE_PIXELS", 50_000)
  sizes = []
  finish = image_files.finish

  def note(*args):
    image = finish(*args)
    sizes.append(image.shape)
    return image

  monkeypatch.setattr(image_files, "finish", note)
  got = run(pp)
  if fmt != "PNG" or exif:  # TensorFlow alone reads PNGs.
    assert sizes == [(51, 100, 3)]
  # The last row is the mean of three, and counts as much as the others.
  assert np.abs(got.astype(int) - want).max() <= 4
  # Without a wish for its size, all of it is read.
  np.testing.assert_array_equal(run(f"decode({exif})"), whole)


@pytest.mark.parametrize(
  "pp", ["decode|resize(16)", "decode_jpeg_and_inception_crop(16, 99)"]
)
def test_huge_jpegs_are_decoded_at_a_fraction(pp, monkeypatch):
  """With another limit: it takes seconds to write a picture of that size."""
  y, x = np.mgrid[:400, :400]
  image = np.stack([y * 0.6, x * 0.6, y * 0 + 128], -1).astype(np.uint8)
  data = {"image": encode(image, "JPEG", quality=95)}

  def run():
    fn = builder.get_preprocess_fn(pp, log_data=False)
    return fn(dict(data))["image"].numpy()

  whole = run()
  monkeypatch.setattr(decoding, "HUGE_PIXELS", 50_000)
  sizes = []

  def note(decode, *args, **kw):
    image = decode(*args, **kw)
    sizes.append(max(image.shape))
    return image

  for name in ("decode_jpeg", "decode_and_crop_jpeg"):
    decode = functools.partial(note, getattr(tf.io, name))
    monkeypatch.setattr(tf.io, name, decode)
  got = run()
  assert len(sizes) == 1 and 16 <= sizes[0] <= 100
  assert got.shape == whole.shape
  if "inception" not in pp:  # The crop is another one.
    assert np.abs(got.astype(int) - whole).max() < 12
