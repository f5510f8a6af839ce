"""Compares representations by linear centered kernel alignment (CKA).

It works on mini-batches, with the unbiased estimator of HSIC that makes their mean that of
the whole dataset: "Do Wide and Deep Networks Learn the Same Things?",
https://arxiv.org/abs/2010.15327, equations 2 and 3.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision.evaluators import iteration
from big_vision.evaluators.proj.distill import distance
from big_vision.pipeline import evaluation
from big_vision.types import AnyArray, Array, Batch, PredictFn, TrainState

API = "jit"


def hsic(k: AnyArray, l: AnyArray, mask: AnyArray) -> Array:
  """Estimates the Hilbert-Schmidt independence criterion, without bias.

  The names are those of the paper.

  Args:
    k: [B, B] kernel matrix.
    l: [B, B] kernel matrix.
    mask: [B], 0 for examples that do not count.

  Returns:
    [] float32; 0 if there are less than 4 examples.
  """
  mask = jnp.not_equal(mask, 0).astype(jnp.float32)
  n = jnp.maximum(mask.sum(), 4.0)
  pairs = mask[:, None] * mask[None, :] * (1 - jnp.eye(len(mask)))
  # Not a product alone: padding may be NaN, and 0 * NaN is NaN.
  k, l = (jnp.where(pairs != 0, x, 0.0) for x in (k, l))  # noqa: E741
  value = (
    jnp.sum(k * l)
    + k.sum() * l.sum() / ((n - 1) * (n - 2))
    - 2 / (n - 2) * jnp.sum(k.sum(axis=0) * l.sum(axis=0))
  ) / (n * (n - 3))
  return jnp.where(mask.sum() >= 4, value, 0.0)


@functools.cache  # One compilation for all evaluators of a predict function.
def get_eval_fn(
  predict_fn: PredictFn, what: tuple[str, str]
) -> Callable[[TrainState, Batch, Array], Array]:
  """Compiles the sums of one batch.

  Args:
    predict_fn: `(train_state, batch) -> ((_, out_student), (_, out_teacher))`.
    what: paths in the two `out`.

  Returns:
    `fn(train_state, batch, mask) -> [3]`: HSIC of both, of the student alone,
    of the teacher alone.
  """

  @jax.jit
  def fn(train_state, batch, mask):
    student, teacher = (
      x.astype(jnp.float32)
      for x in distance.representations(predict_fn, what, train_state, batch)
    )
    k, l = student @ student.T, teacher @ teacher.T  # noqa: E741
    return jnp.stack([hsic(a, b, mask) for a, b in ((k, l), (k, k), (l, l))])

  return fn


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  mask = batch.pop("_mask")
  what = tuple(cfg.get("what", ("logits", "logits")))
  return get_eval_fn(predict_fn, what)(train_state, batch, mask)


class Evaluator:
  """Yields `cka` of student and teacher: 1 if they agree up to a rotation."""

  forwards = staticmethod(evaluation.eval_input_pipeline)

  def __init__(
    self,
    student_teacher_fwd: PredictFn,
    what: Sequence[str] = ("logits", "logits"),
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      student_teacher_fwd: `(train_state, batch) -> ((_, out_student), (_,
        out_teacher))`; the batch is without mask.
      what: paths in the two `out` of what is compared, flattened to [B, -1].
      **kw: arguments of `evaluation.eval_input_pipeline`. Results depend (little) on
        the batch size, and fewer than 4 examples in the last batch are left out.
    """
    self.eval_fn = get_eval_fn(student_teacher_fwd, tuple(what))
    self.batches = iteration.open_batches(**kw)
    self.steps = self.batches.steps

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Yields:
      ("cka", float).
    """
    both, student, teacher = iteration.totals(
      self._hsic(train_state, batch) for batch in self.batches
    )
    yield "cka", float(both / np.sqrt(student * teacher))

  def _hsic(self, train_state: TrainState, batch: Batch) -> Array:
    mask = batch.pop("_mask")
    return self.eval_fn(train_state, batch, mask)
