"""Trains what is sampled by what it is worth: REINFORCE with a baseline.

Williams 1992, https://doi.org/10.1007/BF00992696, as Pinto et al. 2023 tune
vision models, https://arxiv.org/abs/2302.08242. A reward is one function

  (predictions [B, N, ...], truth [B, ...]) -> rewards [B, N]

which need not be differentiable. A module of rewards, `config.reward.name`,
makes it from the rest of `config.reward`: `get_reward(config)`. It may also
define `get_further_loss(config)`, see `detection_reward`.

Shapes: `B` examples, `N` samples of each, of which the first `G` give a
gradient; `L` tokens, `V` vocabulary.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from big_vision import lookup, losses
from big_vision.models.proj.uvim import decode
from big_vision.types import Array, ConfigLike, Key, Params

Reward = Callable[[Array, Array], Array]


def num_samples(config: ConfigLike) -> tuple[int, int]:
  """Reads how many sequences are sampled of each example.

  Args:
    config: `config.reward`; reads `num_samples`, by default 0, and `num_grads`,
      by default 1.

  Returns:
    (N, G); N = 0 trains without rewards.

  Raises:
    ConfigError: there is no sample for the baseline, or too few for gradients.
  """
  num, grads = config.get("num_samples") or 0, config.get("num_grads") or 1
  if num and not (num > 1 and 1 <= grads <= num):
    raise lookup.ConfigError(
      f"config.reward.num_samples={num} and num_grads={grads}: the baseline of "
      "a sample is the mean of the others, so write 2 samples or more, and "
      "1 <= num_grads <= num_samples. num_samples = 0 trains without rewards."
    )
  return num, grads


def advantages(rewards: Array, num_grads: int = 1) -> Array:
  """Compares samples with the mean of all others of their example.

  Args:
    rewards: [B, N].
    num_grads: G; 1 as in the paper's sketch, N leaves each one out in turn.

  Returns:
    [B, G] float32, constants for differentiation.
  """
  rewards = jax.lax.stop_gradient(rewards.astype(jnp.float32))
  others = jnp.sum(rewards, axis=1, keepdims=True) - rewards
  baseline = others / (rewards.shape[1] - 1)
  return (rewards - baseline)[:, :num_grads]


def draw(
  model: Any,
  params: Params,
  image: Array,
  rng: Key,
  num: int,
  eos_token: int = -1,
) -> Array:
  """Samples sequences as probable as the model finds them.

  Args:
    model: linen module, see `models/proj/uvim/decode.py`.
    params: its parameters, constants for differentiation.
    image: [B, H, W, 3].
    rng: random key.
    num: N.
    eos_token: the token that ends a sequence, which 0 follows; -1 for none.

  Returns:
    int [B, N, L].
  """
  samples, _, _ = decode.temperature_sampling(
    {"params": jax.lax.stop_gradient(params)},
    image,
    jnp.zeros([len(image), model.seq_len], jnp.int32),
    jax.random.split(rng, len(image)),
    model=model,
    num_samples=num,
    eos_token=eos_token,
  )
  return samples


def of_samples(
  model: Any, params: Params, image: Array, samples: Array
) -> Array:
  """Computes the logits that samples were drawn from, without dropout.

  Args:
    model: as for `draw`.
    params: its parameters.
    image: [B, H, W, 3].
    samples: int [B, G, L].

  Returns:
    [B, G, L, V].
  """
  batch, num, _ = samples.shape
  encoded = model.apply({"params": params}, image, method="encode")
  encoded = decode.expand_samples_dim_and_flatten(encoded, num)
  flat = decode.flatten_samples_dim(samples)
  logits = model.apply({"params": params}, encoded, flat, method="decode")
  return decode.unflatten_samples_dim(logits, batch, num)


def surrogate(
  logits: Array, samples: Array, advantages: Array, eos_token: int = -1
) -> Array:
  """Computes what has the gradient of the negative expected reward.

  Args:
    logits: [B, G, L, V], of the tokens of the samples.
    samples: int [B, G, L], drawn from these very logits.
    advantages: [B, G].
    eos_token: see `draw`; what follows it was not drawn.

  Returns:
    [], the mean over all tokens of `-advantage * log p(token)`: the gradient is
    divided by L, as the paper's is.
  """
  flat = decode.flatten_samples_dim
  nats = losses.token_nats(flat(logits), flat(samples))
  ends = flat(samples) == eos_token
  drawn = jnp.cumsum(ends, axis=1) - ends == 0
  return jnp.mean(flat(advantages)[:, None] * nats * drawn)
