"""Trains captioners as vision encoders: Cap and CapPa.

  python -m big_vision.trainers.proj.cappa.generative \\
    --config big_vision/configs/proj/cappa/pretrain.py --workdir DIR

Tschannen et al. 2023, Image Captioners Are Scalable Vision Learners Too,
https://arxiv.org/abs/2306.07915. Keys of the config besides those of every trainer:

  model_name, model, model_init: proj.cappa.cappa; Cap is
    `model.masked_pred_prob = 0.0`, CapPa predicts that part of the captions in
    parallel.
  pad_token: id that is not to be predicted, default 0.
  label_smoothing: probability that targets give to wrong tokens, default 0.

A random key that is part of the state, and of checkpoints, gives dropout and the
choice of captions.
"""

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

import jax
from absl import app

from big_vision import lookup, losses
from big_vision.models.proj.cappa import cappa
from big_vision.trainers.proj.cappa import predict_fns
from big_vision.trainers.proj.image_text.pairs import batch_shapes  # noqa: F401  (To plan runs.)
from big_vision.training import cli
from big_vision.training import state as state_lib
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup


def build(setup: Setup) -> Recipe:
  """Makes the recipe of captioning.

  Args:
    setup: batches have `image` [B, H, W, 3] and `labels` [B, L], the tokens of a
      caption; they may have `label_masks` [B, L], weights of tokens.

  Returns:
    The Recipe.

  Raises:
    ConfigError: the config asks for mixup.
  """
  config = setup.config
  if config.get("mixup"):
    raise lookup.ConfigError("config.mixup: captions are not mixed.")
  model, load = setup.make_model()
  pad, smoothing = config.get("pad_token", 0), config.get("label_smoothing", 0)
  in_parts = (config.get("grad_accum_steps") or 1) > 1

  def init(rng, batch):
    return model.init(rng, batch["image"], batch["labels"])["params"]

  def loss_fn(params, batch, rng, state):
    _, rng_model = jax.random.split(state["rng"])
    if in_parts:  # Each with numbers of its own.
      rng_model = jax.random.fold_in(rng_model, jax.random.bits(rng))
    logits = model.apply(
      {"params": params},
      batch["image"],
      batch["labels"],
      train=True,
      rngs={"dropout": rng_model},
    )
    loss = losses.weighted_softmax_xent(
      logits=logits,
      labels=batch["labels"],
      weights=cappa.token_weights(batch, pad),
      label_smoothing=smoothing,
    )
    return loss, {}

  def extra_state(params):
    del params
    _, rng_loop = state_lib.seed_keys(config.get("seed", 0))
    return {"rng": rng_loop}

  def post_update(old, new):
    return {**new, "rng": jax.random.split(old["rng"])[0]}

  return Recipe(
    init=init,
    load=load,
    loss_fn=loss_fn,
    predict_fns=predict_fns.get_predict_fns(model),
    extra_state=extra_state,
    post_update=post_update,
  )


main = cli.main_for(build)

if __name__ == "__main__":
  app.run(main)
