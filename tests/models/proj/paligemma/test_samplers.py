"""Samplers: what they draw, how often; their names."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from big_vision.models.proj.paligemma import samplers
from big_vision.pp.registry import Registry

pytestmark = pytest.mark.usefixtures("quick_compilation")
NUM = 4000
# Of two kinds of rows, in another order.
LOGITS = np.array([[2.0, 0.5, -1, 1.5, 0], [0, 0.4, 3.0, 2.9, 1]], np.float32)


def draw(name, seed=0):
  """Counts of each token, for each kind of rows [2, V]."""
  logits = jnp.asarray(np.repeat(LOGITS, NUM, axis=0))
  tokens = jax.jit(samplers.get(name))(logits, jax.random.key(seed))
  assert tokens.dtype == jnp.int32 and tokens.shape == (2 * NUM,)
  return np.array([np.bincount(x, minlength=5) for x in tokens.reshape(2, -1)])


def check(counts, p):
  sigma = np.sqrt(NUM * p * (1 - p))
  assert (np.abs(counts - NUM * p) <= 4 * sigma).all(), counts


@pytest.mark.parametrize(
  "name",
  ["greedy", "greedy()", "temperature(0)", "temperature(0.0)",
   "nucleus(0.9, t=0)", "nucleus(p=1e-6)"],
)  # fmt: skip
def test_the_most_probable_token(name):
  np.testing.assert_array_equal(draw(name).argmax(1), [0, 2])
  assert (draw(name).max(1) == NUM).all()


@pytest.mark.parametrize("t", [0.5, 1, 2.0])
def test_temperature(t):
  check(draw(f"temperature({t})"), special.softmax(LOGITS / t, axis=1))
  check(draw(f"temperature(t={t})"), special.softmax(LOGITS / t, axis=1))


@pytest.mark.parametrize("p", [0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("t", [None, 2.0])
def test_nucleus(p, t):
  """The fewest tokens that have the probability, after the temperature."""
  want = special.softmax(LOGITS.astype(np.float64) / (t or 1.0), axis=1)
  for row in want:
    order = np.argsort(-row)
    num = 1
    while row[order[:num]].sum() < p - 1e-9:
      num += 1
    row[order[num:]] = 0
  want /= want.sum(1, keepdims=True)
  check(draw(f"nucleus({p})" if t is None else f"nucleus(p={p}, t={t})"), want)


def test_the_seed_matters():
  assert (draw("temperature(1)") != draw("temperature(1)", seed=1)).any()


@pytest.mark.parametrize("p", [0, -0.1, 1.5])
def test_nucleus_wants_a_probability(p):
  fn = samplers.get(f"nucleus({p})")
  with pytest.raises(ValueError, match=rf"nucleus\({p}\)"):
    fn(jnp.asarray(LOGITS), jax.random.key(0))


@pytest.mark.parametrize("name", ["top_k(3)", "nucleos(0.9)"])
def test_unknown_sampler(name):
  with pytest.raises(ValueError, match="sampler.*nucleus"):
    samplers.get(name)


@pytest.mark.parametrize(
  "name",
  [
    "temperature",
    "temperature(-1)",
    "nucleus(0.9, t=-1)",
    "nucleus(0.9, 1, 2)",
    "nucleus(q=0.9)",
  ],
)
def test_arguments(name):
  with pytest.raises(ValueError, match=re.escape(name)):
    samplers.get(name)


def test_a_sampler_of_the_user():
  @Registry.register("paligemma_sampler.worst", replace=True)
  def worst(logits, rng, sign=-1):
    del rng
    return jnp.argmax(sign * logits, axis=-1).astype(jnp.int32)

  np.testing.assert_array_equal(draw("worst").argmax(1), [2, 0])
  np.testing.assert_array_equal(draw("worst(sign=1)").argmax(1), [0, 2])
