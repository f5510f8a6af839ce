"""Measures decoding: with a cache, and with the model run again for each token."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision.models.proj.uvim import decode, vtt

FORMS = (
  "cached",
  "cached, image again",
  "decoder again",
  "model again",
)


class _Again(vtt.Model):
  """Projects the image again for each token."""

  def cross_memory(self, encoded):
    """Returns `encoded` as it is."""
    return encoded


def measure(
  kw: dict[str, Any], batch: int, tokens: int, rounds: int
) -> dict[str, dict[str, float]]:
  """Measures all forms in turns.

  Args:
    kw: fields of `vtt.Model`.
    batch: images at a time.
    tokens: so many tokens are decoded without a cache; each takes as long, so
      their time is scaled up to all.
    rounds: number of rounds.

  Returns:
    Form -> {"wall": seconds, "cpu": seconds of CPU time}, each the least of the
    rounds, for all `seq_len` tokens of one image.
  """
  model = vtt.Model(**kw)
  length = model.seq_len
  rng = np.random.default_rng(0)
  image = rng.uniform(-1, 1, (batch, *model.input_size, 3)).astype(np.float32)
  prompts = np.zeros([batch, length], np.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image, prompts)
  draw = lambda x: 0.02 * rng.normal(size=x.shape).astype(np.float32)
  params = jax.device_put(jax.tree.map(draw, shapes))

  def cached(model):
    return decode.argmax_sampling(
      params, image, prompts, 0, model=model, eos_token=-1
    )

  @functools.partial(jax.jit, static_argnames="whole")
  def again(params, whole):
    encode = lambda: model.apply(params, image, method="encode")
    encoded = None if whole else encode()

    def step(i, sequences):
      logits = model.apply(
        params, encode() if whole else encoded, sequences, method="decode"
      )
      now = jax.lax.dynamic_index_in_dim(logits, i, 1, keepdims=False)
      best = jnp.argmax(now, axis=-1).astype(jnp.int32)
      return jax.lax.dynamic_update_index_in_dim(sequences, best, i, 1)

    return jax.lax.fori_loop(0, tokens, step, jnp.asarray(prompts))

  fns = (
    lambda: cached(model),
    lambda: cached(_Again(**kw)),
    lambda: again(params, False),
    lambda: again(params, True),
  )
  for fn in fns:
    jax.block_until_ready(fn())  # Compiles.
  rows = {form: {"wall": np.inf, "cpu": np.inf} for form in FORMS}
  for _ in range(rounds):
    for form, fn in zip(FORMS, fns, strict=True):
      scale = (1 if form.startswith("cached") else length / tokens) / batch
      wall, cpu = time.perf_counter(), time.process_time()
      jax.block_until_ready(fn())
      wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
      row = rows[form]
      row["wall"] = min(row["wall"], wall * scale)
      row["cpu"] = min(row["cpu"], cpu * scale)
  return rows
