"""Boxes as text, `<loc0012>…<loc0500> cat ; <loc0003>…<loc0030> cow`.

See `models/proj/paligemma/locations.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from big_vision.evaluators.proj.paligemma.transfers import boxes, common
from big_vision.lookup import ConfigError
from big_vision.models.proj.paligemma import locations
from big_vision.types import Devices, PredictFn

API = "jit"

inputs, trial = common.inputs, common.trial

_IOUS = np.arange(50, 100, 5) / 100


class Evaluator(common.TextEvaluator):
  """Yields `map`, `map/0.5`, `map/0.75`, `miou`, `invalid` and `total`.

  `map` is the mean average precision of COCO: over the labels that occur in the
  truth, and over 0.5, 0.55, …, 0.95 as the intersection over union (IoU) that
  boxes need; `map/0.5` is that of one IoU. A text has no scores. A box counts
  as the more certain, the earlier it is in its text; of two in different
  examples that come equally early, the one of the first example.

  `miou` is the mean over true boxes of the IoU of the best prediction of the
  same label, 0 if there is none. Without any true box there is neither `map`
  nor `miou`. `invalid` of the `total` number of examples have an answer of
  which a part, between semicolons, is not a box; its other parts count.

  Features: `objects/bbox` [number, 4], (ymin, xmin, ymax, xmax) relative to the
  image, and `objects/label` [number], texts.
  """

  def __init__(
    self,
    predict_fn: PredictFn,
    tokenizer: str,
    to_lower: bool = False,
    *,
    data: Mapping[str, Any],
    devices: Devices,
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: see `common.decode`.
      tokenizer: one with tokens of locations, see `common.TextEvaluator`.
      to_lower: whether upper and lower case of labels are the same.
      data: arguments of `datasets.core.get`.
      devices: flat array of devices in the order of the mesh.
      **kw: see `common.TextEvaluator`.
    """
    super().__init__(
      predict_fn,
      tokenizer,
      needs=("objects/bbox", "objects/label"),
      to_lower=to_lower,
      data=data,
      devices=devices,
      **kw,
    )

  def score(self, example: common.Example) -> common.Result:
    """Assigns boxes to the true ones, see `common.TextEvaluator`."""
    true_boxes = np.reshape(example.features["objects/bbox"], (-1, 4))
    true_labels = common.texts(example.features["objects/label"], self.convert)
    true_labels = [label.strip() for label in true_labels]
    if len(true_boxes) != len(true_labels):
      raise ConfigError(
        f"objects/bbox has {len(true_boxes)} boxes of an example, but "
        f"objects/label {len(true_labels)} labels."
      )
    found = locations.parse(example.text)
    of_label, best = {}, []
    for label in sorted({*true_labels, *(o.label for o in found)}):
      ranks = [i for i, o in enumerate(found) if o.label == label]
      ious = boxes.iou(
        np.array([found[i].box for i in ranks]),
        true_boxes[[i for i, t in enumerate(true_labels) if t == label]],
      )
      hits = boxes.hits(ious, _IOUS).tolist()
      of_label[label] = [ious.shape[1], list(zip(ranks, hits, strict=True))]
      best += ious.max(axis=0, initial=0).tolist()
    parts = filter(str.strip, example.text.split(";"))
    invalid = float(not all(map(locations.parse, parts)))
    record = {"answer": example.text, "of_label": of_label, "ious": best}
    return common.Result({"invalid": invalid}, record)

  def metrics(
    self, results: list[common.Result]
  ) -> Iterator[tuple[str, float]]:
    """Averages over all examples, see `common.TextEvaluator`."""
    num, found, ious = {}, {}, []
    for _, record in results:
      ious += record["ious"]
      for label, (num_true, predicted) in record["of_label"].items():
        num[label] = num.get(label, 0) + num_true
        found.setdefault(label, []).extend(predicted)
    precisions = [
      boxes.average_precision(_by_rank(found[label]), num[label])
      for label in sorted(num)
      if num[label]
    ]
    if precisions:
      mean = np.mean(precisions, axis=0)
      yield "map", float(mean.mean())
      for iou in (0.5, 0.75):
        yield f"map/{iou}", float(mean[_IOUS == iou].item())
      yield "miou", float(np.mean(ious))
    yield "invalid", round(sum(scores["invalid"] for scores, _ in results))
    yield "total", len(results)


def _by_rank(predicted: list[tuple[int, list[bool]]]) -> np.ndarray:
  """Lists the hits of predictions, the most certain first, as bool [P, T]."""
  ordered = sorted(predicted, key=lambda x: x[0])  # Keeps the order of equals.
  hits = [hit for _, hit in ordered]
  return np.array(hits, bool).reshape(-1, len(_IOUS))
