"""Answers, against plain loops that read all tokens again for each."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from big_vision.models.proj.paligemma import decode, paligemma

pytestmark = pytest.mark.usefixtures("quick_compilation")
B, T, V, L = 3, 4, 6, 3
MODEL = paligemma.Model(
  img=dict(width=8, depth=1, mlp_dim=8, num_heads=2, patch_size=(2, 2),
           pool_type="none", head_zeroinit=False),
  llm=dict(variant="gemma_2b", width=16, depth=2, mlp_dim=24, num_heads=4,
           num_kv_heads=1, head_dim=8, vocab_size=V, cache_dtype=None,
           final_logits_softcap=2.0, remat_policy="none"),
)  # fmt: skip
LENGTHS = (4, 2, 3)


@functools.cache
def batch():
  rng = np.random.default_rng(5)
  mask = np.arange(T) < np.array(LENGTHS)[:, None]
  ids = rng.integers(V, size=(B, T))
  return {
    "image": rng.normal(size=(B, 4, 4, 3)).astype(np.float32),
    "text": np.where(mask, ids, 0),
    "mask_ar": np.where(mask, [[0, 0, 0, 1]], 1),
    "mask_input": mask.astype(np.int32),
  }


@functools.cache
def params():
  """Answers are of all lengths, and differ."""
  data = batch()
  args = data["image"], data["text"], data["mask_ar"]
  init = lambda: MODEL.init(jax.random.key(0), *args)["params"]
  rng = np.random.default_rng(22)
  fill = lambda x: (0.5 * rng.standard_normal(x.shape)).astype(x.dtype)
  return jax.tree.map(fill, jax.eval_shape(init))


@functools.cache
def forward():
  return jax.jit(lambda *args: MODEL.apply({"params": params()}, *args)[0])


@functools.cache
def log_probs():
  """Of the next token after all answers: one dict `answer -> [V]` per example."""
  found = [{} for _ in range(B)]
  answers = list(itertools.product(range(V), repeat=L - 1))
  for b, n in enumerate(LENGTHS):
    ids = np.zeros((len(answers), T + L - 1), int)
    ids[:, :n] = batch()["text"][b, :n]
    ids[:, n : n + L - 1] = answers
    mask_ar = np.ones_like(ids)
    mask_ar[:, :n] = batch()["mask_ar"][b, :n]
    image = np.repeat(batch()["image"][b : b + 1], len(ids), axis=0)
    logits = np.asarray(forward()(image, ids, mask_ar), np.float64)
    logp = special.log_softmax(logits, axis=-1)
    for i, k in itertools.product(range(len(answers)), range(L)):
      found[b][answers[i][:k]] = logp[i, n - 1 + k]
  return found


@functools.cache
def jitted(fn, model=MODEL, **kw):
  """`(data, end token, ...) -> ...`"""
  kw |= dict(model=model, max_decode_len=L)
  run = lambda params, data, eos, *args: fn(
    params, data, *args, eos_token=eos, **kw
  )
  return functools.partial(jax.jit(run), params())


def sample(data=None, seed=0, eos_token=-1, **kw):
  key = jax.random.key(seed)
  return jitted(decode.sample, **kw)(data or batch(), eos_token, key)


def greedy(logp, eos, forbidden=()):
  """The most probable token each time."""
  answer, scores = (), []
  while len(answer) < L and eos not in answer:
    each = np.array(logp[answer])
    each[list(forbidden)] = -np.inf
    answer += (int(each.argmax()),)
    scores.append(logp[answer[:-1]][answer[-1]])
  return answer, scores


def padded(x):
  return np.pad(x, (0, L - len(x)))


def eos_of_first():
  """The second token of the first answer, which does not end the others."""
  answers = [greedy(x, -1)[0] for x in log_probs()]
  eos = answers[0][1]
  assert eos != answers[0][0] and any(eos not in x for x in answers[1:])
  assert len(set(answers)) == B
  return eos


NOTHING = np.zeros((B, V), bool)  # Is forbidden.


@pytest.mark.parametrize("ends", [False, True])
def test_greedy(ends):
  eos = eos_of_first() if ends else -1
  tokens, logp = sample({**batch(), "mask_logits": NOTHING}, eos_token=eos)
  assert tokens.dtype == jnp.int32 and logp.dtype == jnp.float32
  for b, of_next in enumerate(log_probs()):
    answer, scores = greedy(of_next, eos)
    np.testing.assert_array_equal(tokens[b], padded(answer))
    np.testing.assert_allclose(logp[b], padded(scores), rtol=1e-5, atol=1e-5)


def test_padding_does_not_go_on(monkeypatch):
  """The loop ends with the last answer of an example that is real."""
  steps, extend = [], decode.extend

  def counted(*args):
    jax.debug.callback(lambda: steps.append(1))
    return extend(*args)

  monkeypatch.setattr(decode, "extend", counted)
  run = jitted.__wrapped__(decode.sample)
  args = eos_of_first(), jax.random.key(0)
  data = {**batch(), "_mask": np.array([1, 0, 0])}
  tokens, logp = run(data, *args)
  jax.effects_barrier()
  assert len(steps) == 2
  answer, _ = greedy(log_probs()[0], args[0])
  np.testing.assert_array_equal(tokens[0], padded(answer))
  assert not tokens[1:].any() and not logp[1:].any()
  run({**data, "_mask": np.array([1, 1, 1])}, *args)
  jax.effects_barrier()
  assert len(steps) == 2 + L


def test_the_best_of_several():
  """The same are drawn as for a batch in which each example is repeated."""
  kw = dict(sampler="temperature(2)", eos_token=eos_of_first(), seed=0)
  several = {k: np.repeat(x, 4, axis=0) for k, x in batch().items()}
  tokens, logp = (np.asarray(x).reshape(B, 4, L) for x in sample(several, **kw))
  for b, n in np.ndindex(B, 4):  # Without the temperature.
    of_next, answer = log_probs()[b], tokens[b, n].tolist()
    end = (*answer, kw["eos_token"]).index(kw["eos_token"]) + 1
    want = [of_next[tuple(answer[:i])][t] for i, t in enumerate(answer[:end])]
    np.testing.assert_allclose(logp[b, n], padded(want), rtol=1e-5, atol=1e-5)
    assert not any(answer[end:])
  best = logp.sum(-1).argmax(1)
  assert len(set(best)) > 1
  got, scores = sample(best_of_n=4, **kw)
  np.testing.assert_array_equal(got, tokens[range(B), best])
  np.testing.assert_allclose(scores, logp[range(B), best], rtol=1e-5)


def test_forbidden_tokens():
  """Two of each example, the first ones of its answer."""
  forbidden = [greedy(x, -1)[0][:2] for x in log_probs()]
  ids = np.array([x if len(set(x)) == 2 else (x[0], x[0]) for x in forbidden])
  mask = (np.arange(V) == ids[:, :, None]).any(1)
  tokens, logp = sample({**batch(), "mask_logits": mask})
  for b, of_next in enumerate(log_probs()):
    answer, scores = greedy(of_next, -1, ids[b])
    np.testing.assert_array_equal(tokens[b], answer)
    np.testing.assert_allclose(logp[b], scores, rtol=1e-5, atol=1e-5)
    assert not set(answer) & set(ids[b])


def test_without():
  logits = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
  ids = np.array([[0, 3], [4, 4]])
  mask = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 0, 1]], bool)
  for forbidden in (ids, mask, jnp.asarray(ids)):
    got = decode.without(jnp.asarray(logits), forbidden)
    np.testing.assert_array_equal(got[~mask], logits[~mask])
    assert (got[mask] < -1e6).all()
  assert decode.without(logits, None) is logits


def plain_beam(logp, size, eos, forbidden=()):
  """The best answer that has ended, and the best one of those that go on."""
  live, best = [(0.0, ())], (-np.inf, None)
  for _ in range(L):
    if live[0][0] < best[0]:
      break
    if eos not in forbidden:
      best = max(best, *((s + logp[x][eos], (*x, eos)) for s, x in live))
    longer = [
      (s + logp[x][t], (*x, t))
      for s, x in live
      for t in range(V)
      if t != eos and t not in forbidden
    ]
    live = sorted(longer, reverse=True)[:size]
  return best[1] or live[0][1]


def brute_force(logp, eos):
  scores = {}
  for n in range(L):
    for x in itertools.product(range(V), repeat=n):
      if eos not in x:
        answer = (*x, eos)
        scores[answer] = sum(logp[answer[:i]][t] for i, t in enumerate(answer))
  return max(scores, key=scores.__getitem__)


@pytest.mark.parametrize("size", [1, 2, V**2])
def test_beam_search(size):
  """With enough beams nothing is overlooked."""
  lengths = set()
  search = jitted(decode.beam_search, beam_size=size)
  data = {**batch(), "mask_logits": NOTHING}
  for eos in range(V):
    got = search(data, eos)
    for logp, answer in zip(log_probs(), got, strict=True):
      want = plain_beam(logp, size, eos)
      if size == V**2:
        assert want == brute_force(logp, eos)
      np.testing.assert_array_equal(answer, padded(want))
      lengths.add(len(want))
  assert lengths >= {1, 2} and (size == 1 or 3 in lengths)


def test_beam_search_with_forbidden_tokens():
  """Of the end, too: then the best answer is one that goes on."""
  ids = np.array([[1, 2], [0, 3], [4, 1]])
  mask = (np.arange(V) == ids[:, :, None]).any(1)
  data = {**batch(), "mask_logits": mask}
  got = jitted(decode.beam_search, beam_size=V**2)(data, 1)
  for b, logp in enumerate(log_probs()):
    other = {}
    for x, each in logp.items():
      each = np.array(each)
      each[ids[b]] = -np.inf
      other[x] = special.log_softmax(each)
    want = plain_beam(other, V**2, 1, ids[b])
    np.testing.assert_array_equal(got[b], padded(want))
    assert (1 in want) == (b == 1)


def test_a_stream_is_the_same():
  data = {**batch(), "mask_logits": np.array([[1], [3], [2]])}
  kw = dict(eos_token=eos_of_first(), sampler="temperature(1.5)")
  stream = decode.Stream(MODEL, L, **kw)
  lengths = set()
  for seed in range(6):
    want, _ = sample(data, seed, **kw)
    got = list(stream(params(), data, jax.random.key(seed)))
    assert all(isinstance(t, int) for row in got for t in row)
    rows = np.zeros((B, L), int)
    rows[:, : len(got)] = np.transpose(got)
    np.testing.assert_array_equal(rows, want)
    lengths.add(len(got))
    ended = (np.array(got) == kw["eos_token"]).any(0)
    assert ended.all() or len(got) == L
  assert len(lengths) > 1


def test_half_precision():
  """Other caches, the same answers but for close calls."""
  model = MODEL.clone(dtype_mm="bfloat16")
  run = jitted.__wrapped__(decode.sample, model)
  tokens, logp = run(batch(), -1, jax.random.key(0))
  assert tokens.dtype == jnp.int32 and logp.dtype == jnp.float32
  for b, of_next in enumerate(log_probs()):
    for i, token in enumerate(np.asarray(tokens[b]).tolist()):
      each = of_next[tuple(tokens[b, :i].tolist())]
      assert each[token] > each.max() - 0.1
      np.testing.assert_allclose(logp[b, i], each[token], atol=0.1)
