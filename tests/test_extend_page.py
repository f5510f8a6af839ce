"""docs/extend.md: its files and commands, in a folder beside the repository."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.tf, pytest.mark.slow]

ROOT = pathlib.Path(__file__).parents[1]


def test_the_page(tmp_path):
  page = (ROOT / "docs/extend.md").read_text()
  (tmp_path / "my_project").mkdir()
  for name, text in re.findall(r"```python\n# (\S+)\n(.*?)```", page, re.S):
    (tmp_path / name).write_text(text)
  image = np.tile(np.uint8([0, 200] * 5)[:, None, None], (1, 10, 3))
  Image.fromarray(image).save(tmp_path / "stripes.png")

  commands = "set -e\n" + "\n".join(
    re.findall(r"```bash\n(.*?)```", page, re.S)
  )
  path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
  run = subprocess.run(
    ["bash", "-c", commands.replace("PICTURES", "stripes.png")],
    cwd=tmp_path,
    env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr
  assert "picture,class1,probability1" in run.stdout
  assert "stripes.png,1," in run.stdout  # Horizontal ones.

  def accuracies(workdir, name="big_vision_metrics.txt"):
    lines = (tmp_path / "workdirs" / workdir / name).read_text().splitlines()
    key = "balanced/balanced_accuracy"
    return [row[key] for row in map(json.loads, lines) if key in row]

  assert accuracies("mine")[-1] > 0.9
  initial = accuracies("mine_on", "big_vision_initial_metrics.txt")
  assert initial == accuracies("mine")[-1:]
  assert (
    "balanced_accuracy" in (tmp_path / "workdirs/mine/plot.html").read_text()
  )
