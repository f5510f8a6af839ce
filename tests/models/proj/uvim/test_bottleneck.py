"""Codes between encoder and decoder: sizes, dropout, grids."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import lookup
from big_vision.models.proj.uvim import bottleneck


def keys():
  numbers = itertools.count()
  return lambda: jax.random.fold_in(jax.random.key(0), next(numbers))


def test_sequences_lose_their_end():
  kept = np.asarray(bottleneck.kept_codes(keys(), "seq", 3000, 4))
  assert (np.diff(kept.astype(int), axis=1) <= 0).all()
  # Code i of n stays where a uniform number is below 1 - (i + 1) / (n + 1).
  np.testing.assert_allclose(kept.mean(axis=0), [0.8, 0.6, 0.4, 0.2], atol=0.03)


def test_random_ones_lose_any():
  kept = np.asarray(bottleneck.kept_codes(keys(), "random", 3000, 4))
  seq = np.asarray(bottleneck.kept_codes(keys(), "seq", 3000, 4))
  np.testing.assert_array_equal(kept.sum(axis=1), seq.sum(axis=1))
  np.testing.assert_allclose(kept.mean(axis=0), [0.5] * 4, atol=0.03)


def test_resize():
  x = jnp.arange(4.0).reshape(1, 4, 1)
  same = bottleneck.resize(x, (2, 2), (2, 2))
  np.testing.assert_allclose(same, x)
  wide = bottleneck.resize(x, (2, 2), (2, 4)).reshape(2, 4)
  np.testing.assert_allclose(wide[0], [0, 0.25, 0.75, 1])


def test_combine():
  r = np.random.default_rng(0)
  x, w = r.normal(size=(2, 5, 3)), r.normal(size=(5, 4))
  got = bottleneck.combine("btc,tn->bnc", x, w, "float32")
  np.testing.assert_allclose(got, np.stack([w.T @ y for y in x]), rtol=1e-5)
  low = bottleneck.combine("btc,tn->bnc", x, w, "bfloat16")
  assert low.dtype == jnp.bfloat16


def test_bad_settings():
  with pytest.raises(lookup.ConfigError, match="model.code_dropout.*'seq'"):
    bottleneck.check_dropout("sec")
  with pytest.raises(lookup.ConfigError, match="patch_size"):
    bottleneck.check_sizes((32, 30), (8, 8), 4, False)
  with pytest.raises(lookup.ConfigError, match="code_len=5"):
    bottleneck.check_sizes((32, 32), (8, 8), 5, True)
  bottleneck.check_sizes((32, 32), (8, 8), 5, False)
