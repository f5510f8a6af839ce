"""Panoptic quality: how well predicted segments match those of the truth.

A segmentation is a map of segment ids [H, W] with a class for each id; VOID is
no segment. A predicted segment and a true one match if they are of one class and
their intersection over union (IoU), of pixels that are not void in the truth, is
above 1/2. Per class, over all images,

  PQ = sum of IoU of matches / (TP + FP / 2 + FN / 2)    panoptic quality
  SQ = sum of IoU of matches / TP                        segmentation quality
  RQ = TP / (TP + FP / 2 + FN / 2)                       recognition quality

with TP matches, FP and FN predicted and true segments without a match. Two kinds
do not count as such: true segments that are crowds, and predicted ones of which
more than half is void, or in a crowd of their class.

The counts add up over images and processes; classes that occur nowhere have no
quality. Definition: Kirillov et al. 2019, https://arxiv.org/abs/1801.00868. Void
regions, crowds, and areas that the truth states in its annotations instead of
having them counted are treated as in COCO's evaluation.

Shapes: H, W size of a map, S segments, C classes.
"""

from typing import NamedTuple

import numpy as np

VOID = 0
NUM_IDS = 256**3  # Of three channels of a PNG.
METRICS = ("pq", "rq", "sq")


class Segments(NamedTuple):
  """Classes and sizes of the segments of a map.

  Attributes:
    ids: [S] ints, as in the map; distinct, not VOID.
    classes: [S] ints in [0, C).
    areas: [S] pixels; not looked at for predictions, whose pixels are counted.
    is_crowd: [S] bools, not looked at for predictions.
  """

  ids: np.ndarray
  classes: np.ndarray
  areas: np.ndarray
  is_crowd: np.ndarray


class Counts(NamedTuple):
  """Sums per class, from which all qualities are computed.

  Attributes:
    iou: float64 [C], sum over matches of their IoU.
    tp: int64 [C], number of matches.
    fp: int64 [C], predicted segments without one.
    fn: int64 [C], true segments without one.
  """

  iou: np.ndarray
  tp: np.ndarray
  fp: np.ndarray
  fn: np.ndarray


def zero(num_classes: int) -> Counts:
  """Returns the counts of no image at all."""
  none = np.zeros(num_classes, np.int64)
  return Counts(np.zeros(num_classes), none, none, none)


def add(a: Counts, b: Counts) -> Counts:
  """Adds the counts of different images."""
  return Counts(*(x + y for x, y in zip(a, b, strict=True)))


def count(
  predicted: np.ndarray,
  predicted_segments: Segments,
  truth: np.ndarray,
  true_segments: Segments,
  num_classes: int,
) -> Counts:
  """Matches the segments of one image.

  Args:
    predicted: [H, W] ids; each is VOID or listed in `predicted_segments`.
    predicted_segments: each of them has pixels.
    truth: [H, W] ids. Ids that `true_segments` does not list are neither void
      nor a segment.
    true_segments: of several crowds of one class only the last one excuses
      predictions, as in COCO's evaluation.
    num_classes: C.

  Returns:
    The counts of this image.

  Raises:
    ValueError: maps and lists of segments do not fit each other.
  """
  if predicted.shape != truth.shape:
    raise ValueError(
      f"The predicted map has the shape {predicted.shape}, the true one "
      f"{truth.shape}."
    )
  _check(predicted_segments, num_classes, "predicted")
  _check(true_segments, num_classes, "true")
  num, num_true = len(predicted_segments.ids), len(true_segments.ids)
  place = _places(predicted, predicted_segments.ids)
  true_place = _places(truth, true_segments.ids)
  # Pixels by true segment, then void, then what is not listed; by predicted ones.
  overlap = np.bincount(
    (true_place * (num + 2) + place).ravel(),
    minlength=(num_true + 2) * (num + 2),
  ).reshape(num_true + 2, num + 2)
  if overlap[:, -1].any():
    ids = np.unique(predicted[place == num + 1])
    raise ValueError(f"Predicted ids without a segment: {ids[:10].tolist()}.")
  areas = overlap[:, :num].sum(axis=0)
  if not areas.all():
    ids = predicted_segments.ids[areas == 0]
    raise ValueError(f"Predicted segments without pixels: {ids[:10].tolist()}.")

  classes, true_classes = predicted_segments.classes, true_segments.classes
  is_crowd = np.asarray(true_segments.is_crowd, bool)
  inside, void = overlap[:num_true, :num], overlap[num_true, :num]
  union = areas[None] + np.asarray(true_segments.areas)[:, None] - inside - void
  iou = np.divide(inside, union, out=np.zeros(union.shape), where=union > 0)
  matches = (iou > 0.5) & (true_classes[:, None] == classes[None])
  matches &= ~is_crowd[:, None]
  missed = ~matches.any(axis=1) & ~is_crowd

  excused = void.copy()
  crowds = np.flatnonzero(is_crowd)
  crowd_of = np.full(num_classes, -1)
  crowd_of[true_classes[crowds]] = crowds  # The last one of a class stays.
  has_crowd = np.flatnonzero(crowd_of[classes] >= 0)
  excused[has_crowd] += inside[crowd_of[classes[has_crowd]], has_crowd]
  wrong = ~matches.any(axis=0) & ~(excused / np.maximum(areas, 1) > 0.5)

  rows, columns = np.nonzero(matches)
  matched = classes[columns]
  total = lambda x, w=None: np.bincount(x, w, minlength=num_classes)
  return Counts(
    iou=total(matched, iou[rows, columns]).astype(np.float64),
    tp=total(matched),
    fp=total(classes[wrong]),
    fn=total(true_classes[missed]),
  )


def _check(segments, num_classes, kind):
  """Refuses segments that nothing can be counted of."""
  ids, classes = segments.ids, segments.classes
  if len(np.unique(ids)) < len(ids) or (np.asarray(ids) == VOID).any():
    raise ValueError(
      f"Ids of {kind} segments should be distinct and not {VOID}: "
      f"{np.sort(ids).tolist()}."
    )
  if len(ids) and not (0 <= classes.min() and classes.max() < num_classes):
    raise ValueError(
      f"Classes of {kind} segments should be below {num_classes}: "
      f"{np.unique(classes).tolist()}."
    )


def _places(ids_map, ids):
  """Finds ids [H, W] in a list of S: S is VOID, S + 1 is not in the list."""
  known = np.append(ids, VOID)
  order = np.argsort(known)
  at = np.searchsorted(known, ids_map, sorter=order)
  at = order[np.minimum(at, len(order) - 1)]
  return np.where(known[at] == ids_map, at, len(known))


def qualities(counts: Counts) -> dict[str, np.ndarray]:
  """Computes the qualities of each class.

  Args:
    counts: over all images.

  Returns:
    "pq", "rq", "sq" -> float64 [C], NaN for classes that occur neither in the
    truth nor in predictions.
  """
  iou, tp, fp, fn = counts
  total = tp + 0.5 * fp + 0.5 * fn
  occurs = total > 0
  ratio = lambda a, b: np.where(occurs, a / np.maximum(b, 0.5), np.nan)
  return {"pq": ratio(iou, total), "rq": ratio(tp, total), "sq": ratio(iou, tp)}


def summary(counts: Counts, is_thing: np.ndarray) -> dict[str, float]:
  """Averages the qualities over classes.

  Args:
    counts: over all images.
    is_thing: [C] bools: things can be counted, stuff cannot.

  Returns:
    "All_pq", "All_rq", "All_sq", then `Stuff_*` and `Things_*`: means over the
    classes that occur, NaN if none does.
  """
  is_thing = np.asarray(is_thing, bool)
  groups = {"All": np.ones_like(is_thing), "Stuff": ~is_thing}
  groups["Things"] = is_thing
  values = qualities(counts)
  return {
    f"{group}_{name}": _mean(values[name][chosen])
    for group, chosen in groups.items()
    for name in METRICS
  }


def _mean(x):
  """Averages what is a number."""
  known = x[~np.isnan(x)]
  return float(known.mean()) if known.size else float("nan")


def segments_of_channels(
  channels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, Segments]:
  """Makes segments of a map with a class and an instance for each pixel.

  Args:
    channels: [H, W, 2] ints: 1 + class, or 0 for pixels without label, whose
      instance does not matter; and a number that tells instances of one class
      apart, any int32.
    num_classes: C.

  Returns:
    (ids [H, W], segments): one segment for each pair of numbers that occurs, with
    ids from 1 on in the order of the pairs.

  Raises:
    ValueError: a class is out of range.
  """
  semantics, instances = np.moveaxis(np.asarray(channels, np.int64), -1, 0)
  if semantics.size and not (
    0 <= semantics.min() and semantics.max() <= num_classes
  ):
    bad = np.unique(semantics[(semantics < 0) | (semantics > num_classes)])
    raise ValueError(
      f"Predicted semantics should be 0 (no label) to {num_classes} (the number "
      f"of classes), got {bad[:10].tolist()}."
    )
  labeled = semantics > 0
  instances = instances - instances.min(initial=0)
  span = int(instances.max(initial=0)) + 1
  pairs, place, areas = np.unique(
    (semantics * span + instances)[labeled],
    return_inverse=True,
    return_counts=True,
  )
  ids = np.full(semantics.shape, VOID)
  ids[labeled] = place.ravel() + 1
  new = np.arange(1, len(pairs) + 1)
  no_crowd = np.zeros(len(pairs), bool)
  return ids, Segments(new, pairs // span - 1, areas, no_crowd)


def ids_of_rgb(rgb: np.ndarray) -> np.ndarray:
  """Reads segment ids from the channels of COCO's PNG files.

  Args:
    rgb: uint8 [H, W, 3].

  Returns:
    int64 [H, W], red + 256 green + 256^2 blue.
  """
  return np.asarray(rgb, np.int64) @ np.array([1, 256, 256**2])


def rgb_of_ids(ids: np.ndarray) -> np.ndarray:
  """Writes segment ids into channels, the inverse of `ids_of_rgb`.

  Args:
    ids: ints [H, W] in [0, 256^3).

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: an id does not fit into three channels.
  """
  ids = np.asarray(ids, np.int64)
  if ids.size and not (0 <= ids.min() and ids.max() < NUM_IDS):
    raise ValueError(
      f"Ids of segments should be in [0, {NUM_IDS}), got {ids.min()} to "
      f"{ids.max()}."
    )
  return (ids[..., None] // np.array([1, 256, 256**2]) % 256).astype(np.uint8)
