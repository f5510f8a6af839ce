"""Measures answers of PaliGemma: with a cache, and with all read again per token."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision.models.proj.paligemma import decode, paligemma

FORMS = ("cached", "language model again", "model again")
_PROMPT = 16  # Tokens.


def measure(
  kw: dict[str, Any],
  res: int,
  batch: int,
  length: int,
  tokens: int,
  rounds: int,
) -> dict[str, dict[str, float]]:
  """Measures all forms in turns.

  Args:
    kw: fields of `paligemma.Model`.
    res: pixels of the images.
    batch: images at a time.
    length: tokens of an answer.
    tokens: so many of the last ones are computed without a cache; their time is
      scaled up to all, each on as many tokens as there are at the end.
    rounds: number of rounds.

  Returns:
    Form -> {"wall": seconds, "cpu": seconds of CPU time}, each the least of the
    rounds, for the answer about one image.
  """
  model = paligemma.Model(**kw)
  rng = np.random.default_rng(0)
  image = rng.uniform(-1, 1, (batch, res, res, 3)).astype(np.float32)
  ids = lambda n: rng.integers(3, 100, (batch, n)).astype(np.int32)
  prompt, whole = ids(_PROMPT), ids(_PROMPT + length)
  mask_ar = np.zeros_like(prompt)
  of_whole = np.concatenate([mask_ar, np.ones((batch, length), np.int32)], 1)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image, prompt, mask_ar)
  draw = lambda x: 0.02 * rng.normal(size=x.shape).astype(np.float32)
  params = jax.device_put(jax.tree.map(draw, shapes["params"]))
  question = dict(
    image=image, text=prompt, mask_ar=mask_ar, mask_input=mask_ar + 1
  )
  cached = jax.jit(
    functools.partial(
      decode.sample, model=model, max_decode_len=length, eos_token=-1
    )
  )

  @functools.partial(jax.jit, static_argnames="with_image")
  def again(params, image, with_image):
    of = {"params": params}
    embed = lambda: model.apply(of, image, method=model.embed_image)[0]
    zimg = None if with_image else embed()

    def step(_, text):
      x = embed() if with_image else zimg
      logits = model.apply(of, x, text, of_whole, method=_logits)
      best = jnp.argmax(logits[:, -1], axis=-1).astype(jnp.int32)
      return text.at[:, -1].set(best)

    return jax.lax.fori_loop(0, tokens, step, jnp.asarray(whole))

  fns = (
    lambda: cached(params, question, jax.random.PRNGKey(0)),
    lambda: again(params, image, False),
    lambda: again(params, image, True),
  )
  for fn in fns:
    jax.block_until_ready(fn())  # Compiles.
  rows = {form: {"wall": np.inf, "cpu": np.inf} for form in FORMS}
  for _ in range(rounds):
    for form, fn in zip(FORMS, fns, strict=True):
      scale = (1 if form == "cached" else length / tokens) / batch
      wall, cpu = time.perf_counter(), time.process_time()
      jax.block_until_ready(fn())
      wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
      row = rows[form]
      row["wall"] = min(row["wall"], wall * scale)
      row["cpu"] = min(row["cpu"], cpu * scale)
  return rows


def _logits(model, zimg, text, mask_ar):
  """Computes the logits of texts from embedded images."""
  ztxt, _ = model.embed_text(text)
  x = jnp.concatenate([zimg, ztxt], axis=1)
  mask_ar = jnp.pad(mask_ar, ((0, 0), (zimg.shape[1], 0)))
  return model.slow_logits(x, jnp.ones(mask_ar.shape, bool), mask_ar)
