"""The half of the package that needs jax only imports without TensorFlow."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# The wing of the house where TensorFlow lives.
TF_WING = (
  "big_vision.pp.",
  "big_vision.datasets.",
  "big_vision.pipeline.",
  "big_vision.input_pipeline",
  "big_vision.tf",
  "big_vision.tools.convert_dataset",
  "big_vision.tools.download_tfds_datasets",
)

WALK = """
import importlib, pkgutil, sys
sys.modules["tensorflow"] = None
sys.modules["tensorflow_datasets"] = None
import big_vision
names = [m.name for m in pkgutil.walk_packages(big_vision.__path__, "big_vision.")]
names = [n for n in names if not n.startswith({wing!r})]
assert len(names) > 20, names
for name in [*names, "big_vision.pp.registry"]:
  importlib.import_module(name)
print(len(names))
"""


def run(code):
  return subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
  )


def test_without_tensorflow():
  done = run(WALK.format(wing=TF_WING))
  assert done.returncode == 0, done.stderr[-2000:]


def test_no_work_at_import():
  """Importing the trainer starts no backend and reads no data."""
  done = run(
    "import big_vision.train, sys\n"
    "from big_vision import compat\n"
    "assert not compat.backends_are_initialized()\n"
    "assert 'tensorflow' not in sys.modules\n"
  )
  assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.tf
def test_keras_is_imported_when_asked_for():
  done = run(
    "import os, sys\n"
    "from big_vision import input_pipeline\n"
    "from big_vision.tf import tf\n"
    "assert 'keras' not in sys.modules\n"
    "assert 'TF_USE_LEGACY_KERAS' not in os.environ\n"
    "assert tf.keras.layers.Dense(2)(tf.ones([1, 3])).shape == (1, 2)\n"
  )
  assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_import_is_fast():
  done = run(
    "import time; t = time.time(); import big_vision.train\n"
    "print(time.time() - t)"
  )
  assert float(done.stdout) < 5.0, done.stdout


def test_collection_of_tests_leaves_tensorflow_alone():
  """Every worker collects all tests, and TensorFlow takes 10 seconds of that."""
  used = [
    f"{path.relative_to(ROOT)}:{node.lineno}"
    for path in sorted((ROOT / "tests").rglob("*.py"))
    for node in run_at_import(ast.parse(path.read_text(encoding="utf-8")))
    if (isinstance(node, ast.Name) and node.id == "tf")
    or (isinstance(node, ast.Constant) and node.value == "tensorflow")
    or (isinstance(node, ast.Import) and node.names[0].name == "tensorflow")
  ]
  assert not used


def run_at_import(tree):
  """Nodes that are evaluated when a module is imported."""
  for name, value in ast.iter_fields(tree):
    is_function = isinstance(tree, ast.FunctionDef | ast.Lambda)
    if (is_function and name == "body") or name in ("annotation", "returns"):
      continue
    for node in value if isinstance(value, list) else [value]:
      if isinstance(node, ast.AST):
        yield node
        yield from run_at_import(node)
