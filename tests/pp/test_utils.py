import inspect

import numpy as np
import pytest

from big_vision.pp import utils


def test_maybe_repeat():
  assert utils.maybe_repeat(3, 2) == (3, 3)
  assert utils.maybe_repeat("ab", 2) == ("ab", "ab")
  assert utils.maybe_repeat(None, 1) == (None,)
  given = [1, 2, 3]
  assert utils.maybe_repeat(given, 2) is given
  array = np.ones(2)
  assert all(a is array for a in utils.maybe_repeat(array, 2))


def test_in_key_out_key():
  @utils.InKeyOutKey()
  def plus(n, *, times=1):
    """Adds."""
    return lambda x: x + n * times

  data = {"image": 5}
  assert plus(1)(data) is data
  assert data == {"image": 6}
  assert plus(1, key="k")({"image": 5, "k": 2}) == {"image": 5, "k": 3}
  both = plus(1, times=2, inkey="k", outkey="o")({"k": 2})
  assert both == {"k": 2, "o": 4}
  # `key` wins.
  assert plus(1, key="k", inkey="a", outkey="b")({"k": 2}) == {"k": 3}
  assert plus(1, outkey="o")({"image": 1}) == {"image": 1, "o": 2}

  assert plus.__name__ == "plus" and plus.__doc__ == "Adds."
  assert str(inspect.signature(plus)) == (
    "(n, *, times=1, key=None, inkey='image', outkey='image')"
  )
  with pytest.raises(TypeError, match="missing"):
    plus(key="k")  # When building, not when running.


def test_in_key_out_key_with_data_and_defaults():
  @utils.InKeyOutKey("a", "b", with_data=True)
  def scaled(**kw):
    return lambda x, data: x * data["s"] + kw.get("add", 0)

  assert scaled(add=1)({"a": 3, "s": 10}) == {"a": 3, "s": 10, "b": 31}
  assert "outkey='b', **kw)" in str(inspect.signature(scaled))

  @utils.InKeyOutKey(indefault=None, outdefault="labels")
  def same():
    return lambda x: x

  op = same()
  with pytest.raises(KeyError) as e:
    op({"image": 1})
  assert e.value.args == (None,)
  assert same(inkey="x")({"x": 1}) == {"x": 1, "labels": 1}
