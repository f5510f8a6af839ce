import collections
import functools
import json
import pathlib
import zlib

import numpy as np
import pytest
from pp.augment_images import dark, noise, run
from scipy import stats

from big_vision.pp import autoaugment, builder, rng
from big_vision.pp.archive import autoaugment as archived
from big_vision.tf import tf

pytestmark = pytest.mark.tf

GOLDEN = json.loads(
  (pathlib.Path(__file__).parents[1] / "golden" / "augment.json").read_text()
)
IMAGES = {"noise": noise, "dark": dark}


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: c["fn"])
def test_numbers_of_the_reference(case):
  kind, *args = case["image"]
  kernel = getattr(autoaugment, case["fn"])
  got = run(lambda x: kernel(x, *case["args"]), IMAGES[kind](*args))
  assert zlib.crc32(got.astype("<i8").tobytes()) == case["crc"]


def test_names_of_archive():
  for name in autoaugment.__all__:
    assert getattr(archived, name) is getattr(autoaugment, name)


def draws(fn, image, num, seed=7):
  """Results of `fn` with other seeds, NumPy."""

  def draw(i):
    with rng.example_seed(tf.stack([seed, i])):
      return fn(tf.constant(image))

  ds = tf.data.Dataset.range(num).map(draw, 2, deterministic=True)
  return list(ds.as_numpy_iterator())


IMAGE = noise(8, 10)


@functools.cache
def outcomes(corrected=False):
  """Result -> probability, of the policy v0 for IMAGE: all ways through it."""
  image = IMAGE
  kw = {"cutout_const": 100, "translate_const": 250, "rising": False}
  kw["corrected"] = corrected
  result = collections.Counter()
  for sub_policy in autoaugment.policy_v0():
    states = {image.tobytes(): 1 / 25}
    for name, probability, level in sub_policy:
      fns = autoaugment._variants(name, float(level), **kw)
      after = collections.Counter()
      for state, p in states.items():
        after[state] += p * (1 - probability)
        x = np.frombuffer(state, np.uint8).reshape(image.shape)
        for fn in fns:
          after[fn(x, None).numpy().tobytes()] += p * probability / len(fns)
      states = after
    result.update(states)
  return result


def check_frequencies(expected, results):
  """Chi-squared test of {result: probability} and [result]."""
  counts = collections.Counter(results)
  assert not set(counts) - set(expected)
  num = len(results)
  common = [x for x, p in expected.items() if p * num >= 5]
  f_exp = [expected[x] * num for x in common]
  f_obs = [counts[x] for x in common]
  if num - sum(f_exp) > 1e-6 * num:  # All rare ones together.
    f_exp.append(num - sum(f_exp))
    f_obs.append(num - sum(f_obs))
  assert stats.chisquare(f_obs, f_exp).pvalue > 1e-3


def test_autoaugment_frequencies():
  fn = lambda x: autoaugment.distort_image_with_autoaugment(x, "v0")
  got = [x.tobytes() for x in draws(fn, IMAGE, 3000)]
  check_frequencies(outcomes(), got)


def test_autoaugment_corrected():
  # Solarize at level 10 changes nothing, and inverts everything by default.
  expected = outcomes(corrected=True)
  assert len(expected) < len(outcomes())
  fn = lambda x: autoaugment.distort_image_with_autoaugment(
    x, "v0", corrected=True
  )
  got = [x.tobytes() for x in draws(fn, IMAGE, 1000)]
  check_frequencies(expected, got)


def test_policy_test():
  image = noise(8, 120)
  fn = lambda x: autoaugment.distort_image_with_autoaugment(x, "test")
  want = collections.Counter()
  for pixels in (100, -100):
    moved = autoaugment.translate_x(image, pixels, (128, 128, 128))
    want[autoaugment.equalize(moved).numpy().tobytes()] = 0.5
  check_frequencies(want, [x.tobytes() for x in draws(fn, image, 200)])


def test_same_in_eager_mode_and_graphs():
  image = noise(7, 9)
  fn = builder.get_preprocess_fn("autoaugment|autoaugment('v0', True)", False)
  op = lambda x: fn({"image": x})["image"]
  graph = draws(op, image, 30)
  for i, want in enumerate(graph):
    with rng.example_seed([7, i]):
      np.testing.assert_array_equal(op(tf.constant(image)), want)


def test_unknown_policy():
  message = "Invalid augmentation_name: 'v1'. Known: test, v0."
  with pytest.raises(ValueError, match=message):
    autoaugment.distort_image_with_autoaugment(noise(8, 8), "v1")
  with pytest.raises(ValueError, match=message):
    builder.get_preprocess_fn('autoaugment("v1")')


@pytest.mark.parametrize(
  "image",
  [np.zeros([8, 8, 3], np.float32), np.zeros([8, 8, 1], np.uint8)],
  ids=["float32", "1 channel"],
)
def test_unsuitable_image(image):
  with pytest.raises(ValueError, match="before value_range"):
    autoaugment.distort_image_with_randaugment(image, 2, 10)
  with pytest.raises(ValueError, match="before value_range"):
    autoaugment.distort_image_with_autoaugment(image, "v0")
