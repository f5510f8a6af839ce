"""Lets all hosts decide the same: what the first one sees holds for all."""

import os
from collections.abc import Callable

import jax
import numpy as np

from big_vision import workdir as workdir_lib
from big_vision.training import peers


def join() -> None:
  """Joins the other hosts of the run, if BV_JAX_INIT asks for it.

  TPU pods and Slurm tell JAX who is who; elsewhere JAX_NUM_PROCESSES and
  JAX_PROCESS_ID do, with JAX' own JAX_COORDINATOR_ADDRESS.
  """
  if not os.environ.get("BV_JAX_INIT"):
    return
  env = lambda name: int(os.environ[name]) if name in os.environ else None
  peers.initialize(
    num_processes=env("JAX_NUM_PROCESSES"), process_id=env("JAX_PROCESS_ID")
  )


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


def lock(workdir: str | None) -> workdir_lib.Lock:
  """Locks a workdir; if that fails, all processes stop, not only the first.

  Args:
    workdir: the folder, or None.

  Returns:
    The Lock; on other processes than the first, and without a workdir, one that
    holds nothing.

  Raises:
    workdir_lib.InUse: another run writes there.
  """
  held = []

  def take():
    try:
      held.append(workdir_lib.lock(workdir))
    except workdir_lib.InUse as e:
      return str(e)
    return ""

  if error := from_first(take):
    raise workdir_lib.InUse(error)
  return held[0] if held else workdir_lib.Lock()
