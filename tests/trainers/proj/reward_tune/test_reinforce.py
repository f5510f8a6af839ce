"""The gradient of expected rewards, on policies small enough to sum over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import lookup
from big_vision.trainers.proj.reward_tune import reinforce


def test_number_of_samples():
  assert reinforce.num_samples({}) == (0, 1)
  assert reinforce.num_samples(dict(num_samples=8, num_grads=8)) == (8, 8)
  for bad in (dict(num_samples=1), dict(num_samples=4, num_grads=5)):
    with pytest.raises(
      lookup.ConfigError, match=r"config\.reward\.num_samples"
    ):
      reinforce.num_samples(bad)


def test_advantages():
  rewards = jnp.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
  np.testing.assert_allclose(reinforce.advantages(rewards), [[-3], [-1.5]])
  np.testing.assert_allclose(
    reinforce.advantages(rewards, 3), [[-3, -1.5, 4.5], [-1.5, -1.5, 3]]
  )
  slope = jax.grad(lambda r: reinforce.advantages(r, 3).sum())(rewards)
  assert not slope.any()


@pytest.mark.parametrize("num_grads", [1, 3])
def test_expected_gradient(num_grads):
  """Of all that may be drawn, weighted by how probable it is."""
  num, vocab = 3, 3
  logits = jnp.array([0.3, -0.5, 0.1])
  values = jnp.array([1.0, 4.0, -2.0])
  every = np.stack(np.meshgrid(*[range(vocab)] * num), -1).reshape(-1, num)
  p = jax.nn.softmax(logits)
  probability = jnp.prod(p[every], axis=1)

  def gradient(tokens):
    def loss(logits):
      samples = tokens[None, :num_grads, None]
      advantages = reinforce.advantages(values[tokens][None], num_grads)
      shape = (*samples.shape, vocab)
      return reinforce.surrogate(
        jnp.broadcast_to(logits[None, None, None], shape), samples, advantages
      )

    return jax.grad(loss)(logits)

  got = jnp.einsum(
    "e,ev->v", probability, jax.vmap(gradient)(jnp.asarray(every))
  )
  closed = -p * (values - jnp.sum(p * values))
  np.testing.assert_allclose(got, closed, atol=1e-6)
  np.testing.assert_allclose(
    closed, -jax.grad(lambda x: jax.nn.softmax(x) @ values)(logits), atol=1e-6
  )


def test_surrogate():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
  samples = rng.integers(0, 4, (2, 2, 3))
  advantages = rng.normal(size=(2, 2)).astype(np.float32)
  log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
  picked = np.take_along_axis(log_p, samples[..., None], -1)[..., 0]
  want = -(advantages[..., None] * picked)
  got = reinforce.surrogate(logits, samples, advantages)
  assert got == pytest.approx(want.mean(), rel=1e-5)
  # What comes after the end was not drawn; the end itself was.
  samples[0, 1] = [2, 3, 2]
  picked = np.take_along_axis(log_p, samples[..., None], -1)[..., 0]
  want = -(advantages[..., None] * picked)
  for i in np.ndindex(2, 2):
    ends = np.flatnonzero(samples[i] == 3)
    want[i][ends[0] + 1 if len(ends) else 3 :] = 0
  got = reinforce.surrogate(logits, samples, advantages, eos_token=3)
  assert got == pytest.approx(want.mean(), rel=1e-5)
