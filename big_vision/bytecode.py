"""Imports what a run imports, so that Python compiles it: `setup.sh` calls this.

The first import of thousands of modules takes twice the time of later ones. It
would do so in each run where PYTHONDONTWRITEBYTECODE is set, as in many
containers.
"""

import importlib
import sys


def write() -> None:
  """Imports the packages of a run, and writes the bytecode of their modules."""
  sys.dont_write_bytecode = False
  from big_vision.tf import tf, tfds

  for name in ("train", "input_pipeline", "evaluators.classification"):
    importlib.import_module(f"big_vision.{name}")
  # They are imported when something is asked for, datasets when one is.
  num = len(tfds.list_builders())
  print(f"TensorFlow {tf.__version__}, TFDS with {num} datasets")


if __name__ == "__main__":
  write()
