"""Samples sequences from models of style "ar", token by token.

With beams, each step draws `fan_size` next tokens for each of the `beam_size`
sequences that an example has, and keeps the best. With guidance, tokens are drawn
from `guidance.CFGDensity`.

Shapes: `B` examples, `L` length, `C` channels of a token, `R` rows, the sequences of
all beams; those of an example lie next to each other.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models.proj.givt.guidance import CFGDensity
from big_vision.types import Array, Key, PyTree

_KEY = "ar_generation_config"


@dataclasses.dataclass(frozen=True)
class Settings:
  """Holds what `config.ar_generation_config` may set.

  Attributes:
    keep_gt: bool [L], which tokens are given.
    gt: [B, L, C], the given ones.
    beam_size: sequences per example.
    fan_size: tokens that are drawn for each.
    cfg_inference_weight: weight of guidance; 0 and None are none.
    temp: factor of the scales; None is 1.
    temp_probs: factor of the logits of components; None is 1.
    rand_top_k: whether to draw the beams to keep, by their probabilities.
    rand_top_k_temp: temperature of these.
  """

  keep_gt: Any = None
  gt: Any = None
  beam_size: int = 1
  fan_size: int = 1
  cfg_inference_weight: float | None = None
  temp: float | None = None
  temp_probs: float | None = None
  rand_top_k: bool = False
  rand_top_k_temp: float = 1.0

  @classmethod
  def of(cls, config: Mapping[str, Any] | None) -> "Settings":
    """Reads settings.

    Args:
      config: mapping, or None for the defaults.

    Returns:
      The Settings.

    Raises:
      ConfigError: there is another key, or values do not fit together.
    """
    config = dict(config or {})
    known = [field.name for field in dataclasses.fields(cls)]
    for name in config:
      if name not in known:
        raise lookup.unknown("key", name, known, _KEY, lookup.ConfigError)
    self = cls(**config)
    sizes = (self.beam_size, self.fan_size)
    if min(sizes) < 1 or self.rand_top_k_temp <= 0:
      raise lookup.ConfigError(
        f"config.{_KEY}: beam_size, fan_size and rand_top_k_temp should be "
        f"positive, not {(*sizes, self.rand_top_k_temp)}."
      )
    if self.cfg_inference_weight and sizes != (1, 1):
      raise lookup.ConfigError(
        f"config.{_KEY}: guidance (cfg_inference_weight = "
        f"{self.cfg_inference_weight}) takes no beams. Use beam_size = fan_size = "
        "1, or cfg_inference_weight = None."
      )
    if (self.gt is None) != (self.keep_gt is None):
      raise lookup.ConfigError(
        f"config.{_KEY}: gt and keep_gt belong together: the tokens, and which "
        "of them are given."
      )
    return self


def generate(
  params: PyTree,
  seed: int | Key,
  *,
  model: Any,
  seq_len: int,
  feature_dim: int,
  labels: Array | None = None,
  cond_image: Array | None = None,
  batch_size: int | None = None,
  config: Mapping[str, Any] | None = None,
) -> tuple[Array, Array]:
  """Draws sequences.

  It compiles once for each model, shape and kind of search; other temperatures and
  weights compile nothing.

  Args:
    params: dict of variables, {"params": ...}.
    seed: int, or a random key.
    model: `givt.Model` of style "ar".
    seq_len: L.
    feature_dim: C.
    labels: int [B]; None for models without labels.
    cond_image: [B, H, W, 3], for models with an encoder.
    batch_size: B, if there are neither labels nor images.
    config: mapping, see `Settings`.

  Returns:
    (sequences float32 [B, L, C]; logarithms of their densities [B], without
    guidance, of the first beam).

  Raises:
    ValueError: the arguments do not fit the model, or each other.
  """
  settings = Settings.of(config)
  num = _batch_size(labels, cond_image, batch_size)
  if model.style != "ar":
    raise lookup.ConfigError(
      f"config.model.style = {model.style!r}: tokens are drawn one after the other "
      "from models of style 'ar'. Use parallel_decode.decode_masked."
    )
  if model.has_encoder != (cond_image is not None):
    has = "has no" if cond_image is not None else "has an"
    raise lookup.ConfigError(
      f"config.model.num_layers = {model.num_layers}: the model {has} encoder, so "
      f"`cond_image` should {'be' if model.has_encoder else 'not be'} given."
    )
  if not 1 <= seq_len <= model.seq_len:
    raise lookup.ConfigError(
      f"seq_len = {seq_len} should be from 1 to config.model.seq_len = "
      f"{model.seq_len}."
    )
  weight = settings.cfg_inference_weight or None
  if weight and labels is None:
    raise lookup.ConfigError(
      f"config.{_KEY}.cfg_inference_weight = {weight}: guidance is by labels, of "
      "which there are none. Use None."
    )
  given = None
  if settings.gt is not None:
    gt, keep = jnp.asarray(settings.gt), jnp.asarray(settings.keep_gt, bool)
    if gt.shape != (num, seq_len, feature_dim) or keep.shape != (seq_len,):
      raise ValueError(
        f"gt {gt.shape} and keep_gt {keep.shape} should be "
        f"{(num, seq_len, feature_dim)} and {(seq_len,)}."
      )
    given = (gt, keep)
  traced = dict(
    temp=settings.temp,
    temp_probs=settings.temp_probs,
    weight=weight,
    choice_temp=settings.rand_top_k_temp if settings.rand_top_k else None,
  )
  return _generate(
    params,
    jax.random.PRNGKey(seed) if isinstance(seed, int) else seed,
    None if labels is None else jnp.asarray(labels),
    cond_image,
    given,
    traced,
    model=model,
    shape=(num, seq_len, feature_dim),
    beams=settings.beam_size,
    fan=settings.fan_size,
  )


def _batch_size(labels, cond_image, batch_size):
  """Counts the examples."""
  counts = {len(x) for x in (labels, cond_image) if x is not None}
  counts |= {batch_size} if batch_size is not None else set()
  if len(counts) != 1:
    raise ValueError(
      "Sampling needs `labels`, `cond_image` or `batch_size`, of the same number "
      f"of examples, not {sorted(counts)}."
    )
  return counts.pop()


@functools.partial(jax.jit, static_argnames=("model", "shape", "beams", "fan"))
def _generate(
  params, rng, labels, image, given, traced, *, model, shape, beams, fan
):
  """Does what `generate` says."""
  num, length, dim = shape
  rows = num * beams
  guided = traced["weight"] is not None
  repeat = lambda x: jnp.repeat(x, beams, axis=0)
  # One pass for both: first the rows with their labels, then those without.
  twice = lambda x: jnp.concatenate([x, x]) if guided else x
  every = lambda tree: jax.tree.map(lambda x: twice(repeat(x)), tree)

  encoded = drop = None
  if image is not None:
    encoded = model.apply(params, image, method="encode")
    encoded = model.apply(params, encoded, method="cross_memory")
  labels, encoded = every((labels, encoded))
  if guided:
    drop = jnp.arange(2 * rows) >= rows
  if given is not None:
    given = (repeat(given[0]), given[1])

  def apply(method, cache, *args, **kw):
    variables = {**params, **cache}
    return model.apply(
      variables, *args, encoded=encoded, mutable=["cache"], method=method, **kw
    )

  total = rows * (2 if guided else 1)
  zeros = jnp.zeros((total, length, dim))
  _, cache = apply("decode", {}, zeros, decode=True)
  logits, cache = apply(
    "prefill", cache, labels, batch_size=total, drop_labels=drop
  )

  key, rng = jax.random.split(rng)
  draw = functools.partial(_draw, model, traced, given)
  token, log_prob = draw(key, logits, 0, 1)
  sequences = jnp.zeros((rows, length, dim), token.dtype).at[:, 0].set(token)

  def step(carry, position):
    token, cache, rng, sequences, log_prob = carry
    key, rng = jax.random.split(rng)
    logits, cache = apply("decode", cache, twice(token)[:, None], decode=True)
    token, new = draw(key, logits, position, fan)
    log_prob = jnp.repeat(log_prob, fan, axis=0) + new
    if beams * fan > 1:
      scores = jnp.sum(log_prob, axis=-1).reshape(num, beams * fan)
      chosen, rng = _choose(rng, scores, beams, traced["choice_temp"])
      if given is not None:  # All tokens of a beam are the same: keep each.
        own = jnp.broadcast_to(jnp.arange(beams) * fan, chosen.shape)
        chosen = jnp.where(given[1][position], own, chosen)
      first = jnp.arange(num)[:, None] * beams * fan
      chosen = (first + chosen).reshape(-1)
      token, log_prob = token[chosen], log_prob[chosen]
      sequences = sequences[chosen // fan]
      cache = _of_rows(cache, chosen // fan)
    sequences = sequences.at[:, position].set(token)
    return (token, cache, rng, sequences, log_prob), None

  carry = (token, cache, rng, sequences, log_prob)
  (*_, sequences, log_prob), _ = jax.lax.scan(
    step, carry, jnp.arange(1, length)
  )
  return sequences[::beams], jnp.sum(log_prob[::beams], axis=-1)


def _draw(model, traced, given, key, logits, position, fan):
  """Draws a token, several times from the logits of each row.

  Args:
    model: `givt.Model`.
    traced: dict of temperatures and of the weight of guidance.
    given: ([R, L, C], bool [L]) or None, tokens to be taken instead.
    key: random key.
    logits: [R, 1, D], or [2 R, 1, D] with guidance.
    position: of the token.
    fan: how often, F.

  Returns:
    (tokens [R * F, C], log-densities [R * F, C], or [R * F, 1] of all channels).
  """
  logits = jnp.repeat(logits, fan, axis=0)
  pdf_of = lambda x: model.get_pdf(x, traced["temp"], traced["temp_probs"])
  if traced["weight"] is None:
    pdf = pdf_of(logits)
    token = pdf.sample(seed=key)
  else:
    pdf, without = (pdf_of(x) for x in jnp.split(logits, 2))
    guided = CFGDensity(pdf, without, traced["weight"], key)
    token = guided.sample(seed=key)
  if given is not None:
    gt = jnp.repeat(given[0][:, position, None], fan, axis=0)
    token = jnp.where(given[1][position], gt, token)
  # A guided density is not normalized, so the one that it guides counts.
  log_prob = pdf.log_prob(token)[:, 0]
  return token[:, 0], log_prob.reshape(len(log_prob), -1)


def _choose(rng, scores, beams, temp):
  """Chooses which of the candidates to keep.

  Args:
    rng: random key.
    scores: [B, candidates].
    beams: how many to keep.
    temp: temperature of a random choice; None keeps the best.

  Returns:
    (int [B, beams], the next random key).
  """
  if temp is None:
    return jax.lax.top_k(scores, beams)[1], rng
  key, rng = jax.random.split(rng)
  pick = lambda key, score: jax.random.choice(
    key,
    score.shape[-1],
    (beams,),
    replace=False,
    p=jax.nn.softmax(score / temp),
  )
  return jax.vmap(pick)(jax.random.split(key, len(scores)), scores), rng


def _of_rows(cache, rows):
  """Picks rows of a cache: keys and values have [..., R, L, heads, size]."""
  pick = lambda x: jnp.take(x, rows, axis=x.ndim - 4) if x.ndim > 3 else x
  return jax.tree.map(pick, cache)
