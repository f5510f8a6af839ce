"""TensorFlow when it is asked for, and what AutoGraph does to functions."""

import sys

import pytest

from big_vision.tf import plain, tf

pytestmark = pytest.mark.tf


@pytest.mark.parametrize("decorate", [plain, lambda fn: fn])
def test_plain_functions_run_as_they_are_written(decorate):
  files = []

  def inner(x):
    files.append(sys._getframe().f_code.co_filename)
    return x + 1

  @decorate
  def outer(x):
    """Adds one."""
    return inner(x)

  ds = tf.data.Dataset.range(3).map(outer)
  assert [int(x) for x in ds] == [1, 2, 3]
  assert (files == [__file__]) == (decorate is plain)
  assert outer.__doc__ == "Adds one."
