"""Masks of objects that texts refer to, as those of RefCOCO.

An answer begins with the box of the object, four location tokens, and the mask
in it, 16 codes, see `models/proj/paligemma/mask_codec.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from big_vision.evaluators.proj.paligemma.transfers import boxes, common
from big_vision.lookup import ConfigError
from big_vision.models.proj.paligemma import locations
from big_vision.models.proj.paligemma.mask_codec import get_reconstruct_masks
from big_vision.types import Devices, PredictFn

API = "jit"

inputs, trial = common.inputs, common.trial


class Evaluator(common.TextEvaluator):
  """Yields `miou`, `boxacc/0.5` for each of `det_ious`, `invalid` and `total`.

  `miou` is the mean over examples of the intersection over union (IoU) of
  predicted and true mask, `boxacc/0.5` the part of them whose boxes have an IoU
  of 0.5 or more. `invalid` of the `total` number of examples have an answer
  that is not a mask, which counts as 0.

  Features: `objects/bbox` [4], (ymin, xmin, ymax, xmax) relative to the image,
  and `objects/mask` [h, w, channels] in the size of the image, of which the
  first channel is larger than 0 where the object is.
  """

  def __init__(
    self,
    predict_fn: PredictFn,
    tokenizer: str,
    model: str = "oi",
    det_ious: Sequence[float] = (0.5, 0.75),
    *,
    data: Mapping[str, Any],
    devices: Devices,
    **kw: Any,
  ) -> None:
    """Opens the data and the weights that decode masks.

    Args:
      predict_fn: see `common.decode`.
      tokenizer: one with the tokens <loc0000>, <seg000> and those that follow,
        see `common.TextEvaluator`.
      model: the weights, see `mask_codec.load`.
      det_ious: the IoUs that boxes should have.
      data: arguments of `datasets.core.get`.
      devices: flat array of devices in the order of the mesh.
      **kw: see `common.TextEvaluator`.

    Raises:
      ConfigError: the tokenizer does not have these tokens.
    """
    self._space, first = _ids_of(tokenizer, "<loc0000>")
    self._first = first, _ids_of(tokenizer, "<seg000>")[1]
    self._reconstruct_masks = get_reconstruct_masks(model)
    self._det_ious = tuple(det_ious)
    super().__init__(
      predict_fn,
      tokenizer,
      needs=("objects/mask", "objects/bbox"),
      optional=("prefix", "suffix"),
      data=data,
      devices=devices,
      **kw,
    )

  def score(self, example: common.Example) -> common.Result:
    """Compares box and mask with the true ones, see `common.TextEvaluator`."""
    truth = np.asarray(example.features["objects/mask"])
    if truth.ndim != 3:
      raise ConfigError(
        f"objects/mask should be [height, width, channels], not {truth.shape}."
      )
    box, codes = self._parse(example.tokens)
    iou, is_valid = self._mask_iou(box, codes, truth[..., 0] > 0)
    box_iou = boxes.iou(box, example.features["objects/bbox"]).item()
    scores = {"miou": iou}
    for least in self._det_ious:
      scores[f"boxacc/{least}"] = float(boxes.reaches(box_iou, least))
    scores["invalid"] = float(not is_valid)
    return common.Result(scores, {"answer": example.text, **scores})

  def metrics(
    self, results: list[common.Result]
  ) -> Iterator[tuple[str, float]]:
    """Averages over all examples, see `common.TextEvaluator`."""
    found = common.means(results)
    invalid = found.pop("invalid")
    yield from found.items()
    yield "invalid", round(invalid * len(results))
    yield "total", len(results)

  def _parse(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the box, relative to the image, and the codes; 0 if invalid."""
    if tokens[: len(self._space)].tolist() == self._space:
      tokens = tokens[len(self._space) :]
    num = locations.CODES_PER_MASK
    at = tokens[:4] - self._first[0]
    codes = tokens[4 : 4 + num] - self._first[1]
    if (
      len(codes) == num
      and ((at >= 0) & (at < locations.NUM_LOCATIONS)).all()
      and ((codes >= 0) & (codes < locations.NUM_CODES)).all()
      and (at[2:] > at[:2]).all()
    ):
      return at / (locations.NUM_LOCATIONS - 1), codes
    return np.zeros(4), np.zeros(num, np.int32)

  def _mask_iou(
    self, box: np.ndarray, codes: np.ndarray, truth: np.ndarray
  ) -> tuple[float, bool]:
    """Returns the IoU with the true mask, and whether the box has pixels."""
    y1, x1, y2, x2 = (box * np.tile(truth.shape, 2)).astype(int)
    if y1 >= y2 or x1 >= x2:
      return 0.0, False
    mask = self._reconstruct_masks(codes[None].astype(np.int32))[0, ..., 0]
    mask = Image.fromarray(np.asarray(mask, np.float32))
    mask = mask.resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR)
    inside = np.asarray(mask) > 0
    both = np.sum(inside & truth[y1:y2, x1:x2])
    union = inside.sum() + truth.sum() - both
    return float(both / union) if union else 0.0, True


def _ids_of(tokenizer: str, token: str) -> tuple[list[int], int]:
  """Finds the id of a token that a tokenizer should have.

  In front of it, lists ids of the space that some put before every text.
  """
  tok = common.open_tokenizer(tokenizer)
  *space, found = tok.to_int(token)
  if tok.to_str([found]) != token:
    raise ConfigError(
      f"tokenizer={tokenizer!r} has no token {token!r}: it needs "
      "tokensets=('loc', 'seg')."
    )
  return space, found
