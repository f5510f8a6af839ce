"""Writes what PaliGemma answers: one token after the other, with a cache.

`batch` has `image` [B, H, W, 3] or [B, F, H, W, 3], and for the text in front of
the answer `text` int [B, T], `mask_ar` int [B, T], `mask_input` [B, T], which of
these tokens are not padding. It may have `_mask` [B], which examples are real, and
`mask_logits`, which tokens are never drawn: bool [B, V], or the tokens int [B, K].

All of it runs on devices, in one compiled program per shape; the loop ends when
all real examples have ended.

Shapes: `B` batch, `T` tokens of the prompt, `L` of the answer, `V` vocabulary, `n`
samples or beams per example.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from big_vision.decoding.filters import NEG_INF
from big_vision.models.proj.paligemma import samplers
from big_vision.types import Array, Batch, Key, Params, PyTree

PAD = 0  # After the end.


class Decoded(NamedTuple):
  """Holds answers.

  Attributes:
    tokens: int32 [B, L], the end token included, `PAD` after it.
    logp: float32 [B, L], log-probabilities that the model gives to each, before
      any filter; 0 after the end.
  """

  tokens: Array
  logp: Array


def prefill(
  model: Any, params: Params, batch: Batch, max_decode_len: int
) -> tuple[Array, PyTree]:
  """Reads images and prompts into a new cache.

  Args:
    model: linen module, see `paligemma.Model`.
    params: its parameters.
    batch: see the top of this file.
    max_decode_len: L, so many tokens fit into the cache besides.

  Returns:
    (logits [B, V] of the first token, the cache).
  """
  (x, mask, mask_ar), _ = model.apply(
    {"params": params},
    batch["image"],
    batch["text"],
    input_mask=jnp.asarray(batch["mask_input"], bool),
    mask_ar=batch["mask_ar"],
    method=model.embed_image_and_text,
  )
  logits, new = model.apply(
    {"params": params},
    x,
    mask,
    mask_ar,
    cache_size=x.shape[1] + max_decode_len,
    method=model.prefill_cache,
    mutable=("cache",),
  )
  return logits[:, 0].astype(jnp.float32), new["cache"]


def extend(
  model: Any, params: Params, cache: PyTree, tokens: Array
) -> tuple[Array, PyTree]:
  """Reads one more token of each sequence.

  Args:
    model: linen module.
    params: its parameters.
    cache: from `prefill` or the last call.
    tokens: int [B].

  Returns:
    (logits [B, V] of the next token, the cache).
  """
  x, _ = model.apply(
    {"params": params}, tokens[:, None], method=model.embed_text
  )
  logits, new = model.apply(
    {"params": params, "cache": cache},
    x,
    capped=False,
    method=model.extend_cache,
    mutable=("cache",),
  )
  return logits[:, 0].astype(jnp.float32), new["cache"]


def sample(
  params: Params,
  batch: Batch,
  rng: Key,
  *,
  model: Any,
  max_decode_len: int,
  eos_token: int,
  sampler: str = "greedy",
  best_of_n: int = 1,
) -> Decoded:
  """Draws answers.

  Args:
    params: parameters of the model.
    batch: see the top of this file.
    rng: random key.
    model: linen module.
    max_decode_len: L.
    eos_token: ends an answer; -1 for none.
    sampler: see `samplers.get`.
    best_of_n: n, of so many answers the most probable one is returned.

  Returns:
    The Decoded.
  """
  logits, cache = prefill(model, params, batch, max_decode_len)
  repeat = lambda tree: jax.tree.map(
    lambda x: jnp.repeat(x, best_of_n, axis=0), tree
  )
  logits, cache = repeat(logits), repeat(cache)
  done = ~repeat(_real(batch))
  forbidden = batch.get("mask_logits")
  forbidden = None if forbidden is None else repeat(forbidden)
  draw = samplers.get(sampler)

  def goes_on(state):
    i, _, _, done, *_ = state
    return (i < max_decode_len) & ~jnp.all(done)

  def step(state):
    i, logits, cache, done, rng, tokens, logps = state
    rng, key = jax.random.split(rng)
    token = draw(without(logits, forbidden), key)
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], 1)
    token = jnp.where(done, PAD, token)
    logp = jnp.where(done, 0.0, logp[:, 0])
    done |= token == eos_token
    logits, cache = extend(model, params, cache, token)
    return (
      i + 1, logits, cache, done, rng,
      tokens.at[:, i].set(token), logps.at[:, i].set(logp),
    )  # fmt: skip

  shape = (len(logits), max_decode_len)
  start = (
    0, logits, cache, done, rng,
    jnp.full(shape, PAD, jnp.int32), jnp.zeros(shape),
  )  # fmt: skip
  *_, tokens, logps = jax.lax.while_loop(goes_on, step, start)
  if best_of_n == 1:
    return Decoded(tokens, logps)
  tokens, logps = (
    x.reshape(-1, best_of_n, max_decode_len) for x in (tokens, logps)
  )
  best = jnp.argmax(jnp.sum(logps, axis=2), axis=1)
  pick = lambda x: jnp.take_along_axis(x, best[:, None, None], axis=1)[:, 0]
  return Decoded(pick(tokens), pick(logps))


def beam_search(
  params: Params,
  batch: Batch,
  *,
  model: Any,
  max_decode_len: int,
  eos_token: int,
  beam_size: int,
) -> Array:
  """Looks for the most probable answers.

  The score of an answer is the sum of the log-probabilities of its tokens. Each
  example keeps `beam_size` answers that go on, and the best that has ended; it
  stops when none of the former can become better.

  Args:
    params: parameters of the model.
    batch: see the top of this file.
    model: linen module.
    max_decode_len: L. An example without any answer that has ended by then gets
      the best of those that go on.
    eos_token: ends an answer.
    beam_size: n.

  Returns:
    int32 [B, L], `PAD` after the end.
  """
  logits, cache = prefill(model, params, batch, max_decode_len)
  real, num = _real(batch), len(logits)
  repeat = lambda x: jnp.repeat(x, beam_size, axis=0)
  logits, cache = jax.tree.map(repeat, (logits, cache))
  forbidden = batch.get("mask_logits")
  forbidden = None if forbidden is None else repeat(forbidden)
  fold = lambda x: x.reshape(num, beam_size, *x.shape[1:])
  unfold = lambda x: x.reshape(num * beam_size, *x.shape[2:])

  def goes_on(state):
    i, _, _, (_, live), (_, best) = state
    hopeful = real & (jnp.max(live, axis=1) >= best)
    return (i < max_decode_len) & jnp.any(hopeful)

  def step(state):
    i, logits, cache, (tokens, live), (ended, best) = state
    logp = fold(jax.nn.log_softmax(without(logits, forbidden)))  # [B, n, V]
    end = live + logp[:, :, eos_token]  # [B, n]
    winner = jnp.argmax(end, axis=1)
    candidate = jnp.take_along_axis(tokens, winner[:, None, None], 1)[:, 0]
    candidate = candidate.at[:, i].set(eos_token)
    score = jnp.max(end, axis=1)
    ended = jnp.where((score > best)[:, None], candidate, ended)
    best = jnp.maximum(score, best)

    scores = live[:, :, None] + logp.at[:, :, eos_token].set(-jnp.inf)
    live, index = jax.lax.top_k(scores.reshape(num, -1), beam_size)
    parent, token = jnp.divmod(index, logp.shape[-1])  # [B, n]
    tokens = jnp.take_along_axis(tokens, parent[:, :, None], axis=1)
    tokens = tokens.at[:, :, i].set(token)
    rows = unfold(parent + beam_size * jnp.arange(num)[:, None])
    cache = jax.tree.map(lambda x: jnp.take(x, rows, axis=0), cache)
    logits, cache = extend(model, params, cache, unfold(token))
    return i + 1, logits, cache, (tokens, live), (ended, best)

  empty = jnp.full((num, beam_size, max_decode_len), PAD, jnp.int32)
  # At first there is one, not n of the same.
  only_first = jnp.where(jnp.arange(beam_size) == 0, 0.0, -jnp.inf)[None]
  live = jnp.broadcast_to(only_first, (num, beam_size))
  start = (
    0, logits, cache, (empty, live),
    (empty[:, 0], jnp.full((num,), -jnp.inf)),
  )  # fmt: skip
  *_, (tokens, live), (ended, best) = jax.lax.while_loop(goes_on, step, start)
  going = jnp.argmax(live, axis=1)[:, None, None]
  unended = jnp.take_along_axis(tokens, going, axis=1)[:, 0]
  # The end itself may be forbidden.
  return jnp.where((best > NEG_INF / 2)[:, None], ended, unended)


def without(logits: Array, forbidden: Array | None) -> Array:
  """Removes tokens that must not be drawn.

  Args:
    logits: [B, V].
    forbidden: bool [B, V], or the tokens int [B, K]; None is none.

  Returns:
    [B, V].
  """
  if forbidden is None:
    return logits
  if forbidden.dtype != bool:
    rows = jnp.arange(len(logits))[:, None]
    here = jnp.zeros(logits.shape, bool).at[rows, forbidden].set(True)
    forbidden = here
  return jnp.where(forbidden, NEG_INF, logits)


def _real(batch):
  """Returns which examples are not padding, bool [B]."""
  if "_mask" in batch:
    return jnp.asarray(batch["_mask"], bool)
  return jnp.ones(batch["text"].shape[:1], bool)


class Stream:
  """Yields answers token by token, for people who wait for them.

  Attributes:
    model: linen module.
    max_decode_len: L.
    eos_token: ends an answer; -1 for none.
    sampler: see `samplers.get`.
  """

  def __init__(
    self,
    model: Any,
    max_decode_len: int,
    eos_token: int,
    sampler: str = "greedy",
  ) -> None:
    """Compiles nothing yet; each shape of a batch compiles once."""
    self.max_decode_len, self.eos_token = max_decode_len, eos_token
    draw = samplers.get(sampler)

    def first(params, batch, rng):
      logits, cache = prefill(model, params, batch, max_decode_len)
      forbidden = batch.get("mask_logits")
      return draw(without(logits, forbidden), rng), cache

    def then(params, batch, rng, cache, token):
      logits, cache = extend(model, params, cache, token)
      forbidden = batch.get("mask_logits")
      return draw(without(logits, forbidden), rng), cache

    self._first = jax.jit(first)
    self._then = jax.jit(then, donate_argnums=(3,))

  def __call__(
    self, params: Params, batch: Batch, rng: Key
  ) -> Iterator[list[int]]:
    """Yields the tokens of all examples, one position after the other.

    Args:
      params: parameters of the model.
      batch: see the top of this file.
      rng: random key; the same one gives what `sample` gives.

    Yields:
      B ints; `PAD` for examples that have ended.
    """
    done = [False] * len(batch["text"])
    masked = {k: v for k, v in batch.items() if k == "mask_logits"}
    cache = token = None
    for i in range(self.max_decode_len):
      rng, key = jax.random.split(rng)
      if i == 0:
        token, cache = self._first(params, batch, key)
      else:
        token, cache = self._then(params, masked, key, cache, token)
      tokens = jax.device_get(token).tolist()
      yield [PAD if end else t for t, end in zip(tokens, done, strict=True)]
      done = [
        end or t == self.eos_token for t, end in zip(tokens, done, strict=True)
      ]
      if all(done):
        return
