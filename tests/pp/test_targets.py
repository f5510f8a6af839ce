"""Units and names of targets, as preprocessing strings and configs tell them."""

import numpy as np
import pytest

from big_vision.pp import targets


@pytest.mark.parametrize(
  "op, want",
  [
    ("standardize([1, 2], [3, 4], outkey='labels')", ([1, 2], [3, 4])),
    ("standardize(1.5, std=2, key='labels')", ([1.5], [2])),
    ("standardize(std=[2], mean=[1], outkey='labels')", ([1], [2])),
    ("standardize(1, 2)", None),
    ("copy('targets', 'labels')", None),
    ("own(anything)", None),
  ],
)
def test_units(op, want):
  got = targets.units(f"decode|resize(4)|{op}|keep('image', 'labels')")
  if want is None:
    assert got is None
  else:
    np.testing.assert_array_equal(got, want)
    assert got[0].dtype == np.float64


def test_names():
  names = lambda columns, num: targets.names(
    {"features": {"targets": columns}}, num
  )
  assert names(["a", "b"], 2) == ["a", "b"]
  assert names("a", 1) == names(("a",), 1) == ["a"]
  assert names(["a"], 3) == ["a[0]", "a[1]", "a[2]"]
  assert names(["a", "b"], 3) == ["0", "1", "2"]
  assert targets.names(None, 2) == targets.names({}, 2) == ["0", "1"]
