"""A part of the selection that `run.sh --quick` runs."""

import importlib
import os
import pkgutil
import subprocess
import sys

import big_vision


def test_all_modules_import():
  """Also those of the side with TensorFlow; without deprecations in JAX."""
  names = [
    m.name for m in pkgutil.walk_packages(big_vision.__path__, "big_vision.")
  ]
  assert len(names) > 200
  for name in names:
    importlib.import_module(name)


def test_command_of_the_docs_plans_a_run():
  """The first command of docs/plan.md."""
  done = subprocess.run(
    [
      sys.executable, "-m", "big_vision.tools.plan",
      "--config", "big_vision/configs/vit_i1k.py:variant=B/16",
      "--mesh", "data=64", "--noadvice",
    ],
    capture_output=True,
    text=True,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  assert "87,157,480 parameters" in done.stdout
