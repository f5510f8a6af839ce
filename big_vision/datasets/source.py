"""Sources of raw examples: the contract with the input pipeline.

A source of one's own needs three things: `get_tfdata`, `total_examples` and
`num_examples_per_process`. All else has defaults, in `DataSource` for those that
derive from it, in `complete` for those that do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from big_vision.datasets.classes import Classes
from big_vision.tf import tf

# Features of one example: name -> tensor.
Example: TypeAlias = dict[str, Any]


class DataSource:
  """Offers raw examples in one order.

  Attributes:
    random_access: whether `read(index)` reads any example by its number, see
      `IndexedDataSource`.
    can_read_by_index: whether it does so although training reads it in order.
    bytes_per_example: mean size of a raw example in memory, None if unknown.
    block_size: how many examples are read at a time, by their numbers.
    class_names: names of the classes of `label` in the order of the labels,
      None if they have none.
    num_classes: number of these classes; None: that of the names, or unknown.
  """

  random_access: bool = False
  can_read_by_index: bool = False
  bytes_per_example: float | None = None
  block_size: int = 1
  class_names: Sequence[str] | None = None
  num_classes: int | None = None

  def get_tfdata(
    self,
    ordered: bool,
    *,
    process_split: bool = True,
    allow_cache: bool = True,
  ) -> tf.data.Dataset:
    """Opens the raw examples.

    Args:
      ordered: whether the order must be that of the source, as for evaluation;
        otherwise any order will do.
      process_split: only this process' part, else everything.
      allow_cache: whether the source may keep the dataset object.

    Returns:
      Finite dataset of dicts of tensors.
    """
    raise RuntimeError(f"{type(self).__name__} must override get_tfdata")

  @property
  def total_examples(self) -> int:
    """Number of examples over all processes."""
    raise RuntimeError(f"{type(self).__name__} must override total_examples")

  def num_examples_per_process(self) -> Sequence[int]:
    """Returns the number of examples of each process."""
    raise RuntimeError(
      f"{type(self).__name__} must override num_examples_per_process"
    )

  def bad_examples(self) -> list[str]:
    """Lists what is known, before reading, to be wrong with single examples.

    Returns:
      One message per example whose reading will fail; each names the file and
      what is wrong with it. Whoever opens the source may stop right away.
    """
    return []

  def some_labels(self, num: int) -> Sequence[Any] | None:
    """Looks up labels of some pairs of neighbors, to see if they are sorted.

    Args:
      num: how many pairs; fewer if there are fewer examples.

    Returns:
      The labels at `pairs_of_neighbors`; None if they are not at hand.
    """
    del num
    return None

  def values_of(self, feature: str) -> Any:
    """Looks up a feature of all examples, without reading their files.

    Args:
      feature: "label", or one of numbers.

    Returns:
      Sequence of numbers, or of arrays [number of labels]; or an array [N, T].
      None if they are not at hand.
    """
    del feature
    return None

  def labels_as_text(self) -> list[str] | None:
    """Lists the names of classes where `label` is text, not yet a number.

    Returns:
      The different texts, sorted; None if `label` is not text.
    """
    return None

  def find_damage(self) -> str | None:
    """Finds out which file is damaged, after reading lost data.

    Returns:
      A message with the file and the place; None if nobody knows.
    """
    return None

  def classes_of(self, feature: str) -> Classes | None:
    """Finds the classes of a feature, in all that the source can see.

    They must not depend on the split: what is compared at the start of a run is
    that training and evaluation mean the same by a label.

    Args:
      feature: its name; of nested ones a path, "objects/label".

    Returns:
      The classes; None if the feature is not a label or nothing is known.
    """
    names, num = self.class_names, self.num_classes
    num = len(names or ()) if num is None else num
    if feature != "label" or not num:
      return None
    return Classes(num, tuple(names) if names else None)

  def example_spec(self) -> Any:
    """Describes a raw example, as `element_spec` of `get_tfdata` does.

    Returns:
      Dict of `tf.TypeSpec`.
    """
    if self.random_access:
      read: Any = getattr(self, "read")  # noqa: B009 - of those that have it
      return tf.data.Dataset.range(1).map(read).element_spec
    ds = self.get_tfdata(ordered=True, process_split=False, allow_cache=False)
    return ds.element_spec

  def training_order(
    self, order_seed: tf.Tensor | None = None, **kw: Any
  ) -> tuple[tf.data.Dataset, Callable[[Example], Example] | None]:
    """Opens all examples for all processes, in an order that seeds determine.

    The input pipeline for training builds on it. Sources override it to shuffle
    coarsely (files, say) or to read lazily, see the second return value.

    Args:
      order_seed: None for the order of the source; otherwise an int64 scalar
        tensor that differs from epoch to epoch: the order may depend on it.
      **kw: `config.input.tfdata`, further arguments of `get_tfdata`.

    Returns:
      (dataset, read): finite dataset of dicts; and either None or a function
      that turns such a dict into the raw example, which is only called for
      examples that are needed.
    """
    del order_seed
    ds = self.get_tfdata(
      ordered=True, process_split=False, allow_cache=False, **kw
    )
    return ds, None


class IndexedDataSource(DataSource):
  """Reads any example by its number: random access.

  Subclasses define `total_examples` and `read`. The input pipeline shuffles all
  of such a source by index, without a buffer, and resumes in constant time.
  Sources that read blocks of examples define `fetch` and `complete` too, see
  `python_reader.Reader`.
  """

  random_access = True

  def read(self, index: tf.Tensor) -> Example:
    """Reads one raw example.

    Args:
      index: int64 scalar in [0, total_examples), possibly symbolic; the order
        of examples by index is that of evaluation.

    Returns:
      Dict of tensors with static dtypes and ranks. `tfds_id` (string scalar)
      says in errors which example it is, so it should name a file.

    Raises:
      tf.errors.OpError: while the data is read; names the file.
    """
    raise RuntimeError(f"{type(self).__name__} must override read")

  def fetch(self, indices: tf.Tensor) -> Sequence[tf.Tensor]:
    """Reads a block of examples, for sources whose `block_size` is not 1.

    Args:
      indices: [N] int64, N <= `block_size`.

    Returns:
      Tensors [N, ...], whatever `complete` needs.
    """
    raise RuntimeError(f"{type(self).__name__} must override fetch")

  def complete(self, index: tf.Tensor, fetched: Sequence[tf.Tensor]) -> Example:
    """Makes a raw example of its rows of what was fetched.

    Args:
      index: int64 scalar, number of the example.
      fetched: one row of each tensor that `fetch` returned.

    Returns:
      See `read`.
    """
    raise RuntimeError(f"{type(self).__name__} must override complete")

  def get_tfdata(
    self,
    ordered: bool = False,
    *,
    process_split: bool = True,
    allow_cache: bool = True,
  ) -> tf.data.Dataset:
    """See the base class. Unordered: shuffled once, always in the same way."""
    del allow_cache  # Opening is cheap.
    return by_index(self, ordered, process_split)

  def num_examples_per_process(self) -> list[int]:
    return split_evenly(self.total_examples)


# What has a default.
_OPTIONAL = (
  "random_access",
  "bytes_per_example",
  "block_size",
  "bad_examples",
  "find_damage",
  "some_labels",
  "values_of",
  "labels_as_text",
  "class_names",
  "num_classes",
  "classes_of",
  "example_spec",
  "training_order",
)


class CompletedDataSource(DataSource):
  """Adds the defaults to a source that has nothing but the contract.

  Args:
    source: object with `get_tfdata`, `total_examples` and
      `num_examples_per_process`. What it has beyond these is used too.
  """

  def __init__(self, source: Any):
    self._source = source
    self.get_tfdata = source.get_tfdata
    self.num_examples_per_process = source.num_examples_per_process
    for name in _OPTIONAL:
      if hasattr(source, name):
        setattr(self, name, getattr(source, name))

  def __getattr__(self, name: str) -> Any:
    return getattr(self._source, name)

  @property
  def total_examples(self) -> int:
    return self._source.total_examples


class GivenDataSource(DataSource):
  """Makes a source of a dataset that is open already.

  Args:
    data: finite dataset of this process, the same at every pass.
  """

  def __init__(self, data: tf.data.Dataset):
    self._data = data

  @property
  def total_examples(self) -> int | None:
    """Number of examples; None where only reading them would tell."""
    size = int(self._data.cardinality())
    if size == tf.data.INFINITE_CARDINALITY:
      return tf.int64.max
    return size if size >= 0 else None

  def training_order(
    self, order_seed: tf.Tensor | None = None, **kw: Any
  ) -> tuple[tf.data.Dataset, None]:
    """See the base class."""
    del order_seed, kw
    return self._data, None


def complete(source: Any) -> DataSource:
  """Gives a source what the pipeline asks for beyond the contract.

  Args:
    source: a `DataSource`, or any object that keeps its contract.

  Returns:
    The source itself, or one around it.
  """
  if isinstance(source, DataSource):
    return source
  return CompletedDataSource(source)


def by_index(
  source: Any, ordered: bool, process_split: bool
) -> tf.data.Dataset:
  """Opens a source with random access, see `DataSource.get_tfdata`.

  Args:
    source: the DataSource.
    ordered: otherwise shuffled once, always in the same way.
    process_split: whether only this process' part.

  Returns:
    Dataset of what `source.read` gives.
  """
  indices = np.arange(source.total_examples, dtype=np.int64)
  if process_split:
    ends = np.cumsum(source.num_examples_per_process())
    indices = np.split(indices, ends[:-1])[jax.process_index()]
  if not ordered:
    indices = np.random.default_rng(0).permutation(indices)
  ds = tf.data.Dataset.from_tensor_slices(indices)
  return ds.map(source.read, tf.data.AUTOTUNE, deterministic=True)


def pairs_of_neighbors(num_examples: int, num: int) -> list[int]:
  """Picks examples at equal distances, each with the one that follows.

  Args:
    num_examples: of how many.
    num: how many pairs to pick at most.

  Returns:
    Their numbers in order, the first and the last included; those that are in
    two pairs twice.
  """
  first = np.linspace(0, num_examples - 2, min(num, num_examples - 1))
  first = first.round().astype(int)
  return np.stack([first, first + 1], axis=1).flatten().tolist()


def split_evenly(num_examples: int) -> list[int]:
  """Divides examples among the processes: contiguous parts, sizes differ by 1.

  Args:
    num_examples: number over all processes.

  Returns:
    Number of examples of each process.
  """
  whole, rest = divmod(num_examples, jax.process_count())
  return [whole + (i < rest) for i in range(jax.process_count())]
