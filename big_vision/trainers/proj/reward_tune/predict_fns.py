"""Computes what evaluators ask of models of sequences, such as detectors.

Shapes: `B` batch, `L` tokens, `P` boxes.
"""

import functools
from typing import Any

import jax.numpy as jnp

from big_vision import losses
from big_vision.models.proj.uvim import decode
from big_vision.trainers.proj.reward_tune import detection_reward
from big_vision.trainers.proj.uvim.train import keys
from big_vision.types import Array, Batch, ConfigLike, PredictFns, TrainState


def get_predict_fns(model: Any, config: ConfigLike) -> PredictFns:
  """Makes the functions of a model.

  Args:
    model: linen module, see `models/proj/uvim/vtt.py`.
    config: `config.reward`.

  Returns:
    Dict of `validation` and `sample`, and of `detect` if rewards are of boxes;
    each is `(train_state, batch)`.
  """
  fns = {"validation": validation, "sample": sample}
  fns = {k: functools.partial(fn, model=model) for k, fn in fns.items()}
  if config.get("name") == "detection_reward":
    settings = detection_reward.Settings.of(config)
    fns["detect"] = functools.partial(detect, model=model, settings=settings)
  return fns


def validation(
  train_state: TrainState, batch: Batch, *, model: Any
) -> dict[str, Array]:
  """Computes the cross-entropy of true sequences.

  Args:
    train_state: has `params`.
    batch: `image` [B, H, W, 3] and `labels` int [B, L].
    model: see `get_predict_fns`.

  Returns:
    Dict of `loss` [B], nats per token.
  """
  logits = model.apply(
    {"params": train_state["params"]}, batch["image"], batch["labels"]
  )
  return {"loss": jnp.mean(losses.token_nats(logits, batch["labels"]), axis=1)}


def sample(
  train_state: TrainState,
  batch: Batch,
  seed: int | Array = 0,
  temperature: float = 0.0,
  *,
  model: Any,
) -> Array:
  """Draws a sequence for each image, which depends on nothing else.

  Args:
    train_state: has `params`.
    batch: `image` [B, H, W, 3].
    seed: int.
    temperature: float, 0 takes the most probable token each time.
    model: see `get_predict_fns`.

  Returns:
    int [B, L].
  """
  image = batch["image"]
  samples, _, _ = decode.temperature_sampling(
    {"params": train_state["params"]},
    image,
    jnp.zeros([len(image), model.seq_len], jnp.int32),
    keys(seed, batch),
    model=model,
    temperature=temperature,
    eos_token=-1,
  )
  return samples[:, 0]


def detect(
  train_state: TrainState,
  batch: Batch,
  seed: int | Array = 0,
  temperature: float = 0.0,
  *,
  model: Any,
  settings: detection_reward.Settings,
) -> dict[str, Array]:
  """Predicts boxes, and computes what they are worth.

  Args:
    train_state: see `sample`.
    batch: see `sample`; if it has `labels` int [B, L], rewards are computed.
    seed: see `sample`.
    temperature: see `sample`.
    model: see `get_predict_fns`.
    settings: of boxes.

  Returns:
    Dict of `boxes` [B, P, 4], (y0, x0, y1, x1) relative to the image, `labels`
    int [B, P], `scores` [B, P], the expected confidence, and `is_box` bool [B,
    P], where there is one; and `reward`, `num_matches`, `nms_penalty` [B], see
    `detection_reward.reward_fn`.
  """
  seq = sample(train_state, batch, seed, temperature, model=model)
  logits = model.apply({"params": train_state["params"]}, batch["image"], seq)
  boxes, labels, conf = detection_reward.seq2box(
    seq, settings.max_level, settings.max_conf, settings.num_cls
  )
  out = {
    "boxes": boxes,
    "labels": labels,
    "scores": detection_reward.scores(logits, settings),
    "is_box": conf > 0,
  }
  if "labels" in batch:
    _, found = detection_reward.reward_fn(
      seq[:, None], batch["labels"], settings
    )
    for name in ("reward", "num_matches", "nms_penalty"):
      out[name] = found["result"][name][:, 0]
  return out
