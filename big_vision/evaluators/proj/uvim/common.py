"""Opens the data of UViM's evaluators, for devices and for the host.

Their configs name data by `dataset`, `split` and `dataset_dir`. Preprocessing
strings start from pixels: `resize(512)|…`, not `decode|resize(512)|…`, which
works as well. What `pp_fn` keeps goes to the devices; whatever else a metric needs
of an example, such as ground truth in its original size, the host reads in the
same order, see `ProcessDataset.examples`.

Letters: B global batch size.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from big_vision import devices as bv_devices
from big_vision import partial
from big_vision.datasets import core
from big_vision.evaluators import iteration
from big_vision.lookup import ConfigError
from big_vision.pipeline import evaluation
from big_vision.types import AnyArray, Batch, Devices, PredictFn, PyTree


def data_of(
  dataset: str, split: str, dataset_dir: str | None = None, pp_fn: str = ""
) -> dict[str, Any]:
  """Lists what opens a dataset whose images are preprocessed by `pp_fn`.

  Args:
    dataset: TFDS name, or "bv:<module>".
    split: any TFDS split.
    dataset_dir: the TFDS folder; None means $TFDS_DATA_DIR, else the default.
    pp_fn: preprocessing string. If it starts with an op that decodes, images are
      left encoded; otherwise they come as pixels.

  Returns:
    Arguments of `datasets.core.get`.
  """
  data: dict[str, Any] = {"name": dataset, "split": split}
  if dataset_dir is not None:
    data["data_dir"] = dataset_dir
  if not str(dataset).startswith("bv:"):  # Those give what their files hold.
    encoded = re.match(r"\s*decode", str(pp_fn))
    data["skip_decode"] = ("image",) if encoded else ()
  return data


def data_sources(
  cfg: Mapping[str, Any],
  dataset: str | None = None,
  split: str | None = None,
) -> list[tuple[str, dict[str, Any]]]:
  """Lists the dataset of a config, see `evaluators.common`.

  Args:
    cfg: arguments of the evaluator.
    dataset: default of its argument `dataset`, if it has one.
    split: default of its argument `split`.

  Returns:
    One pair of a config key and the arguments of `datasets.core.get`; none where
    the config lacks a name.
  """
  given = cfg.get("dataset", dataset), cfg.get("split", split)
  if None in given:
    return []
  data = data_of(*given, cfg.get("dataset_dir"), cfg.get("pp_fn", ""))
  return [("dataset", data)]


def inputs(
  cfg: Mapping[str, Any],
  dataset: str | None = None,
  split: str | None = None,
) -> list[tuple[str, dict[str, Any], str, None]]:
  """Lists what is preprocessed, see `evaluators.trial`.

  Args:
    cfg: arguments of the evaluator.
    dataset: see `data_sources`.
    split: see `data_sources`.

  Returns:
    Tuples of a config key, data, preprocessing string, and None: the predict
    function gets all features.
  """
  sources = data_sources(cfg, dataset, split)
  return [("pp_fn", data, cfg.get("pp_fn", ""), None) for _, data in sources]


def bind(
  predict_fn: PredictFn, predict_kwargs: Mapping[str, Any] | None
) -> PredictFn:
  """Binds the argument `predict_kwargs` of evaluators to a predict function.

  Args:
    predict_fn: `(train_state, batch, **predict_kwargs) -> anything`.
    predict_kwargs: its keywords, such as `temperature`; None for none.

  Returns:
    The function; with equal keywords it is equal to others.

  Raises:
    ConfigError: a value is not hashable.
  """
  if not predict_kwargs:
    return predict_fn
  try:
    return partial.partial(predict_fn, **predict_kwargs)
  except TypeError as e:
    raise ConfigError(
      f"predict_kwargs={dict(predict_kwargs)}: {e}. Values have to be hashable, "
      "for example tuples in place of lists."
    ) from e


@dataclasses.dataclass(frozen=True)
class ProcessDataset:
  """Batches for the devices and raw examples for the host, in one order.

  Attributes:
    batches: one pass over all examples of all processes; dicts of arrays
      [B, ...] with `_mask` [B], False on padding.
    data: what opens the examples that the host reads.
  """

  batches: iteration.Batches
  data: dict[str, Any]

  @property
  def steps(self) -> int:
    """Number of batches of one pass."""
    return self.batches.steps

  def __iter__(self) -> Iterator[Batch]:
    """Yields each batch as a new dict."""
    return iter(self.batches)

  def examples(self, *features: str) -> Iterator[dict[str, Any]]:
    """Reads the examples of this process again, before preprocessing.

    Args:
      *features: which ones to return, all if none is named.

    Yields:
      Dict of NumPy arrays, nested as in the dataset: one for each real row of
      this process in `local_rows`, in the same order. `image` stays encoded.

    Raises:
      ConfigError: the dataset lacks a feature.
    """
    source = core.get(**self.data)
    ds, _, _ = evaluation.raw_of_host(
      source, self.batches.batch_size, allow_cache=False
    )
    missing = [name for name in features if name not in ds.element_spec]
    if missing:
      has = ", ".join(sorted(ds.element_spec))
      raise ConfigError(
        f"dataset={self.data['name']!r} has no feature "
        f"{', '.join(map(repr, missing))}; there are {has}."
      )
    if features:
      ds = ds.map(lambda example: {k: example[k] for k in features})
    yield from ds.prefetch(2).as_numpy_iterator()


def get_jax_process_dataset(
  dataset: str,
  split: str,
  global_batch_size: int,
  pp_fn: str,
  dataset_dir: str | None = None,
  *,
  devices: Devices,
  **kw: Any,
) -> ProcessDataset:
  """Opens a dataset: an even part for each process, in order, padded.

  Args:
    dataset: TFDS name, such as "coco/2017_panoptic".
    split: any TFDS split.
    global_batch_size: divisible by the number of devices.
    pp_fn: preprocessing string; `tfds_id` (text) is there for its ops.
    dataset_dir: the TFDS folder.
    devices: flat array of devices in the order of the mesh.
    **kw: further arguments of `pipeline.evaluation.eval_input_pipeline`, such as
      `cache` and `prefetch`.

  Returns:
    The dataset.
  """
  data = data_of(dataset, split, dataset_dir, pp_fn)
  batches = iteration.open_batches(
    data, pp_fn, global_batch_size, devices, **kw
  )
  return ProcessDataset(batches, data_of(dataset, split, dataset_dir, "decode"))


def local_rows(
  results: Iterable[tuple[PyTree, AnyArray]], lag: int = iteration.LAG
) -> Iterator[list[PyTree]]:
  """Copies this process' rows of what was computed to the host, batch by batch.

  Args:
    results: for each batch a tree of arrays [B, ...] and the mask [B], split over
      the devices like the batch, as with
      `jax.jit(fn, out_shardings=devices.batch_sharding(devices))`.
    lag: how many batches to dispatch before the oldest is waited for.

  Yields:
    For each batch the list of the rows of real examples, trees of NumPy arrays.
  """
  for tree, mask in iteration.fetch(results, lag, _local):
    yield [
      jax.tree.map(lambda x, i=i: x[i], tree) for i in np.flatnonzero(mask)
    ]


def _local(tree):
  """Copies this process' part of arrays that span processes."""
  return jax.tree.map(bv_devices.get_local_slice_from_fsarray, tree)
