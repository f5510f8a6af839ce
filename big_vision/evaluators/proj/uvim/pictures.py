"""Shows what a run predicts: input, ground truth and prediction side by side.

The task follows from what the predict function returns, see `drawing.draw`.
Shapes: B examples, H height, W width, in pixels.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import drawing, pictures
from big_vision.evaluators import iteration
from big_vision.evaluators.proj.uvim import common
from big_vision.lookup import ConfigError
from big_vision.types import Array, Batch, Devices, PredictFn, TrainState

API = "jit"
SPLIT = "validation"

# Features of a batch that are ground truth, the first one that there is.
_TRUTHS = ("ground_truth", "labels")


def data_sources(cfg: Mapping[str, Any]) -> list[tuple[str, Any]]:
  """Lists the dataset of a config.

  Args:
    cfg: arguments of the evaluator.

  Returns:
    Pairs of a config key and the arguments of `datasets.core.get`.

  Raises:
    ValueError: there is none, or there are two.
  """
  given = [key for key in ("data", "dataset") if cfg.get(key)]
  if len(given) != 1:
    raise ConfigError(
      "data: give either data=dict(name=..., split=...), or dataset and split."
    )
  if given == ["data"]:
    return [("data", cfg["data"])]
  return common.data_sources(cfg, split=SPLIT)


def inputs(
  cfg: Mapping[str, Any],
) -> list[tuple[str, Any, str, tuple[str, ...] | None]]:
  """Lists what is preprocessed.

  Args:
    cfg: arguments of the evaluator.

  Returns:
    Tuples of a config key, data, preprocessing string, and the features that
    the predict function gets; None for all.
  """
  return [("pp_fn", data, cfg["pp_fn"], None) for _, data in data_sources(cfg)]


@functools.cache  # One compilation for all evaluators of a predict function.
def get_predict_fn(
  predict_fn: PredictFn, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[dict[str, Any], Array]]:
  """Compiles predictions, gathered on all devices together with their inputs.

  Args:
    predict_fn: `(train_state, batch) -> labels`, see `drawing.draw`.
    mesh: Mesh of the devices to gather on.

  Returns:
    `fn(train_state, batch) -> ({"batch": ..., "labels": ...}, mask)`.
  """

  def fn(train_state, batch):
    if "image" not in batch:
      raise ConfigError(
        "the batch has no image: keep it in pp_fn, as |keep('image', 'labels')."
      )
    shown = {k: batch[k] for k in ("image", *_TRUTHS) if k in batch}
    labels = predict_fn(train_state, batch)
    return {"batch": shown, "labels": labels}, batch["_mask"]

  return jax.jit(fn, out_shardings=NamedSharding(mesh, PartitionSpec()))


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  mesh = Mesh(np.asarray(cfg["devices"]), ("devices",))
  fn = get_predict_fn(common.bind(predict_fn, cfg.get("predict_kwargs")), mesh)
  return fn(train_state, batch)


class Evaluator:
  """Yields a picture with a row for each of a few examples, always the same."""

  def __init__(
    self,
    predict_fn: PredictFn,
    pp_fn: str,
    batch_size: int | None = None,
    data: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    split: str = SPLIT,
    dataset_dir: str | None = None,
    predict_kwargs: Mapping[str, Any] | None = None,
    num: int = 8,
    max_depth: float | None = None,
    *,
    devices: Devices,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch, **kw) -> labels`, see `drawing.draw`.
      pp_fn: preprocessing string, which keeps `image` and the ground truth:
        `labels`, or `ground_truth` if there is one. Without it, only input and
        prediction are shown.
      batch_size: not used: the examples are one batch of their own.
      data: arguments of `datasets.core.get`, or
      dataset, split, dataset_dir: the same one by one.
      predict_kwargs: keywords of the predict function, such as `temperature`.
      num: how many examples, the first ones of the split; of several processes,
        the first ones of each.
      max_depth: meters that are darkest in pictures of depth; None is the
        largest distance of each example.
      devices: flat array of devices in the order of the mesh.

    Raises:
      ConfigError: there is no data, or no example is asked for.
    """
    del batch_size
    if num < 1:
      raise ConfigError(f"num={num} should be at least 1.")
    cfg = dict(
      data=data,
      dataset=dataset,
      split=split,
      dataset_dir=dataset_dir,
      pp_fn=pp_fn,
    )
    ((_, source),) = data_sources(cfg)
    self._num, self._max_depth = num, max_depth
    self._batches = iteration.open_batches(
      dict(source),
      pp_fn,
      math.ceil(num / len(devices)) * len(devices),
      devices,
      cache="none",
      prefetch=0,
    )
    self._batch: Batch | None = None
    mesh = Mesh(np.asarray(devices), ("devices",))
    self._fn = get_predict_fn(common.bind(predict_fn, predict_kwargs), mesh)

  def run(
    self, train_state: TrainState
  ) -> Iterator[tuple[str, pictures.Picture]]:
    """Predicts the examples and draws them.

    Args:
      train_state: first argument of the predict function.

    Yields:
      ("examples", picture).

    Raises:
      ConfigError: the predict function returns something else than labels.
    """
    if self._batch is None:  # What comes later is never read.
      self._batch = next(iter(self._batches))
    result = self._fn(train_state, self._batch)
    rows = iteration.rows([result], self._batches)
    examples = [
      jax.tree.map(lambda x, i=i: x[i], rows)
      for i in range(min(self._num, len(rows["batch"]["image"])))
    ]
    cells = [row(e["batch"], e["labels"], self._max_depth) for e in examples]
    yield "examples", pictures.Picture(drawing.grid(cells))


def row(
  example: Mapping[str, np.ndarray],
  labels: Any,
  max_depth: float | None = None,
) -> Sequence[np.ndarray]:
  """Draws an example.

  Args:
    example: `image` [H, W, 3] in [-1, 1], and the ground truth if it is known.
    labels: what is predicted.
    max_depth: see `drawing.draw_depth`; None is the largest true distance.

  Returns:
    Pictures: the image, the ground truth if it is known, the prediction.
  """
  out = [drawing.to_uint8(example["image"])]
  known = [example[name] for name in _TRUTHS if name in example]
  if known:
    truth = known[0]
    if isinstance(labels, Mapping):  # Then only the prediction has a name.
      truth = dict.fromkeys(labels, truth)
      if "depth" in labels and max_depth is None:
        max_depth = float(known[0].max()) or None
    out.append(drawing.draw(truth, max_depth))
  return [*out, drawing.draw(labels, max_depth)]
