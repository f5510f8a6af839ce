"""Random numbers of preprocessing ops.

The input pipeline gives each example a seed, and `builder` tells which op of
the preprocessing string runs. The random numbers of an op are then a function
of (seed of the example, position of the op in the string, number of the draw in
the op): the same in eager mode and in graphs, for any number of threads and
restarts.

Derivation: the n-th draw (from 0) of the op at position i has the stateless
  seed
`fold_in(seed of the example, h)`, where h is the first 63 bits of the SHA-256
of the text "i/n" ("i/j/n" for op j of a string inside op i). If an example goes
through the op at one position again, for example for a second view of it, the
text has "i+1", "i+2", ... in place of "i".

Rules for ops:
- Draw only through `next_seed()`, and use each seed once.
- Call it unconditionally and outside of `tf.cond`, `tf.map_fn` and loops over
  tensors: a graph is built with both branches, and its loop bodies only once.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

from big_vision.tf import tf


@dataclasses.dataclass
class _State:
  """The example and the op that are being processed."""

  seed: tf.Tensor
  epoch: tf.Tensor
  run_seed: tf.Tensor
  path: tuple = ()  # Positions of the enclosing ops, outermost first.
  num_draws: int = 0
  visits: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )

  def salt(self, last):
    text = "/".join(map(str, [*self.path, last]))
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


_state = contextvars.ContextVar("big_vision_pp_rng", default=None)


@contextlib.contextmanager
def example_seed(
  seed: tf.Tensor | Sequence[int],
  epoch: tf.Tensor | int = 0,
  run_seed: tf.Tensor | Sequence[int] = (0, 0),
) -> Iterator[None]:
  """Sets the seed of the example for the ops inside the `with` block.

  Args:
    seed: int[2], one seed per example and epoch.
    epoch: int scalar, how often the example was used before.
    run_seed: int[2], one seed per run, the same in all epochs; see `op_seed`.
  """
  state = _State(_int64(seed), _int64(epoch), _int64(run_seed))
  token = _state.set(state)
  try:
    yield
  finally:
    _state.reset(token)


@contextlib.contextmanager
def op_scope(position: int) -> Iterator[None]:
  """Sets the position of the op that runs inside the `with` block.

  Args:
    position: int, from 0. Without an active example seed it has no effect.
  """
  state = _state.get()
  if state is None:
    yield
    return
  again = state.visits[position]
  state.visits[position] += 1
  path = (*state.path, f"{position}+{again}" if again else position)
  inner = _State(state.seed, state.epoch, state.run_seed, path)
  token = _state.set(inner)
  try:
    yield
  finally:
    _state.reset(token)


def next_seed() -> tf.Tensor:
  """Draws a seed for one `tf.random.stateless_*` or `tf.image.stateless_*`.

  Returns:
    int64[2]. Without an active example seed, it is drawn from the global random
    numbers of TensorFlow, which `tf.random.set_seed` controls.
  """
  state = _state.get()
  if state is None:
    limits = tf.int64.min, tf.int64.max
    return tf.random.uniform([2], *limits, dtype=tf.int64)
  seed = fold_in(state.seed, state.salt(state.num_draws))
  state.num_draws += 1
  return seed


def epoch() -> tf.Tensor | None:
  """Returns how often the example was used before.

  Returns:
    int64 scalar, or None without an active example seed.
  """
  state = _state.get()
  return None if state is None else state.epoch


def op_seed() -> tf.Tensor | None:
  """Derives a seed of the op that is the same for all examples and epochs.

  Returns:
    int64[2] that depends on `run_seed` and the op's position in the string, or
    None without an active example seed.
  """
  state = _state.get()
  return None if state is None else fold_in(state.run_seed, state.salt("op"))


def fold_in(seed: tf.Tensor | Sequence[int], n: tf.Tensor | int) -> tf.Tensor:
  """Derives a seed from a seed and a number.

  Args:
    seed: int[2].
    n: int scalar; other numbers give independent seeds.

  Returns:
    int64[2], `tf.random.experimental.stateless_fold_in(seed, n)` in int64.
  """
  return tf.random.experimental.stateless_fold_in(_int64(seed), _int64(n))


def _int64(x):
  # `tf.cast` alone would first turn a Python integer into an int32.
  return tf.cast(x, tf.int64) if tf.is_tensor(x) else tf.constant(x, tf.int64)
