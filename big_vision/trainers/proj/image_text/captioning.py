"""`config.captioning`: a decoder predicts texts and boxes from the image.

  weight, parallel: see `Settings`.
  vocab_size: number of tokens, required.
  variant, width, depth, ...: of the decoder, see `captioner.Model`.

Batches have `cap_tokens` int [B, L] and `cap_mask` [B, L], not 0 where a token is
to be predicted. They may have `cap_task` int [B], see the op `locca`.

References:
  Tschannen et al. 2023, CapPa, https://arxiv.org/abs/2306.07915
  Wan et al. 2024, LocCa, https://arxiv.org/abs/2403.19596
  Tschannen et al. 2025, SigLIP 2 (section 2.2), https://arxiv.org/abs/2502.14786
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from big_vision import losses, precision
from big_vision.models.proj.image_text import captioner
from big_vision.trainers.proj.image_text.aux_losses import AuxLoss
from big_vision.training import settings
from big_vision.training.settings import number
from big_vision.training.setup import Setup

NAME = "captioner"  # Of the parameters.
TASKS = ("caption", "refer", "ground")  # The order of the op `locca`.


@dataclass(frozen=True)
class Settings:
  """Keys of `config.captioning` that are not those of the decoder.

  Attributes:
    weight: factor of the loss.
    parallel: probability that a caption is predicted in parallel.
  """

  weight: float = number(1.0)
  parallel: float = number(0.5, high=1)


def make(setup: Setup, model: Any) -> AuxLoss:
  """Makes the auxiliary loss.

  Args:
    setup: reads `captioning` of its config and the shapes of batches.
    model: linen module with two inputs, image and text; its `out` has the image
      tokens `img/encoded` [B, T, E].

  Returns:
    The AuxLoss.

  Raises:
    ValueError: a value of the config is wrong, or batches or the image model
      lack what is needed.
  """
  config = precision.with_dtype(setup.config, dict(setup.config.captioning))
  own = {k: config.pop(k) for k in ("weight", "parallel") if k in config}
  s = settings.make(Settings, own, "captioning")
  if not config.get("vocab_size"):
    raise ValueError("config.captioning.vocab_size is required.")
  _check_batch(setup.batch_shapes)
  try:
    decoder = captioner.Model(**config)
  except TypeError as e:
    raise ValueError(
      f"config.captioning does not fit the decoder {captioner.__name__}: {e}"
    ) from e

  def decode(params, batch, encoded, parallel=None, **kw) -> Any:
    return decoder.apply(
      {"params": params[NAME]},
      encoded,
      batch["cap_tokens"],
      batch["cap_mask"],
      parallel,
      captioner.image_mask(batch["image"]),
      **kw,
    )

  def init(rng, params, batch):
    def image_tokens(params, image):
      return model.apply({"params": params}, image, None)[2].get("img/encoded")

    encoded = jax.eval_shape(image_tokens, params, batch["image"])
    if encoded is None:
      raise ValueError(
        "config.captioning needs an image model with tokens, `encoded` in its "
        "`out`, such as config.model.image_model = 'vit'."
      )
    return decoder.init(
      rng,
      jnp.zeros(encoded.shape, encoded.dtype),
      batch["cap_tokens"],
      batch["cap_mask"],
    )["params"]

  def draw(rng, batch):
    tokens = batch["cap_tokens"]
    drawn = jax.random.uniform(rng, tokens.shape[:1]) < s.parallel
    if "cap_task" in batch:  # SigLIP 2 does so with captions alone.
      drawn &= batch["cap_task"] == 0
    return {"cap_parallel": drawn}

  def embed(params, batch, out, rng, state):
    del state
    logits = decode(
      params,
      batch,
      out["img/encoded"],
      batch["cap_parallel"],
      train=True,
      rngs={"dropout": rng},
    )
    mask = batch["cap_mask"]
    each = losses.token_xent(logits, batch["cap_tokens"], mask).sum(axis=1)
    count = jnp.sum(mask != 0, axis=1).astype(jnp.float32)
    z = {"nats": each, "tokens": count}  # [b] each.
    if "cap_task" in batch:  # In columns, so that all can be summed.
      z["is_task"] = jax.nn.one_hot(batch["cap_task"], len(TASKS))
    return z

  def loss(z, state):
    del state
    mean = lambda nats, tokens: jnp.sum(nats) / jnp.maximum(jnp.sum(tokens), 1)
    value = mean(z["nats"], z["tokens"])
    measured = {"train/caption_loss": value}
    for i, task in enumerate(TASKS if "is_task" in z else ()):
      own = z["is_task"][:, i]
      measured[f"train/caption_loss_{task}"] = mean(
        own * z["nats"], own * z["tokens"]
      )
    return s.weight * value, measured

  def encode(state, batch):
    image = batch["image"]
    return model.apply({"params": state["params"]}, image, None)[2][
      "img/encoded"
    ]

  def caption(state, batch):
    """Returns tokens [B, L]: those given, then the most probable ones."""
    encoded = encode(state, batch)
    return captioner.complete(
      lambda tokens: decode(
        state["params"], {**batch, "cap_tokens": tokens}, encoded
      ),
      batch["cap_tokens"],
      batch["cap_mask"],
    )

  def caption_loss(state, batch):
    """Returns nats per predicted token, [B], given the tokens before it."""
    tokens, mask = batch["cap_tokens"], batch["cap_mask"]
    logits = decode(state["params"], batch, encode(state, batch))
    each = losses.token_xent(logits, tokens, mask).sum(axis=1)
    return {"loss": each / jnp.maximum(jnp.sum(mask != 0, axis=1), 1)}

  return AuxLoss(
    name=NAME,
    init=init,
    draw=draw,
    embed=embed,
    loss=loss,
    predict_fns={"caption": caption, "caption_loss": caption_loss},
  )


def _check_batch(shapes):
  """Raises ValueError if batches do not have the tokens."""
  tokens, mask = shapes.get("cap_tokens"), shapes.get("cap_mask")
  if tokens is None or mask is None:
    raise ValueError(
      "config.captioning needs `cap_tokens` and `cap_mask` in batches: add the op "
      "locca(...) to config.input.pp, and keep the features that it makes."
    )
  if len(tokens.shape) != 2 or tokens.shape != mask.shape:
    raise ValueError(
      f"config.captioning: cap_tokens {tokens.shape} and cap_mask {mask.shape} "
      "must both be [B, L]."
    )
