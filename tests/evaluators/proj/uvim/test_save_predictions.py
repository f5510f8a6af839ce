"""The file of inputs and outputs of UViM's configs."""

import jax
import numpy as np
import pytest

from big_vision import checkpoints
from big_vision.evaluators.proj.uvim import save_predictions

pytestmark = pytest.mark.tf


def predict(state, batch, scale=1.0):
  del state
  return {"dark": scale * batch["image"].mean(axis=(1, 2))}


def make(outfile, workdir, **kw):
  return save_predictions.Evaluator(
    predict,
    'resize(8)|value_range(0, 1)|keep("image", "image/id")',
    "shapes/tiny",
    "validation[:11]",
    8,
    outfile,
    devices=jax.devices(),
    workdir=str(workdir),
    **kw,
  )


def test_contents(tfds_data_dir, ops, tmp_path, state):
  """Of the real examples, in their order, in the workdir or elsewhere."""
  evaluator = make("new/out.npz", tmp_path, predict_kwargs={"scale": 2.0})
  assert list(evaluator.run(state)) == []
  saved = checkpoints.npload(str(tmp_path / "new/out.npz"))
  assert set(saved) == {
    "inputs/image", "inputs/image/id", "inputs/_id", "outputs/dark"
  }  # fmt: skip
  image = saved["inputs/image"]
  assert image.shape == (11, 8, 8, 3)
  dark = 2 * image.mean(axis=(1, 2))
  np.testing.assert_allclose(saved["outputs/dark"], dark, rtol=1e-5)
  assert len(set(saved["inputs/image/id"].tolist())) == 11

  elsewhere = tmp_path / "other" / "{step}.npz"
  evaluator = make(
    str(elsewhere), tmp_path / "w", get_step=lambda: 7, inputs=["image/id"]
  )
  list(evaluator.run(state))
  again = checkpoints.npload(str(tmp_path / "other/7.npz"))
  assert set(again) == {"inputs/image/id", "outputs/dark"}
  np.testing.assert_array_equal(
    again["inputs/image/id"], saved["inputs/image/id"]
  )
  np.testing.assert_allclose(again["outputs/dark"], dark / 2, rtol=1e-5)


def test_without_workdir_nothing_is_written(tfds_data_dir, ops, state):
  assert list(make("out.npz", "").run(state)) == []
