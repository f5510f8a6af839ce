"""Embeds all images and all texts of datasets.

Unlike `evaluators.iteration.open_batches`, this is for examples that are made
from others: one per caption or per prompt, whose number is not known.

Shapes: B global batch size, E size of the embeddings.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import devices as bv_devices
from big_vision.pipeline import evaluation, prefetch, to_devices
from big_vision.types import Array, Batch, Devices, PredictFn, TrainState

_AT_ONCE = 256  # Texts to tokenize.


def get_builder(dataset: str, data_dir: str | None = None) -> Any:
  """Makes a TFDS builder, whether or not the dataset is prepared.

  Args:
    dataset: TFDS name; `digits` and `shapes` are prepared on first use.
    data_dir: the TFDS folder; None means $TFDS_DATA_DIR, else TFDS' own.

  Returns:
    A TFDS builder. It has no splits if the dataset is not prepared.

  Raises:
    ValueError: unknown dataset.
  """
  import tensorflow_datasets as tfds  # The TensorFlow wing.

  from big_vision.datasets import embedded
  from big_vision.datasets import tfds as tfds_source

  data_dir = embedded.default_data_dir(data_dir)
  try:
    return tfds_source.get_builder(dataset, data_dir)
  except ValueError as e:
    try:  # What a dataset is about is known before it is prepared.
      return tfds.builder(dataset, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError:
      raise _without_key(e) from e


def open_split(
  dataset: str,
  split: str,
  data_dir: str | None = None,
  skip_decode: Sequence[str] = (),
) -> tuple[Any, Any]:
  """Opens the part of a TFDS split that belongs to this process.

  Args:
    dataset: TFDS name.
    split: name of the split, or a slice such as "test[:10]".
    data_dir: see `get_builder`.
    skip_decode: names of features that stay encoded bytes.

  Returns:
    (builder, tf.data.Dataset of raw examples in the order of the split).

  Raises:
    ValueError: there is no such dataset or split, or it is not prepared.
  """
  import tensorflow_datasets as tfds

  from big_vision.datasets import tfds as tfds_source

  builder = get_builder(dataset, data_dir)
  try:
    source = tfds_source.DataSource(dataset, split, data_dir, skip_decode)
    return builder, source.get_tfdata(ordered=True, allow_cache=False)
  except ValueError as e:
    if builder.info.splits:
      raise _without_key(e) from e
    try:  # Without files: others may stand in, as of tfds.testing.mock_data.
      part = tfds.split_for_jax_process(split)
      return builder, builder.as_dataset(split=part)
    except AssertionError:
      raise _without_key(e) from e


def _without_key(e: Exception) -> ValueError:
  """Words an error of a data source for the argument of an evaluator."""
  return ValueError(str(e).replace("config.input.data.", ""))


def preprocess(ds: Any, pp: str, keep: Sequence[str]) -> Any:
  """Applies a preprocessing string; random ops draw the same in every pass.

  Args:
    ds: tf.data.Dataset of dicts.
    pp: the preprocessing string.
    keep: the entries of the result.

  Returns:
    tf.data.Dataset of dicts, in the same order.

  Raises:
    ValueError: `pp` does not give one of these entries.
  """
  from big_vision.datasets import ids
  from big_vision.pp import batched, rng
  from big_vision.pp import builder as pp_builder
  from big_vision.tf import tf

  fn, later = pp_builder.get_preprocess_fn(pp), batched.Later()
  zero = tf.zeros([], tf.int64)
  found: set[str] = set()

  def one(index, example, fn=fn):
    number = ids.example_number(index, example)
    with rng.example_seed(tf.stack([zero, number]), zero):
      out = fn(dict(example))
    found.update(out)
    # An example cannot be empty; the error comes below.
    return {k: out[k] for k in keep if k in out} or {"index": index}

  numbered, auto = ds.enumerate(), tf.data.AUTOTUNE
  out = numbered.map(one, auto, deterministic=True)
  if missing := [k for k in keep if k not in found]:
    raise ValueError(
      f"The preprocessing {pp!r} gives no {missing}, only "
      f"{', '.join(sorted(found))}."
    )
  # Texts are small, and tokenizers are called once for many of them.
  specs = tf.nest.flatten(out.element_spec)
  if not (batched.steps(fn) and all(_is_fixed(spec) for spec in specs)):
    return out
  begin = functools.partial(one, fn=batched.beginning(fn, later))
  first = numbered.map(begin, auto, deterministic=True)
  return first.batch(_AT_ONCE).map(later.finish).unbatch()


def _is_fixed(spec):
  shape = getattr(spec, "shape", None)
  return shape is not None and shape.is_fully_defined()


def text_spec() -> dict[str, Any]:
  """Describes the examples that `pp_txt` gets, for `pipeline.abstract`."""
  from big_vision.tf import tf

  return {"texts": tf.TensorSpec([], tf.string)}


def replicated(devices: Devices) -> NamedSharding:
  """Makes the sharding that puts all of an array on each device.

  Args:
    devices: the devices.

  Returns:
    The sharding.
  """
  mesh = Mesh(np.asarray(devices), ("devices",))
  return NamedSharding(mesh, PartitionSpec())


@functools.cache  # One compilation for all evaluators of a predict function.
def get_embed_fn(
  predict_fn: PredictFn, tower: str, sharding: NamedSharding
) -> Callable[[TrainState, Batch], tuple[Batch, Array]]:
  """Compiles embeddings of a batch, gathered on all devices.

  Args:
    predict_fn: `(train_state, {tower: x}) -> (zimg, ztxt, ...)`, of which only
      the one of the tower is used.
    tower: "image" or "labels" (texts).
    sharding: where the result should be.

  Returns:
    `fn(train_state, batch) -> (result, mask)`: the batch, a dict, with
    `embeddings` [B, E] in place of its entry `tower` and without `_mask`; and
    this mask.
  """

  def fn(train_state, batch):
    rest = dict(batch)
    mask = rest.pop("_mask")
    z = embed(predict_fn, tower, train_state, rest.pop(tower))
    return {**rest, "embeddings": z}, mask

  return jax.jit(fn, out_shardings=sharding)


def embed(
  predict_fn: PredictFn, tower: str, train_state: TrainState, x: Array
) -> Array:
  """Embeds images or texts.

  Args:
    predict_fn: see `get_embed_fn`.
    tower: "image" or "labels" (texts).
    train_state: first argument of the predict function.
    x: [B, ...], the images or the texts.

  Returns:
    [B, E] embeddings.

  Raises:
    ValueError: the predict function returns something else.
  """
  zimg, ztxt, *_ = predict_fn(train_state, {tower: x})
  z = zimg if tower == "image" else ztxt
  if getattr(z, "ndim", None) != 2:
    raise ValueError(
      f"The predict function should return (zimg, ztxt, ...), from {tower!r} "
      f"alone an embedding [batch, features]; got {getattr(z, 'shape', z)}."
    )
  return z


class Batches:
  """Iterates over all examples of all processes, in padded global batches.

  Each pass gives every example once. Processes may have different numbers of
  examples; all take part in as many batches as the one with most needs.

  Attributes:
    batch_size: global batch size.
    devices: [num_devices] array.
    by_rows: see `iteration.Batches`.
  """

  by_rows = False  # Each process has a part.

  def __init__(
    self,
    ds: Any,
    batch_size: int,
    devices: Devices,
    cache_final: bool = False,
  ) -> None:
    """Remembers what to read; the first pass starts to.

    Args:
      ds: tf.data.Dataset of dicts of arrays of fixed shapes, this process' part.
      batch_size: global batch size, divisible by the number of devices.
      devices: sequence of devices that batches are split over.
      cache_final: whether to keep the examples in memory.

    Raises:
      ValueError: `batch_size` does not fit the devices.
    """
    bv_devices.check_batch_size(batch_size, devices)
    self.batch_size = batch_size
    self.devices = np.asarray(devices)
    self._ds = ds
    self._cache_final = cache_final
    # (tf.data.Dataset, number of batches of a pass)
    self._batched: tuple[Any, int] | None = None
    self._iterator: Iterator[Batch] | None = None  # At the first batch.
    # Of examples of this process, while they are counted.
    self._num: Iterator[int] | None = None
    if cache_final and int(ds.cardinality()) < 0:
      # The cache is complete once they are counted.
      self._ds, self._cache_final = ds.cache(), False

  def __iter__(self) -> Iterator[Batch]:
    """Yields dicts of arrays [batch_size, ...], `_mask` is False on padding."""
    steps, iterator = self._open()
    # Only after a full pass it is at the first batch again.
    self._iterator = None
    for _ in range(steps):
      yield next(iterator)
    self._iterator = iterator

  def start(self) -> None:
    """Begins to read in the background; every process has to call this.

    What does not tell its number of examples is counted first.
    """
    if self._batched is None and int(self._ds.cardinality()) < 0:
      self._num = self._num or prefetch.threadstart_iterator(self._counted())
    else:
      self._open()

  def _counted(self) -> Iterator[int]:
    """Yields the number of examples."""
    yield _count(self._ds)

  def _open(self) -> tuple[int, Iterator[Batch]]:
    """Returns the number of batches and an iterator, which reads already."""
    if self._batched is None:
      self._batched = self._make_batches()
    dataset, steps = self._batched
    if self._iterator is None:
      self._iterator = to_devices.start_global(
        dataset, self.devices, warmup=True
      )
    return steps, self._iterator

  def _make_batches(self) -> tuple[Any, int]:
    ds, cache = self._ds, self._cache_final
    counts = _allgather(next(self._num or self._counted()))
    self._num = None
    if not max(counts):
      raise ValueError(
        "There are no examples: is the split empty, or does pre_filter_fn "
        "leave nothing?"
      )
    return evaluation.make_for_inference(
      ds, lambda example: example, self.batch_size, counts, cache_final=cache
    )


def _count(ds: Any) -> int:
  """Counts the elements of a finite dataset; reads it where it does not say."""
  known = int(ds.cardinality())
  return known if known >= 0 else sum(1 for _ in ds)


def _allgather(number: int) -> list[int]:
  """Collects the numbers of all processes."""
  if jax.process_count() == 1:
    return [number]
  from jax.experimental import multihost_utils

  with jax.transfer_guard("allow"):  # The gather moves host data as it likes.
    return multihost_utils.process_allgather(np.asarray(number)).tolist()
