"""Computes features of a frozen model for whole datasets, once.

Shapes: N examples, B batch, D features.
"""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import checkpoint_npz, fs
from big_vision.evaluators import iteration, layers
from big_vision.types import Batch, Devices, PredictFn, TrainState

# Of features that are said to be the same; devices of another kind differ by
# less, models by more.
_TOLERANCE = 1e-5
# Fields of `Extractor` that evaluators take by the same names.
SETTINGS = ("label_key", "mask_key", "tower", "norm_eps")
# Config keys of the datasets of probes.
SPLITS = ("train", "val", "data")


def data_sources(cfg: Mapping[str, Any]) -> list[tuple[str, Any]]:
  """Lists the datasets of a probe.

  Args:
    cfg: arguments of the evaluator.

  Returns:
    Pairs of a config key and the arguments of `datasets.core.get`.
  """
  return [(key, cfg[key]) for key in SPLITS if cfg.get(key)]


def inputs(cfg: Mapping[str, Any]) -> list[tuple[str, Any, str, None]]:
  """Lists what is preprocessed.

  Args:
    cfg: arguments of the evaluator.

  Returns:
    Tuples of a config key, data, preprocessing string, and the features that
    the predict function gets; None for all.
  """
  return [("pp_fn", data, cfg["pp_fn"], None) for _, data in data_sources(cfg)]


@dataclasses.dataclass(frozen=True)
class Features:
  """Holds the features of a dataset.

  Attributes:
    parts: see `layers.parts_of`, each [N, D].
    labels: [N] ints.
  """

  parts: Mapping[str, np.ndarray]
  labels: np.ndarray

  def layer(self, name: str) -> np.ndarray:
    """Joins the parts of a layer.

    Args:
      name: see `layers`.

    Returns:
      [N, D] float32.
    """
    parts = [self.parts[part] for part in layers.parts_of(name)]
    x = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return x.astype(np.float32, copy=False)

  def take(self, rows: np.ndarray) -> "Features":
    """Selects examples.

    Args:
      rows: [n] indices, or [N] bools.

    Returns:
      Their features.
    """
    parts = {k: x[rows] for k, x in self.parts.items()}
    return Features(parts, self.labels[rows])

  def is_finite(self) -> bool:
    """Tells whether all features are finite."""
    return all(bool(np.isfinite(x).all()) for x in self.parts.values())


def concatenate(parts: Sequence[Features]) -> Features:
  """Joins the examples of several datasets.

  Args:
    parts: features of the same layers.

  Returns:
    Those of all.
  """
  names = parts[0].parts
  joined = {k: np.concatenate([p.parts[k] for p in parts]) for k in names}
  return Features(joined, np.concatenate([p.labels for p in parts]))


@functools.cache  # One compilation for all evaluators of a predict function.
def get_features_fn(
  predict_fn: PredictFn,
  names: tuple[str, ...],
  tower: str,
  norm_eps: float,
  mesh: Mesh,
) -> Callable[..., Any]:
  """Compiles the features of one batch, gathered on all devices.

  Args:
    predict_fn: `(train_state, batch) -> (zimg [B, D], ..., out)`.
    names: of layers.
    tower: see `layers.compute`.
    norm_eps: see `layers.compute`.
    mesh: Mesh of the devices to gather on.

  Returns:
    `fn(train_state, batch, labels [B], mask) -> ((parts, labels), mask)`.
  """

  def fn(train_state, batch, labels, mask):
    zimg, *_, out = predict_fn(train_state, batch)
    parts = layers.compute(names, zimg, out, train_state, tower, norm_eps)
    return (parts, labels), mask

  return jax.jit(fn, out_shardings=NamedSharding(mesh, PartitionSpec()))


@dataclasses.dataclass
class Extractor:
  """Computes features of datasets and keeps them in files if asked to.

  Attributes:
    predict_fn: `(train_state, batch) -> (zimg [B, D], ..., out)`.
    batch_size: global batch size.
    devices: flat array of devices in the order of the mesh.
    label_key: feature of the batch with the int labels.
    mask_key: feature that is False on padding.
    tower: see `layers.compute`.
    norm_eps: see `layers.compute`.
    folder: where files are kept, "" for nowhere. What is found there is used if
      data, preprocessing and layers are the same, and the features of the first
      batch, which are computed anew.
  """

  predict_fn: PredictFn
  batch_size: int
  devices: Devices
  label_key: str = "label"
  mask_key: str = "_mask"
  tower: str = ""
  norm_eps: float = 1e-6
  folder: str = ""
  _batches: dict[str, iteration.Batches] = dataclasses.field(
    default_factory=dict
  )

  def fn(self, names: Sequence[str]) -> Callable[[TrainState, Batch], Any]:
    """Makes the function that computes the features of a batch.

    Args:
      names: of layers.

    Returns:
      `(train_state, batch) -> ((parts, labels), mask)`.
    """
    mesh = Mesh(np.asarray(self.devices), ("devices",))
    fn = get_features_fn(
      self.predict_fn, tuple(names), self.tower, self.norm_eps, mesh
    )

    def represent(train_state: TrainState, batch: Batch) -> Any:
      labels = iteration.take(batch, self.label_key)
      mask = iteration.take(batch, self.mask_key, "mask_key")
      return fn(train_state, batch, labels, mask)

    return represent

  def run_all(
    self,
    train_state: TrainState,
    data: Sequence[Mapping[str, Any]],
    pp_fn: str,
    names: Sequence[str],
  ) -> list[Features]:
    """Computes the features of datasets; each is opened during the one before.

    Args:
      train_state: first argument of the predict function.
      data: arguments of `datasets.core.get` for each.
      pp_fn: preprocessing string.
      names: of layers.

    Returns:
      The features of each, in the order of its examples.
    """
    return [
      self.run(train_state, each, pp_fn, names, after)
      for each, after in itertools.zip_longest(data, data[1:])
    ]

  def run(
    self,
    train_state: TrainState,
    data: Mapping[str, Any],
    pp_fn: str,
    names: Sequence[str],
    after: Mapping[str, Any] | None = None,
  ) -> Features:
    """Computes the features of a dataset.

    Args:
      train_state: first argument of the predict function.
      data: arguments of `datasets.core.get`.
      pp_fn: preprocessing string.
      names: of layers.
      after: the dataset of the next call, which is begun to be read.

    Returns:
      The features, in the order of the dataset.
    """
    key, batches = self._open(data, pp_fn, names)
    represent = self.fn(names)
    # Processes may see different files, and have to agree.
    keep = bool(self.folder) and jax.process_count() == 1
    path = fs.join(self.folder, f"{_digest(key)}.npz") if keep else ""
    if path and fs.exists(path):
      first = represent(train_state, next(iter(batches)))
      found = _read(path, key, jax.device_get(first), batches)
      if found is not None:
        return found
    start = None
    if after:
      start = lambda: self._open(after, pp_fn, names)[1].start()
    results = (
      represent(train_state, batch)
      for batch in iteration.followed_by(batches, start)
    )
    parts, labels = iteration.rows(results, batches)
    features = Features(parts, np.asarray(labels))
    if path:
      _write(path, key, features)
    return features

  def _open(
    self, data: Mapping[str, Any], pp_fn: str, names: Sequence[str]
  ) -> tuple[str, iteration.Batches]:
    """Opens a dataset once; returns what its features are kept by, too."""
    key = repr([dict(data), pp_fn, sorted(names), self.label_key])
    if key not in self._batches:
      self._batches[key] = iteration.open_batches(
        dict(data), pp_fn, self.batch_size, self.devices, cache="none"
      )
    return key, self._batches[key]


def _digest(key: str) -> str:
  return hashlib.sha256(key.encode()).hexdigest()[:16]


def _write(path: str, key: str, features: Features) -> None:
  """Writes features as a whole or not at all."""
  arrays: dict[str, Any] = {f"part/{k}": x for k, x in features.parts.items()}
  arrays |= {"key": np.asarray(key), "labels": features.labels}
  fs.makedirs(fs.dirname(path))
  with fs.open(f"{path}-tmp", "wb") as f:
    np.savez(f, **arrays)
  fs.rename(f"{path}-tmp", path)


def _read(
  path: str, key: str, first: Any, batches: iteration.Batches
) -> Features | None:
  """Reads features; None if they are of another model or of other data."""
  try:
    stored: Any = dict(checkpoint_npz.npload(path))
  except (OSError, ValueError) as e:  # Torn by a crash.
    logging.warning("%s cannot be read (%s): computed again.", path, e)
    return None
  (parts, labels), mask = first
  mask = np.asarray(mask, bool)
  num = int(mask.sum())
  names = [f"part/{k}" for k in parts]
  if str(stored.get("key")) != key or not {*names, "labels"} <= stored.keys():
    return None
  features = Features({k: stored[f"part/{k}"] for k in parts}, stored["labels"])
  steps = -(-len(features.labels) // batches.batch_size)
  same = steps == batches.steps
  same = same and np.array_equal(features.labels[:num], labels[mask])
  same = same and all(
    _equal(features.parts[k][:num], parts[k][mask]) for k in parts
  )
  logging.info("%s: features of %s.", path, "this model" if same else "another")
  return features if same else None


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
  """Tells whether features differ by rounding only."""
  limit = _TOLERANCE * np.abs(a).max(initial=1e-30)
  return a.shape == b.shape and bool((np.abs(a - b) <= limit).all())
