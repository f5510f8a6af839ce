import collections
import functools

import numpy as np
import pytest
from scipy import stats

from big_vision.pp import autoaugment, builder, rng
from big_vision.pp.archive import randaug  # noqa: F401 Registers the op.
from big_vision.tf import tf

pytestmark = pytest.mark.tf

FILL = (128, 128, 128)
NOISE = np.random.RandomState(0).randint(0, 256, (12, 14, 3)).astype(np.uint8)
# Such that no operation moves it out of sight at level 10.
LARGE = np.random.RandomState(0).randint(0, 256, (104, 106, 3)).astype(np.uint8)


def draws(pp, image, num):
  """Results with other seeds, in a graph with two threads."""
  return drawn(pp, tf.data.Dataset.from_tensors(image), num)[0]


def drawn(pp, images, num):
  """The same from a dataset of one image, and the type of the results."""
  fn = builder.get_preprocess_fn(pp, log_data=False)

  def draw(i, x):
    with rng.example_seed(tf.stack([7, i])):
      return fn({"image": x})["image"]

  ds = images.repeat(num).enumerate().map(draw, 2, deterministic=True)
  return list(ds.as_numpy_iterator()), ds.element_spec


@functools.cache  # Making a graph of all operations takes more than a second.
def draws_of_noise(pp):
  return draws(pp, NOISE, 320)


def by_hand(level):
  """What 15 of the 16 operations do, from their names: list of lists."""
  a, part = autoaugment, level / 10
  factor = part * 1.8 + 0.1
  signs = lambda kernel, x: [
    lambda i: kernel(i, x, FILL),
    lambda i: kernel(i, -x, FILL),
  ]
  return [
    [a.autocontrast],
    [a.equalize],
    [a.invert],
    signs(a.rotate, part * 30),
    [lambda i: a.posterize(i, int(part * 4))],
    [lambda i: a.solarize(i, int(part * 256))],
    [lambda i: a.color(i, factor)],
    [lambda i: a.contrast(i, factor)],
    [lambda i: a.brightness(i, factor)],
    [lambda i: a.sharpness(i, factor)],
    signs(a.shear_x, part * 0.3),
    signs(a.shear_y, part * 0.3),
    signs(a.translate_x, part * 100),
    signs(a.translate_y, part * 100),
    [lambda i: a.solarize_add(i, int(part * 110))],
  ]


@pytest.mark.parametrize("level", [0.7, 4, 10])
def test_operations_and_their_frequencies(level):
  expected = collections.Counter()
  for variants in by_hand(level):
    for fn in variants:
      expected[fn(LARGE).numpy().tobytes()] += 1 / 16 / len(variants)
  num = 800
  got = draws(f"randaug(1, {level})", LARGE, num)
  counts = collections.Counter(x.tobytes() for x in got)
  # What remains is Cutout: of the fill color there, as the image elsewhere.
  cut = np.stack([x for x in got if x.tobytes() not in expected])
  covered = (cut == FILL).all(-1)
  assert (covered | (cut == LARGE).all(-1)).all()
  pad = int(level / 10 * 40)
  assert 0.8 * (2 * pad) ** 2 < covered.sum((1, 2)).max() <= (2 * pad) ** 2
  f_exp = [p * num for p in expected.values()] + [num / 16]
  f_obs = [counts[x] for x in expected] + [len(cut)]
  assert stats.chisquare(f_obs, f_exp).pvalue > 1e-3


def test_layers_are_independent():
  # Only inverting twice gives the image again; so do 2 of 16 operations, as
  # Solarize at level 10 is the same as Invert.
  num, share = 2000, (2 / 16) ** 2
  got = draws("randaug(2, 10)", NOISE, num)
  unchanged = np.mean([np.array_equal(x, NOISE) for x in got])
  assert abs(unchanged - share) < 4 * np.sqrt(share / num)


def test_level_0_corrected():
  got = draws_of_noise("randaug(1, 0, corrected=True)")
  changed = {x.tobytes() for x in got if not np.array_equal(x, NOISE)}
  kernels = autoaugment.autocontrast, autoaugment.equalize, autoaugment.invert
  assert changed <= {fn(NOISE).numpy().tobytes() for fn in kernels}
  # By default it is a strong change: of the colors, but not of places.
  got = draws_of_noise("randaug(1, 0)")
  changed = [x for x in got if not np.array_equal(x, NOISE)]
  assert 0.4 < len(changed) / 320 < 0.7  # 9 of 16.


def test_strength_rises_corrected():
  change = []
  for level in (0, 3, 10, 20):
    got = draws_of_noise(f"randaug(1, {level}, corrected=True)")
    change.append(np.abs(np.stack(got).astype(int) - NOISE).mean())
  assert change == sorted(change)
  assert change[0] < 0.5 * change[2]


def test_static_shape():
  known = tf.data.Dataset.from_tensors(NOISE)
  unknown = tf.data.Dataset.from_generator(
    lambda: [NOISE], output_signature=tf.TensorSpec((None, None, 3), tf.uint8)
  )
  want, spec = drawn("randaug(num_layers=2, magnitude=10)", known, 40)
  assert spec.shape.as_list() == [12, 14, 3]
  got, spec = drawn("randaug", unknown, 40)
  assert spec.shape.as_list() == [None, None, 3]
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (33, 7)])
def test_any_size(size):
  image = np.full([*size, 3], 99, np.uint8)
  got = draws("randaug(3, 20)", image, 60)
  assert {x.shape for x in got} == {image.shape}


def test_same_in_eager_mode_and_graphs():
  fn = builder.get_preprocess_fn("randaug|randaug(1, 7, True)", log_data=False)
  graph = draws("randaug|randaug(1, 7, True)", NOISE, 40)
  assert len({x.tobytes() for x in graph}) > 20
  for i, want in enumerate(graph):
    with rng.example_seed([7, i]):
      got = fn({"image": tf.constant(NOISE)})["image"]
    np.testing.assert_array_equal(got, want)


def test_key():
  fn = builder.get_preprocess_fn('randaug(0, inkey="a", outkey="b")', False)
  got = fn({"a": tf.constant(NOISE)})
  np.testing.assert_array_equal(got["b"], NOISE)


@pytest.mark.parametrize(
  "args, message",
  [
    ("-1", "num_layers must be"),
    ("2.5", "num_layers must be"),
    ("2, -1", "magnitude must be"),
    ("2, 1e999", "magnitude must be"),
  ],
)
def test_bad_arguments(args, message):
  with pytest.raises(ValueError, match=message):
    builder.get_preprocess_fn(f"randaug({args})")
