"""Which outputs of a model stand for which classes of another dataset."""

from __future__ import annotations

import functools

import numpy as np

from big_vision import lookup
from big_vision.datasets.imagenet import class_names


def _i1k_to_i21k():
  """Maps by synsets. One class has no output, n04399382 (teddy bear)."""
  place = {s: i for i, s in enumerate(class_names.IMAGENET21k_SYNSETS)}
  return np.array([place.get(s, -1) for s in class_names.IMAGENET_SYNSETS])


def _only(labels, mapping):
  """Drops the classes that are not among `labels` from a mapping."""
  return np.where(np.isin(np.arange(len(mapping)), labels), mapping, -1)


_MAPS = {
  "i1k_i21k": _i1k_to_i21k,
  "i1ka_i21k": lambda: _only(class_names.IMAGENET_A_LABELSET, get("i1k_i21k")),
  "i1kr_i21k": lambda: _only(class_names.IMAGENET_R_LABELSET, get("i1k_i21k")),
}


@functools.cache
def get(name: str) -> np.ndarray:
  """Returns the mapping of a name.

  Args:
    name: `i1k_i21k` is from the 1000 classes of ImageNet-1k to the 21 843 of
      ImageNet-21k; `i1ka_i21k` and `i1kr_i21k` from those 200 of the 1000 that
      occur in ImageNet-A and ImageNet-R.

  Returns:
    [num_classes] int64 array: the output for each class, -1 if there is none.

  Raises:
    ValueError: unknown name.
  """
  if name not in _MAPS:
    raise lookup.unknown("label mapping", name, _MAPS)
  mapping = _MAPS[name]()
  mapping.setflags(write=False)  # It is shared.
  return mapping
