"""Helpers of preprocessing ops: repeated arguments, and keys of entries."""

import collections.abc
import functools
import inspect
from collections.abc import Callable
from typing import Any

from big_vision.pp import batched
from big_vision.pp.types import ExampleFn


def maybe_repeat(arg: Any, n_reps: int) -> Any:
  """Repeats a value, unless it is a sequence already.

  Args:
    arg: any value; a str counts as a value, not as a sequence.
    n_reps: int.

  Returns:
    `(arg,) * n_reps`, or `arg` if it is a sequence.
  """
  if isinstance(arg, collections.abc.Sequence) and not isinstance(arg, str):
    return arg
  return (arg,) * n_reps


class InKeyOutKey:
  """Decorator: from a factory of `value -> value` to one of `dict -> dict`.

  The decorated factory also takes the keyword arguments `inkey` and `outkey`,
  the entries of the dict that the op reads and writes, and `key` for both. The
  op changes its argument, and returns it.
  """

  def __init__(
    self,
    indefault: str | None = "image",
    outdefault: str | None = "image",
    with_data: bool = False,
  ) -> None:
    """Makes the decorator.

    Args:
      indefault: str, the default of `inkey`; None if the user must name one.
      outdefault: str, the default of `outkey`.
      with_data: bool, whether the inner function wants the whole dict too, as
        the keyword argument `data`.
    """
    self.indefault = indefault
    self.outdefault = outdefault
    self.with_data = with_data

  def __call__(
    self, get_fn: Callable[..., Callable[..., Any]]
  ) -> Callable[..., ExampleFn]:
    """Decorates a factory of functions of a value.

    Args:
      get_fn: `(*args, **kw) -> (value -> value)`.

    Returns:
      Factory of `dict -> dict`, with the arguments of `get_fn` and `key`,
      `inkey`, `outkey`.
    """
    with_data = self.with_data

    def get_op(
      *args, key=None, inkey=self.indefault, outkey=self.outdefault, **kw
    ):
      fn = get_fn(*args, **kw)

      def op(data):
        value = data[key or inkey]
        extra = {"data": data} if with_data else {}
        data[key or outkey] = fn(value, **extra)
        return data

      if with_data:
        return op
      if isinstance(fn, batched.TwoSteps):

        def begin(data, later):
          value = fn.first(data[key or inkey])
          data[key or outkey] = later.put(key or outkey, value, fn.second)
          return data

        op.begin, op.keys = begin, (key or outkey,)
      elif isinstance(fn, batched.OfBytes):

        def begin_bytes(data, later):
          value = data[key or inkey]
          data[key or outkey] = later.put_bytes(key or outkey, value, fn)
          return data

        op.begin, op.keys, op.of_bytes = begin_bytes, (key or outkey,), True
      return batched.touches(op, key or inkey, key or outkey)

    own = inspect.signature(get_op).parameters
    functools.update_wrapper(get_op, get_fn)
    get_op.__signature__ = _with_keys(inspect.signature(get_fn), own)
    return get_op


def _with_keys(signature, own):
  """Adds `key`, `inkey`, `outkey` to the signature of a factory."""
  params = list(signature.parameters.values())
  keys = [own[k] for k in ("key", "inkey", "outkey")]
  last = params[-1:]
  if last and last[0].kind is inspect.Parameter.VAR_KEYWORD:
    return signature.replace(parameters=[*params[:-1], *keys, *last])
  return signature.replace(parameters=[*params, *keys])
