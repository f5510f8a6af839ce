"""Split strings mean what they mean to TFDS."""

import numpy as np
import pytest

from big_vision.datasets import slices, tfds

pytestmark = pytest.mark.tf


@pytest.mark.parametrize(
  "spec",
  [
    "train",
    "test[:10%]",
    "train[33%:66%]+test[-5:]",
    "train[10:20] + train[-1%:]",
    "test[7:]",
  ],
)
def test_as_tfds(tfds_data_dir, spec):
  """Compared with what TFDS reads of `digits`."""
  ids = {}
  for name in slices.names(spec):
    ds = tfds.DataSource("digits", name).get_tfdata(ordered=True)
    ids[name] = [e["id"] for e in ds.as_numpy_iterator()]
  ds = tfds.DataSource("digits", spec).get_tfdata(ordered=True)
  want = [e["id"] for e in ds.as_numpy_iterator()]
  laid_out = [x for name in slices.names(spec) for x in ids[name]]
  sizes = {"train": 1500, "test": 297}
  got = [laid_out[i] for i in slices.positions(spec, sizes)]
  assert sorted(got) == sorted(want)  # TFDS mixes several parts.


def test_everything_can_be_sliced():
  assert slices.resolve("all[:90%]", {"all": 10}) == [("all", 0, 9)]
  np.testing.assert_array_equal(
    slices.positions("all[8:]+all[:1]", {"all": 10}), [8, 9, 0]
  )


@pytest.mark.parametrize(
  "spec, message",
  [
    ("trian", "config.input.data.split.*Did you mean 'train'"),
    ("train[5:", "bad split"),
    ("train[:99]", "bad split.*10 examples"),
    ("train[3:3]", "no examples"),
  ],
)
def test_errors(spec, message):
  with pytest.raises(ValueError, match=message):
    slices.resolve(spec, {"train": 10, "all": 10})


def test_seed():
  sizes = {"a": 10, "b": 10}
  get = lambda spec, seed=3: slices.positions(spec, sizes, seed=seed).tolist()
  assert sorted(get("a[:30%]") + get("a[30%:]")) == list(range(10))
  assert get("a[:30%]") == sorted(get("a[:30%]"))
  assert get("a[:30%]") != get("a[:30%]", 4)
  assert get("a[:30%]") != [0, 1, 2]
  assert get("a+b[:30%]") == [*range(10), *(10 + i for i in get("a[:30%]"))]
