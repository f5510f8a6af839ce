"""Labels of UViM's tasks: from those of a user to a model's, and back.

Label maps are int [H, W, 2] (class and instance), depth is float [H, W] in meters,
colors are pictures. Shapes: H, W of a picture; h, w of the model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision import drawing, lookup, resizing
from big_vision.types import ConfigLike

PANOPTIC, DEPTH, COLOR = "panoptic", "depth", "color"
_TASKS = {
  frozenset(("semantics", "instances")): PANOPTIC,
  frozenset(("depth",)): DEPTH,
  frozenset(("color",)): COLOR,
}


def task_of(config: ConfigLike) -> str:
  """Tells what the labels of stage I are.

  Args:
    config: ConfigDict of stage I, or `config.oracle`; reads `model.inputs`.

  Returns:
    `PANOPTIC`, `DEPTH` or `COLOR`.

  Raises:
    ConfigError: it is none of these tasks.
  """
  names = frozenset(config.model.inputs)
  if names not in _TASKS:
    raise lookup.ConfigError(
      f"config.model.inputs has {', '.join(map(repr, sorted(names)))}; tasks that "
      "can be loaded have 'semantics' and 'instances', 'depth', or 'color'."
    )
  return _TASKS[names]


def to_model(task: str, labels: Any, size: Sequence[int]) -> np.ndarray:
  """Makes labels that stage I takes, as the preprocessing of evaluations does.

  Args:
    task: see `task_of`.
    labels: int [H, W, 2]; [H, W] or [H, W, 1] meters; or uint8 [H, W, 3].
    size: (h, w).

  Returns:
    int32 [h, w, 2] with instances in the order of `canonical`, float32 [h, w, 1],
    or float32 [h, w, 3] in [-1, 1].

  Raises:
    ValueError: they have another shape or dtype.
  """
  x = np.asarray(labels)
  if task == COLOR:
    x = resizing.resize(_checked(x, 3, "u", "uint8"), size)
    return np.float32(-1) + x.astype(np.float32) / np.float32(255) * 2
  if task == DEPTH:
    x = x[..., None] if x.ndim == 2 else x
    x = _checked(x, 1, "fiu", "meters")
    return resizing.resize(x.astype(np.float32), size, "nearest")
  x = _checked(x, 2, "iu", "int").astype(np.int32)
  return canonical(resizing.resize(x, size, "nearest"))


def _checked(x, channels, kinds, what):
  if x.ndim != 3 or x.shape[2] != channels or x.dtype.kind not in kinds:
    raise ValueError(
      f"Labels of this model should be {what} [height, width, {channels}], got "
      f"{x.dtype} {list(x.shape)}."
    )
  return x


def canonical(labels: np.ndarray) -> np.ndarray:
  """Numbers instances from top to bottom, then from left to right.

  Args:
    labels: int [h, w, 2].

  Returns:
    The same with instances 1, 2, ...; those of 0 and less stay, as 0 and -1.
  """
  old = labels[..., 1]
  ids, first, place = np.unique(old, return_index=True, return_inverse=True)
  place = place.reshape(old.shape)
  y, x = np.indices(old.shape)
  counts = np.bincount(place.ravel())
  mean = lambda at: np.bincount(place.ravel(), at.ravel()) / counts
  key = np.where(ids > 0, mean(x) + len(old) * mean(y), np.inf)
  rank = np.empty(len(ids), np.int32)
  rank[np.lexsort((first, key))] = np.arange(1, len(ids) + 1)
  new = np.where(ids > 0, rank, np.maximum(ids, -1)).astype(labels.dtype)
  return np.stack([labels[..., 0], new[place]], axis=-1)


def from_model(task: str, outputs: Any, size: Sequence[int]) -> np.ndarray:
  """Makes labels of a picture in its own size.

  Args:
    task: see `task_of`.
    outputs: what `predict_outputs` of the task makes, for one picture.
    size: (H, W).

  Returns:
    int32 [H, W, 2], float32 [H, W] in meters, or uint8 [H, W, 3].
  """
  if task == PANOPTIC:
    x = np.asarray(outputs, np.int32)
    return resizing.resize(x, size, "nearest")
  if task == DEPTH:
    x = np.asarray(outputs[DEPTH], np.float32)[..., None]
    return resizing.resize(x, size, "nearest")[..., 0]
  return drawing.to_uint8(resizing.resize(np.asarray(outputs[COLOR]), size))


def draw(task: str, labels: Any, max_depth: float | None = None) -> np.ndarray:
  """Draws labels.

  Args:
    task: see `task_of`.
    labels: as of `from_model`.
    max_depth: see `drawing.draw_depth`.

  Returns:
    uint8 [H, W, 3].
  """
  if task == COLOR:
    return drawing.to_uint8(labels)
  return drawing.draw(
    labels if task == PANOPTIC else {DEPTH: labels}, max_depth
  )


def describe(
  task: str, labels: np.ndarray, class_names: Mapping[int, str] | None = None
) -> dict[str, Any]:
  """Says in a few values what is in labels.

  Args:
    task: see `task_of`.
    labels: as of `from_model`.
    class_names: by class; None: their numbers.

  Returns:
    Name -> value: `classes` and `instances`, how many there are and, of each,
    `class x number of instances`; or `min_depth`, `mean_depth`, `max_depth` in
    meters; or nothing of colors.
  """
  if task == DEPTH:
    values = labels[labels > 0]
    if not values.size:
      return dict.fromkeys(
        ("min_depth", "mean_depth", "max_depth"), float("nan")
      )
    return {
      "min_depth": float(values.min()),
      "mean_depth": float(values.mean()),
      "max_depth": float(values.max()),
    }
  if task == COLOR:
    return {}
  pairs = np.unique(labels.reshape(-1, 2), axis=0)
  classes, counts = np.unique(pairs[pairs[:, 0] > 0, 0], return_counts=True)
  names = class_names or {}
  found = [
    f"{names.get(int(c), int(c))} x {n}"
    for c, n in zip(classes, counts, strict=True)
  ]
  return {
    "classes": len(classes),
    "instances": int(counts.sum()),
    "found": "; ".join(found),
  }
