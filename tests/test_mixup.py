"""Mixup: weights, partners, keys, and what passes through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from big_vision.mixup import get_mixup, mixup


def test_numbers():
  rng, (x,), more = get_mixup(jax.random.PRNGKey(1), 0.5)(jnp.arange(4.0))
  want = [0.8838696, 0.7053768, 1.7053769, 2.7053766]
  np.testing.assert_allclose(x, want, rtol=1e-6)
  assert jax.random.key_data(rng).tolist() == [507451445, 1853169794]
  assert more == {}


def test_numbers_per_device():
  """Each device mixes its own examples, all with the same weight."""
  rng, mix = jax.random.PRNGKey(0), None
  for pair, want in (
    ([0.0, 1.0], [0.4762671, 0.5237329]),
    ([2.0, 3.0], [2.476267, 2.523733]),
  ):
    mix = get_mixup(rng, 0.2)
    key, (x,), _ = mix(jnp.array(pair))
    np.testing.assert_allclose(x, want, rtol=1e-6)
    assert key.tolist() == [1797259609, 2579123966]


def test_all_things_share_weight_and_partner():
  mix = get_mixup(jax.random.PRNGKey(3), 1.0)
  eye, img = jnp.eye(5), jnp.arange(40.0).reshape(5, 2, 2, 2)
  _, (w, tree), more = mix(eye, {"a": img, "none": None}, labels=img, y=None)
  a = w[0, 0]
  assert 0.5 <= a < 1
  want = a * np.eye(5) + (1 - a) * np.roll(np.eye(5), 1, axis=0)
  np.testing.assert_allclose(w, want, rtol=1e-6)
  want = np.tensordot(np.asarray(w), np.asarray(img), axes=1)
  np.testing.assert_allclose(tree["a"], want, rtol=1e-5)
  np.testing.assert_allclose(more["labels"], want, rtol=1e-5)
  assert tree["none"] is None
  assert more["y"] is None


def test_distribution_of_the_weight():
  keys = jax.random.split(jax.random.PRNGKey(0), 2000)
  weight = lambda key: get_mixup(key, 0.4)(jnp.eye(2))[1][0][0, 0]
  a = np.asarray(jax.jit(jax.vmap(weight))(keys))
  cdf = lambda x: 2 * scipy.stats.beta(0.4, 0.4).cdf(x) - 1
  assert scipy.stats.kstest(a, cdf).pvalue > 1e-3


def test_mixup_with_a_legacy_config():
  cfg = dict(p=0.2, fold_in=None)
  rng = jax.random.PRNGKey(4)
  key1, (x1,), more1 = mixup(rng, jnp.eye(3), y=jnp.arange(3.0), **cfg)
  key2, (x2,), more2 = get_mixup(rng, 0.2)(jnp.eye(3), y=jnp.arange(3.0))
  np.testing.assert_array_equal(x1, x2)
  np.testing.assert_array_equal(more1["y"], more2["y"])
  np.testing.assert_array_equal(key1, key2)
  assert more1["fold_in"] is None


def test_p_of_zero_changes_nothing():
  _, (x,), _ = mixup(jax.random.PRNGKey(0), jnp.arange(3.0), p=0.0)
  np.testing.assert_array_equal(x, [0, 1, 2])


def test_of_several_examples():
  mix = get_mixup(jax.random.PRNGKey(3), 1.0, num_shards=2, n=3)
  _, (w,), more = mix(jnp.eye(8), y=jnp.arange(8.0))
  weights = np.sort(w[0])[:-4:-1]
  assert 1 / 3 <= weights[0] < 1 and weights[-1] > 0
  np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
  eye = np.eye(4)
  half = sum(a * np.roll(eye, i, axis=0).T for i, a in enumerate(weights)).T
  want = np.block([[half, np.zeros((4, 4))], [np.zeros((4, 4)), half]])
  np.testing.assert_allclose(w, want, rtol=1e-6)
  np.testing.assert_allclose(more["y"], want @ np.arange(8), rtol=1e-5)
  _, (x,), _ = mixup(jax.random.PRNGKey(0), jnp.arange(3.0), p=0.0, n=3)
  np.testing.assert_array_equal(x, [0, 1, 2])


def test_distribution_of_several_weights():
  """Uniform on the simplex; the largest of three: 1/3 (1 + 1/2 + 1/3)."""
  keys = jax.random.split(jax.random.PRNGKey(0), 2000)
  weights = lambda key: get_mixup(key, 1.0, n=3)(jnp.eye(3))[1][0][0]
  w = np.sort(jax.jit(jax.vmap(weights))(keys))
  np.testing.assert_allclose(w.mean(0), [1 / 9, 5 / 18, 11 / 18], atol=0.01)


def test_bad_settings():
  with pytest.raises(ValueError, match="mixup.p = -1"):
    get_mixup(jax.random.PRNGKey(0), -1)
  with pytest.raises(ValueError, match="mixup.n = 1: at least two"):
    get_mixup(jax.random.PRNGKey(0), 0.2, n=1)
  with pytest.raises(
    ValueError, match=r"2 as \['m'\].*the settings p, n and num_shards"
  ):
    mixup(jax.random.PRNGKey(0), jnp.arange(3.0), **dict(p=0.2, m=2))
