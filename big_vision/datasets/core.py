"""Data sources: where raw examples come from."""

import functools

import jax
import numpy as np

from big_vision import lookup
from big_vision.tf import tf


def get(name, **kw):
  """Opens a data source.

  Args:
    name: str, "bv:<module>" for `big_vision.datasets.<module>` (or a dotted
      path to your own module), anything else is a TFDS dataset.
    **kw: arguments of that source's `DataSource`.

  Returns:
    A `DataSource`.

  Raises:
    ValueError: no such module or dataset; or what the source itself raises.
  """
  # Sources need not know about ConfigDict.
  plain = lambda x: x.to_dict() if hasattr(x, "to_dict") else x
  return source_class(name)(**{k: plain(v) for k, v in kw.items()})


def source_class(name, key="input.data.name"):
  """What `get` calls with the remaining arguments.

  Args:
    name: str, as in `get`.
    key: str, the config key that holds the name, for the error.

  Returns:
    Callable that returns a `DataSource`.

  Raises:
    ValueError: no such module.
  """
  if name.startswith("bv:"):
    module = lookup.module(
      "datasets",
      name.removeprefix("bv:"),
      kind="dataset",
      key=key,
      needs="DataSource",
      but=("core",),
    )
    return module.DataSource
  from big_vision.datasets import tfds  # Slow to import.

  return functools.partial(tfds.DataSource, name)


class DataSource:
  """What every source of examples offers.

  Attributes:
    random_access: bool, whether `read(index)` reads any example by its number,
      see `IndexedDataSource`.
    bytes_per_example: mean size of a raw example in memory, None if unknown.
  """

  random_access = False
  bytes_per_example = None

  def get_tfdata(self, ordered, *, process_split=True, allow_cache=True):
    """The raw examples.

    Args:
      ordered: bool, whether the order must be that of the source, as for
        evaluation; otherwise any order will do.
      process_split: bool, only this process' part, else everything.
      allow_cache: bool, whether the source may keep the dataset object.

    Returns:
      tf.data.Dataset of dicts of tensors, finite.
    """
    raise RuntimeError(f"{type(self).__name__} must override get_tfdata")

  @property
  def total_examples(self):
    """Number of examples over all processes."""
    raise RuntimeError(f"{type(self).__name__} must override total_examples")

  def num_examples_per_process(self):
    """Number of examples of each process, as a list."""
    raise RuntimeError(
      f"{type(self).__name__} must override num_examples_per_process"
    )

  def bad_examples(self):
    """What is known, before reading, to be wrong with single examples.

    Returns:
      List of str, one per example whose reading will fail; each names the file
      and what is wrong with it. Whoever opens the source may stop right away.
    """
    return []

  def training_order(self, order_seed=None, **kw):
    """All examples for all processes, in one order that seeds determine.

    The input pipeline for training builds on it. Sources override it to shuffle
    coarsely (files, say) or to read lazily, see the second return value.

    Args:
      order_seed: None for the order of the source; otherwise an int64 scalar
        tensor that differs from epoch to epoch: the order may depend on it.
      **kw: `config.input.tfdata`, further arguments of `get_tfdata`.

    Returns:
      (dataset, read): finite tf.data.Dataset of dicts, and either None or a
      function that turns such a dict into the raw example, which is only called
      for examples that are needed.
    """
    del order_seed
    ds = self.get_tfdata(
      ordered=True, process_split=False, allow_cache=False, **kw
    )
    return ds, None


class IndexedDataSource(DataSource):
  """A source that reads any example by its number: random access.

  Subclasses define `total_examples` and `read`. The input pipeline shuffles all
  of such a source by index, without a buffer, and resumes in constant time.
  """

  random_access = True

  def read(self, index):
    """One raw example.

    Args:
      index: int64 scalar tensor in [0, total_examples), possibly symbolic; the
        order of examples by index is that of evaluation.

    Returns:
      Dict of tensors with static dtypes and ranks. `tfds_id` (string scalar)
      says in errors which example it is, so it should name a file.

    Raises:
      tf.errors.OpError: while the data is read; names the file.
    """
    raise RuntimeError(f"{type(self).__name__} must override read")

  def get_tfdata(self, ordered=False, *, process_split=True, allow_cache=True):
    """See the base class. Unordered: shuffled once, always in the same way."""
    del allow_cache  # Opening is cheap.
    return by_index(self, ordered, process_split)

  def num_examples_per_process(self):
    return [len(x) for x in self._process_indices()]

  def _process_indices(self):
    return np.array_split(np.arange(self.total_examples), jax.process_count())


def by_index(source, ordered, process_split):
  """`DataSource.get_tfdata` of a source with random access.

  Args:
    source: the DataSource.
    ordered: bool; otherwise shuffled once, always in the same way.
    process_split: bool, whether only this process' part.

  Returns:
    tf.data.Dataset of what `source.read` gives.
  """
  indices = np.arange(source.total_examples, dtype=np.int64)
  if process_split:
    ends = np.cumsum(source.num_examples_per_process())
    indices = np.split(indices, ends[:-1])[jax.process_index()]
  if not ordered:
    indices = np.random.default_rng(0).permutation(indices)
  ds = tf.data.Dataset.from_tensor_slices(indices)
  return ds.map(source.read, tf.data.AUTOTUNE, deterministic=True)
