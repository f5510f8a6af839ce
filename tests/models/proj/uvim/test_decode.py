"""Sampling from models, against running them again for each token."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import special

from big_vision.models.proj.uvim import decode, vtt

pytestmark = pytest.mark.usefixtures("quick_compilation")
B, L, V = 3, 6, 20


def image():
  return np.sin(np.arange(B * 16 * 16 * 3)).reshape(B, 16, 16, 3)


def prompts(*forced):
  x = np.zeros([B, L], np.int32)
  for row, tokens in zip(x, forced, strict=False):
    row[: len(tokens)] = tokens
  return x


@functools.cache
def model_and_params():
  model = vtt.Model(
    patches=dict(size=(8, 8)),
    num_heads=2,
    num_layers=1,
    mlp_dim=32,
    emb_dim=16,
    vocab_size=V,
    seq_len=L,
    input_size=(16, 16),
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0), image(), prompts())
  rng = np.random.default_rng(0)
  draw = lambda x: 0.5 * rng.normal(size=x.shape).astype(np.float32)
  return model, jax.tree.map(draw, shapes)


def run(fn, prompts, seed=0, **kw):
  model, params = model_and_params()
  results = fn(params, image(), prompts, seed, model=model, **kw)
  return [np.asarray(x) for x in results]


@functools.cache
def forward():
  model, params = model_and_params()
  return jax.jit(lambda tokens: model.apply(params, image(), tokens))


def greedy(prompts, eos_token):
  """Runs the model for each token; (tokens, for how many positions)."""
  x = prompts.copy()
  ended = np.zeros(B, bool)
  for i in range(L):
    if ended.all():
      return x, i
    best = np.asarray(forward()(x))[:, i].argmax(axis=-1)
    free = prompts[:, i] == 0
    x[:, i] = np.where(free & ~ended, best, x[:, i])
    ended = free & (ended | (best == eos_token))
  return x, L


@pytest.mark.parametrize("prefill", [False, True])
@pytest.mark.parametrize("forced", [[], [[3, 4, 5], [7, 2], [1, 9, 8, 8, 8]]])
def test_argmax(forced, prefill):
  p = prompts(*forced)
  eos = int(greedy(p, -1)[0][1, 3])  # So that one ends early.
  for eos_token in (-1, eos):
    want, num = greedy(p, eos_token)
    tokens, scores, logprobs = run(
      decode.argmax_sampling, p, eos_token=eos_token, prefill=prefill
    )
    np.testing.assert_array_equal(tokens[:, 0], want)
    # Teacher forcing gives the same log-probabilities, also of what is forced.
    logp = special.log_softmax(np.asarray(forward()(want)), axis=-1)
    logp = np.take_along_axis(logp, want[:, :, None], axis=2)[:, :, 0]
    logp[:, num:] = 0
    np.testing.assert_allclose(logprobs[:, 0], logp, atol=1e-5)
    np.testing.assert_allclose(scores[:, 0], logp.sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize(
  ("fn", "kw"),
  [
    (decode.temperature_sampling, {"temperature": 0.8}),
    (decode.topk_sampling, {"top_k": 4}),
    (decode.nucleus_sampling, {"top_p": 0.7}),
  ],
)
def test_samples_have_their_log_probabilities(fn, kw):
  p = prompts([3], [4, 5])
  out = run(fn, p, 5, num_samples=7, eos_token=-1, **kw)
  tokens, scores, logprobs = out
  assert tokens.shape == logprobs.shape == (B, 7, L) and scores.shape == (B, 7)
  if fn is decode.topk_sampling:
    filled = run(fn, p, 5, num_samples=7, eos_token=-1, prefill=True, **kw)
    np.testing.assert_array_equal(tokens, filled[0])
    np.testing.assert_allclose(logprobs, filled[2], atol=1e-5)
  assert (tokens[1, :, :2] == [4, 5]).all()
  assert len({tuple(x) for x in tokens[0]}) > 3
  for i in range(7):
    logp = special.log_softmax(np.asarray(forward()(tokens[:, i])), axis=-1)
    logp = np.take_along_axis(logp, tokens[:, i, :, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(logprobs[:, i], logp, atol=1e-5)
  np.testing.assert_allclose(scores, logprobs.sum(axis=-1), rtol=1e-5)


def test_defaults_of_filters():
  """Each is `temperature_sampling` with other settings."""
  p = prompts()
  for fn, kw in (
    (decode.topk_sampling, dict(temperature=1.0, top_k=20)),
    (decode.nucleus_sampling, dict(temperature=1.0, top_p=0.2)),
    (decode.argmax_sampling, dict(temperature=1e-7)),
  ):
    want = run(decode.temperature_sampling, p, **kw)
    for a, b in zip(run(fn, p), want, strict=True):
      np.testing.assert_array_equal(a, b)
  with pytest.raises(ValueError, match="exclude each other"):
    run(decode.temperature_sampling, p, top_k=3, top_p=0.3)


def test_random_stream():
  """The first half of each split draws, for all sequences together."""
  key, want = jax.random.PRNGKey(7), prompts()
  for i in range(L):
    now, key = jax.random.split(key)
    want[:, i] = jax.random.categorical(now, forward()(want)[:, i])
  got = run(decode.temperature_sampling, prompts(), 7, eos_token=-1)[0]
  np.testing.assert_array_equal(got[:, 0], want)
  for seed in (np.int64(7), jax.random.PRNGKey(7), jax.random.key(7)):
    again = run(decode.temperature_sampling, prompts(), seed, eos_token=-1)[0]
    np.testing.assert_array_equal(again[:, 0], want)


def test_padding_counts_only_where_asked():
  p = prompts([], [5] * L)  # The second does not end.
  first = run(decode.argmax_sampling, p, eos_token=-1)[0][0, 0, 0]
  kw = dict(eos_token=int(first))
  _, _, logprobs = run(decode.argmax_sampling, p, **kw)
  assert logprobs[0, 0, 1:].all()
  _, scores, logprobs = run(
    decode.argmax_sampling, p, count_padding=False, **kw
  )
  assert not logprobs[0, 0, 1:].any()
  np.testing.assert_allclose(scores[0, 0], logprobs[0, 0, 0])


def test_compiles_once_per_shape(monkeypatch):
  traced = []
  orig = vtt.Model.encode
  monkeypatch.setattr(
    vtt.Model, "encode", lambda *a, **kw: (traced.append(1), orig(*a, **kw))[1]
  )
  params = model_and_params()[1]
  for seed in range(3):
    model = model_and_params()[0].clone()  # Equal, not the same.
    for temperature in (0.5, 0.9):
      decode.temperature_sampling(
        params,
        image(),
        prompts([seed + 2]),
        seed,
        model=model,
        temperature=temperature,
        eos_token=seed,
        num_samples=2,
        mask_token_ids=[0],
      )
  assert len(traced) == 1


class Sums(nn.Module):
  """Adds up what it gets, in a cache with stacked layers."""

  num_layers: int = 3

  @nn.compact
  def __call__(self, x, length):
    started = self.has_variable("cache", "cached")
    shape = (self.num_layers, len(x), length, 16)
    cached = self.variable("cache", "cached", jnp.zeros, shape)
    index = self.variable("cache", "cache_index", jnp.zeros, 3, jnp.int32)
    self.variable("cache", "cached_bias", jnp.zeros, (1, 16))
    if started:
      at = (0, 0, index.value[0], 0)
      new = jnp.broadcast_to(x[None], (self.num_layers, *x.shape))
      cached.value = jax.lax.dynamic_update_slice(cached.value, new, at)
      index.value = index.value + 1
    return cached.value[-1].sum(axis=1, keepdims=True)


class Bag(nn.Module):
  """Predicts from the sum of all tokens so far.

  It has a field without a hash, two inputs, and an encoding of two parts.
  """

  sizes: ConfigDict

  def setup(self):
    self.embed = nn.Embed(V, 16)
    self.sums = Sums()

  def encode(self, x, positions):
    return x, positions

  def decode(
    self, encoded, tokens, enc_pos_emb, decode=False, max_decode_length=None
  ):
    x = self.embed(tokens if decode else vtt.shift_right(tokens))
    if decode:
      x = self.sums(x, max_decode_length)
    else:
      x = jnp.cumsum(x, axis=1)
    return self.embed.attend(x + (encoded + enc_pos_emb)[:, None])


def test_several_samples_with_stacked_layers():
  """Of as many layers as examples; and of a model without a hash."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(B, 16)).astype(np.float32)
  positions = np.ones([1, 16], np.float32)
  model = Bag(ConfigDict({"size": [1, 2]}))
  params = model.init(
    jax.random.key(0), x, prompts(), positions, method="decode"
  )
  kw = dict(model=model, num_samples=5, eos_token=-1)
  tokens, _, logprobs = decode.temperature_sampling(
    params, (x, positions), prompts([3]), 0, **kw
  )
  assert len({tuple(np.asarray(t)) for t in tokens[1]}) > 3
  for i in range(5):
    logits = model.apply(params, x, tokens[:, i], positions, method="decode")
    logp = special.log_softmax(np.asarray(logits), axis=-1)
    logp = np.take_along_axis(logp, tokens[:, i, :, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(logprobs[:, i], logp, atol=1e-5)
  with pytest.raises(ValueError, match="`decode` of Bag does not take it"):
    decode.argmax_sampling(
      params, (x, positions), prompts(), 0, prefill=True, **kw
    )


@pytest.mark.parametrize(
  ("kw", "text"),
  [
    ({"num_samples": 0}, "num_samples=0"),
    ({"prompts": np.zeros([B], int)}, "instead of .batch, length."),
    ({"prompts": np.zeros([2, L], int)}, "2 prompts for 3 inputs"),
  ],
)
def test_wrong_arguments(kw, text):
  with pytest.raises(ValueError, match=text):
    run(decode.argmax_sampling, **{"prompts": prompts(), **kw})
