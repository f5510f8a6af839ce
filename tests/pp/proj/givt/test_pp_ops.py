"""Preprocessing of GIVT."""

import numpy as np
import pytest

from big_vision.pp import builder
from big_vision.pp.proj.givt import pp_ops  # noqa: F401  (Registers the op.)
from big_vision.tf import tf

pytestmark = pytest.mark.tf


def run(pp, labels):
  """Result in eager mode, after a check that graphs give the same."""
  fn = builder.get_preprocess_fn(pp, log_data=False)
  eager = fn({"labels": tf.constant(labels)})["labels"].numpy()
  data = tf.data.Dataset.from_tensors({"labels": labels}).map(fn)
  np.testing.assert_array_equal(next(iter(data))["labels"].numpy(), eager)
  return eager


def test_bins():
  x = np.array(
    [[[-1.0], [0.0], [0.9], [1.0]], [[1.25], [4.99], [5.0], [np.inf]]]
  )
  x = x.astype(np.float32)
  got = run("bin_nyu_depth(min_depth=1, max_depth=5, num_bins=4)", x)
  assert got.dtype == np.int32
  assert got[..., 0].tolist() == [[0, 0, 0, 0], [0, 3, 3, 3]]


def test_defaults():
  x = np.random.default_rng(0).uniform(0, 12, [9, 7, 1]).astype(np.float32)
  got = run("bin_nyu_depth", x)
  want = np.floor((np.float64(x) - 0.001) / 9.999 * 256)
  np.testing.assert_array_equal(got, np.clip(want, 0, 255))
  assert got.min() == 0 and got.max() == 255


@pytest.mark.parametrize(
  ("args", "match"),
  [
    ("min_depth=3, max_depth=3", "min_depth=3 must be less than max_depth=3"),
    ("num_bins=0", "num_bins=0"),
  ],
)
def test_bad_bins(args, match):
  with pytest.raises(ValueError, match=match):
    builder.get_preprocess_fn(f"bin_nyu_depth({args})", log_data=False)


def test_other_labels():
  fn = builder.get_preprocess_fn("bin_nyu_depth", log_data=False)
  with pytest.raises(ValueError, match="must be floats, not int32"):
    fn({"labels": tf.constant([1])})
