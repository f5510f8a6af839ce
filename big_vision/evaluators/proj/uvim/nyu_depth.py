"""Measures predicted depth as is usual on NYU depth v2.

The metrics are those of Eigen, Puhrsch and Fergus, https://arxiv.org/abs/1406.2283:
computed over the valid pixels of each image, then averaged over images.

Shapes: B global batch size, H and W sides of the ground truth, h and w of what is
predicted.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.evaluators import iteration, mean
from big_vision.evaluators.proj.uvim import common
from big_vision.types import Array, Batch, Devices, PredictFn, TrainState

API = "jit"

METRICS = ("RMSE", "abs_RE", "log10", "delta1", "delta2", "delta3")
MIN_DEPTH, MAX_DEPTH = 1e-3, 10.0  # Meters.
_VALID = "valid"

inputs = common.inputs


def data_sources(cfg: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
  """Lists the dataset and checks the limits of depth.

  Args:
    cfg: arguments of the evaluator.

  Returns:
    See `common.data_sources`.

  Raises:
    lookup.ConfigError: the limits do not make a range; begins with the key.
  """
  _check_limits(*_limits(cfg))
  return common.data_sources(cfg)


def _limits(cfg):
  return cfg.get("min_depth", MIN_DEPTH), cfg.get("max_depth", MAX_DEPTH)


def _check_limits(min_depth, max_depth):
  if not 0 <= min_depth < max_depth:
    raise lookup.ConfigError(
      f"min_depth={min_depth} and max_depth={max_depth}: depths that count are "
      "between them, so write 0 <= min_depth < max_depth."
    )


def depth_errors(
  predicted: Array, truth: Array, min_depth: float, max_depth: float
) -> dict[str, Array]:
  """Compares depth in the pixels whose ground truth is valid.

  Args:
    predicted: [B, H, W], meters.
    truth: [B, H, W], meters; valid are those between the limits.
    min_depth: meters.
    max_depth: meters.

  Returns:
    Dict of float32 [B]: `RMSE` (meters), `abs_RE`, `log10`, the shares `delta1` to
    `delta3` of pixels that are right up to a factor of 1.25, 1.25² and 1.25³;
    and `valid`, 0 for images without valid pixels, of which all else is 0, too.
  """
  predicted, truth = predicted.astype(jnp.float32), truth.astype(jnp.float32)
  valid = (truth > min_depth) & (truth < max_depth)
  num = valid.sum(axis=(1, 2))

  def average(x):
    # Not a product: other pixels may be 0 or NaN, their logarithms infinite.
    total = jnp.where(valid, x, 0.0).sum(axis=(1, 2))
    return total / jnp.maximum(num, 1)

  difference = predicted - truth
  factor = jnp.maximum(predicted / truth, truth / predicted)
  errors = {
    "RMSE": jnp.sqrt(average(jnp.square(difference))),
    "abs_RE": average(jnp.abs(difference) / truth),
    "log10": average(jnp.abs(jnp.log10(truth) - jnp.log10(predicted))),
  }
  for i in (1, 2, 3):
    errors[f"delta{i}"] = average((factor < 1.25**i).astype(jnp.float32))
  return {**errors, _VALID: (num > 0).astype(jnp.float32)}


@functools.cache  # One compilation for all evaluators of a predict function.
def get_metric_fn(
  predict_fn: PredictFn, min_depth: float, max_depth: float
) -> Callable[[TrainState, Batch], dict[str, Array]]:
  """Makes a function that compares predicted depth with `ground_truth`.

  Args:
    predict_fn: `(train_state, batch) -> {"depth": [B, h, w]}`, meters.
    min_depth: see `depth_errors`.
    max_depth: see `depth_errors`.

  Returns:
    `fn(train_state, batch) -> result of depth_errors`. Predictions are resized to
    the ground truth by nearest neighbors, which invents no depth at edges.
  """

  def fn(train_state, batch):
    batch = dict(batch)
    truth = iteration.take(batch, "ground_truth", "the key")
    if truth.ndim != 4 or truth.shape[-1] != 1:
      raise lookup.ConfigError(
        f"ground_truth of the batch has the shape {truth.shape}, but should be "
        '[B, height, width, 1]: copy("labels", "ground_truth") in pp_fn keeps '
        "depth in its own size."
      )
    predicted = predict_fn(train_state, batch)
    depth = predicted.get("depth") if isinstance(predicted, Mapping) else None
    if depth is None or depth.ndim != 3:
      raise lookup.ConfigError(
        'The predict function should return {"depth": [B, height, width]}, not '
        f"{jax.tree.map(jnp.shape, predicted)}: is it that of a depth task?"
      )
    depth = jax.image.resize(depth, truth.shape[:3], "nearest")
    return depth_errors(depth, truth[..., 0], min_depth, max_depth)

  return fn


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  fn = common.bind(predict_fn, cfg.get("predict_kwargs"))
  fn = get_metric_fn(fn, *_limits(cfg))
  return mean.trial(fn, train_state, batch, cfg)


class Evaluator:
  """Yields `RMSE`, `abs_RE`, `log10`, `delta1`, `delta2`, `delta3`.

  They are means over the images that have valid pixels.
  """

  def __init__(
    self,
    predict_fn: PredictFn,
    pp_fn: str,
    batch_size: int,
    dataset: str,
    split: str,
    min_depth: float = MIN_DEPTH,
    max_depth: float = MAX_DEPTH,
    dataset_dir: str | None = None,
    predict_kwargs: Mapping[str, Any] | None = None,
    *,
    devices: Devices,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch, **predict_kwargs) -> {"depth": [B, h, w]}`,
        meters.
      pp_fn: preprocessing string, which makes `ground_truth` [H, W, 1]; of NYU
        depth v2 that is the crop of the op `nyu_eval_crop`.
      batch_size: global batch size.
      dataset: name as in `data.name`.
      split: its split.
      min_depth: meters; ground truth of this or less does not count.
      max_depth: meters; ground truth of this or more does not count.
      dataset_dir: folder of TFDS; None means the default.
      predict_kwargs: keywords for the predict function.
      devices: flat array of devices in the order of the mesh.

    Raises:
      lookup.ConfigError: the limits do not make a range.
    """
    _check_limits(min_depth, max_depth)
    predict_fn = common.bind(predict_fn, predict_kwargs)
    self.eval_fn = mean.get_eval_fn(
      get_metric_fn(predict_fn, min_depth, max_depth)
    )
    data = common.data_of(dataset, split, dataset_dir, pp_fn)
    self.batches = iteration.open_batches(data, pp_fn, batch_size, devices)

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Yields:
      (name, float) for each of `METRICS`.
    """
    totals, _ = iteration.totals(
      self.eval_fn(train_state, batch) for batch in self.batches
    )
    num = float(totals[_VALID])
    for name in METRICS:
      yield name, float(totals[name]) / num if num else float("nan")
