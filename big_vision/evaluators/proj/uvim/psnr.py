"""Measures the peak signal-to-noise ratio of predicted pictures.

Shapes: B global batch size, H and W sides of the pictures.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import lookup
from big_vision.evaluators import mean
from big_vision.evaluators.proj.uvim import common
from big_vision.types import Array, Batch, Devices, PredictFn, TrainState

API = "jit"

DATASET, SPLIT = "imagenet2012", "validation"

data_sources = functools.partial(
  common.data_sources, dataset=DATASET, split=SPLIT
)
inputs = functools.partial(common.inputs, dataset=DATASET, split=SPLIT)


@functools.cache  # One compilation for all evaluators of a predict function.
def get_metric_fn(
  predict_fn: PredictFn,
) -> Callable[[TrainState, Batch], dict[str, Array]]:
  """Makes a function that compares predicted pictures with `labels`.

  Args:
    predict_fn: `(train_state, batch) -> {any name: [B, H, W, C] in [-1, 1]}`.

  Returns:
    `fn(train_state, batch) -> {"PSNR": [B]}`, decibels. It raises ConfigError if
    there is not one picture of the shape of `labels`.
  """

  def fn(train_state, batch):
    predicted = predict_fn(train_state, batch)
    if not isinstance(predicted, Mapping) or len(predicted) != 1:
      raise lookup.ConfigError(
        "The predict function should return a dict with one picture, not "
        f"{jax.tree.map(jnp.shape, predicted)}."
      )
    [(name, picture)] = predicted.items()
    labels = batch["labels"]
    if picture.shape != labels.shape:
      raise lookup.ConfigError(
        f"The predict function returns {name!r} of shape {picture.shape}, but "
        f"labels of the batch are {labels.shape}: resize them to the size that "
        "the model predicts."
      )
    return {"PSNR": psnr(picture, labels)}

  return fn


def psnr(x: Array, y: Array) -> Array:
  """Computes peak signal-to-noise ratios of pictures whose values span 2.

  Args:
    x: [B, H, W, C] in [-1, 1].
    y: the same.

  Returns:
    [B] float32, decibels: 20 log10(2) - 10 log10(mean squared difference).
    Equal pictures have infinity.
  """
  difference = x.astype(jnp.float32) - y.astype(jnp.float32)
  error = jnp.square(difference).mean(axis=tuple(range(1, x.ndim)))
  return 20 * np.log10(2) - 10 * jnp.log10(error)


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  fn = get_metric_fn(common.bind(predict_fn, cfg.get("predict_kwargs")))
  return mean.trial(fn, train_state, batch, cfg)


class Evaluator:
  """Yields `PSNR`, the mean over pictures, in decibels."""

  def __init__(
    self,
    predict_fn: PredictFn,
    pp_fn: str,
    batch_size: int,
    dataset: str = DATASET,
    split: str = SPLIT,
    predict_kwargs: Mapping[str, Any] | None = None,
    dataset_dir: str | None = None,
    *,
    devices: Devices,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch, **predict_kwargs) -> {any name: [B, H, W,
        C] in [-1, 1]}`.
      pp_fn: preprocessing string, which makes `labels` [H, W, C] in [-1, 1].
      batch_size: global batch size.
      dataset: name as in `data.name`.
      split: its split.
      predict_kwargs: keywords for the predict function.
      dataset_dir: folder of TFDS; None means the default.
      devices: flat array of devices in the order of the mesh.
    """
    self._mean = mean.Evaluator(
      get_metric_fn(common.bind(predict_fn, predict_kwargs)),
      data=common.data_of(dataset, split, dataset_dir, pp_fn),
      pp_fn=pp_fn,
      batch_size=batch_size,
      devices=devices,
    )

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Yields:
      ("PSNR", float).
    """
    return self._mean.run(train_state)
