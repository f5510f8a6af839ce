"""Lets all hosts decide the same: what the first one sees holds for all."""

from collections.abc import Callable

import jax
import numpy as np


def from_first(read: Callable[[], str]) -> str:
  """Returns on every process what `read` returns on process 0.

  Args:
    read: called on process 0 only; must not raise there.

  Returns:
    The text.
  """
  if jax.process_count() == 1:
    return read()
  from jax.experimental import multihost_utils

  text = read().encode() if jax.process_index() == 0 else b""
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
  buffer = np.zeros(length, np.uint8)
  if jax.process_index() == 0:
    buffer[:] = np.frombuffer(text, np.uint8)
  return (
    np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes().decode()
  )
