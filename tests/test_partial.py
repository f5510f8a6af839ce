"""A partial function that compares by value."""

import pytest

from big_vision import partial


def test_partial_is_equal_by_value():
  a, b = partial.partial(dict, x={"y": 1}), partial.partial(dict, x={"y": 1})
  assert a == b and hash(a) == hash(b) and a != partial.partial(dict, x=2)
  assert partial.partial(dict, fn=1)(b=2) == {"fn": 1, "b": 2}
  with pytest.raises(TypeError, match="unhashable"):
    partial.partial(dict, x=[1])
