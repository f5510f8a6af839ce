"""Panoptic quality of predicted segmentations, as COCO's tools compute it.

The truth is that of COCO's files, if $COCO_DATA_DIR has them, and otherwise what
TFDS has of them: features `image/id`, `panoptic_image`, `panoptic_objects`.

References: UViM, https://arxiv.org/abs/2205.10337; see `big_vision/panoptic.py`.
Letters: B global batch size, h, w size of predictions.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from big_vision import devices as bv_devices
from big_vision import panoptic, resizing
from big_vision.datasets import core, panoptic_categories
from big_vision.datasets.panoptic_categories import Categories
from big_vision.evaluators import files, iteration
from big_vision.evaluators.proj.uvim import coco_files, common
from big_vision.lookup import ConfigError
from big_vision.types import Array, Batch, Devices, PredictFn, TrainState

API = "jit"

_SPLIT = "validation"
_DATA = dict(dataset=coco_files.DATASET, split=_SPLIT)
_THREADS = min(8, os.cpu_count() or 1)

inputs = functools.partial(common.inputs, **_DATA)


def data_sources(cfg: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
  """Lists the dataset of a config, see `evaluators.common`.

  Args:
    cfg: arguments of the evaluator.

  Returns:
    One pair of a config key and the arguments of `datasets.core.get`.

  Raises:
    ConfigError: it does not have the truth; begins with the key.
  """
  found = common.data_sources(cfg, **_DATA)
  for key, data in found:
    try:
      spec = core.get(**data).example_spec()
    except Exception:  # noqa: BLE001 - Whoever asks opens it next, and explains.
      continue
    missing = [name for name in coco_files.FEATURES if name not in spec]
    if missing:
      raise ConfigError(
        f"{key}: {data['name']!r} has no feature {missing[0]!r}, which has the "
        "true segments, as in 'coco/2017_panoptic' and 'shapes'."
      )
  return found


@functools.cache  # One compilation for all evaluators of a predict function.
def get_predict_fn(
  predict_fn: PredictFn, sharding: jax.sharding.Sharding
) -> Callable[[TrainState, Batch], tuple[Array, Array]]:
  """Compiles the predictions of one batch.

  Args:
    predict_fn: `(train_state, batch) -> ints [B, h, w, 2]`.
    sharding: that of the batch.

  Returns:
    `fn(train_state, batch) -> (predictions, mask [B])`.
  """

  def fn(train_state, batch):
    found = predict_fn(train_state, batch)
    is_map = getattr(found, "ndim", 0) == 4 and found.shape[-1] == 2
    if not (is_map and jnp.issubdtype(found.dtype, jnp.integer)):
      raise ConfigError(
        "predict_fn must return integers [batch, height, width, 2], the class (0 "
        "for no label) and the number of the instance, got "
        f"{jax.tree.map(lambda x: f'{x.dtype} {x.shape}', found)}."
      )
    return found, batch["_mask"]

  return jax.jit(fn, out_shardings=sharding)


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  fn = common.bind(predict_fn, cfg.get("predict_kwargs"))
  sharding = bv_devices.batch_sharding(cfg["devices"])
  return get_predict_fn(fn, sharding)(train_state, batch)


class Evaluator:
  """Yields `All_pq`, `All_rq`, `All_sq`, and `Stuff_*`, `Things_*`, in [0, 1]."""

  def __init__(
    self,
    predict_fn: PredictFn,
    pp_fn: str,
    batch_size: int,
    dataset: str = coco_files.DATASET,
    dataset_dir: str | None = None,
    split: str = _SPLIT,
    predict_kwargs: Mapping[str, Any] | None = None,
    *,
    categories: str | None = None,
    per_class: bool = False,
    save_dir: str | None = None,
    cache: str | None = "pipeline",
    prefetch: int = 1,
    devices: Devices,
    workdir: str | None = None,
    get_step: Callable[[], int | None] | None = None,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch, **predict_kwargs) -> ints [B, h, w, 2]`:
        1 + label of the class, or 0 for pixels without one; and a number that
        tells the instances of a class apart. The batch has what `pp_fn` keeps,
        and `_mask`.
      pp_fn: preprocessing string, of pixels.
      batch_size: global batch size.
      dataset: TFDS name of a dataset with `panoptic_image` and
        `panoptic_objects`, such as "shapes/64".
      dataset_dir: the TFDS folder.
      split: any TFDS split.
      predict_kwargs: keywords of `predict_fn`, such as `min_fraction`.
      categories: path of a JSON file with the classes in the order of labels, for
        datasets that are neither COCO nor `shapes`.
      per_class: whether to yield `<class>_pq`, `<class>_rq` and `<class>_sq` of
        each class that occurs, too.
      save_dir: format string of a folder, with any of {workdir}, {step} and
        {split}, into which each `run` writes predictions and truth in COCO's
        format: `predictions.json`, `predictions/*.png`, `ground_truth.json`,
        `ground_truth/*.png`. None writes nothing.
      cache: see `evaluation.eval_input_pipeline`.
      prefetch: number of batches to put on the devices ahead.
      devices: flat array of devices in the order of the mesh.
      workdir: output folder of the run; None means the flag.
      get_step: returns the step of the run; None means that of the clock.

    Raises:
      ConfigError: nothing is known about the classes, or COCO's files are damaged.
    """
    self._data = common.get_jax_process_dataset(
      dataset,
      split,
      batch_size,
      pp_fn,
      dataset_dir,
      devices=devices,
      cache=cache,
      prefetch=prefetch,
    )
    self.steps = self._data.steps
    folder = coco_files.folder_for(dataset, dataset_dir, split)
    part = coco_files.part_of(split)
    self._categories = _categories(categories, folder, dataset, dataset_dir)
    self._annotations = lambda: None
    if folder and part:  # Read at the first run: it takes seconds.
      self._annotations = functools.cache(
        lambda: coco_files.Annotations(folder, part, self._categories)
      )
    self._predict_fn = get_predict_fn(
      common.bind(predict_fn, predict_kwargs),
      bv_devices.batch_sharding(devices),
    )
    self._per_class = per_class
    self._save_dir, self._split = save_dir, split
    self._workdir, self._get_step = workdir, get_step

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Yields:
      (name, float); NaN for groups of classes that do not occur at all.
    """
    writers = self._writers()
    counts = self._count(train_state, writers)
    for writer in writers:
      writer.finish()
    is_thing = np.array([c.is_thing for c in self._categories])
    yield from panoptic.summary(counts, is_thing).items()
    if self._per_class:
      values = panoptic.qualities(counts)
      for i, c in enumerate(self._categories):
        for name in panoptic.METRICS:
          if not np.isnan(values[name][i]):
            yield f"{c.name}_{name}", float(values[name][i])

  def _count(
    self, train_state: TrainState, writers: list[coco_files.Writer]
  ) -> panoptic.Counts:
    """Scores the examples of this process, and adds up all processes."""
    results = (self._predict_fn(train_state, batch) for batch in self._data)
    examples = self._data.examples(*self._features())
    total = panoptic.zero(len(self._categories))
    score = functools.partial(self._score, writers=writers)
    # NumPy works without Python's lock for most of the time.
    with futures.ThreadPoolExecutor(_THREADS) as pool:
      for rows in common.local_rows(results):
        pairs = zip(rows, itertools.islice(examples, len(rows)), strict=True)
        for counts in pool.map(score, *zip(*pairs, strict=True)):
          total = panoptic.add(total, counts)
    return iteration.process_sum(total)

  def _features(self) -> list[str]:
    """Lists what the host reads of examples."""
    if self._annotations() is not None:
      return ["image/id"]
    return list(coco_files.FEATURES)

  def _score(
    self,
    predicted: np.ndarray,
    example: Mapping[str, Any],
    writers: list[coco_files.Writer],
  ) -> panoptic.Counts:
    """Matches the segments of one image, and writes them."""
    image_id, annotations = int(example["image/id"]), self._annotations()
    if annotations is not None:
      truth = annotations.read(image_id)
    else:
      truth = coco_files.truth_of_example(example)
    num_classes = len(self._categories)
    found = panoptic.segments_of_channels(
      resizing.resize(predicted, truth.ids.shape, "nearest"), num_classes
    )
    if writers:
      predictions, truths = writers
      predictions.add(image_id, *found, recolor=True)
      truths.add(image_id, *truth)
    return panoptic.count(*found, *truth, num_classes)

  def _writers(self) -> list[coco_files.Writer]:
    """Opens the files of predictions and of the truth."""
    if not self._save_dir:
      return []
    folder = files.resolve_outfile(
      self._save_dir,
      split=self._split,
      workdir=self._workdir,
      step=self._get_step() if self._get_step else None,
    )
    if folder is None:
      logging.warning("Nothing saved: %r needs a workdir.", self._save_dir)
      return []
    return [
      coco_files.Writer(os.path.join(folder, name), self._categories)
      for name in ("predictions", "ground_truth")
    ]


def _categories(
  path: str | None,
  folder: str | None,
  dataset: str,
  dataset_dir: str | None,
) -> Categories:
  """Finds the classes of a dataset."""
  if path is not None:
    return panoptic_categories.of_file(path)
  if folder is not None:
    return coco_files.categories_in(folder)
  return panoptic_categories.of_dataset(dataset, dataset_dir)
