"""Classifies a dataset that has other classes than the model.

Differs from `classification`: the logits are those of the outputs that stand
for the classes of the labels, for example the ImageNet-1k classes of a model of
ImageNet-21k. Examples whose class has no output count as wrong.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision.datasets.imagenet import label_maps
from big_vision.evaluators import classification, iteration
from big_vision.types import Batch, PredictFn, TrainState

API = "jit"


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  labels = iteration.take(batch, cfg.get("label_key", "labels"))
  mask = batch.pop("_mask")
  mapping = _mapping(cfg["label_mapping"])
  fn = classification.get_eval_fn(predict_fn, cfg["loss_name"], mapping)
  return fn(train_state, batch, labels, mask)


class Evaluator(classification.Evaluator):
  """Yields `prec@1` and the mean `loss` over the classes of the labels."""

  classes_of_training = False

  def __init__(
    self,
    predict_fn: PredictFn,
    loss_name: str,
    label_mapping: str | Sequence[int],
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch) -> (logits [B, outputs], ...)`.
      loss_name: for example "softmax_xent".
      label_mapping: a name of `label_maps.get`; or for each class of the
        labels the number of the output that stands for it, -1 if there is none.
      **kw: further arguments of `classification.Evaluator`.

    Raises:
      ValueError: unknown mapping, or none of the classes has an output.
    """
    super().__init__(predict_fn, loss_name, **kw)
    mapping = _mapping(label_mapping)
    self.eval_fn = classification.get_eval_fn(
      predict_fn, loss_name, mapping, self._confusion is not None
    )


def _mapping(label_mapping: str | Sequence[int]) -> tuple[int, ...]:
  """Returns the output of each class; ValueError if none has any."""
  named = isinstance(label_mapping, str)
  outputs = label_maps.get(label_mapping) if named else label_mapping
  mapping = tuple(np.asarray(outputs).tolist())
  if max(mapping, default=-1) < 0:
    raise ValueError("label_mapping: no class has an output.")
  return mapping
