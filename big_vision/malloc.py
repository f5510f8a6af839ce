"""Makes the C library keep memory that a program on a CPU frees.

XLA allocates the intermediate results of a program anew in each call, hundreds of
megabytes to gigabytes. By default the library returns them to the system after
each call, which fills every page with zeros before the next one: 225,000 page
faults in a step of ViT-S/16 with 8 images, a tenth of its time on two cores. But
all threads then share one heap, which costs small models that read thousands of
images a second more than it saves: runs do it with BV_KEEP_MEMORY=1 only. See
docs/benchmarks.md.
"""

import ctypes
import importlib.util
import os
import platform

# From malloc.h of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
# Threads that share a heap wait for each other.
_MOST_CORES = 16


def keep_if_asked() -> bool:
  """Calls `keep` if the variable BV_KEEP_MEMORY is 1; returns what it returns."""
  return os.environ.get("BV_KEEP_MEMORY") == "1" and keep()


def keep() -> bool:
  """Keeps freed memory in the process, for what it allocates next.

  Call it before other threads start. Does nothing if JAX may use other devices
  than CPUs, with more than 16 cores, without glibc, or where an environment
  variable (MALLOC_..., GLIBC_TUNABLES) sets up the allocator.

  Returns:
    Whether it took effect.
  """
  if (
    platform.libc_ver()[0] != "glibc"
    or len(os.sched_getaffinity(0)) > _MOST_CORES
    or any(k.startswith(("MALLOC_", "GLIBC_TUNABLES")) for k in os.environ)
    or not _only_cpus()
  ):
    return False
  libc = ctypes.CDLL(None)
  # Blocks as large as those are only kept in the heap that threads share.
  return all(
    [
      libc.mallopt(_ARENA_MAX, 1),
      libc.mallopt(_MMAP_THRESHOLD, -1),
      libc.mallopt(_TRIM_THRESHOLD, -1),
    ]
  )


def _only_cpus():
  """Tells, without starting JAX, whether it can only find CPUs."""
  platforms = os.environ.get("JAX_PLATFORMS", "")
  if platforms:
    return platforms == "cpu"
  plugins = ("jax_plugins", "libtpu")
  return not any(importlib.util.find_spec(name) for name in plugins)
