"""Writes a checkpoint, or reads one that another version has written.

  python tests/newest/checkpoint.py write FOLDER
  python tests/newest/checkpoint.py read FOLDER

A short training writes it after half of its steps, together with its state at
the end. Reading compares it bit by bit, trains on from it and compares the end.
PYTHONPATH needs the repository and its folder tests.
"""

import sys

import jax
import numpy as np

import toy
from big_vision import checkpoints, trees
from big_vision.training import loop

HALF = 4  # Of 8 steps.


def train(**kw):
  """Trains the toy model of the tests; returns its state."""
  workdir = kw.pop("workdir")
  setup = toy.setup(toy.config(**kw), workdir=workdir)
  return arrays(loop.run(setup, toy.make()))


def arrays(tree):
  """{name: NumPy array} of a tree."""
  named, _ = trees.tree_flatten_with_names(tree)
  return {name: np.asarray(x) for name, x in named}


def prefix(folder, step):
  """Path of the checkpoint of a step."""
  return f"{folder}/run/checkpoint.bv-{step:09d}"


def write(folder):
  """Writes checkpoints, and what is in them as NumPy's own files."""
  end = train(workdir=f"{folder}/run", ckpt_steps=HALF, keep_ckpt_steps=HALF)
  half = arrays(checkpoints.load_checkpoint_ts(prefix(folder, HALF)))
  np.savez(f"{folder}/half.npz", **half)
  np.savez(f"{folder}/end.npz", **end)


def read(folder):
  """Compares a checkpoint with what was written, and trains on from it."""
  want = np.load(f"{folder}/half.npz")
  got = arrays(checkpoints.load_checkpoint_ts(prefix(folder, HALF)))
  assert set(got) == set(want.files) and len(got) > 10, sorted(got)
  for name in want.files:
    assert got[name].dtype == want[name].dtype, name
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)
  want = np.load(f"{folder}/end.npz")
  got = train(workdir=None, resume=prefix(folder, HALF))
  assert set(got) == set(want.files)
  for name in want.files:
    np.testing.assert_allclose(
      got[name], want[name], rtol=1e-4, atol=1e-6, err_msg=name
    )
  print(f"{len(want.files)} arrays are the same, jax {jax.__version__}")


if __name__ == "__main__":
  {"write": write, "read": read}[sys.argv[1]](sys.argv[2])
