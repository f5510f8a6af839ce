"""Lets all hosts decide the same: what the first one sees holds for all."""

import os
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import logging

from big_vision import lookup
from big_vision import workdir as workdir_lib
from big_vision.launching import clusters, gpus
from big_vision.training import peers


def join() -> None:
  """Joins the other processes of the run, if the environment tells of any.

  See `launching.clusters` for what it knows, and docs/clusters.md. BV_JAX_INIT=1
  lets JAX find out what that does not, as on TPU pods; empty or 0 joins nobody.

  Raises:
    lookup.ConfigError: the environment tells too little, or contradicts itself.
  """
  env = os.environ
  place = clusters.detect(env)
  if place is None:
    return
  places, takes = {}, None
  if place.is_known:
    num_gpus = len(gpus.find(env)) if place.num_local > 1 else 0
    takes = clusters.local_devices(place, env, num_gpus)
    places = dict(
      coordinator_address=place.coordinator,
      num_processes=place.num_processes,
      process_id=place.process_id,
      local_device_ids=takes,
      cluster_detection_method="deactivate",  # It has other rules for devices.
    )
  try:
    peers.initialize(**places)
  except ValueError as e:
    if place.is_known:
      raise
    raise lookup.ConfigError(
      f"{clusters.SWITCH}=1, but nothing tells which process of a run this is "
      f"({e}). Set {', '.join(clusters.EXPLICIT)}, or {clusters.SWITCH}=0 for a "
      "process alone."
    ) from e
  logging.info("%s", _describe(place, takes))


def _describe(place: clusters.Place, takes: Sequence[int] | None) -> str:
  """Says what `join` has found, and which devices this process takes."""
  at = f" at {place.coordinator}" if place.coordinator else ""
  numbers = "all" if takes is None else f"numbers {','.join(map(str, takes))}"
  return (
    f"Found {place.found}: process {jax.process_index()} of "
    f"{jax.process_count()}, which meet{at} and have {jax.device_count()} "
    f"devices. This one takes {jax.local_device_count()}, {numbers} of those "
    f"that it sees; {clusters.DEVICES} chooses others."
  )


def hello(workdir: str | None) -> str:
  """Says with which devices a run begins.

  Args:
    workdir: its folder, or None.

  Returns:
    A sentence.
  """
  return (
    f"Hello from process {jax.process_index()} of {jax.process_count()} with "
    f"{jax.local_device_count()}/{jax.device_count()} devices "
    f"({jax.devices()[0].device_kind}), workdir {workdir}."
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
  with jax.transfer_guard("allow"):  # Also within the loop.
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    buffer = np.zeros(length, np.uint8)
    if jax.process_index() == 0:
      buffer[:] = np.frombuffer(text, np.uint8)
    sent = np.asarray(multihost_utils.broadcast_one_to_all(buffer))
  return sent.tobytes().decode()


def first_problem(problem: str) -> str:
  """Returns on every process the problem of the first process that has one.

  Args:
    problem: of this process; "" if it has none.

  Returns:
    The text, cut to 2,000 bytes of UTF-8; "" if none has a problem.
  """
  if jax.process_count() == 1:
    return problem
  from jax.experimental import multihost_utils

  text = problem.encode()[:2000]
  buffer = np.zeros(2000, np.uint8)
  buffer[: len(text)] = np.frombuffer(text, np.uint8)
  with jax.transfer_guard("allow"):
    texts = np.asarray(multihost_utils.process_allgather(buffer))
  every = [bytes(t).rstrip(b"\0").decode(errors="replace") for t in texts]
  return next(filter(None, every), "")


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
