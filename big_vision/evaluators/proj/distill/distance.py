"""Measures distances between the outputs of a student and a teacher."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import losses, trees
from big_vision import partial as bv_partial
from big_vision.evaluators import iteration
from big_vision.lookup import ConfigError
from big_vision.losses import distance as dist  # noqa: F401  (The old name.)
from big_vision.pipeline import evaluation
from big_vision.types import (
  Array,
  Batch,
  Devices,
  PredictFn,
  PyTree,
  TrainState,
)

API = "jit"


@functools.cache  # One compilation for all evaluators of a predict function.
def get_dist_fn(
  predict_fn: PredictFn,
  what: tuple[str, str],
  mesh: Mesh,
  distances: tuple[Callable[[Array, Array], Array], ...],
) -> Callable[..., tuple[list[Array], Array]]:
  """Compiles distances of one batch, gathered on all devices.

  Args:
    predict_fn: `(train_state, batch) -> ((_, out_student), (_, out_teacher))`.
    what: paths in the two `out`.
    mesh: Mesh of the devices to gather on.
    distances: tuple of functions of two arrays [B, C].

  Returns:
    `fn(train_state, batch, mask) -> (list of [B], mask)`.
  """

  def fn(train_state, batch, mask):
    student, teacher = representations(predict_fn, what, train_state, batch)
    return [d(student, teacher) for d in distances], mask

  return jax.jit(fn, out_shardings=NamedSharding(mesh, PartitionSpec()))


def representations(
  predict_fn: PredictFn,
  what: tuple[str, str],
  train_state: TrainState,
  batch: Batch,
) -> list[Array]:
  """Computes what is compared, of one batch.

  Args:
    predict_fn: `(train_state, batch) -> ((_, out_student), (_, out_teacher))`.
    what: paths in the two `out`.
    train_state: first argument of the predict function.
    batch: second one.

  Returns:
    Two arrays [B, -1].
  """
  outs = predict_fn(train_state, batch)
  arrays = (
    trees.tree_get(out, path) for (_, out), path in zip(outs, what, strict=True)
  )
  return [x.reshape(len(x), -1) for x in arrays]


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  mask = batch.pop("_mask")
  fn = get_dist_fn(
    predict_fn,
    tuple(cfg.get("what", ("logits", "logits"))),
    Mesh(np.asarray(cfg["devices"]), ("devices",)),
    tuple(bv_partial.partial(losses.distance, **d) for d in cfg["distances"]),
  )
  return fn(train_state, batch, mask)


class Evaluator:
  """Yields, for every distance, `<name>/all`, `/avg`, `/min` and `/max`.

  The name tells the arguments of `losses.distance`, for example `kind=kl_t=2`.
  """

  forwards = staticmethod(evaluation.eval_input_pipeline)

  def __init__(
    self,
    student_teacher_fwd: PredictFn,
    data: dict[str, Any],
    pp_fn: str,
    distances: Sequence[Mapping[str, Any]],
    what: Sequence[str] = ("logits", "logits"),
    *,
    devices: Devices,
    batch_size: int,
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      student_teacher_fwd: `(train_state, batch) -> ((_, out_student), (_,
        out_teacher))`; the batch is without mask.
      data: arguments of the dataset, for example `name` and `split`.
      pp_fn: preprocessing string.
      distances: list of dicts, arguments of `losses.distance`.
      what: paths in the two `out` of what is compared, flattened to [B, -1].
      devices: flat array of devices in the order of the mesh.
      batch_size: global batch size.
      **kw: further arguments of `evaluation.eval_input_pipeline`.

    Raises:
      ConfigError: unknown kind of distance.
    """
    for d in distances:
      if d.get("kind") not in losses.DISTANCES:
        raise ConfigError(
          f"distances: unknown kind in {dict(d)}, use one of "
          f"{', '.join(losses.DISTANCES)}."
        )
    self.names = ["_".join(f"{k}={v}" for k, v in d.items()) for d in distances]
    self.dist_fn = get_dist_fn(
      student_teacher_fwd,
      tuple(what),
      Mesh(np.asarray(devices), ("devices",)),
      tuple(bv_partial.partial(losses.distance, **d) for d in distances),
    )
    self.batches = iteration.open_batches(
      data, pp_fn, batch_size, devices, **kw
    )
    self.steps = self.batches.steps

  def run(self, train_state: TrainState) -> Iterator[tuple[str, Any]]:
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Yields:
      (name, value): [N] array in the order of the data, or its scalars.
    """
    results = (self._distances(train_state, batch) for batch in self.batches)
    for name, each in zip(
      self.names, iteration.rows(results, self.batches), strict=True
    ):
      yield f"{name}/all", each
      yield f"{name}/avg", each.mean()
      yield f"{name}/min", each.min()
      yield f"{name}/max", each.max()

  def _distances(self, train_state: TrainState, batch: Batch) -> PyTree:
    mask = batch.pop("_mask")
    return self.dist_fn(train_state, batch, mask)
