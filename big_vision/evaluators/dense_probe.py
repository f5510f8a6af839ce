"""Fits a linear layer to the patches of a frozen ViT: segmentation or depth.

The layer's outputs are interpolated bilinearly to the size of the maps.

References: Oquab et al. 2023, section 7.4, https://arxiv.org/abs/2304.07193.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import devices as bv_devices
from big_vision import guards
from big_vision.evaluators import iteration, layers
from big_vision.evaluators.features import data_sources, inputs
from big_vision.lookup import ConfigError
from big_vision.probes import dense, maps
from big_vision.types import Batch, Devices, PredictFn, TrainState

API = "jit"

__all__ = ["API", "Evaluator", "data_sources", "inputs", "trial"]

_BATCH = 64  # Pictures whose maps are predicted at a time.


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  labels = iteration.take(batch, cfg.get("label_key", "map"))
  mask = iteration.take(batch, cfg.get("mask_key", "_mask"), "mask_key")
  mesh = Mesh(np.asarray(cfg["devices"]), ("devices",))
  fn = get_patches_fn(
    predict_fn,
    cfg.get("num_blocks", 1),
    cfg["task"] == "depth",
    cfg.get("tower", ""),
    cfg.get("norm_eps", 1e-6),
    cfg.get("label_channel"),
    mesh,
  )
  return fn(train_state, batch, labels, mask)


@functools.cache  # One compilation for all evaluators of a predict function.
def get_patches_fn(
  predict_fn: PredictFn,
  num_blocks: int,
  with_class: bool,
  tower: str,
  norm_eps: float,
  label_channel: int | None,
  mesh: Mesh,
) -> Callable[..., Any]:
  """Compiles the patches of one batch, gathered on all devices.

  Args:
    predict_fn: `(train_state, batch) -> (zimg, ..., out)`.
    num_blocks: of how many of the last blocks, joined along the features.
    with_class: whether to append the class token, if there is one, to each patch.
    tower: see `layers.compute`.
    norm_eps: see `layers.compute`.
    label_channel: which channel of maps [B, H, W, channels] to use; None if they
      have none.
    mesh: Mesh of the devices to gather on.

  Returns:
    `fn(train_state, batch, maps, mask) -> ((patches [B, h, w, D] float16, maps
    [B, H, W]), mask)`.
  """

  def fn(train_state, batch, labels, mask):
    *_, out = predict_fn(train_state, batch)
    parts = []
    for number in range(num_blocks, 0, -1):
      token, patches = layers.tokens(
        number, out, train_state, tower, norm_eps, f"patches{num_blocks}"
      )
      parts.append(patches)
      if with_class and token is not None:
        parts.append(jnp.broadcast_to(token[:, None, None], patches.shape))
    x = jnp.concatenate(parts, axis=-1).astype(jnp.float16)
    if label_channel is not None and labels.ndim == 4:
      labels = labels[..., label_channel]
    if labels.ndim == 4 and labels.shape[-1] == 1:
      labels = labels[..., 0]
    if labels.ndim != 3:
      raise ConfigError(
        f"label_key: maps should be [batch, height, width], got {labels.shape}; "
        "label_channel chooses one of several channels."
      )
    return (x, labels), mask

  return jax.jit(fn, out_shardings=NamedSharding(mesh, PartitionSpec()))


class Evaluator:
  """Yields metrics of the test split, see `probes/maps.py`.

  `mIoU` and `pixel_acc` of a segmentation; `rmse`, `rmse_pixels`, `abs_rel` and
  `delta1` of depth.
  """

  def __init__(
    self,
    predict_fn: PredictFn,
    *,
    task: str,
    train: Mapping[str, Any],
    data: Mapping[str, Any],
    pp_fn: str,
    batch_size: int,
    devices: Devices,
    num_classes: int | None = None,
    ignore_label: int | None = None,
    min_depth: float = 1e-3,
    max_depth: float = 10.0,
    num_bins: int = 256,
    crop: Sequence[float] = (0.0, 1.0, 0.0, 1.0),
    num_blocks: int = 1,
    steps: int = 5000,
    probe_batch_size: int = 16,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    seed: int = 0,
    label_key: str = "map",
    label_channel: int | None = None,
    mask_key: str = "_mask",
    tower: str = "",
    norm_eps: float = 1e-6,
    memory_gb: float = 64.0,
  ) -> None:
    """Remembers what to do; data is opened at the first run.

    Args:
      predict_fn: `(train_state, batch) -> (zimg, ..., out)` of a ViT; the batch
        is without maps and mask.
      task: "segmentation" or "depth".
      train: data to fit, as `config.input.data`.
      data: data of the test, as `config.input.data`.
      pp_fn: preprocessing of both, which keeps the maps; their size need not be
        that of the images.
      batch_size: global batch size of the model.
      devices: flat array of devices in the order of the mesh.
      num_classes: of a segmentation.
      ignore_label: class of pixels without label; None if all have one.
      min_depth: smallest distance.
      max_depth: largest distance; pixels beyond it do not count.
      num_bins: of distances.
      crop: (top, bottom, left, right) as fractions of the size: the part of test
        maps that counts.
      num_blocks: of how many of the last blocks patches are used.
      steps: number of batches of the probe.
      probe_batch_size: their size.
      learning_rate: of AdamW, for the probe.
      weight_decay: of AdamW, for the probe.
      seed: of the probe.
      label_key: feature with the maps, [H, W] or [H, W, channels].
      label_channel: which channel of them to use.
      mask_key: feature that is False on padding.
      tower: "img" for a model with two towers.
      norm_eps: `norm_eps` of the model.
      memory_gb: what patches and maps of a split may take.

    Raises:
      ConfigError: unknown task, or it lacks a setting.
    """
    bv_devices.check_batch_size(batch_size, devices)
    if task not in ("segmentation", "depth"):
      raise ConfigError(f"task={task!r} should be 'segmentation' or 'depth'.")
    if task == "segmentation" and not num_classes:
      raise ConfigError("num_classes is required for task='segmentation'.")
    if not 0 <= min_depth < max_depth:
      raise ConfigError(
        f"min_depth={min_depth}, max_depth={max_depth} should be an interval."
      )
    top, bottom, left, right = crop
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
      raise ConfigError(
        f"crop={tuple(crop)} should be (top, bottom, left, right) in [0, 1]."
      )
    self._task: dense.Task = dense.Depth(min_depth, max_depth, num_bins)
    if task == "segmentation":
      self._task = dense.Segmentation(num_classes or 0, ignore_label)
    self._data = dict(train=dict(train), data=dict(data))
    self._pp_fn, self._batch_size, self._devices = pp_fn, batch_size, devices
    self._keys = label_key, mask_key
    self._crop, self._memory_gb = tuple(crop), memory_gb
    self._kw: dict[str, Any] = dict(
      steps=steps,
      batch_size=probe_batch_size,
      learning_rate=learning_rate,
      weight_decay=weight_decay,
      seed=seed,
    )
    self._fn = get_patches_fn(
      predict_fn,
      num_blocks,
      task == "depth",
      tower,
      norm_eps,
      label_channel,
      Mesh(np.asarray(devices), ("devices",)),
    )
    self._batches: dict[str, iteration.Batches] = {}

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Computes patches, fits the probe, measures it.

    Args:
      train_state: first argument of the predict function.

    Yields:
      (name, float); all are NaN if the training patches are not finite.

    Raises:
      ConfigError: a split takes more than `memory_gb`.
    """
    after = lambda: self._open("data").start()
    train = self._patches(train_state, "train", after)
    test = self._patches(train_state, "data")
    yield from self._measure(train, test)

  @guards.transfers
  def _measure(
    self,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
  ) -> list[tuple[str, float]]:
    """Fits and measures."""
    task, (tokens, labels) = self._task, test
    is_depth = isinstance(task, dense.Depth)
    errors: Any = maps.DepthErrors()
    if isinstance(task, dense.Segmentation):
      errors = maps.Confusion(task.num_classes, task.ignore)
    if not all(np.isfinite(x).all() for x in (train[0], tokens)):
      return [(name, float("nan")) for name, _ in errors.metrics()]
    head = dense.fit(*train, task, self._devices, **self._kw)
    height, width = size = labels.shape[1:]
    top, bottom, left, right = self._crop
    window = (
      slice(None),
      slice(round(top * height), round(bottom * height)),
      slice(round(left * width), round(right * width)),
    )
    for start in range(0, len(tokens), _BATCH):
      rows = slice(start, start + _BATCH)
      predicted = dense.predict(head, tokens[rows], task, size, self._devices)
      truth, predicted = labels[rows][window], predicted[window]
      if is_depth:
        predicted = np.clip(predicted, task.min_depth, task.max_depth)
        errors.add(truth, predicted, task.valid(truth))
      else:
        errors.add(truth, predicted)
    return list(errors.metrics())

  def _open(self, key: str) -> iteration.Batches:
    """Opens a split once."""
    if key not in self._batches:
      self._batches[key] = iteration.open_batches(
        self._data[key],
        self._pp_fn,
        self._batch_size,
        self._devices,
        cache="none",
      )
    return self._batches[key]

  def _patches(
    self,
    train_state: TrainState,
    key: str,
    after: Callable[[], None] | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns patches [N, h, w, D] and maps [N, H, W] of a split."""
    batches = self._open(key)

    def results():
      for batch in iteration.followed_by(batches, after):
        labels = iteration.take(batch, self._keys[0])
        mask = iteration.take(batch, self._keys[1], "mask_key")
        result = self._fn(train_state, batch, labels, mask)
        size = sum(x.nbytes for x in result[0]) * batches.steps / 2**30
        if size > self._memory_gb:
          raise ConfigError(
            f"memory_gb={self._memory_gb}: patches and maps of {self._data[key]} "
            f"take {size:.1f} GB. Take a part of the split, such as train[:10%], "
            "or smaller images, or allow more."
          )
        yield result

    return iteration.rows(results(), batches)
