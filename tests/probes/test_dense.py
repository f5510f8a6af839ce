"""Probes of patches: losses against NumPy, fits of maps that are linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision.probes import dense


def bilinear(x, size):
  """Pixels as squares, edges repeated: x [h, w, K]."""
  for axis, new in enumerate(size):
    old = x.shape[axis]
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, old - 1)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(3)])
    x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
  return x


def test_losses():
  rng = np.random.RandomState(0)
  outputs = rng.randn(2, 3, 4, 5).astype(np.float32)
  big = np.stack([bilinear(x, (9, 8)) for x in outputs])
  np.testing.assert_allclose(dense.resize(outputs, (9, 8)), big, atol=1e-5)
  truth = rng.randint(0, 7, (2, 9, 8))  # 5 and 6 are none of the classes.
  task = dense.Segmentation(5, ignore=2)
  log_p = big - np.log(np.exp(big).sum(axis=-1, keepdims=True))
  valid = (truth < 5) & (truth != 2)
  picked = np.take_along_axis(log_p, truth[..., None] % 5, -1)[..., 0]
  want = -picked[valid].mean()
  np.testing.assert_allclose(task.loss(outputs, truth), want, rtol=1e-5)
  big[..., 2] = -np.inf
  got = task.predict(outputs, (9, 8))
  np.testing.assert_array_equal(got, big.argmax(axis=-1))

  task = dense.Depth(0.5, 8.0, num_bins=5)
  scores = np.stack([bilinear(x, (12, 16)) for x in outputs])
  scores = np.maximum(scores, 0) + 0.1
  centers = 0.5 + 7.5 * (np.arange(5) + 0.5) / 5
  depth = (scores @ centers / scores.sum(axis=-1))[..., None]
  depth = np.stack([bilinear(x, (24, 32)) for x in depth])[..., 0]
  predicted = task.predict(outputs, (24, 32))
  np.testing.assert_allclose(predicted, depth, rtol=1e-5)
  truth = rng.uniform(0.1, 9, depth.shape).astype(np.float32)
  valid = (truth > 0.5) & (truth <= 8)
  g = np.log(depth[valid]) - np.log(truth[valid])
  want = np.sqrt(g.var() + 0.15 * g.mean() ** 2)
  np.testing.assert_allclose(task.loss(outputs, truth), want, rtol=1e-4)
  nothing = jax.grad(lambda x: task.loss(x, 0 * jnp.asarray(truth)))(outputs)
  assert np.isfinite(nothing).all()


KW = dict(batch_size=16, weight_decay=1e-4, steps=150)


def test_segmentation_is_learned():
  """Classes that are a linear function of the patches; some have no label."""
  rng = np.random.RandomState(0)
  truth = rng.randint(0, 3, (43, 4, 4))
  tokens = 5 * np.eye(6)[truth] + 0.3 * rng.randn(43, 4, 4, 6) + 7
  tokens = (tokens * np.array([1, 1, 1, 1, 0, 100.0])).astype(np.float16)
  labels = np.where(rng.rand(43, 4, 4) < 0.3, -1, truth)
  task = dense.Segmentation(3)
  head = dense.fit(
    tokens[:30], labels[:30], task, jax.devices(), learning_rate=0.1, **KW
  )
  np.testing.assert_allclose(
    head[0], tokens[:30].astype(np.float64).mean(axis=(0, 1, 2)), rtol=1e-5
  )
  got = dense.predict(head, tokens[30:], task, (4, 4), jax.devices())
  assert (got == truth[30:]).mean() > 0.99


def test_depth_is_learned():
  rng = np.random.RandomState(1)
  tokens = rng.rand(43, 3, 3, 2).astype(np.float32)
  truth = 1 + 5 * tokens[..., 0]
  truth[0, 0] = 0  # Unknown.
  task = dense.Depth(0.1, 8.0, num_bins=16)
  head = dense.fit(
    tokens[:30], truth[:30], task, jax.devices(), learning_rate=0.1, **KW
  )
  got = dense.predict(head, tokens[30:], task, (3, 3), jax.devices())
  error = np.sqrt(np.mean((got - truth[30:]) ** 2))
  assert error < 0.4 * truth[30:].std(), error


@pytest.mark.parametrize("n", [3, 11])
def test_batches_that_do_not_fit_the_devices(n):
  tokens = np.random.RandomState(0).randn(n, 2, 2, 3).astype(np.float32)
  labels = (tokens[..., 0] > 0).astype(np.int32)
  task = dense.Segmentation(2)
  kw = dict(KW, steps=2)
  head = dense.fit(tokens, labels, task, jax.devices(), learning_rate=0.1, **kw)
  assert all(np.isfinite(x).all() for x in head)
  assert dense.predict(head, tokens, task, (5, 5), jax.devices()).shape == (
    n,
    5,
    5,
  )
