"""Functions that work where implicit transfers to devices are disallowed."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def transfers(fn: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
  """Lets a function move its own constants, such as the 1 in `1 - x`.

  `jax_transfer_guard="disallow"` finds transfers that nobody meant. Outside of
  `jax.jit`, each number in an expression is one. This makes no difference
  within `jax.jit`, where numbers are a part of the compiled code.

  Args:
    fn: function of arrays.

  Returns:
    `fn`, within which transfers are allowed.
  """

  @functools.wraps(fn)
  def wrapped(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
    with jax.transfer_guard("allow"):
      return fn(*args, **kwargs)

  return wrapped
