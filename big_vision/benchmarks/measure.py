"""Measures time and memory of this process, without jax and TensorFlow."""

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping


def num_cpus() -> int:
  """Returns the number of CPU cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def peak_memory() -> dict[str, int]:
  """Returns the peak memory of the process and the first device in bytes."""
  rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  memory = {"host_bytes": rss * (1 if sys.platform == "darwin" else 1024)}
  if "jax" in sys.modules:
    stats = sys.modules["jax"].local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
      memory["device_bytes"] = stats["peak_bytes_in_use"]
  return memory


# Threads have finished when the process has used less CPU than this share of so
# many seconds.
_SETTLED, _WINDOW = 0.05, 0.05


def cpu_seconds(run: Callable[[], object]) -> float:
  """Measures the CPU time of all threads, also of those that work ahead.

  Other load on the machine does not change it.

  Args:
    run: what is measured.

  Returns:
    Seconds until the process has come to rest.
  """
  start = time.process_time()
  run()
  before, calm = time.process_time(), 0
  while calm < 2:
    time.sleep(_WINDOW)
    now = time.process_time()
    calm = calm + 1 if now - before < _SETTLED * _WINDOW else 0
    before = now
  return before - start


def timed_rounds(
  fns: Mapping[str, Callable[[int], object]], steps: int, rounds: int
) -> dict[str, dict[str, float]]:
  """Times functions in turns, so that noise of the machine hits all of them.

  Args:
    fns: dict of name -> function; `fn(steps)` runs them and waits for the end.
    steps: steps per round.
    rounds: number of rounds.

  Returns:
    dict of name -> {"median": seconds, "best": seconds}, over the rounds.
  """
  seconds = {name: [] for name in fns}
  for _ in range(rounds):
    for name, fn in fns.items():
      start = time.perf_counter()
      fn(steps)
      seconds[name].append((time.perf_counter() - start) / steps)
  return {
    name: {"median": statistics.median(s), "best": min(s)}
    for name, s in seconds.items()
  }
