"""Measures representations by few-shot linear regression.

From a few training images per class, a ridge regression to the class labels in
{-1, +1} is solved in closed form; its accuracy on the test split is a cheap
measure of how good the representations are.

Shapes: N training images, D features, C classes.

References: Dosovitskiy et al. 2020, section 4.1, Metrics,
  https://arxiv.org/abs/2010.11929.
"""

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import devices as bv_devices
from big_vision import trees
from big_vision.evaluators import iteration
from big_vision.pipeline import prefetch
from big_vision.types import (
  AnyArray,
  Array,
  Batch,
  Devices,
  PredictFn,
  TrainState,
)

API = "jit"

# Value of the constant feature: so large that l2_reg hardly affects the bias.
BIAS_CONSTANT = 100.0


# Of a dataset that is not one of TFDS.
_PARTS = ("train", "test")

# Test images that are converted to float64 at a time.
_CHUNK = 4096

_Key = tuple[str, str, str]  # TFDS name, split, preprocessing string.


def _precompute_cache(
  x: AnyArray, y: AnyArray, num_classes: int
) -> dict[str, Any]:
  """Computes what does not depend on the weight of the regularization.

  The decomposition is that of the smaller one of XᵀX and XXᵀ (the kernel form,
  W = Xᵀ(XXᵀ + λI)⁻¹Y), which have the same non-zero eigenvalues. In NumPy and
  float64, and from the singular values of X: those of a product lose half of
  the digits. The constant feature, whose eigenvalue 10⁴ N would drown small
  ones, is orthogonal to the standardized ones and thus an eigenvector itself.

  Args:
    x: [N, D] training representations.
    y: [N] int labels.
    num_classes: C.

  Returns:
    Dict of float64 arrays: `mean`, `std` [1, D] to standardize with; `eigs`,
    `lhs`, `rhs` such that the weights [D + 1, C] are
    `(lhs / (eigs + l2_reg)) @ rhs`. All NaN if a representation is not finite.
    The first three are under `exact`, and rounded to float32 beside it.
  """
  x = np.asarray(x, np.float64)
  finite = np.isfinite(x).all()
  x = x if finite else np.full_like(x, np.nan)
  y = 2.0 * (np.asarray(y)[:, None] == np.arange(num_classes)) - 1.0  # [N, C]
  mean = x.mean(axis=0, keepdims=True)
  std = x.std(axis=0, keepdims=True) + 1e-5
  x = (x - mean) / std
  num_rows, num_columns = x.shape
  tall = num_rows > num_columns
  narrow = x if tall else x.T
  rank = narrow.shape[1]
  if finite:
    q, r = np.linalg.qr(narrow)  # R is small.
    u, singular, vt = np.linalg.svd(r)
  else:  # LAPACK does not take it, but a diverged model is no reason to stop.
    q = narrow
    u, vt = np.full([2, rank, rank], np.nan)
    singular = np.full(rank, np.nan)
  if tall:
    # Not V Xᵀ Y, whose rounding errors the division by a small sum of singular
    # value and l2_reg would enlarge, and a feature without variance once more.
    lhs, rhs = vt.T, singular[:, None] * (u.T @ (q.T @ y))
  else:  # The sum of all rows is 0: so is the smallest value.
    singular, vt = singular[:-1], vt[:-1]
    lhs, rhs = x.T @ vt.T, vt @ y
  lhs = np.pad(lhs, ((0, 1), (0, 1)))
  lhs[-1, -1] = 1.0
  rhs = np.concatenate([rhs, BIAS_CONSTANT * y.sum(axis=0, keepdims=True)])
  eigs = np.append(np.square(singular), num_rows * BIAS_CONSTANT**2)
  exact = {"mean": mean, "std": std, "eigs": eigs}
  rounded = {k: v.astype(np.float32) for k, v in exact.items()}
  return {**rounded, "lhs": lhs, "rhs": rhs, "exact": exact}


def _eig_fewshot_acc_fn(
  cache: dict[str, Any],
  x_test: AnyArray,
  y_test: AnyArray,
  l2_reg: float,
) -> float:
  """Measures the accuracy of the regression.

  Args:
    cache: result of `_precompute_cache`.
    x_test: [M, D] test representations.
    y_test: [M] int labels.
    l2_reg: weight of the squared norm of the regression's weights.

  Returns:
    Fraction of test images whose largest output is the right class, a float;
    NaN if an output is not finite.
  """
  exact = cache["exact"]
  w = (cache["lhs"] / (exact["eigs"] + np.float64(l2_reg))) @ cache["rhs"]
  x_test, y_test = np.asarray(x_test), np.asarray(y_test)
  num_correct = 0
  for start in range(0, len(x_test), _CHUNK):
    rows = slice(start, start + _CHUNK)
    x = (x_test[rows].astype(np.float64) - exact["mean"]) / exact["std"]
    outputs = x @ w[:-1] + BIAS_CONSTANT * w[-1]  # [M, C]
    if not np.isfinite(outputs).all():
      return float("nan")
    num_correct += np.sum(outputs.argmax(axis=1) == y_test[rows])
  return float(num_correct / len(x_test))


@functools.cache  # One compilation for all evaluators of a predict function.
def get_representation_fn(
  predict_fn: PredictFn, layer: str | None, mesh: Mesh
) -> Callable[..., tuple[tuple[Array, Array], Array]]:
  """Compiles representations of one batch, gathered on all devices.

  Args:
    predict_fn: `(train_state, batch) -> (zimg [B, D], ..., out)`.
    layer: path in `out`; None means `zimg`.
    mesh: Mesh of the devices to gather on.

  Returns:
    `fn(train_state, batch, labels, mask) -> ((x [B, D], labels), mask)`.
  """

  def fn(train_state, batch, labels, mask):
    zimg, *_, out = predict_fn(train_state, batch)
    x = zimg if layer is None else trees.tree_get(out, layer)
    if getattr(x, "ndim", None) != 2:
      raise ValueError(
        f"representation_layer={layer!r} should be an array [batch, features], "
        f"got {getattr(x, 'shape', x)}."
      )
    return (x, labels), mask

  return jax.jit(fn, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _sample(
  labels: np.ndarray, num_classes: int, seed: int
) -> list[np.ndarray]:
  """Orders the images of each class at random, the same for all shots.

  Args:
    labels: [N] int array.
    num_classes: C.
    seed: of the random order.

  Returns:
    List of [number of images of the class] arrays of indices, by class.
  """
  rng = np.random.default_rng(seed)
  return [
    rng.permutation(np.flatnonzero(labels == c)) for c in range(num_classes)
  ]


def data_sources(cfg: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
  """Lists the datasets of a config.

  Args:
    cfg: arguments of the evaluator.

  Returns:
    Pairs of a config key and the arguments of `datasets.core.get`.

  Raises:
    ValueError: an entry does not have three parts.
  """
  sources = []
  for short, entry in cfg.get("datasets", {}).items():
    if isinstance(entry, Mapping) and set(entry) == set(_PARTS):
      for part in _PARTS:
        sources.append((f"datasets.{short}.{part}", dict(entry[part])))
      continue
    if isinstance(entry, str | Mapping) or len(entry) != 3:
      raise ValueError(
        f"datasets.{short}={entry!r} should be (TFDS name, train split, test "
        "split), or a dict of `train` and `test`, each as the `data` of other "
        "evaluators."
      )
    name, *splits = entry
    for split in splits:
      data = {"name": name, "split": split, "data_dir": cfg.get("data_dir")}
      sources.append((f"datasets.{short}", data))
  return sources


def inputs(cfg: Mapping[str, Any]) -> list[tuple[str, Any, str, None]]:
  """Lists what is preprocessed: both splits of the first dataset.

  Args:
    cfg: arguments of the evaluator.

  Returns:
    Tuples of a config key, data, preprocessing string, and the features that
    the predict function gets; None for all.
  """
  keys = ("pp_train", "pp_eval")
  first = [data for _, data in data_sources(cfg)][: len(keys)]
  return [(k, data, cfg[k], None) for k, data in zip(keys, first, strict=False)]


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  labels = iteration.take(batch, cfg.get("label_key", "label"))
  mask = iteration.take(batch, cfg.get("mask_key", "_mask"), "mask_key")
  mesh = Mesh(np.asarray(cfg["devices"]), ("devices",))
  fn = get_representation_fn(predict_fn, cfg.get("representation_layer"), mesh)
  return fn(train_state, batch, labels, mask)


class Evaluator:
  """Yields `<a or z>/<dataset>_<n>shot-seed-<i>`, accuracies in [0, 1]."""

  def __init__(
    self,
    predict_fn: PredictFn,
    batch_size: int,
    datasets: Mapping[str, Sequence[str] | Mapping[str, Any]],
    shots: Sequence[int],
    l2_reg: float,
    pp_train: str,
    pp_eval: str,
    display_first: Sequence[Sequence[Any]],
    representation_layer: str | None = None,
    num_seeds: int = 3,
    label_key: str = "label",
    mask_key: str = "_mask",
    data_dir: str | None = None,
    *,
    devices: Devices,
  ) -> None:
    """Remembers what to do; data is opened at the first run.

    Args:
      predict_fn: `(train_state, batch) -> (zimg [B, D], ..., out)`; the batch
        is without labels and mask.
      batch_size: global batch size.
      datasets: short name -> (TFDS name, train split, test split), or a dict of
        `train` and `test`, each as `config.input.data`.
      shots: numbers of training images per class.
      l2_reg: weight of the squared norm of the regression's weights.
      pp_train: preprocessing string of the train splits.
      pp_eval: preprocessing string of the test splits.
      display_first: pairs (short name, shots) whose metrics start with `a/`,
        in front of the others' `z/`.
      representation_layer: path in `out`; None means `zimg`.
      num_seeds: number of random choices of the training images.
      label_key: feature with the integer labels, of a known number of classes.
      mask_key: feature that is False on padding.
      data_dir: folder of the TFDS datasets.
      devices: flat array of devices in the order of the mesh.
    """
    bv_devices.check_batch_size(batch_size, devices)
    self.batch_size = batch_size
    # Those of `train` and `test` get a name that TFDS cannot have.
    self._given = {
      f"datasets.{k}": v for k, v in datasets.items() if isinstance(v, Mapping)
    }
    self.datasets = {
      k: (f"datasets.{k}", *_PARTS) if isinstance(v, Mapping) else tuple(v)
      for k, v in datasets.items()
    }
    self.shots = tuple(shots)
    self.l2_reg = l2_reg
    self.pp_train = pp_train
    self.pp_eval = pp_eval
    self.display_first = {tuple(pair) for pair in display_first}
    self.num_seeds = num_seeds
    self.label_key = label_key
    self.mask_key = mask_key
    self.data_dir = data_dir
    self.devices = devices
    self.representation_fn = get_representation_fn(
      predict_fn, representation_layer, Mesh(np.asarray(devices), ("devices",))
    )
    # Batches by (TFDS name, split, preprocessing string).
    self._batches: dict[_Key, iteration.Batches] = {}

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Computes all representations, then all regressions.

    Args:
      train_state: first argument of the predict function.

    Yields:
      (name, float): seeds outermost, then datasets, then shots.
    """
    accuracies = {}
    with contextlib.ExitStack() as stack:
      for short, found in self._regressions(train_state):
        accuracies[short] = found
        stack.callback(found.close)
      for seed in range(self.num_seeds):
        for short, shots in itertools.product(self.datasets, self.shots):
          place = "a" if (short, shots) in self.display_first else "z"
          name = f"{place}/{short}_{shots}shot-seed-{seed}"
          yield name, next(accuracies[short])

  def _regressions(
    self, train_state: TrainState
  ) -> Iterator[tuple[str, prefetch.PrefetchIterator]]:
    """Yields each dataset with its accuracies, seeds outermost, then shots.

    The host regresses in the background, while devices work on the next dataset.
    """
    uses: dict[str, list[_Key]] = {
      short: [(name, train, self.pp_train), (name, test, self.pp_eval)]
      for short, (name, train, test) in self.datasets.items()
    }
    keys = list(dict.fromkeys(itertools.chain(*uses.values())))
    after = dict(zip(keys, keys[1:], strict=False))
    features = {}  # Representations of this state; shared between entries.
    one_at_a_time = threading.Lock()
    for short, (train, test) in uses.items():
      num_classes = self._num_classes(*train[:2])
      for key in (train, test):
        if key not in features:
          features[key] = self._features(train_state, key, after.get(key))
      accuracies = self._regress(
        features[train], features[test], num_classes, one_at_a_time
      )
      num = self.num_seeds * len(self.shots)
      yield short, prefetch.PrefetchIterator(accuracies, num, start=True)

  def _regress(
    self,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
    lock: threading.Lock,
  ) -> Iterator[float]:
    """Yields the accuracy for each seed and number of shots."""
    x, y = train
    for seed in range(self.num_seeds):
      order = _sample(y, num_classes, seed)
      for shots in self.shots:
        with lock:
          chosen = np.concatenate([indices[:shots] for indices in order])
          cache = _precompute_cache(x[chosen], y[chosen], num_classes)
          accuracy = _eig_fewshot_acc_fn(cache, *test, self.l2_reg)
        yield accuracy

  def _open(self, key: _Key) -> iteration.Batches:
    """Opens a split once."""
    if key not in self._batches:
      name, split, pp_fn = key
      self._batches[key] = iteration.open_batches(
        self._data(name, split), pp_fn, self.batch_size, self.devices
      )
    return self._batches[key]

  def _features(
    self, train_state: TrainState, key: _Key, after: _Key | None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns representations [N, D] and labels [N] of a split, in order."""
    (name, split, _), batches = key, self._open(key)

    def represent(batch: Batch):
      labels = iteration.take(batch, self.label_key)
      mask = iteration.take(batch, self.mask_key, "mask_key")
      return self.representation_fn(train_state, batch, labels, mask)

    start = (lambda: self._open(after).start()) if after else None
    followed = iteration.followed_by(batches, start)
    x, y = iteration.rows(map(represent, followed), batches)
    what = "in the test split they count as wrong"
    data = f"{name} ({split})"
    iteration.warn_once(self, int((np.asarray(y) < 0).sum()), data, what)
    return x.astype(np.float32), y

  def _num_classes(self, name: str, split: str) -> int:
    """Returns the number of classes of a dataset."""
    from big_vision.datasets import core as ds_core

    source = ds_core.get(**self._data(name, split))
    if name in self._given:
      found = source.classes_of(self.label_key)
      if found is None:
        raise ValueError(
          f"{name}.{split} does not tell the number of classes of label_key="
          f"{self.label_key!r}: add num_classes to it."
        )
      return found.num
    builder: Any = getattr(source, "builder", None)
    if builder is None:
      raise ValueError(
        f"datasets: {name!r} is not a TFDS dataset, which alone tells its "
        "number of classes."
      )
    features = builder.info.features
    feature = features[self.label_key] if self.label_key in features else None
    num_classes = getattr(feature, "num_classes", None)
    if num_classes is None:
      raise ValueError(
        f"datasets: {name!r} has no class labels in label_key="
        f"{self.label_key!r}, its features are "
        f"{', '.join(sorted(features))}."
      )
    return num_classes

  def _data(self, name: str, split: str) -> dict[str, Any]:
    if name in self._given:
      return dict(self._given[name][split])
    return {"name": name, "split": split, "data_dir": self.data_dir}
