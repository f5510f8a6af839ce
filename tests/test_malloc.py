"""Page faults of a thread that allocates again what it has freed."""

import os
import subprocess
import sys

import pytest

# Threads of XLA allocate, not the main one.
CODE = """
import resource, threading
import numpy as np
from big_vision import malloc

kept = malloc.keep_if_asked()

def run():
  for _ in range(5):
    np.ones((100 << 20,), np.uint8)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  for _ in range(10):
    np.ones((100 << 20,), np.uint8)
  after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  print(kept, (after - before) / 10 / (100 << 20) * resource.getpagesize())

thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


def faults(**env):
  """(Whether it took effect, page faults per page of a freed allocation)."""
  names = ("MALLOC_", "GLIBC_TUNABLES", "JAX_PLATFORMS")
  inherited = {k: v for k, v in os.environ.items() if not k.startswith(names)}
  inherited["BV_KEEP_MEMORY"] = "1"
  # Without huge pages, which NumPy asks for.
  inherited["NUMPY_MADVISE_HUGEPAGE"] = "0"
  run = subprocess.run(
    [sys.executable, "-c", CODE],
    env={**inherited, **env},
    capture_output=True,
    text=True,
    check=True,
  )
  kept, share = run.stdout.split()
  return kept == "True", float(share)


@pytest.mark.skipif(sys.platform != "linux", reason="settings of glibc")
def test_freed_pages_are_used_again():
  kept, share = faults(JAX_PLATFORMS="cpu")
  assert kept
  assert share < 0.01


@pytest.mark.parametrize(
  "env",
  [
    dict(JAX_PLATFORMS="cuda"),
    dict(JAX_PLATFORMS="cpu", BV_KEEP_MEMORY="0"),
    dict(JAX_PLATFORMS="cpu", MALLOC_ARENA_MAX="2"),
    dict(JAX_PLATFORMS="cpu", GLIBC_TUNABLES="glibc.malloc.hugetlb=0"),
  ],
)
def test_left_alone(env):
  kept, share = faults(**env)
  assert not kept
  assert share > 0.9
