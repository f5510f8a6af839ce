"""Trains PaliGemma: a ViT and a language model that answers about its images.

  python -m big_vision.trainers.proj.paligemma.train \\
    --config big_vision/configs/proj/paligemma/transfers/forkme.py --workdir DIR

Beyer et al. 2024, https://arxiv.org/abs/2407.07726. Keys of the config besides those
of every trainer:

  model_name, model, model_init: proj.paligemma.paligemma; what a checkpoint does not
    have is initialized.
  label_smoothing: probability that targets give to wrong tokens, default 0.

Several examples may share a sequence: `config.input.pack` with the lengths of `text`,
`mask_ar`, `mask_loss`, and of `image`, how many there are; see docs/paligemma.md.
"""

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

import jax.numpy as jnp
from absl import app

from big_vision import lookup, losses
from big_vision.trainers.proj.paligemma import predict_fns
from big_vision.trainers.proj.paligemma.shapes import batch_shapes  # noqa: F401  (To plan runs.)
from big_vision.training import cli
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup
from big_vision.types import Array, Batch


def build(setup: Setup) -> Recipe:
  """Makes the recipe.

  Args:
    setup: batches have `image` [B, H, W, 3] or [B, F, H, W, 3], and `text` int,
      `mask_ar` int, `mask_loss`, each [B, T + 1]: tokens, which of them start a
      block of attention, see `paligemma.make_attn_mask`, and the weight of each.
      Packed ones have `image_segment_ids` [B, F], `text_segment_ids`, and
      `text_positions` [B, T + 1].

  Returns:
    The Recipe.

  Raises:
    ConfigError: the config asks for mixup, or batches lack something.
  """
  config = setup.config
  if config.get("mixup"):
    raise lookup.ConfigError("config.mixup: texts are not mixed.")
  for name in ("image", "text", "mask_ar", "mask_loss"):
    if name not in setup.batch_shapes:
      raise lookup.ConfigError(
        f"config.input.pp makes no {name!r}, which PaliGemma needs: see "
        "`combine_and_keep_train` of configs/proj/paligemma/transfers/common.py."
      )
  model, load = setup.make_model()
  smoothing = config.get("label_smoothing") or 0.0

  def init(rng, batch):
    return model.init(rng, *predict_fns.inputs(batch))["params"]

  def loss_fn(params, batch, rng, state):
    del state
    logits, _ = model.apply(
      {"params": params},
      *predict_fns.inputs(batch),
      train=True,
      segments=predict_fns.segments(batch),
      rngs={"dropout": rng},
    )
    weights = batch["mask_loss"][:, 1:].astype(jnp.float32)
    nats = losses.token_nats(logits, batch["text"][:, 1:], smoothing) * weights
    nats, weights = of_examples(nats, weights, batch)
    lengths = jnp.sum(weights, axis=-1)
    loss = jnp.sum(nats, axis=-1) / jnp.maximum(lengths, 1)
    real = is_example(batch)
    num = jnp.maximum(jnp.sum(real), 1)
    measured = {
      "avg_sup_seqlen": jnp.sum(lengths * real) / num,
      "max_sup_seqlen": jnp.max(lengths),
    }
    return jnp.sum(loss * real) / num, measured

  return Recipe(
    init=init,
    load=load,
    loss_fn=loss_fn,
    predict_fns=predict_fns.get_all(model),
  )


def is_example(batch: Batch) -> Array:
  """Tells which examples there are, of those that there is room for.

  Args:
    batch: see `build`.

  Returns:
    bool [B], or [B, F] if several share a sequence, at the first image of each.
  """
  if "image_segment_ids" in batch:
    return jnp.diff(batch["image_segment_ids"], axis=1, prepend=0) > 0
  return jnp.ones(batch["text"].shape[0], bool)


def of_examples(nats: Array, weights: Array, batch: Batch) -> tuple[Array, ...]:
  """Takes sequences apart that examples share.

  Args:
    nats: [B, T], of each predicted token.
    weights: [B, T].
    batch: see `build`.

  Returns:
    The same, [B, F, T] if examples share sequences: 0 at tokens of others.
  """
  if "image_segment_ids" not in batch:
    return nats, weights
  own = batch["text_segment_ids"][:, 1:]
  here = batch["image_segment_ids"][:, :, None] == own[:, None, :]
  here &= is_example(batch)[:, :, None]
  # The first token of a text is not predicted from the text before it.
  here &= (batch["text_positions"][:, 1:] > 0)[:, None, :]
  return nats[:, None] * here, weights[:, None] * here


main = cli.main_for(build)

if __name__ == "__main__":
  app.run(main)
