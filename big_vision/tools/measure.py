"""Time and memory of this process. Needs neither jax nor TensorFlow."""

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping


def num_cpus() -> int:
  """Number of CPU cores this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count()


def peak_memory() -> dict[str, int]:
  """Peak memory so far, in bytes: of the process and of the first device."""
  rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  memory = {"host_bytes": rss * (1 if sys.platform == "darwin" else 1024)}
  if "jax" in sys.modules:
    stats = sys.modules["jax"].local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
      memory["device_bytes"] = stats["peak_bytes_in_use"]
  return memory


def timed_rounds(
  fns: Mapping[str, Callable[[int], object]], steps: int, rounds: int
) -> dict[str, dict[str, float]]:
  """Seconds per step of functions, run in turns so that noise hits them alike.

  Args:
    fns: dict of name -> function; `fn(steps)` runs them and waits for the end.
    steps: steps per round.
    rounds: int.

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
