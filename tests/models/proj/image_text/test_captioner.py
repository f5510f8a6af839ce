"""The text decoder: what each position sees, and completion."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision.models.proj.image_text import captioner

pytestmark = pytest.mark.usefixtures("quick_compilation")
V, B, L, T, E = 11, 2, 5, 3, 6
SMALL = dict(width=16, depth=1, mlp_dim=32, num_heads=2)
ALL = np.ones([B, L], np.int32)


@functools.cache
def model_and_params():
  model = captioner.Model(V, **SMALL)
  variables = jax.jit(model.init)(jax.random.key(0), image(), tokens(), ALL)
  # Nothing is at a neutral value any more.
  wave = lambda x: 0.1 * np.sin(np.arange(x.size, dtype=np.float32))
  return model, jax.tree.map(lambda x: x + wave(x).reshape(x.shape), variables)


def image():
  return np.random.default_rng(0).normal(size=(B, T, E)).astype(np.float32)


def tokens():
  return np.random.default_rng(1).integers(V, size=(B, L)).astype(np.int32)


@functools.cache
def compiled():
  model, variables = model_and_params()
  return jax.jit(functools.partial(model.apply, variables))


def logits(tokens, mask=ALL, parallel=(False, False), seen=None, encoded=None):
  seen = np.ones([B, T], bool) if seen is None else seen
  encoded = image() if encoded is None else encoded
  return np.asarray(compiled()(encoded, tokens, mask, np.array(parallel), seen))


def changed(a, b):
  """[B, L] bool: where logits differ."""
  return np.abs(a - b).max(axis=-1) > 1e-6


def with_token(at):
  x = tokens()
  x[:, at] = (x[:, at] + 1) % V
  return x


def test_names_and_shapes():
  params = model_and_params()[1]["params"]
  assert set(params) == {
    "embedding", "pos_embedding", "EncDecBlock0", "norm", "logits"
  }  # fmt: skip
  assert params["embedding"]["embedding"].shape == (V + 2, 16)
  assert params["pos_embedding"].shape == (1, L, 16)
  assert params["EncDecBlock0"]["CrossAttn"]["key"]["kernel"].shape == (
    E, 2, 8
  )  # fmt: skip
  out = logits(tokens())
  assert out.shape == (B, L, V) and out.dtype == np.float32


@pytest.mark.parametrize("at", range(L))
def test_a_token_changes_what_follows_it_and_nothing_else(at):
  got = changed(logits(tokens()), logits(with_token(at)))
  want = np.broadcast_to(np.arange(L) > at, (B, L))
  np.testing.assert_array_equal(got, want)


def test_in_parallel_no_token_is_seen():
  parallel = (True, False)
  want = logits(tokens(), parallel=parallel)
  other = (tokens() + 1) % V
  got = logits(other, parallel=parallel)
  assert not changed(want, got)[0].any()
  assert changed(want, got)[1, 1:].all()
  # Positions see each other, so an image token alone changes all of them.
  encoded = image()
  encoded[:, 0] += 1
  assert changed(
    want, logits(tokens(), parallel=parallel, encoded=encoded)
  ).all()


def test_in_parallel_what_is_given_is_seen_from_everywhere():
  mask = np.array([[0, 0, 1, 1, 0]] * B)
  parallel = (True, True)
  want = logits(tokens(), mask, parallel)
  for at in range(L):
    got = changed(want, logits(with_token(at), mask, parallel))
    assert got.all() if at < 2 else not got.any(), at


def test_padding_of_the_image_is_not_seen():
  seen = np.array([[True, True, False], [True, True, True]])
  encoded = image()
  encoded[:, 2] += 1
  got = changed(logits(tokens(), seen=seen),
                logits(tokens(), seen=seen, encoded=encoded))  # fmt: skip
  assert not got[0].any() and got[1].all()


def test_predicted():
  mask = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0.5]])
  want = [[0, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]]
  np.testing.assert_array_equal(captioner.predicted(mask), want)


def test_complete_continues_what_is_given():
  """With a rule in place of a model: a token is one more than that before."""

  def rule(tokens):
    before = jnp.pad(tokens, [(0, 0), (1, 0)])[:, :-1]
    return jax.nn.one_hot((before + 1) % V, V)

  start = np.array([[3, 9, 9, 9], [5, 6, 2, 9]], np.int32)
  mask = np.array([[0, 1, 1, 0], [0, 0, 0, 1]])
  got = jax.jit(functools.partial(captioner.complete, rule))(start, mask)
  np.testing.assert_array_equal(got, [[3, 4, 5, 6], [5, 6, 2, 3]])


def test_variants():
  model = captioner.Model(V, variant="mu", depth=3)
  assert (model.width, model.depth, model.num_heads) == (32, 3, 2)
  with pytest.raises(ValueError, match="captioning.variant: 'B/16'.*'B'"):
    captioner.Model(V, variant="B/16")
