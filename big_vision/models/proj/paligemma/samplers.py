"""Samplers by name: how `decode` draws a token, as in "nucleus(0.9)".

A sampler of your own is a function `(logits [B, V], rng, ...) -> int [B]`,
registered as `paligemma_sampler.<name>`; further arguments are those in the string.

Shapes: `B` sequences, `V` vocabulary.
"""

import inspect
from collections.abc import Callable

import jax.numpy as jnp

from big_vision import lookup
from big_vision.decoding import filters
from big_vision.pp.registry import Registry, parse_name
from big_vision.types import Array, Key

_PREFIX = "paligemma_sampler."


def get(name: str) -> Callable[[Array, Key], Array]:
  """Finds a sampler.

  Args:
    name: for example "greedy", "temperature(0.8)" or "nucleus(p=0.9, t=0.8)".

  Returns:
    `(logits [B, V], rng) -> int32 [B]`.

  Raises:
    ValueError: unknown sampler, or arguments that it does not take.
  """
  if not Registry.knows(_PREFIX + name):
    known = [k for k in Registry.global_registry() if k.startswith(_PREFIX)]
    known = [k.removeprefix(_PREFIX) for k in known]
    raise lookup.unknown("sampler", parse_name(name)[0], known)
  fn = Registry.lookup(_PREFIX + name)
  try:
    bound = inspect.signature(fn.func).bind(None, None, *fn.args, **fn.keywords)
  except TypeError as e:
    raise ValueError(f"The sampler {name!r}: {e}.") from e
  if bound.arguments.get("t", 0) < 0:
    raise ValueError(f"The sampler {name!r}: t should be 0 or more.")
  return lambda logits, rng: fn.func(logits, rng, *fn.args, **fn.keywords)


@Registry.register("paligemma_sampler.greedy")
def greedy(logits: Array, rng: Key) -> Array:
  """Takes the most probable token.

  Args:
    logits: [B, V].
    rng: not used.

  Returns:
    int32 [B].
  """
  del rng
  return jnp.argmax(logits, axis=-1).astype(jnp.int32)


@Registry.register("paligemma_sampler.temperature")
def temperature(logits: Array, rng: Key, t: float) -> Array:
  """Draws from all tokens.

  Args:
    logits: [B, V].
    rng: random key.
    t: divides the logits; 0 takes the most probable token.

  Returns:
    int32 [B].
  """
  return filters.draw(rng, logits, t)


@Registry.register("paligemma_sampler.nucleus")
def nucleus(logits: Array, rng: Key, p: float, t: float = 1.0) -> Array:
  """Draws from the most probable tokens, which together have a probability of p.

  Args:
    logits: [B, V].
    rng: random key.
    p: in (0, 1], see `filters.nucleus`.
    t: divides the logits first; 0 takes the most probable token.

  Returns:
    int32 [B].

  Raises:
    ValueError: `p` is not such a probability.
  """
  if not 0 < p <= 1:
    raise ValueError(f"nucleus({p}): not a probability in (0, 1].")
  if not t:
    return greedy(logits, rng)
  return filters.draw(rng, filters.nucleus(logits / t, p), 1.0)
