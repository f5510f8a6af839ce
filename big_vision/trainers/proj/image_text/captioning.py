"""`config.captioning`: a decoder predicts texts and boxes from the image.

  weight: of the loss, default 1.
  parallel: probability that a caption is predicted in parallel, default 0.5.
  vocab_size: of the tokens, required.
  variant, width, depth, ...: the decoder's, see `captioner.Model`.

Batches have `cap_tokens` int [B, L] and `cap_mask` [B, L], not 0 where a token is
to be predicted; possibly `cap_task` int [B], see the op `locca`.

References:
  Tschannen et al. 2023, CapPa, https://arxiv.org/abs/2306.07915
  Wan et al. 2024, LocCa, https://arxiv.org/abs/2403.19596
  Tschannen et al. 2025, SigLIP 2 (section 2.2), https://arxiv.org/abs/2502.14786
"""

import jax
import jax.numpy as jnp

from big_vision.models.proj.image_text import captioner
from big_vision.trainers.proj.image_text.additions import Addition

NAME = "captioner"  # Of the parameters.
TASKS = ("caption", "refer", "ground")  # The order of the op `locca`.


def token_losses(logits, tokens, mask):
  """Negative log-likelihood of each predicted token (nats), 0 elsewhere.

  Args:
    logits: [B, L, V] float.
    tokens: [B, L] int.
    mask: [B, L], not 0 where a token is predicted.

  Returns:
    [B, L] float32.
  """
  logp = jax.nn.log_softmax(logits.astype(jnp.float32))
  own = jnp.take_along_axis(logp, tokens[:, :, None], axis=-1)[:, :, 0]
  return jnp.where(mask != 0, -own, 0.0)


def make(setup, model):
  """The Addition.

  Args:
    setup: Setup, with `config.captioning`.
    model: linen module with two inputs, image and text; its `out` has the image
      tokens `img/encoded` [B, T, E].

  Raises:
    ValueError: a value of the config is wrong, or batches or the image model
      lack what is needed.
  """
  config = dict(setup.config.captioning)
  weight = _number(config.pop("weight", 1.0), "weight", 0, float("inf"))
  parallel = _number(config.pop("parallel", 0.5), "parallel", 0, 1)
  if not config.get("vocab_size"):
    raise ValueError("config.captioning.vocab_size is required.")
  _check_batch(setup.batch_shapes)
  try:
    decoder = captioner.Model(**config)
  except TypeError as e:
    raise ValueError(
      f"config.captioning does not fit the decoder {captioner.__name__}: {e}"
    ) from e

  def decode(params, batch, encoded, parallel=None, **kw):
    return decoder.apply(
      {"params": params[NAME]},
      encoded,
      batch["cap_tokens"],
      batch["cap_mask"],
      parallel,
      _image_mask(batch),
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
    drawn = jax.random.uniform(rng, tokens.shape[:1]) < parallel
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
    each = token_losses(logits, batch["cap_tokens"], mask).sum(axis=1)
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
    return weight * value, measured

  def encode(state, batch):
    image = batch["image"]
    return model.apply({"params": state["params"]}, image, None)[2][
      "img/encoded"
    ]

  def caption(state, batch):
    """Tokens [B, L]: what is given, and what follows most probably."""
    encoded = encode(state, batch)
    return captioner.complete(
      lambda tokens: decode(
        state["params"], {**batch, "cap_tokens": tokens}, encoded
      ),
      batch["cap_tokens"],
      batch["cap_mask"],
    )

  def caption_loss(state, batch):
    """Nats per predicted token of each example, given those before it."""
    tokens, mask = batch["cap_tokens"], batch["cap_mask"]
    logits = decode(state["params"], batch, encode(state, batch))
    each = token_losses(logits, tokens, mask).sum(axis=1)
    return {"loss": each / jnp.maximum(jnp.sum(mask != 0, axis=1), 1)}

  return Addition(
    name=NAME,
    init=init,
    draw=draw,
    embed=embed,
    loss=loss,
    predict_fns={"caption": caption, "caption_loss": caption_loss},
  )


def _image_mask(batch):
  """[B, T] of the patches that exist; None if images have no padding."""
  image = batch["image"]
  # Those of NaFlex: patches, their type, rows and columns.
  return image[1] == 1 if isinstance(image, (tuple, list)) else None


def _number(value, name, low, high):
  """`value`; ValueError if it is no number in [low, high]."""
  if not isinstance(value, (int, float)) or not low <= value <= high:
    raise ValueError(
      f"config.captioning.{name} = {value!r} must be a number from {low} to "
      f"{high}."
    )
  return value


def _check_batch(shapes):
  """Raises ValueError if batches do not have the tokens."""
  tokens, mask = shapes.get("cap_tokens"), shapes.get("cap_mask")
  if tokens is None or mask is None:
    raise ValueError(
      "config.captioning needs `cap_tokens` and `cap_mask` in batches: add the op "
      "locca(...) to config.input.pp, and keep what it makes."
    )
  if len(tokens.shape) != 2 or tokens.shape != mask.shape:
    raise ValueError(
      f"config.captioning: cap_tokens {tokens.shape} and cap_mask {mask.shape} "
      "must both be [B, L]."
    )
