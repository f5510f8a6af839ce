"""What all tests share: eight simulated devices and the digits dataset."""

import atexit
import logging
import os
import pathlib
import shutil
import sys
import tempfile

# Tests start dozens of processes, each of which imports JAX, many TensorFlow,
# too. Where Python is told to keep no bytecode, as in many containers, it would
# compile them again each time, 12 seconds. Keep it here, beside no source.
if sys.dont_write_bytecode:
  sys.dont_write_bytecode = False
  sys.pycache_prefix = str(
    pathlib.Path(__file__).parents[1] / ".pytest_cache/pyc"
  )
  os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
  os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

# What commands show does not depend on how the tests are started.
os.environ.pop("BV_START", None)
# Before anything imports jax or TensorFlow.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# Many tests compile the same programs. All workers and the processes that tests
# start keep them here, until the first process of pytest ends.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="bv_tests_")
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
  atexit.register(
    shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True
  )

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_threefry_partitionable", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def absl_level():
  """Starts each test with warnings only: the command line turns on INFO."""
  logging.getLogger("absl").setLevel(logging.WARNING)


@pytest.fixture(scope="module")
def quick_compilation():
  """Compiles without most optimizations while the tests of a file run.

  Models spend nearly all of their test time in the compiler. The golden values
  of models were made in this way. A file asks for it with
  `pytestmark = pytest.mark.usefixtures("quick_compilation")`.
  """
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def tfds_data_dir(tmp_path_factory):
  """A TFDS folder with `digits`; TFDS_DATA_DIR points to it."""
  pytest.importorskip("tensorflow")
  from big_vision.datasets import digits

  path = str(tmp_path_factory.mktemp("tfds"))
  old = os.environ.get("TFDS_DATA_DIR")
  os.environ["TFDS_DATA_DIR"] = path
  digits.prepare(path)
  yield path
  if old is None:
    del os.environ["TFDS_DATA_DIR"]
  else:
    os.environ["TFDS_DATA_DIR"] = old
