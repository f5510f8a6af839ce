"""Means of per-example values against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision.evaluators import mean


def predict(state, batch):
  z = batch["x"] @ state["params"]["w"]
  hit = z.argmax(axis=1) == batch["y"]
  return {
    "top": z.max(axis=1),
    "hit": hit,
    "count": batch["y"],
    "a/half": z.sum(axis=1).astype(jnp.bfloat16),
  }


def make(data, fn=predict, batch_size=16):
  return mean.Evaluator(
    fn, data=data, pp_fn="", batch_size=batch_size, devices=jax.devices()
  )


def test_values_do_not_depend_on_padding_or_batch_size(arrays, state):
  rng = np.random.RandomState(0)
  x, y = rng.randn(37, 6).astype(np.float32), rng.randint(0, 4, 37)
  z = x @ np.asarray(jax.device_get(state["params"]["w"]))
  for batch_size in (8, 16, 40):
    result = list(make({"x": x, "y": y}, batch_size=batch_size).run(state))
    assert [k for k, _ in result] == ["a/half", "count", "hit", "top"]
    assert all(isinstance(v, float) for _, v in result)
    result = dict(result)
    assert result["hit"] == np.mean(z.argmax(axis=1) == y)
    assert result["count"] == y.mean()
    np.testing.assert_allclose(result["top"], z.max(axis=1).mean(), rtol=1e-5)
    np.testing.assert_allclose(result["a/half"], z.sum() / 37, atol=0.02)


def test_nan_of_a_real_example_counts(arrays, state):
  x = np.zeros((8, 6), np.float32)
  x[3] = np.nan
  data = {"x": x, "y": np.zeros(8, np.int32)}
  assert np.isnan(dict(make(data).run(state))["top"])


def test_bad_input(arrays, state):
  data = {"x": np.zeros((8, 6), np.float32)}
  with pytest.raises(ValueError, match=r"'x' has shape \(16, 6\)"):
    list(make(data, lambda state, batch: {"x": batch["x"]}).run(state))
  with pytest.raises(AssertionError, match="predict_fn must return a dict"):
    list(make(data, lambda state, batch: batch["x"]).run(state))
