"""Densities against SciPy, samples against their definition, heads by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from big_vision.models import distributions as ds

KEY = jax.random.PRNGKey(9)
close = lambda got, want: np.testing.assert_allclose(
  got, want, rtol=2e-5, atol=2e-5
)


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def positive(*shape, seed=1):
  return np.exp(random(*shape, seed=seed))


def test_normal():
  loc, scale, x = random(2, 3), positive(2, 3), random(2, 3, seed=2)
  pdf = ds.Normal(loc, scale)
  close(pdf.log_prob(x), stats.norm.logpdf(x, loc, scale))
  close(pdf.prob(x), stats.norm.pdf(x, loc, scale))
  close(
    pdf.sample(seed=KEY), loc + scale * jax.random.normal(KEY, (1, 2, 3))[0]
  )
  many = pdf.sample(seed=KEY, sample_shape=(2, 5))
  noise = jax.random.normal(KEY, (10, 2, 3)).reshape(2, 5, 2, 3)
  close(many, loc[None, None] + scale[None, None] * noise)


def test_categorical():
  logits = random(2, 3, 5)
  value = np.array([[0, 4, 2], [-1, 5, 1]])
  want = special.log_softmax(logits, axis=-1)
  want = np.take_along_axis(want, value.clip(0, 4)[..., None], -1)[..., 0]
  want[1, :2] = -np.inf  # There are no such categories.
  close(ds.Categorical(logits).log_prob(value), want)
  probs = 3 * np.exp(logits)
  close(ds.Categorical(probs=probs).log_prob(value), want)
  got = ds.Categorical(logits).sample(seed=KEY, sample_shape=(4,))
  want = jax.random.categorical(KEY, logits, shape=(4, 2, 3))
  np.testing.assert_array_equal(got, want)
  assert ds.Categorical(logits).batch_shape == (2, 3)
  # One value for all of a batch, and several for one.
  assert ds.Categorical(logits).log_prob(jnp.array(1)).shape == (2, 3)
  close(
    ds.Categorical(logits[0, 0]).log_prob(jnp.arange(5)),
    special.log_softmax(logits[0, 0]),
  )
  for kw in ({}, dict(logits=logits, probs=probs)):
    with pytest.raises(ValueError, match="either logits or probs"):
      ds.Categorical(**kw).log_prob(value)


def test_vectors():
  loc, scale, x = random(2, 3, 4), positive(2, 3, 4), random(2, 3, 4, seed=2)
  pdf = ds.MultivariateNormalDiag(loc, scale)
  close(pdf.log_prob(x), stats.norm.logpdf(x, loc, scale).sum(-1))
  assert pdf.batch_shape == (2, 3)
  assert pdf.sample(seed=KEY).shape == (2, 3, 4)


def test_vectors_with_correlations():
  loc, scale, x = random(2, 4), random(2, 4, 4), random(2, 4, seed=2)
  scale[:, range(4), range(4)] += np.array([2, -2, 2, 2])
  pdf = ds.MultivariateNormalTri(loc, scale)
  tri = np.tril(scale)
  for i, value in enumerate(pdf.log_prob(x)):
    full = stats.multivariate_normal(loc[i], tri[i] @ tri[i].T)
    close(value, full.logpdf(x[i]))
  close(pdf.log_prob(x[:1]), pdf.log_prob(np.repeat(x[:1], 2, 0)))
  got = pdf.sample(seed=KEY, sample_shape=(3,))
  noise = np.array(jax.random.normal(KEY, (3, 2, 4)))
  for s in range(3):
    close(got[s], [loc[i] + tri[i] @ noise[s, i] for i in range(2)])
  assert pdf.batch_shape == (2,)


def mixtures():
  weights, loc, scale = random(2, 3), random(2, 3, 4), positive(2, 3, 4)
  mix = ds.Categorical(weights)
  yield ds.MixtureSameFamily(mix, ds.MultivariateNormalDiag(loc, scale)), (2, 4)
  yield ds.MixtureSameFamily(mix, ds.Normal(loc[..., 0], scale[..., 0])), (2,)


@pytest.mark.parametrize("i", range(2))
def test_mixtures(i):
  pdf, shape = list(mixtures())[i]
  of_each = pdf.components_distribution
  x = random(*shape, seed=3)
  weights = special.softmax(np.array(pdf.mixture_distribution.logits), axis=-1)
  want = sum(
    weights[:, k] * np.exp(of_each.log_prob(np.stack([x] * 3, 1))[:, k])
    for k in range(3)
  )
  close(pdf.prob(x), want)
  assert pdf.batch_shape == (2,) and pdf.sample(seed=KEY).shape == shape

  got = np.array(pdf.sample(seed=KEY, sample_shape=(6,)))
  which, each = jax.random.split(KEY)
  index = pdf.mixture_distribution.sample(seed=which, sample_shape=(6,))
  assert len(np.unique(index)) == 3
  draws = np.array(of_each.sample(seed=each, sample_shape=(6,)))
  close(got, draws[np.arange(6)[:, None], np.arange(2)[None], np.array(index)])


def test_compiled_functions_return_them():
  pdf, shape = next(mixtures())
  got = jax.jit(lambda pdf: pdf)(pdf)
  close(got.log_prob(np.ones(shape)), pdf.log_prob(np.ones(shape)))


def test_square_plus():
  x = np.linspace(-40, 40, 9, dtype=np.float32)
  got = np.array(ds.square_plus(x))
  assert (got > 0).all()
  close(got - 1 / got, x)  # Its inverse.


def test_a_mixture_from_the_output_of_a_model():
  logits = random(2, 3 + 3 * 2 * 4)
  pdf = ds.gaussian_mixture(logits, 3, 4, 0.8, 0.5, 2.0)
  close(pdf.mixture_distribution.logits, 2 * logits[:, :3])
  rest = logits[:, 3:].reshape(2, 3, 2, 4)
  normal = pdf.components_distribution
  close(normal.loc, rest[:, :, 0])
  scale = (rest[:, :, 1] + np.sqrt(rest[:, :, 1] ** 2 + 4)) / 2
  close(normal.scale_diag, 0.5 * np.maximum(scale, 0.8))
  plain = ds.gaussian_mixture(logits, 3, 4, 1e-6, positive=jnp.exp)
  close(plain.components_distribution.scale_diag, np.exp(rest[:, :, 1]))
  close(plain.mixture_distribution.logits, logits[:, :3])


def test_one_gaussian_from_the_output_of_a_model():
  logits = random(2, 20)
  pdf = ds.full_normal(logits, 4, 1.5, 0.5)
  close(pdf.loc, logits[:, 16:])
  want = ds.square_plus(logits[:, :16].reshape(2, 4, 4))
  want = np.maximum(want, np.where(np.eye(4), 1.5, 0)[None]) * 0.5
  close(pdf.scale_tri, want)


def test_low_precision_logits_give_exact_densities():
  logits = jnp.asarray(random(2, 27), jnp.bfloat16)
  pdf = ds.gaussian_mixture(logits, 3, 4, 1e-6)
  assert pdf.log_prob(np.ones((2, 4), np.float32)).dtype == jnp.float32
  full = ds.full_normal(logits[:, :20], 4, 1e-6)
  assert full.log_prob(np.ones((2, 4), np.float32)).dtype == jnp.float32
