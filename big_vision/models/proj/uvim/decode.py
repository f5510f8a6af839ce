"""Samples sequences from models with `encode` and `decode`, such as `vtt`.

All entry points take the same arguments and differ in how they choose a token;
`big_vision/decoding` has the loop. They compile once for each model, shape and
filter; another temperature, seed or end token compiles nothing.

What a model offers:

  encode(*inputs) -> encoded, or (encoded, enc_pos_emb)
  decode(encoded, tokens, decode=True, max_decode_length=L) -> logits
    With a collection `cache`, see `vtt.Model`; and `enc_pos_emb=...` if `encode`
    returns it. For `prefill=True` it takes this keyword.
  cross_memory(encoded) -> tree
    Optional: what to give to `decode` in place of `encoded`, computed once per
    example.

Specified behavior that may surprise: the results are not sorted by score, and
the log-probability of the 0 that follows the end of a sequence counts while any
sequence of the batch goes on (`count_padding=False` leaves it out). Argmax draws
at a temperature of 1e-7, so it may take the second of two tokens whose logits
differ by less than about 1e-6; `temperature_sampling(temperature=0)` does not.

Shapes: `B` examples, `S` samples per example, `L` length, `V` vocabulary.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision.decoding import filters, sampling
from big_vision.decoding.caches import (
  cache_map,
  expand_samples_dim,
  expand_samples_dim_and_flatten,
  flatten_samples_dim,
  repeat_cache,
  set_cache_index,
  unflatten_samples_dim,
)
from big_vision.decoding.filters import NEG_INF
from big_vision.decoding.sampling import EOS_ID, LoopState
from big_vision.types import Array, Key, PyTree

__all__ = [
  "EOS_ID",
  "LoopState",
  "NEG_INF",
  "argmax_sampling",
  "cache_map",
  "expand_samples_dim",
  "expand_samples_dim_and_flatten",
  "flatten_samples_dim",
  "generate",
  "nucleus_sampling",
  "temperature_sampling",
  "topk_sampling",
  "unflatten_samples_dim",
]

Sampled = tuple[Array, Array, Array]


def temperature_sampling(
  params: PyTree,
  inputs: Any,
  prompts: Array,
  seed: int | Key,
  *,
  model: Any,
  temperature: float | Array = 1.0,
  top_k: int = 0,
  top_p: float = 0.0,
  **kw: Any,
) -> Sampled:
  """Draws tokens from all that the filters leave.

  Args:
    params: dict of variables, {"params": ...}.
    inputs: what `model.encode` takes, or a tuple of several.
    prompts: int [B, L], forced tokens, then 0; all 0 forces nothing.
    seed: int; or a random key, or keys [B], see `sampling.sample`.
    model: linen module, see the top of this file.
    temperature: float, divides the logits; 0 takes the most probable token.
    top_k: int, how many of the most probable tokens to draw from; 0 means all.
    top_p: float, the probability that those it draws from have together, see
      `filters.nucleus`; 0 means all.
    **kw: see `generate`, and `sampling.sample`.

  Returns:
    (sequences int [B, S, L], scores [B, S], logprobs [B, S, L]).

  Raises:
    ValueError: both `top_k` and `top_p`, or one of them is out of range.
  """
  filters.check_filters(top_k, top_p)
  return generate(
    params,
    inputs,
    prompts,
    seed,
    model=model,
    generate_fn=sampling.sample,
    temperature=temperature,
    top_k=top_k,
    top_p=top_p,
    **{"count_padding": True, **kw},
  )


def topk_sampling(
  params: PyTree,
  inputs: Any,
  prompts: Array,
  seed: int | Key,
  *,
  model: Any,
  temperature: float | Array = 1.0,
  top_k: int = 20,
  **kw: Any,
) -> Sampled:
  """Draws tokens from the most probable ones.

  Args:
    params: see `temperature_sampling`.
    inputs: see there.
    prompts: see there.
    seed: see there.
    model: see there.
    temperature: see there.
    top_k: see there.
    **kw: see there.

  Returns:
    See `temperature_sampling`.
  """
  return temperature_sampling(
    params, inputs, prompts, seed, model=model,
    temperature=temperature, top_k=top_k, top_p=0.0, **kw,
  )  # fmt: skip


def nucleus_sampling(
  params: PyTree,
  inputs: Any,
  prompts: Array,
  seed: int | Key,
  *,
  model: Any,
  temperature: float | Array = 1.0,
  top_p: float = 0.2,
  **kw: Any,
) -> Sampled:
  """Draws tokens from those that together have a probability of `top_p`.

  Args:
    params: see `temperature_sampling`.
    inputs: see there.
    prompts: see there.
    seed: see there.
    model: see there.
    temperature: see there; it does not change which tokens are left.
    top_p: see there.
    **kw: see there.

  Returns:
    See `temperature_sampling`.
  """
  return temperature_sampling(
    params, inputs, prompts, seed, model=model,
    temperature=temperature, top_k=0, top_p=top_p, **kw,
  )  # fmt: skip


def argmax_sampling(
  params: PyTree,
  inputs: Any,
  prompts: Array,
  seed: int | Key,
  *,
  model: Any,
  **kw: Any,
) -> Sampled:
  """Takes the most probable token each time.

  Args:
    params: see `temperature_sampling`.
    inputs: see there.
    prompts: see there.
    seed: see there.
    model: see there.
    **kw: see there.

  Returns:
    See `temperature_sampling`.
  """
  return temperature_sampling(
    params, inputs, prompts, seed, model=model,
    temperature=1e-7, top_k=0, top_p=0.0, **kw,
  )  # fmt: skip


def generate(
  params: PyTree,
  inputs: Any,
  prompts: Array,
  seed: int | Key,
  *,
  model: Any,
  generate_fn: Callable[..., Sampled],
  num_samples: int = 1,
  prefill: bool = False,
  eos_token: int = EOS_ID,
  **generate_fn_kwargs: Any,
) -> Sampled:
  """Encodes the inputs once and runs a loop that calls the decoder per token.

  Args:
    params: dict of variables, {"params": ...}.
    inputs: what `model.encode` takes, or a tuple of several.
    prompts: int [B, L], forced tokens, then 0.
    seed: int; or a random key, or keys [B].
    model: linen module, see the top of this file.
    generate_fn: function with the arguments and results of `sampling.sample`.
    num_samples: int, S.
    prefill: bool, reads what all prompts force in one call. The results are the
      same, and come sooner for long prompts.
    eos_token: int, the token that ends a sequence; -1 for none.
    **generate_fn_kwargs: for `generate_fn`. All but `temperature` have to be
      hashable; other values compile anew.

  Returns:
    (sequences int [B, S, L], scores [B, S], logprobs [B, S, L]).

  Raises:
    ValueError: the shape of the prompts does not fit, or `prefill` and the
      model does not take it.
  """
  if not isinstance(inputs, tuple | list):
    inputs = (inputs,)
  if num_samples < 1:
    raise ValueError(f"num_samples={num_samples} should be at least 1.")
  if jnp.ndim(prompts) != 2:
    raise ValueError(
      f"prompts have the shape {jnp.shape(prompts)} instead of [batch, length]."
    )
  if prefill and "prefill" not in inspect.signature(model.decode).parameters:
    raise ValueError(
      f"prefill=True: `decode` of {type(model).__name__} does not take it."
    )
  traced: dict[str, Any] = {"eos_token": eos_token}
  if "temperature" in generate_fn_kwargs:
    temperature = generate_fn_kwargs.pop("temperature")
    traced["temperature"] = jnp.asarray(temperature, jnp.float32)
  is_list = lambda value: isinstance(value, list | np.ndarray)
  static = {
    name: tuple(value) if is_list(value) else value
    for name, value in generate_fn_kwargs.items()
  }
  is_int = not hasattr(seed, "dtype") or jnp.ndim(seed) == 0
  is_int &= not jax.dtypes.issubdtype(
    getattr(seed, "dtype", int), jax.dtypes.prng_key
  )
  return _generate(
    params,
    tuple(inputs),
    prompts,
    jax.random.PRNGKey(seed) if is_int else seed,
    traced,
    model=_Static(model),
    generate_fn=generate_fn,
    num_samples=num_samples,
    prefill=prefill,
    static=tuple(sorted(static.items())),
  )


class _Static:
  """Makes models static arguments, also those whose fields have no hash."""

  def __init__(self, model):
    self.model = model
    try:
      self.key = (type(model), hash(model), model)
    except TypeError:
      self.key = id(model)

  def __hash__(self):
    return hash(self.key if isinstance(self.key, int) else self.key[:2])

  def __eq__(self, other):
    return isinstance(other, _Static) and self.key == other.key


@functools.partial(
  jax.jit,
  static_argnames=("model", "generate_fn", "num_samples", "prefill", "static"),
)
def _generate(
  params,
  inputs,
  prompts,
  rng,
  traced,
  *,
  model,
  generate_fn,
  num_samples,
  prefill,
  static,
):
  """Does what `generate` says; what is static is hashable."""
  model = model.model
  prompts = jnp.asarray(prompts, jnp.int32)
  batch_size, length = prompts.shape
  encoded = model.apply(params, *inputs, method="encode")
  more = {"max_decode_length": length}
  if isinstance(encoded, tuple):
    encoded, more["enc_pos_emb"] = encoded
  if encoded.shape[0] != batch_size:
    raise ValueError(
      f"There are {batch_size} prompts for {encoded.shape[0]} inputs."
    )
  if hasattr(model, "cross_memory"):
    encoded = model.apply(params, encoded, method="cross_memory")

  def make_cache(batch_size):
    zeros = lambda x: jnp.zeros((batch_size, *x.shape[1:]), x.dtype)
    _, new = model.apply(
      params,
      jax.tree.map(zeros, encoded),
      zeros(prompts),
      decode=True,
      mutable=["cache"],
      method="decode",
      **more,
    )
    return new["cache"]

  cache = make_cache(batch_size)
  kw = {}
  if prefill:
    logits, new = model.apply(
      {**params, "cache": cache},
      encoded,
      prompts,
      decode=True,
      prefill=True,
      mutable=["cache"],
      method="decode",
      **more,
    )
    start = sampling.prefilled(logits, prompts)
    cache = set_cache_index(new["cache"], start.num)
    kw["prefilled"] = start._replace(
      logprobs=_repeat(start.logprobs, num_samples)
    )
  cache = repeat_cache(make_cache, cache, num_samples)
  encoded, prompts = (
    jax.tree.map(lambda x: _repeat(x, num_samples), tree)
    for tree in (encoded, prompts)
  )
  if filters.is_batched(rng) and num_samples > 1:
    each = jax.vmap(lambda key: jax.random.split(key, num_samples))
    rng = flatten_samples_dim(each(rng))

  def step(tokens, cache):
    logits, new = model.apply(
      {**params, "cache": cache},
      encoded,
      tokens,
      decode=True,
      mutable=["cache"],
      method="decode",
      **more,
    )
    return jnp.squeeze(logits, axis=1), new["cache"]

  results = generate_fn(
    step, cache, prompts, rng, **traced, **kw, **dict(static)
  )
  sequences, scores, logprobs = (
    unflatten_samples_dim(x, batch_size, num_samples) for x in results
  )
  return sequences, scores, logprobs


def _repeat(x, num_samples):
  """Repeats each example S times, side by side."""
  if num_samples == 1:
    return x
  return expand_samples_dim_and_flatten(x, num_samples)
