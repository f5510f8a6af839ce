"""Autoregressive decoding with a cache, free of any model.

A model is a function `step_fn(tokens [N, 1], cache) -> (logits [N, V], cache)`,
which reads one token per sequence and predicts the next. `sample` calls it in a
loop that is compiled once per shape. Captions, guiding codes (UViM,
https://arxiv.org/abs/2205.10337) and tokens of images are all decoded like this.

Token 0 is special: it begins each sequence, fills it after its end, and stands
in prompts for what is to be predicted.

Shapes: `B` examples, `S` samples per example, `N = B * S` sequences, those of an
example next to each other; `L` length, `V` vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp

from big_vision.decoding import filters
from big_vision.types import Array, Key, PyTree

EOS_ID = 1

StepFn = Callable[[Array, PyTree], tuple[Array, PyTree]]


@flax.struct.dataclass
class LoopState:
  """Holds what changes from token to token.

  Attributes:
    cur_index: int [], number of tokens that are there already.
    cache: tree of arrays, what `step_fn` returned.
    flags_finished: bool [N], which sequences have ended.
    sequences: int [N, L + 1], a 0 and the tokens.
    scores: float [N], sums of `logprobs`.
    logprobs: float [N, L], of each token.
    rng: random key [], or keys [N].
  """

  cur_index: Array
  cache: PyTree
  flags_finished: Array
  sequences: Array
  scores: Array
  logprobs: Array
  rng: Key


class Prefilled(NamedTuple):
  """Holds what a model has computed for the beginning of prompts at once.

  Attributes:
    num: int [], how many tokens of each prompt the cache holds, with the 0 in
      front but not the last one, which `step_fn` reads first.
    logprobs: float [N, L], of the tokens of the prompts; the first `num` count.
  """

  num: Array
  logprobs: Array


def sample(
  step_fn: StepFn,
  cache: PyTree,
  prompts: Array,
  rng: Key,
  *,
  temperature: float | Array = 1.0,
  top_k: int = 0,
  top_p: float = 0.0,
  mask_token_ids: Sequence[int] = (),
  eos_token: int | Array = EOS_ID,
  prefilled: Prefilled | None = None,
  count_padding: bool = False,
) -> tuple[Array, Array, Array]:
  """Draws one token after the other.

  Args:
    step_fn: see the top of this file.
    cache: its first cache, that of no tokens, or of those of `prefilled`.
    prompts: int [N, L], where a token is not 0 it is forced. If the last one is
      forced, the sequence does not end before it.
    rng: random key, for all sequences together: what is drawn for one depends
      on N and on its place. Or keys [N], one per sequence, which is independent
      of the others.
    temperature: float, divides logits; 0 always takes the most probable token.
    top_k: int, draws from so many most probable tokens; 0 from all.
    top_p: float, see `filters.nucleus`; 0 leaves it out.
    mask_token_ids: ints, tokens that are never drawn.
    eos_token: int, the token that ends a sequence; -1 for none.
    prefilled: what `cache` holds, if it is not empty.
    count_padding: bool, whether the log-probability of the 0 that follows the
      end counts, as long as any sequence goes on: UViM's code does so. Without,
      it is 0.

  Returns:
    (sequences int [N, L], scores float [N], logprobs float [N, L]): the tokens,
    0 after the end; sum of, and each of their log-probabilities, those that the
    model gives them, before temperature and filters.

  Raises:
    ValueError: both `top_k` and `top_p`, or one of them is out of range.
  """
  filters.check_filters(top_k, top_p)
  num_sequences, length = prompts.shape
  prompts = jnp.asarray(prompts, jnp.int32)
  state = LoopState(
    cur_index=jnp.zeros((), jnp.int32),
    cache=cache,
    flags_finished=jnp.zeros([num_sequences], bool),
    sequences=jnp.pad(prompts, [(0, 0), (1, 0)]),
    scores=jnp.zeros([num_sequences]),
    logprobs=jnp.zeros([num_sequences, length]),
    rng=rng,
  )
  if prefilled is not None:
    state = _after(state, prefilled)

  def goes_on(state):
    return (state.cur_index < length) & ~jnp.all(state.flags_finished)

  def step(state):
    rng_sample, rng = _split(state.rng)
    at, then = state.cur_index, state.cur_index + 1
    tokens = jax.lax.dynamic_slice_in_dim(state.sequences, at, 1, axis=1)
    logits, cache = step_fn(tokens, state.cache)
    logits = logits.astype(jnp.float32)
    logp = jax.nn.log_softmax(logits)

    logits = filters.without_tokens(logits, mask_token_ids)
    if top_p:
      logits = filters.nucleus(logits, top_p)
    sampled = filters.draw(rng_sample, logits, temperature, top_k)

    there = jax.lax.dynamic_slice_in_dim(state.sequences, then, 1, axis=1)[:, 0]
    free = there == 0
    token = jnp.where(free & ~state.flags_finished, sampled, there)
    token_logp = jnp.take_along_axis(logp, token[:, None], axis=1)[:, 0]
    if not count_padding:
      ended = free & state.flags_finished
      token_logp = jnp.where(ended, 0.0, token_logp)

    put = jax.lax.dynamic_update_slice_in_dim
    return LoopState(
      cur_index=then,
      cache=cache,
      flags_finished=free & (state.flags_finished | (sampled == eos_token)),
      sequences=put(state.sequences, token[:, None], then, axis=1),
      scores=state.scores + token_logp,
      logprobs=put(state.logprobs, token_logp[:, None], at, axis=1),
      rng=rng,
    )

  state = jax.lax.while_loop(goes_on, step, state)
  return state.sequences[:, 1:], state.scores, state.logprobs


def _split(rng):
  """Splits a key, or each of several, in two."""
  if not filters.is_batched(rng):
    first, second = jax.random.split(rng)
    return first, second
  both = jax.vmap(jax.random.split)(rng)
  return both[:, 0], both[:, 1]


def _after(state, prefilled):
  """Goes to where the loop would be after the first tokens of the prompts."""
  length = state.logprobs.shape[1]
  known = jnp.arange(length)[None, :] < prefilled.num
  logprobs = jnp.where(known, prefilled.logprobs, 0.0)
  return state.replace(
    cur_index=jnp.asarray(prefilled.num, jnp.int32),
    scores=jnp.sum(logprobs, axis=1),
    logprobs=logprobs,
    rng=jax.lax.fori_loop(
      0, prefilled.num, lambda i, rng: _split(rng)[1], state.rng
    ),
  )


def num_forced(prompts: Array) -> Array:
  """Counts the tokens at the beginning that all prompts force.

  Args:
    prompts: int [N, L].

  Returns:
    int [], in [0, L].
  """
  return jnp.min(jnp.sum(jnp.cumprod(prompts != 0, axis=1), axis=1))


def prefilled(logits: Array, prompts: Array) -> Prefilled:
  """Tells `sample` about prompts that a model has read at once.

  Args:
    logits: [N, L, V], of the tokens of the prompts.
    prompts: int [N, L].

  Returns:
    The Prefilled. The cache has to hold `num` tokens, see
    `caches.set_cache_index`.
  """
  logp = jax.nn.log_softmax(logits.astype(jnp.float32))
  of_tokens = jnp.take_along_axis(logp, prompts[:, :, None], axis=2)[:, :, 0]
  return Prefilled(num_forced(prompts), of_tokens)
