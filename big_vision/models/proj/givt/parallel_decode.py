"""Samples sequences from models of style "masked", many tokens at a time.

Each step draws all tokens that are hidden yet, and keeps those of the highest
density, of which the noise that is added to its logarithm decides less and less.

Reference: Chang et al. 2022, MaskGIT, https://arxiv.org/abs/2202.04200

Shapes: `B` batch, `L` length of a sequence, `C` channels of a token, `T` steps, `D`
logits of a token.
"""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models.proj.givt.guidance import CFGDensity
from big_vision.models.proj.givt.masks import apply_mask_schedule
from big_vision.types import Array, Key, PyTree

__all__ = [
  "CFGDensity",
  "DecodeState",
  "MaskedGenerationConfig",
  "decode_masked",
  "mask_by_random_topk",
]

_KEY = "masked_generation_config"


@dataclasses.dataclass(frozen=True)
class MaskedGenerationConfig:
  """Holds `config.masked_generation_config`.

  Attributes:
    num_steps: int, T.
    should_anneal_temperature: bool, whether the noise gets less from step to step.
    choice_temperature: float, its size at the beginning.
    ordering: str, "maskgit".
    schedule: str, how many tokens are hidden after each step, see
      `masks.apply_mask_schedule`.
    cfg_inference_weight: float, weight of guidance; 0 is none.
  """

  num_steps: int = 16
  should_anneal_temperature: bool = True
  choice_temperature: float = 1.0
  ordering: str = "maskgit"
  schedule: str = "cosine"
  cfg_inference_weight: float = 0.0

  def __post_init__(self):
    if self.ordering != "maskgit":
      raise lookup.unknown(
        "order", self.ordering, ["maskgit"], f"{_KEY}.ordering"
      )
    if self.num_steps < 1:
      raise lookup.ConfigError(
        f"config.{_KEY}.num_steps = {self.num_steps} should be positive."
      )


def _get_bottom_k_mask(values: Array, k: Array) -> Array:
  """Marks the k lowest values of each row, the first ones of equal values.

  Args:
    values: [..., N].
    k: int, one per row, as many as the leading axes have entries.

  Returns:
    bool [..., N].
  """
  rank = jnp.argsort(jnp.argsort(values, axis=-1), axis=-1)
  k = jnp.broadcast_to(jnp.reshape(k, values.shape[:-1])[..., None], rank.shape)
  return rank < k


def mask_by_random_topk(
  rng: Key, mask_len: Array, probs: Array, temperature: float | Array = 1.0
) -> Array:
  """Hides the tokens of the lowest probability, up to some noise.

  Args:
    rng: random key.
    mask_len: int [B], how many to hide.
    probs: [B, L]; infinite for tokens that are not hidden anyway.
    temperature: factor of the noise.

  Returns:
    bool [B, L], True where hidden.
  """
  return _mask_by_log_probs(rng, mask_len, jnp.log(probs), temperature)


def _mask_by_log_probs(rng, mask_len, log_probs, temperature):
  """Does what `mask_by_random_topk` says, for any size of a density."""
  noise = jax.random.gumbel(rng, log_probs.shape, log_probs.dtype)
  return _get_bottom_k_mask(log_probs + temperature * noise, mask_len)


@flax.struct.dataclass
class DecodeState:
  """Holds what has been drawn so far, and all that it was drawn from.

  Attributes:
    rng: random key of the steps to come.
    step: int, number of the step.
    all_inputs_q: [T + 1, B, L, C], sequences before each step, and the result.
      Hidden tokens are 0.
    uncovered_per_step: bool [T, B, L], tokens that a step keeps.
    logits_per_step: [T, B, L, D].
    uncond_logits_per_step: [T, B, L, D], without the labels.
    prob_per_step: [T, B, L], densities of what was drawn.
    rejection_sampling_success_per_step: [T], percentage of what was drawn with
      guidance. What a step did not compute is NaN.
  """

  rng: Key
  step: Array
  all_inputs_q: Array
  uncovered_per_step: Array
  logits_per_step: Array
  uncond_logits_per_step: Array
  prob_per_step: Array
  rejection_sampling_success_per_step: Array

  @classmethod
  def make(
    cls,
    initial_rng: Key,
    all_masked_input: Array,
    num_logits: int,
    num_steps: int,
  ) -> "DecodeState":
    """Makes the state before the first step.

    Args:
      initial_rng: random key.
      all_masked_input: [B, L, C].
      num_logits: D.
      num_steps: T.

    Returns:
      The DecodeState.
    """
    batch, length, _ = all_masked_input.shape
    nan = lambda *shape: jnp.full((num_steps, *shape), jnp.nan, jnp.float32)
    inputs = jnp.zeros(
      (num_steps + 1, *all_masked_input.shape), all_masked_input.dtype
    )
    return cls(
      rng=initial_rng,
      step=jnp.zeros((), jnp.int32),
      all_inputs_q=inputs.at[0].set(all_masked_input),
      uncovered_per_step=jnp.zeros((num_steps, batch, length), bool),
      logits_per_step=nan(batch, length, num_logits),
      uncond_logits_per_step=nan(batch, length, num_logits),
      prob_per_step=nan(batch, length),
      rejection_sampling_success_per_step=nan(),
    )

  @property
  def num_steps(self) -> int:
    """T."""
    return self.uncovered_per_step.shape[0]

  @property
  def current_inputs_q(self) -> Array:
    """The sequences before this step, [B, L, C]."""
    return self.all_inputs_q[self.step]

  @property
  def total_uncovered(self) -> Array:
    """Which tokens this step and those before it have kept, bool [B, L]."""
    done = jnp.arange(self.num_steps) <= self.step
    return jnp.any(self.uncovered_per_step & done[:, None, None], axis=0)

  def next_key(self) -> tuple["DecodeState", Key]:
    """Splits the random key.

    Returns:
      (the state with the next one, the key to be used).
    """
    rng, key = jax.random.split(self.rng)
    return self.replace(rng=rng), key

  def record(self, **values: Array) -> "DecodeState":
    """Writes what this step has computed.

    Args:
      **values: by the names of the attributes, without the axis of steps;
        `all_inputs_q` are the sequences after the step.

    Returns:
      The state with them.

    Raises:
      ValueError: a shape or dtype is not that of the attribute.
    """
    new = {}
    for name, value in values.items():
      old = getattr(self, name)
      if (value.shape, value.dtype) != (old.shape[1:], old.dtype):
        raise ValueError(
          f"{name} of a step should be {old.dtype}{list(old.shape[1:])}, not "
          f"{value.dtype}{list(value.shape)}."
        )
      at = self.step + 1 if name == "all_inputs_q" else self.step
      new[name] = old.at[at].set(value)
    return self.replace(**new)


def decode_masked(
  rng: Key,
  labels: Array,
  seq_len: int,
  feature_dim: int,
  model: Any,
  variables: PyTree,
  config: MaskedGenerationConfig,
) -> DecodeState:
  """Draws sequences.

  Args:
    rng: random key.
    labels: int [B].
    seq_len: L.
    feature_dim: C.
    model: `givt.Model` of style "masked".
    variables: dict, {"params": ...}.
    config: the settings.

  Returns:
    The last state; its `all_inputs_q[-1]` are the sequences.

  Raises:
    ConfigError: the model is of another style.
  """
  if model.style != "masked":
    raise lookup.ConfigError(
      f"config.model.style = {model.style!r}: tokens are drawn together from models "
      "of style 'masked'. Use decode.generate."
    )
  state = DecodeState.make(
    rng,
    jnp.zeros((len(labels), seq_len, feature_dim)),
    model.num_logits,
    config.num_steps,
  )

  def step(_, state):
    return _step(state, labels, model, variables, config)

  return jax.lax.fori_loop(0, config.num_steps, step, state)


def _step(state, labels, model, variables, config):
  """Draws what is hidden, and keeps a part of it."""
  ratio = (state.step + 1) / config.num_steps
  known = state.total_uncovered
  drawn, log_prob, state = _draw(state, labels, model, variables, config)
  # Of what was drawn before, the value counts, not the new density.
  drawn = jnp.where(known[..., None], state.current_inputs_q, drawn)

  unknown = jnp.sum(~known, axis=-1)
  hidden = apply_mask_schedule(ratio, config.schedule)
  num = jnp.floor(known.shape[-1] * hidden).astype(jnp.int32)
  num = jnp.clip(jnp.minimum(num, unknown - 1), 0)
  temperature = jnp.asarray(config.choice_temperature, jnp.float32)
  if config.should_anneal_temperature:
    temperature *= 1 - ratio
  state, key = state.next_key()
  confidence = jnp.where(known, jnp.inf, log_prob)
  masked = _mask_by_log_probs(key, num, confidence, temperature)

  state = state.record(
    all_inputs_q=jnp.where(masked[..., None], 0, drawn),
    uncovered_per_step=~known & ~masked,
    prob_per_step=jnp.exp(log_prob),
  )
  return state.replace(step=state.step + 1)


def _draw(state, labels, model, variables, config):
  """Draws all tokens, hidden or not.

  Returns:
    (tokens [B, L, C], their log-densities [B, L], the next state).
  """

  def logits_of(drop_labels=None):
    return model.apply(
      variables,
      state.current_inputs_q,
      labels,
      input_mask=~state.total_uncovered,
      drop_labels=drop_labels,
      method="decode",
    ).astype(jnp.float32)

  logits = logits_of()
  state, key = state.next_key()
  new = state.record(logits_per_step=logits)
  pdf: Any = model.get_pdf(logits)
  if config.cfg_inference_weight:
    without = logits_of(jnp.ones(labels.shape, bool))
    new, mixture_key = new.next_key()
    pdf = CFGDensity(
      pdf, model.get_pdf(without), config.cfg_inference_weight, mixture_key
    )
    drawn, accepted = pdf.rejection_sample(key)
    new = new.record(
      uncond_logits_per_step=without,
      rejection_sampling_success_per_step=accepted,
    )
  else:
    drawn = pdf.sample(seed=key)
  log_prob = pdf.log_prob(drawn)
  if log_prob.ndim == 3:  # Of channels.
    log_prob = jnp.sum(log_prob, axis=-1)
  return drawn, log_prob, new
