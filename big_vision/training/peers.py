"""Joins the hosts of a run, connects their devices, and watches over them."""

import contextlib
import itertools
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision import compat
from big_vision.training import signals, user_errors, watchdog
from big_vision.training.coordinator import Link
from big_vision.training.keep_going import PEER_LOST


def initialize(**kw: Any) -> None:
  """Calls `jax.distributed.initialize`; ends with one line if hosts do not come.

  Args:
    **kw: its arguments, but for the times.
  """
  limit = watchdog.timeout()
  links: list[Link] = []
  where = [""]
  joined = threading.Event()

  def reach(address: str, index: int) -> str:
    where[0] = address
    if index == 0:  # The coordinator lives in this process.
      return address
    links.append(Link(address))
    return links[0].local

  def give_up() -> None:
    if not joined.wait(limit):
      missing = (
        f"The coordinator {where[0]} (host 0) does not answer"
        if links and not links[0].found
        else f"Not all hosts have come to the coordinator {where[0]}"
      )
      signals.leave(
        f"Error: {missing} within {limit:g} s (BV_HOST_TIMEOUT). Start the same "
        "command on all hosts, and check the address and firewalls.",
        PEER_LOST,
      )

  threading.Thread(target=give_up, name="join", daemon=True).start()
  # Signals are heard by `signals`, and agreed upon by `watchdog`.
  jax.config.update("jax_enable_preemption_service", False)
  compat.join_hosts(
    reach,
    # JAX' own limits end a process by SIGABRT; those of the watchdog come first.
    heartbeat_timeout_seconds=int(10 * limit) + 60,
    initialization_timeout=int(2 * limit) + 60,
    shutdown_timeout_seconds=int(limit) + 1,
    **kw,
  )
  joined.set()
  if jax.process_count() > 1:
    store = compat.coordination_client()
    lost = lambda: any(link.lost for link in links)
    index, count = jax.process_index(), jax.process_count()
    watchdog.watch(store, index, count, link_lost=lost)
    devices = np.array(jax.devices()).reshape(count, -1)
    connect(Mesh(devices, ("processes", "local")))


def connect(mesh: Mesh) -> None:
  """Lets each group of devices communicate once, while all hosts are there.

  On CPUs the first collective of a group waits for its members 30 seconds at most,
  which nothing changes; hosts that compile may come later than that. Does nothing on
  one host and on other devices.

  Args:
    mesh: of the run; groups are those of all combinations of its axes.
  """
  if jax.process_count() == 1 or jax.default_backend() != "cpu":
    return
  names = [n for n, size in mesh.shape.items() if size > 1]
  for r in range(1, len(names) + 1):
    for axes in itertools.combinations(names, r):
      compat.wait_for_hosts(f"bv_connect_{next(_count)}", watchdog.timeout())
      total = jax.shard_map(
        lambda x, axes=axes: jax.lax.psum(x, axes),
        mesh=mesh,
        in_specs=P(mesh.axis_names),
        out_specs=P(mesh.axis_names),
        check_vma=False,
      )
      ones = jax.make_array_from_callback(
        (mesh.size,),
        NamedSharding(mesh, P(mesh.axis_names)),
        lambda index: np.ones(mesh.size, np.float32)[index],
      )
      jax.block_until_ready(jax.jit(total)(ones))


_count = itertools.count()


@contextlib.contextmanager
def running(workdir: str | None) -> Iterator[None]:
  """Ends a process as its user, and the other hosts of the run, need it.

  Args:
    workdir: of the run, or None.

  Yields:
    Nothing; used around all that `main` does.
  """
  with signals.listening():
    try:
      with user_errors.one_line(), user_errors.interruptible(workdir):
        yield
    except BaseException as e:
      dog = watchdog.active()
      if isinstance(e, SystemExit) and e.code in (None, 0, signals.PREEMPTED):
        if dog:
          dog.stop()
        if e.code == signals.PREEMPTED:
          signals.leave_now()
        raise
      if dog is None:
        raise
      dog.blame(e)
      _show(e)
      # Not through Python's exit, where JAX would wait for the other hosts.
      status = e.code if isinstance(e, SystemExit) else 1
      signals.leave("", status if isinstance(status, int) else 1)
    else:
      if dog := watchdog.active():
        dog.stop()


def _show(error: BaseException) -> None:
  """Writes what Python would; under `--keep_going` that ends the process, too."""
  if not isinstance(error, SystemExit):
    sys.excepthook(type(error), error, error.__traceback__)
  elif not isinstance(error.code, int):
    print(error.code, file=sys.stderr)
  sys.stdout.flush()
  sys.stderr.flush()
