"""The model of sequences of vectors: what each position sees, and densities."""

import jax
import numpy as np
import pytest

from big_vision.models.proj.givt import givt

pytestmark = pytest.mark.usefixtures("quick_compilation")
B, L, C = 2, 5, 3


@pytest.fixture(scope="module")
def compiled():
  """`(sequence, labels) -> (logits, log probabilities of the sequence)`."""
  model = givt.Model(
    num_heads=2,
    num_decoder_layers=1,
    mlp_dim=32,
    emb_dim=16,
    num_labels=4,
    seq_len=L,
    out_dim=C,
    num_mixtures=2,
  )
  example = np.zeros((B, L, C), np.float32), np.zeros(B, np.int32)
  variables = jax.jit(model.init)(jax.random.key(0), *example)
  wave = lambda x: 0.3 * np.sin(np.arange(x.size, dtype=np.float32))
  variables = jax.tree.map(lambda x: x + wave(x).reshape(x.shape), variables)

  @jax.jit
  def fn(sequence, labels):
    logits, pdf = model.apply(variables, sequence, labels)
    return logits, pdf.log_prob(sequence)

  return fn


def data():
  rng = np.random.default_rng(0)
  return rng.normal(size=(B, L, C)).astype(np.float32), np.array([1, 3])


@pytest.mark.parametrize("at", range(L))
def test_a_token_changes_what_follows_it_and_nothing_else(compiled, at):
  sequence, labels = data()
  want = compiled(sequence, labels)[0]
  sequence[:, at] += 1
  got = compiled(sequence, labels)[0]
  changed = np.abs(got - want).max(axis=-1) > 1e-6
  np.testing.assert_array_equal(
    changed, np.broadcast_to(np.arange(L) > at, (B, L))
  )


def test_labels_matter(compiled):
  sequence, labels = data()
  want, got = compiled(sequence, labels)[0], compiled(sequence, labels[::-1])[0]
  assert (np.abs(got - want).max(axis=(1, 2)) > 1e-3).all()


def test_densities_integrate_to_one(compiled):
  """Of one channel, by the trapezoid rule; the others stay as they are."""
  sequence, labels = data()
  xs = np.linspace(-60, 60, 4001, dtype=np.float32)
  model_logits = compiled(sequence, labels)[0]
  pdf = givt.Model(num_labels=4, seq_len=L, out_dim=C, num_mixtures=2).get_pdf(
    model_logits[:1, :1]
  )
  points = np.broadcast_to(xs[:, None, None, None], (len(xs), 1, 1, C))
  log_p = jax.vmap(pdf.log_prob)(points)
  p = np.exp(np.asarray(log_p, np.float64))[:, 0, 0]
  np.testing.assert_allclose(np.trapezoid(p, xs, axis=0), 1, atol=2e-2)
