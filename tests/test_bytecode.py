"""What an install leaves behind for the first run."""

import os
import subprocess
import sys


def test_writes_bytecode_where_it_is_turned_off(tmp_path):
  """A copy of the package has none yet."""
  code = "from big_vision import bytecode; bytecode.write()"
  env = dict(
    os.environ,
    PYTHONDONTWRITEBYTECODE="1",
    PYTHONPYCACHEPREFIX=str(tmp_path),  # Where Python looks for it.
  )
  run = subprocess.run(
    [sys.executable, "-c", code], env=env, capture_output=True, text=True
  )
  assert run.returncode == 0, run.stderr
  written = {path.name.split(".")[0] for path in tmp_path.rglob("*.pyc")}
  assert {"loop", "input_pipeline", "lax", "map_op", "gen_math_ops"} <= written
  # Datasets register when they are imported.
  assert {"cifar", "imagenet"} <= written
