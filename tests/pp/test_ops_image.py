"""Axes: H height, W width, C channels."""

import io

import numpy as np
import PIL.Image
import pytest
from pp.image_ops import draw, encode, run, smooth_image
from scipy import ndimage

from big_vision.pp import builder, ops_image, rng
from big_vision.tf import tf

pytestmark = pytest.mark.tf


@pytest.mark.parametrize("fmt", ["PNG", "BMP"])
def test_decode(fmt):
  image = smooth_image()
  got = run("decode", encode(image, fmt), [None, None, 3])
  np.testing.assert_array_equal(got, image)
  assert got.dtype == np.uint8


def test_decode_channels():
  image = smooth_image()[..., 0]
  png = encode(image, "PNG")
  np.testing.assert_array_equal(run("decode(1)", png)[..., 0], image)
  got = run("decode(channels=0)", png, [None, None, None])
  np.testing.assert_array_equal(got, image[..., None])
  rgb = np.repeat(image[..., None], 3, -1)
  np.testing.assert_array_equal(run("decode", png), rgb)
  got = run("decode(precise=True)", png, [None, None, 3])
  np.testing.assert_array_equal(got, rgb)


def test_decode_gif_takes_the_first_frame():
  image = smooth_image()[..., 0]
  frames = [PIL.Image.fromarray(x) for x in (image, 255 - image)]
  out = io.BytesIO()
  frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
  np.testing.assert_array_equal(run("decode", out.getvalue())[..., 0], image)


def test_decode_jpeg():
  jpeg = encode(smooth_image(), "JPEG", quality=90)
  want = np.asarray(PIL.Image.open(io.BytesIO(jpeg))).astype(int)
  for pp in ("decode", "decode(precise=True)"):
    got = run(pp, jpeg, [None, None, 3])
    assert np.abs(got - want).max() <= 3  # Decoders round differently.


def bilinear(image, h, w):
  """Linear interpolation between pixel centers, without smoothing."""

  def taps(old, new):
    x = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(np.floor(x).astype(int), old - 1)
    return low, np.minimum(low + 1, old - 1), x - low

  y0, y1, fy = taps(image.shape[0], h)
  x0, x1, fx = taps(image.shape[1], w)
  image = image.astype(np.float64)
  rows = image[y0] + (image[y1] - image[y0]) * fy[:, None, None]
  return rows[:, x0] + (rows[:, x1] - rows[:, x0]) * fx[:, None]


@pytest.mark.parametrize(
  "size, hw", [("16", (16, 16)), ("(12, 80)", (12, 80)), ("[60, 9]", (60, 9))]
)
def test_resize_bilinear(size, hw):
  image = smooth_image()
  pp = f"decode|resize({size})"
  got = run(pp, encode(image, "PNG"), [*hw, 3])
  want = bilinear(image, *hw)
  assert got.dtype == np.uint8
  # Truncated, not rounded.
  off = np.abs(got - np.floor(want + 1e-4)) > 0
  assert off.mean() < 0.005 and np.abs(got - want).max() < 1.01
  floats = run(f"resize({size})", image.astype(np.float32))
  assert floats.dtype == np.float32
  np.testing.assert_allclose(floats, want, atol=1e-3)


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "lanczos3"])
def test_resize_antialias_like_pil(method):
  image = smooth_image()
  pil = {"bilinear": "BILINEAR", "bicubic": "BICUBIC", "lanczos3": "LANCZOS"}
  want = PIL.Image.fromarray(image).resize(
    (17, 13), getattr(PIL.Image, pil[method])
  )
  got = run(f"resize((13, 17), {method!r}, antialias=True)", image)
  assert np.abs(got.astype(int) - np.asarray(want)).max() <= 2


def test_resize_clips_overshoot():
  image = np.zeros([8, 8, 3], np.uint8)
  image[:, 4:] = 255
  got = run("resize((8, 64), 'bicubic')", image)
  assert got[:, :20].max() <= 8 and got[:, 44:].min() >= 247
  # Wrapping around would make bright pixels dark next to the edge.
  assert np.all(np.diff(got[0, 16:48, 0].astype(int)) >= -12)


def test_resize_area_and_nearest():
  image = smooth_image(36, 52)
  got = run("resize((9, 13), 'area')", image)
  want = image.reshape(9, 4, 13, 4, 3).mean((1, 3))
  np.testing.assert_array_equal(got, np.floor(want))
  got = run("resize((18, 26), 'nearest')", image)
  np.testing.assert_array_equal(got, image[1::2, 1::2])


@pytest.mark.parametrize(
  "dtype", [np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64]
)
def test_resize_keeps_the_dtype_of_numpy_arrays(dtype):
  image = smooth_image().astype(dtype)
  got = ops_image.get_resize(16)({"image": image})["image"]
  assert got.dtype == dtype
  assert np.abs(np.asarray(got) - bilinear(image, 16, 16)).max() < 1.01


@pytest.mark.parametrize(
  "make",
  [
    lambda m: ops_image.get_resize(8, m),
    lambda m: ops_image.get_resize_small(8, m),
    lambda m: ops_image.get_resize_long(8, m),
    lambda m: ops_image.get_inception_crop(8, method=m),
    lambda m: ops_image.get_decode_jpeg_and_inception_crop(8, method=m),
  ],
)
def test_unknown_resize_method(make):
  with pytest.raises(ValueError, match="'bilinar'. Did you mean 'bilinear'"):
    make("bilinar")


@pytest.mark.parametrize(
  "pp, shape, want",
  [
    ("resize_small(24)", (37, 53), (24, 34)),  # 34.38
    ("resize_small(24)", (53, 37), (34, 24)),
    ("resize_small(10)", (4, 9), (10, 22)),  # 22.5 goes to the even number.
    ("resize_small(10)", (4, 11), (10, 28)),  # 27.5
    ("resize_small(7)", (7, 7), (7, 7)),
    ("resize_long(24)", (37, 53), (17, 24)),  # 16.75
    ("resize_long(90)", (53, 37), (90, 63)),  # 62.8
  ],
)
def test_resize_one_side(pp, shape, want):
  assert run(pp, smooth_image(*shape)).shape == (*want, 3)


@pytest.mark.parametrize("shape", [(1, 200_000, 3), (200_000, 1, 3)])
def test_long_thin_images_do_not_explode(shape):
  """A file of 200 bytes would become an image of 120 GB."""
  error = (
    "resize_small.224. of an image of .* pixels, so long and thin, has more"
  )
  fn = builder.get_preprocess_fn("resize_small(224)|central_crop(224)", False)
  data = {"image": np.zeros(shape, np.uint8)}
  with pytest.raises(tf.errors.InvalidArgumentError, match=error):
    fn(dict(data))
  with pytest.raises(tf.errors.InvalidArgumentError, match=error) as e:
    list(tf.data.Dataset.from_tensors(data).map(fn))
  assert f"{shape[1]} x {shape[0]} pixels" in str(e.value)


def test_resize_one_side_values():
  image = smooth_image(36, 52)
  want = np.floor(image.reshape(9, 4, 13, 4, 3).mean((1, 3)))
  got = run("resize_small(9)", image)
  np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(run("resize_long(13)", image), got)
  # `resize_long` smooths by default, `resize_small` does not.
  plain = run("resize((9, 13))", image)
  smoothed = run("resize((9, 13), antialias=True)", image)
  assert np.any(plain != smoothed)
  got = run("resize_small(9, 'bilinear')", image)
  np.testing.assert_array_equal(got, plain)
  got = run("resize_long(13, 'bilinear')", image)
  np.testing.assert_array_equal(got, smoothed)
  pp = "decode|resize_small(9)"
  run(pp, encode(image, "PNG"), [None, None, 3])


@pytest.mark.parametrize(
  "kw",
  [
    {},
    dict(degrees=40),
    dict(shear=0.5),
    dict(scale=0.4),
    dict(shift=0.3),
    dict(degrees=20, shear=0.2, scale=0.2, shift=0.1),
  ],
)
def test_random_affine(kw):
  """Equals SciPy's transform with the same matrix."""
  image = smooth_image(31, 44).astype(np.float32)
  op = ops_image.get_random_affine(**kw)
  kw = {"degrees": 0, "shear": 0, "scale": 0, "shift": 0} | kw
  seen = []
  for i in range(8):
    with rng.example_seed([3, i]):
      u = tf.random.stateless_uniform([6], rng.next_seed(), -1, 1).numpy()
    with rng.example_seed([3, i]):
      got = op({"image": tf.constant(image)})["image"].numpy()
    t = np.deg2rad(u[0] * kw["degrees"])
    rotate = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    shear = np.array([[1, 0], [u[1] * kw["shear"], 1]])
    stretch = np.diag((1 + kw["scale"]) ** -u[2:4].astype(float))
    a = shear @ rotate @ stretch  # From (row, column) to (row, column).
    center = (np.array([31, 44]) - 1) / 2
    way = u[4:] * kw["shift"] * [31, 44]
    want = np.stack(
      [
        ndimage.affine_transform(
          image[..., c],
          a,
          center - a @ (center + way),
          order=1,
          mode="grid-constant",
        )
        for c in range(3)
      ],
      -1,
    )
    np.testing.assert_allclose(got, want, atol=0.1)
    seen.append(a.ravel().tolist() + way.tolist())
  moves = any(kw.values())
  assert (np.std(seen, axis=0).max() > 0.05) == moves


def test_random_affine_keeps_integers_and_sizes():
  image = smooth_image(9, 12)
  pp = "random_affine(degrees=10, shift=0.1)"
  assert run("random_affine()", image).dtype == np.uint8
  np.testing.assert_array_equal(run("random_affine()", image), image)
  fn = builder.get_preprocess_fn(pp, log_data=False)
  ds = tf.data.Dataset.from_tensors({"image": image}).map(fn)
  assert ds.element_spec["image"] == tf.TensorSpec([9, 12, 3], tf.uint8)
  a, b = draw(pp, image, 2)
  assert not np.array_equal(a, b)


def test_flip():
  image = smooth_image(4, 6)
  got = draw("flip_lr", image, 1000)
  same = np.array([np.array_equal(x, image) for x in got])
  flipped = np.array([np.array_equal(x, image[:, ::-1]) for x in got])
  assert np.all(same ^ flipped)
  assert abs(same.mean() - 0.5) < 0.06  # 3.8 standard deviations.
  # From one example to the next, it is independent.
  assert abs(np.mean(same[1:] == same[:-1]) - 0.5) < 0.06


def test_random_ops_are_functions_of_the_seed():
  jpeg = encode(smooth_image(60, 80), "JPEG")
  pp = "decode_jpeg_and_inception_crop(24)|random_crop(20)|flip_lr"
  fn = builder.get_preprocess_fn(pp, log_data=False)

  def prepare(i):
    with rng.example_seed(tf.stack([9, i])):
      return fn({"image": tf.constant(jpeg)})["image"]

  eager = [np.asarray(prepare(tf.constant(i, tf.int64))) for i in range(12)]
  assert len({x.tobytes() for x in eager}) == 12
  for parallel in (1, 6):
    ds = tf.data.Dataset.range(12).map(prepare, parallel)
    for want, got in zip(eager, ds.as_numpy_iterator(), strict=True):
      np.testing.assert_array_equal(got, want)


def test_value_ranges():
  image = smooth_image()
  x = image / 255
  want = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  got = run("vgg_value_range", image)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want, atol=1e-5)
  got = run("vgg_value_range((1, 2, 3), std=[4, 5.5, 6])", image)
  want = (image - np.array([1, 2, 3])) / [4, 5.5, 6]
  np.testing.assert_allclose(got, want, atol=1e-5)
  want = x - [0.48145466, 0.4578275, 0.40821073]
  want = want / [0.26862954, 0.26130258, 0.27577711]
  got = run("clip_value_range", image)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_convert_to_video():
  image = smooth_image()
  got = run("convert_to_video(3)", image, [3, 37, 53, 3])
  assert got.dtype == np.uint8
  np.testing.assert_array_equal(got[0], image)
  assert not got[1:].any()
  np.testing.assert_array_equal(run("convert_to_video(1)", image), image[None])


@pytest.mark.parametrize("method", ["bilinear", "area", "lanczos3", "bicubic"])
@pytest.mark.parametrize("antialias", [False, True])
def test_large_images_are_resized_without_floats(method, antialias):
  """Float32 of a picture of 178 million pixels would take 2 GB."""
  fn = ops_image.get_resize(8, method, antialias)
  spec = tf.TensorSpec([None, None, 3], tf.uint8)
  graph = tf.function(lambda x: fn({"image": x})["image"], autograph=False)
  graph_def = graph.get_concrete_function(spec).graph.as_graph_def()
  nodes = [*graph_def.node]
  for function in graph_def.library.function:
    nodes += function.node_def
  kernels = [n for n in nodes if n.op.startswith(("Resize", "ScaleAnd"))]
  dtypes = sorted(tf.as_dtype(n.attr["T"].type).name for n in kernels)
  # In float32 it is faster, for small images.
  small = ["float32"] if method == "bilinear" and not antialias else []
  assert dtypes == [*small, "uint8"]


@pytest.mark.parametrize(
  "shape, dtype",
  [
    ((15, 15), "float32"),
    ((7, 36), "float32"),
    ((16, 16), "uint8"),
    ((7, 37), "uint8"),  # Four times the pixels, by one side.
    ((1000, 3), "uint8"),
  ],
)
def test_only_small_images_become_floats(monkeypatch, shape, dtype):
  found, run = [], tf.image.resize

  def resize(image, *args, **kw):
    found.append(image.dtype.name)
    return run(image, *args, **kw)

  monkeypatch.setattr(tf.image, "resize", resize)
  ops_image.get_resize(8)({"image": tf.zeros([*shape, 3], tf.uint8)})
  assert found == [dtype]


@pytest.mark.parametrize("side", [3, 8, 15, 16, 17, 40])
def test_small_and_large_images_are_resized_the_same(side):
  image = np.random.default_rng(side).integers(
    0, 256, (side, side + 1, 3), np.uint8
  )
  want = tf.raw_ops.ResizeBilinear(
    images=image[None], size=[8, 8], half_pixel_centers=True
  )[0]
  for spec in (
    tf.TensorSpec([None, None, 3], tf.uint8),
    tf.TensorSpec(image.shape, tf.uint8),
  ):
    fn = ops_image.get_resize(8)
    graph = tf.function(
      lambda x, fn=fn: fn({"image": x})["image"],
      autograph=False,
      input_signature=[spec],
    )
    np.testing.assert_array_equal(graph(image), tf.cast(want, tf.uint8))
