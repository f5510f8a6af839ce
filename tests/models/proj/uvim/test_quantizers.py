"""Quantizers against loops in NumPy and formulas of the papers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision.models.proj.uvim import quantizers as q

pytestmark = pytest.mark.usefixtures("quick_compilation")


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_nearest_codeword():
  x, e = normal(2, 5, 3), normal(7, 3, seed=1)
  e[4] = e[2]  # Of equal ones the first.
  values, code = q.quantize(jnp.asarray(x), jnp.asarray(e))
  distances = ((x[:, :, None] - e) ** 2).sum(-1)
  np.testing.assert_array_equal(code, distances.argmin(-1))
  assert not np.any(np.asarray(code) == 4)
  np.testing.assert_allclose(values, e[np.asarray(code)], atol=1e-6)


def test_the_gradient_passes_unchanged():
  x, e, weights = normal(2, 5, 3), normal(7, 3, seed=1), normal(2, 5, 3, seed=2)
  loss = lambda x, e: jnp.sum(q.quantize(x, e)[0] * weights)
  dx, de = jax.grad(loss, argnums=(0, 1))(x, e)
  np.testing.assert_array_equal(dx, weights)
  assert not np.any(de)


def test_counts_sums_and_usage():
  x, code = normal(2, 5, 3), np.array([[0, 2, 2, 0, 2], [2, 3, 3, 0, 0]])
  counts, sums = q.count(code, 6), q.sums(jnp.asarray(x), code, 6)
  for k in range(6):
    assert counts[k] == (code == k).sum()
    np.testing.assert_allclose(sums[k], x[code == k].sum(0), atol=1e-6)
  usage = q.usage(counts)
  assert usage["codebook_max_ratio"] == pytest.approx(0.4)
  assert usage["codebook_zeros_ratio"] == pytest.approx(0.5)
  words = q.codewords(jnp.asarray(normal(4, 3)), jnp.full([4], 2.0))
  np.testing.assert_allclose(np.linalg.norm(words, axis=1), 1, rtol=1e-6)


def test_split():
  state = {
    "rng": jax.random.PRNGKey(3),
    "dictionary": jnp.asarray(normal(4, 3)),
    "counts": jnp.asarray([3.0, 8.0, 1.0, 0.5]),
  }
  new = q.split_the_most_frequent_embedding(state)
  np.testing.assert_array_equal(new["counts"], [3, 4, 1, 4])
  old = np.asarray(state["dictionary"])
  np.testing.assert_array_equal(
    new["dictionary"][:3], old[:3] * [[1], [0.5], [1]]
  )
  ratio = np.asarray(new["dictionary"][3]) / (old[1] / 2)
  assert np.all(np.abs(ratio - 1) <= q.PERTURB * 1.01) and len(set(ratio)) == 3
  _, local = jax.random.split(state["rng"])
  np.testing.assert_allclose(
    ratio,
    jax.random.uniform(local, (3,), minval=1 - q.PERTURB, maxval=1 + q.PERTURB),
    rtol=1e-6,
  )
  assert not np.array_equal(new["rng"], state["rng"])


def test_update_until_all_codes_are_used():
  """Repeats the loop in Python."""
  state = {
    "dictionary": jnp.asarray(normal(6, 3)),
    "counts": jnp.asarray([9.0, 0.1, 0.2, 4.0, 0.05, 2.0]),
  }
  counts = np.array([2, 0, 0, 1, 0, 0], np.int32)
  vectors = normal(6, 3, seed=1)
  rng = jax.random.PRNGKey(0)
  new = jax.jit(
    lambda *a: q.update(*a, momentum=0.5, min_count=0.3)
  )(state, counts, vectors, rng)  # fmt: skip
  want = {
    "rng": rng,
    "dictionary": state["dictionary"] * 0.5 + vectors,
    "counts": state["counts"] * 0.5 + counts,
  }
  splits = 0
  while np.any(np.asarray(want["counts"]) < 0.3):
    want, splits = q.split_the_most_frequent_embedding(want), splits + 1
  assert splits == 3
  assert new.keys() == {"dictionary", "counts"}
  for k in new:
    np.testing.assert_allclose(new[k], want[k], rtol=1e-6)


@pytest.mark.parametrize("levels", [(4, 3), (5,), (2, 8, 3)])
def test_fsq(levels):
  """All combinations of levels, and only these."""
  x = normal(1, 9000, len(levels)) * 6
  bounded, rounded, code = map(np.asarray, q.fsq(jnp.asarray(x), levels))
  words = q.fsq_codewords(levels)
  grids = [(np.arange(n) - n // 2) / (n // 2) for n in levels]
  want = [w[::-1] for w in itertools.product(*grids[::-1])]
  np.testing.assert_allclose(words, want)  # The first digit is the fastest.
  assert set(code.ravel()) == set(range(len(words)))
  np.testing.assert_allclose(rounded, words[code], atol=1e-6)
  width = np.array([n // 2 for n in levels])
  assert np.all(np.abs(bounded - rounded) * width <= 0.5 + 1e-3)
  # Formula of the paper: tanh(x + shift) (L - 1) / 2 - offset.
  half = (np.array(levels) - 1) / 2
  offset = np.where(np.array(levels) % 2, 0, 0.5)
  if min(levels) > 2:  # Of two levels, the shift is infinite.
    exact = np.tanh(x + np.arctanh(offset / half)) * half - offset
    np.testing.assert_allclose(bounded * width, exact, atol=5e-3)


def test_fsq_gradient_is_that_of_the_bounded_vector():
  x = jnp.asarray(normal(1, 9, 2))
  levels = (5, 4)
  of = lambda i: jax.grad(lambda x: jnp.sum(q.fsq(x, levels)[i] ** 1))(x)
  np.testing.assert_allclose(of(1), of(0), rtol=1e-6)
  assert np.all(np.asarray(of(1)) > 0)
