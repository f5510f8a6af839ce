"""Sampling, against loops in plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from big_vision.decoding import filters, sampling

pytestmark = pytest.mark.usefixtures("quick_compilation")
V, L = 7, 5
# Logits of the next token, by position and token: [L, V, V].
TABLE = np.random.default_rng(0).normal(size=(L, V, V)).astype(np.float32) * 2


def step_fn(tokens, cache):
  logits = jnp.asarray(TABLE)[cache["cache_index"], tokens[:, 0]]
  return logits, {"cache_index": cache["cache_index"] + 1}


def sample(prompts, rng=None, start=0, **kw):
  rng = jax.random.PRNGKey(0) if rng is None else rng
  cache = {"cache_index": jnp.int32(start)}
  results = sampling.sample(step_fn, cache, jnp.asarray(prompts), rng, **kw)
  return [np.asarray(x) for x in results]


def expected(
  prompts,
  rng=None,
  temperature=1.0,
  top_k=0,
  eos_token=1,
  count_padding=False,
):
  """The rules of the loop, one sequence and one token after the other."""
  rng = jax.random.PRNGKey(0) if rng is None else rng
  sequences = np.pad(prompts, [(0, 0), (1, 0)])
  logprobs = np.zeros(np.shape(prompts))
  finished = np.zeros(len(prompts), bool)
  for i in range(np.shape(prompts)[1]):
    if finished.all():
      break
    now, rng = jax.random.split(rng)
    logits = TABLE[i, sequences[:, i]]
    if top_k:
      best = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
      of_best = np.take_along_axis(logits, best, axis=1)
      place = jax.random.categorical(now, of_best / temperature)
      drawn = np.take_along_axis(best, np.asarray(place)[:, None], axis=1)[:, 0]
    else:
      drawn = np.asarray(jax.random.categorical(now, logits / temperature))
    for n, token in enumerate(drawn):
      out_of_prompt = sequences[n, i + 1] == 0
      if out_of_prompt and not finished[n]:
        sequences[n, i + 1] = token
      if count_padding or not (out_of_prompt and finished[n]):
        logp = special.log_softmax(logits[n].astype(np.float64))
        logprobs[n, i] = logp[sequences[n, i + 1]]
      finished[n] = out_of_prompt and (finished[n] or token == eos_token)
  return sequences[:, 1:], logprobs.sum(axis=1), logprobs


def free(num):
  return np.zeros([num, L], np.int32)


def forced(num):
  """Prompts of all lengths, some with tokens after a gap."""
  rng = np.random.default_rng(1)
  tokens = rng.integers(2, V, size=(num, L))
  tokens *= np.arange(L) < rng.integers(0, L, size=(num, 1))
  tokens[0] = [3, 0, 0, 5, 0]
  return tokens.astype(np.int32)


@pytest.mark.parametrize("prompts", [free(20), forced(20)])
@pytest.mark.parametrize(
  "kw",
  [
    {},
    {"temperature": 0.3},
    {"top_k": 3, "temperature": 0.8},
    {"eos_token": -1},
    {"eos_token": 4, "count_padding": True},
  ],
)
def test_equals_a_loop_in_python(prompts, kw):
  rng = jax.random.PRNGKey(3)
  got, want = sample(prompts, rng, **kw), expected(prompts, rng, **kw)
  np.testing.assert_array_equal(got[0], want[0])
  np.testing.assert_allclose(got[1], want[1], rtol=1e-5)
  np.testing.assert_allclose(got[2], want[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0, 1e-7])
def test_greedy(temperature):
  got = sample(forced(9), temperature=temperature)[0]
  for sequence, prompt in zip(got, forced(9), strict=True):
    before, finished = 0, False
    for i in range(L):
      best = int(TABLE[i, before].argmax())
      now_free = prompt[i] == 0
      before = prompt[i] or (0 if finished else best)
      assert sequence[i] == before
      finished = now_free and (finished or best == 1)


def test_zeros_after_the_end():
  sequences, scores, logprobs = sample(free(200))
  ended = 0
  for n, sequence in enumerate(sequences):
    end = list(sequence).index(1) + 1 if 1 in sequence else L
    ended += end < L
    assert (sequence[:end] != 0).any() and not sequence[end:].any()
    assert not logprobs[n, end:].any()
    np.testing.assert_allclose(scores[n], logprobs[n].sum(), rtol=1e-5)
  assert ended > 20  # Or nothing is tested.


def test_frequencies_are_the_probabilities():
  num, temperature = 5000, 0.7
  tokens = sample(free(num)[:, :1], temperature=temperature)[0][:, 0]
  p = special.softmax(TABLE[0, 0] / temperature)
  counts = np.bincount(tokens, minlength=V)
  sigma = np.sqrt(num * p * (1 - p))
  assert (np.abs(counts - num * p) < 4 * sigma).all()


@pytest.mark.parametrize("top_k", [1, 3, V, 100])
def test_top_k_draws_from_the_largest(top_k):
  tokens = sample(free(2000)[:, :1], top_k=top_k, temperature=3.0)[0][:, 0]
  best = np.argsort(-TABLE[0, 0])[:top_k]
  assert set(tokens) == set(best)


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 1.0])
def test_top_p_draws_from_the_fewest_with_that_probability(top_p):
  tokens = sample(free(4000)[:, :1], top_p=top_p, temperature=3.0)[0][:, 0]
  p = special.softmax(TABLE[0, 0].astype(np.float64))
  order = np.argsort(-p)
  num = 1
  while p[order[:num]].sum() < top_p - 1e-6:
    num += 1
  assert set(tokens) == set(order[:num])


def test_mask_token_ids():
  best = int(TABLE[0, 0].argmax())
  ids = [best, 2 if best != 2 else 3]
  prompts = free(6000)[:, :1]
  tokens, _, logprobs = sample(prompts, mask_token_ids=ids)
  p = special.softmax(TABLE[0, 0].astype(np.float64))
  # Log-probabilities are those of the model.
  np.testing.assert_allclose(logprobs, np.log(p[tokens]), rtol=1e-5)
  p[ids] = 0
  p /= p.sum()
  counts = np.bincount(tokens[:, 0], minlength=V)
  assert not counts[ids].any()
  assert (np.abs(counts - 6000 * p) <= 4 * np.sqrt(6000 * p * (1 - p))).all()


def test_mask_of_the_only_probable_token():
  logits = jnp.asarray([[1000.0, 1.0, 2.0]])
  got = filters.without_tokens(logits, [0])
  np.testing.assert_allclose(
    np.exp(got), [[0, *special.softmax([1.0, 2.0])]], rtol=1e-6
  )


def test_nucleus_at_one_keeps_all():
  """Sums of probabilities round to less than 1."""
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(50, 1000)) * 3)
  assert (filters.nucleus(logits, 1.0) > filters.NEG_INF).any()
  kept = np.asarray(filters.nucleus(logits, 0.999999)) > filters.NEG_INF
  assert kept.any(axis=1).all() and kept.mean() < 1


@pytest.mark.parametrize("make", [jax.random.PRNGKey, jax.random.key])
def test_one_key_per_sequence(make):
  """What is drawn for a sequence does not depend on the others."""
  keys = jax.random.split(make(5), 30)
  whole = sample(forced(30), keys)
  some = np.array([22, 4, 17])
  part = sample(forced(30)[some], keys[some])
  np.testing.assert_array_equal(part[0], whole[0][some])
  np.testing.assert_array_equal(part[2], whole[2][some])
  alone = sample(forced(30)[4:5], keys[4])
  np.testing.assert_array_equal(alone[0].shape, [1, L])


def test_keys_per_sequence_have_the_right_frequencies():
  num = 5000
  keys = jax.random.split(jax.random.PRNGKey(1), num)
  tokens = sample(free(num)[:, :1], keys)[0][:, 0]
  p = special.softmax(TABLE[0, 0])
  counts = np.bincount(tokens, minlength=V)
  assert (np.abs(counts - num * p) < 4 * np.sqrt(num * p * (1 - p))).all()


def test_prefilled_is_the_same():
  prompts = forced(20)
  prompts[:, :2] = np.maximum(prompts[:, :2], 2)
  before = np.pad(prompts, [(0, 0), (1, 0)])[:, :-1]
  start = sampling.prefilled(TABLE[np.arange(L), before], jnp.asarray(prompts))
  assert start.num == 2
  plain, filled = sample(prompts), sample(prompts, start=2, prefilled=start)
  np.testing.assert_array_equal(filled[0], plain[0])
  np.testing.assert_allclose(filled[1], plain[1], rtol=1e-5)
  np.testing.assert_allclose(filled[2], plain[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("kw", "text"),
  [
    ({"top_k": 2, "top_p": 0.5}, "exclude each other"),
    ({"top_k": -1}, "top_k=-1"),
    ({"top_p": 1.5}, "top_p=1.5"),
    ({"mask_token_ids": [3, V]}, rf"\[{V}\] are not among the {V} tokens"),
  ],
)
def test_wrong_settings(kw, text):
  with pytest.raises(ValueError, match=text):
    sample(free(2), **kw)
