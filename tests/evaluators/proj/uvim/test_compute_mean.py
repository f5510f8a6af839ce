"""Means under UViM's name: NaN on padding, arguments of its configs."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np

from big_vision.evaluators.proj.uvim import compute_mean


def validation(state, batch):
  del state
  return {"loss": batch["x"].mean(axis=1), "loss_color": batch["x"][:, 0]}


def test_padding_of_nan(arrays, state):
  x = np.random.RandomState(0).randn(13, 4).astype(np.float32)
  evaluator = compute_mean.Evaluator(
    validation, {"x": x}, "", 8, devices=jax.devices()
  )
  found = dict(evaluator.run(state))
  assert list(found) == ["loss", "loss_color"]
  np.testing.assert_allclose(found["loss"], x.mean(), rtol=1e-5)
  np.testing.assert_allclose(found["loss_color"], x[:, 0].mean(), rtol=1e-5)


def test_arguments():
  names = list(inspect.signature(compute_mean.Evaluator).parameters)
  assert names[:7] == [
    "predict_fn", "data", "pp_fn", "batch_size", "cache_final", "cache_raw",
    "prefetch",
  ]  # fmt: skip


def test_trial():
  batch = {"x": jnp.ones((8, 4)), "_mask": jnp.ones(8, bool)}
  assert compute_mean.trial(validation, {}, batch, {})[1] == 8
