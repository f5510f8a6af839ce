r"""Tunes vision models by rewards, one function of what they sample.

  python -m big_vision.trainers.proj.reward_tune.train \
      --config big_vision/configs/proj/reward_tune/detection.py --workdir DIR

Pinto et al. 2023, "Tuning computer vision models with task rewards",
https://arxiv.org/abs/2302.08242. A model of images and sequences first learns
to imitate the truth, by cross-entropy. Then sequences are sampled from it, and
made more probable the more they are worth, see `reinforce.py`. Keys of the
config:

  model_name, model, model_init: proj.uvim.vtt, or proj.cappa.cappa; the second
    phase starts from a checkpoint of the first one.
  reward: what sequences are worth.
    name: detection_reward, captioning_reward, or a module of yours with
      `get_reward(config.reward)`, which gets all other keys, too.
    num_samples: of each example; 0 is the first phase.
    num_grads: how many of them give a gradient, by default 1.
    eos_token: ends sequences; by default -1, all are of the same length.
    truth: feature that rewards compare samples with, by default "labels".
"""

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from big_vision import lookup, losses
from big_vision.trainers.proj.reward_tune import (
  detection_reward,
  predict_fns,
  reinforce,
)
from big_vision.training import cli
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup
from big_vision.types import ConfigLike


def build(setup: Setup) -> Recipe:
  """Makes the recipe of either phase.

  Args:
    setup: batches have `image` [B, H, W, 3]; and `labels` int [B, L], the true
      sequences, or what `config.reward.truth` names.

  Returns:
    The Recipe.

  Raises:
    ConfigError: there is no reward, or the model does not fit the data.
  """
  config = setup.config
  if config.get("mixup"):
    raise lookup.ConfigError("config.mixup: sequences are not mixed.")
  cfg = config.get("reward") or {}
  module = lookup.module(
    "trainers.proj.reward_tune",
    str(cfg.get("name")),
    kind="reward",
    key="reward.name",
    needs="get_reward",
  )
  num, num_grads = reinforce.num_samples(cfg)
  eos_token = cfg.get("eos_token", -1)
  model, load = setup.make_model()
  _check(setup, model, module, num)
  reward = module.get_reward(cfg)
  further_loss = None
  if hasattr(module, "get_further_loss"):
    further_loss = module.get_further_loss(cfg)

  def init(rng, batch):
    image = batch["image"]
    seq = jnp.zeros([len(image), model.seq_len], jnp.int32)
    return model.init(rng, image, seq)["params"]

  def imitate(params, batch, rng, state):
    del state
    logits = model.apply(
      {"params": params},
      batch["image"],
      batch["labels"],
      train=True,
      rngs={"dropout": rng},
    )
    return jnp.mean(losses.token_nats(logits, batch["labels"])), {}

  def tune(params, batch, rng, state):
    del state
    image, truth = batch["image"], batch[cfg.get("truth", "labels")]
    samples = reinforce.draw(model, params, image, rng, num, eos_token)
    rewards = reward(samples, truth)
    samples = samples[:, :num_grads]
    logits = reinforce.of_samples(model, params, image, samples)
    advantages = reinforce.advantages(rewards, num_grads)
    loss = reinforce.surrogate(logits, samples, advantages, eos_token)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    measured = {
      "reward": jnp.mean(rewards),
      "reward_of_best": jnp.mean(jnp.max(rewards, axis=1)),
      "entropy": -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1)),
    }
    if further_loss:
      measured["further_loss"] = further_loss(logits, samples, truth)
      loss += measured["further_loss"]
    return loss, measured

  return Recipe(
    init=init,
    load=load,
    loss_fn=tune if num else imitate,
    predict_fns=predict_fns.get_predict_fns(model, cfg),
  )


def _check(setup: Setup, model: Any, module: Any, num: int) -> None:
  """Refuses a model that is random, or cannot write the sequences."""
  if num and not setup.config.get("model_init") and not setup.abstract:
    raise lookup.ConfigError(
      "config.model_init is empty: rewards tune a model that has learned to "
      "imitate. Write WORKDIR/checkpoint.bv of the first phase, the run with "
      "config.reward.num_samples = 0."
    )
  shape = list(getattr(setup.batch_shapes.get("labels"), "shape", ()))
  if len(shape) == 2 and shape[1] != model.seq_len:
    raise lookup.ConfigError(
      f"config.model.seq_len={model.seq_len}, but `labels` of config.input.pp "
      f"have {shape[1]} tokens. Write that."
    )
  if module is detection_reward:
    least = detection_reward.Settings.of(setup.config.reward).vocab_size
    if model.vocab_size < least:
      raise lookup.ConfigError(
        f"config.model.vocab_size={model.vocab_size} is too small: by "
        f"config.reward there are {least} tokens. Write that."
      )


def batch_shapes(
  config: ConfigLike, num: int, image_size: tuple[int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a training batch, to plan runs without data.

  Args:
    config: reads `model.seq_len`.
    num: number of examples.
    image_size: (height, width), pixels.

  Returns:
    Dict of `image` [num, H, W, 3] and `labels` [num, L].
  """
  image = jax.ShapeDtypeStruct((num, *image_size, 3), np.float32)
  labels = jax.ShapeDtypeStruct((num, config.model.seq_len), np.int32)
  return {"image": image, "labels": labels}


main = cli.main_for(build)

if __name__ == "__main__":
  app.run(main)
