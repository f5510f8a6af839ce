import numpy as np
import pytest
from pp.augment_images import noise, run

from big_vision.pp import augment_geometry, rng
from big_vision.tf import tf

pytestmark = pytest.mark.tf

FILL = (1, 2, 3)
TRANSFORMS = {
  "shear_x": lambda l: (1, l, 0, 0, 1, 0),
  "shear_y": lambda l: (1, 0, 0, l, 1, 0),
  "translate_x": lambda p: (1, 0, p, 0, 1, 0),
  "translate_y": lambda p: (1, 0, 0, 0, 1, p),
}
ARGUMENTS = {
  "shear_x": [0.3, -0.3, 1.5],
  "shear_y": [0.3, -0.3, 1.5],
  "translate_x": [5.0, -3.0, 0.0, 2.5, -2.5, 0.3, 200.0, -200.0],
  "translate_y": [5.0, -3.0, 0.0, 2.5, -2.5, 0.3, 200.0, -200.0],
  "rotate": [30.0, -12.5, 0.0, 90.0, 77.0],
}


def rotation(degrees, height, width):
  """6 numbers, float32, of a rotation around the center."""
  one = np.float32
  angle = tf.constant(degrees, tf.float32) * one(np.pi / 180)
  cos, sin = tf.cos(angle).numpy(), tf.sin(angle).numpy()
  x, y = one(width - 1), one(height - 1)
  from_x = (x - (cos * x - sin * y)) / 2
  from_y = (y - (sin * x + cos * y)) / 2
  return cos, -sin, from_x, sin, cos, from_y


def transformed(image, transform):
  """By TensorFlow's kernel, of an image with a channel that tells the fill."""
  out = tf.raw_ops.ImageProjectiveTransformV3(
    images=augment_geometry.wrap(image)[None],
    transforms=tf.constant([[*transform, 0, 0]], tf.float32),
    output_shape=image.shape[:2],
    fill_value=0.0,
    interpolation="NEAREST",
    fill_mode="CONSTANT",
  )
  return augment_geometry.unwrap(out[0], FILL)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_transforms(name):
  kernel = getattr(augment_geometry, name)
  for size in [(24, 18), (16, 20), (9, 9), (1, 7)]:
    image = noise(*size)
    for argument in ARGUMENTS[name]:
      if name == "rotate":
        transform = rotation(argument, *size)
      else:
        transform = TRANSFORMS[name](argument)
      want = transformed(image, transform)
      got = kernel(image, argument, FILL)
      np.testing.assert_array_equal(got, want)
      got = kernel(image, tf.constant(argument), FILL)  # Not known in advance.
      np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("size", [(9, 9)])
def test_transforms_in_graphs(name, size):
  kernel = getattr(augment_geometry, name)
  for argument in ARGUMENTS[name]:
    run(lambda x, a=argument: kernel(x, a, FILL), noise(*size))


def test_directions():
  image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
  got = augment_geometry.translate_x(image, 1, FILL).numpy()
  np.testing.assert_array_equal(got[:, :2], image[:, 1:])
  assert (got[:, 2] == FILL).all()
  got = augment_geometry.translate_y(image, -1, FILL).numpy()
  np.testing.assert_array_equal(got[1:], image[:2])
  assert (got[0] == FILL).all()
  got = augment_geometry.rotate(image, 90.0, FILL)
  np.testing.assert_array_equal(got, np.rot90(image))  # Counter-clockwise.


def test_wrap_and_unwrap():
  image = noise(5, 6)
  wrapped = augment_geometry.wrap(image).numpy()
  np.testing.assert_array_equal(wrapped[..., :3], image)
  assert (wrapped[..., 3] == 1).all()
  wrapped[2:4, 1, 3] = 0
  got = augment_geometry.unwrap(wrapped, FILL).numpy()
  assert (got[2:4, 1] == FILL).all()
  got[2:4, 1] = image[2:4, 1]
  np.testing.assert_array_equal(got, image)


@pytest.mark.parametrize(
  "center, pad, rows, columns",
  [
    ((0.5, 0.5), 2, (5, 9), (3, 7)),
    ((0.0, 0.99), 3, (0, 3), (6, 10)),
    ((0.99, 0.0), 50, (0, 14), (0, 10)),
    ((0.5, 0.5), 0, (7, 7), (5, 5)),
  ],
)
def test_cutout(center, pad, rows, columns):
  image = noise(14, 10)
  center = tf.constant(center)
  got = run(
    lambda x: augment_geometry.cutout(x, pad, FILL, center=center), image
  )
  want = image.copy()
  want[slice(*rows), slice(*columns)] = FILL
  np.testing.assert_array_equal(got, want)


def test_cutout_at_random():
  image = np.full([12, 9, 3], 255, np.uint8)

  def place(i):
    with rng.example_seed(tf.stack([3, i])):
      return augment_geometry.cutout(image, 1)

  ds = tf.data.Dataset.range(2000).map(place)
  black = np.stack([(x == 0).all(-1) for x in ds.as_numpy_iterator()])
  # Lower right corner of the 2 x 2 square; its place is uniform.
  at = black & ~np.roll(black, -1, 1) & ~np.roll(black, -1, 2)
  share = at.mean(0)[:-1, :-1]
  np.testing.assert_allclose(share, 1 / (12 * 9), atol=0.01)
