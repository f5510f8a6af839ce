"""A partial function that is equal to another one of the same arguments."""

import dataclasses
from collections.abc import Callable
from typing import Any

from flax import core


@dataclasses.dataclass(frozen=True)
class Partial:
  """Binds keywords to a function, as `functools.partial` does.

  Two of them are equal if their functions and keywords are. Compiled functions
  are cached by the function they were made from; with this they are found
  again when the partial function is made anew. Make one with `partial`.

  Attributes:
    fn: the function.
    kwargs: FrozenDict of its keywords.
  """

  fn: Callable[..., Any]
  kwargs: core.FrozenDict

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Calls the function; keywords given here win."""
    return self.fn(*args, **{**self.kwargs, **kwargs})


def partial(fn: Callable[..., Any], /, **kwargs: Any) -> Partial:
  """Binds keywords to a function so that the result hashes by value.

  Args:
    fn: the function.
    **kwargs: its keywords; hashable, or dicts of hashable values.

  Returns:
    The `Partial`.

  Raises:
    TypeError: a value is not hashable, for example a list.
  """
  bound = Partial(fn, core.freeze(kwargs))
  hash(bound)
  return bound
