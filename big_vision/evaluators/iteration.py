"""Iterates over evaluation data and brings results to the host.

Every evaluator opens its data with `open_batches`, computes something from
each batch on the devices, and reduces that with `totals` (sums over the
dataset) or `rows` (one value per example). Both take an iterable that
dispatches the next batch when it advances, so that the devices work while the
host waits for earlier results. What comes next is `start`ed by `followed_by`, so
that it is being read while this is computed.

Shapes: B global batch size, N examples of the dataset.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from big_vision import trees
from big_vision.pipeline import evaluation
from big_vision.pp import labels as pp_labels
from big_vision.types import AnyArray, Array, Batch, Devices, PyTree

# Results that are computed ahead of the one that the host waits for.
LAG = 2


class Layout(Protocol):
  """Tells how batches are split over devices, see `Batches`."""

  @property
  def batch_size(self) -> int:
    """Global batch size."""
    ...

  @property
  def devices(self) -> Devices:
    """Devices that the batches are split over, in their order."""
    ...

  @property
  def by_rows(self) -> bool:
    """Whether the rows of batches are in the order of the dataset."""
    ...


@dataclasses.dataclass(frozen=True)
class Batches:
  """Batches of a dataset; each iteration is one pass over all examples.

  Batches are dicts of arrays [B, ...] with `_mask` [B], False on padding.

  Attributes:
    get_iter: returns an iterator, of which one pass takes `steps` batches.
    steps: number of batches of one pass.
    batch_size: global batch size.
    devices: devices that the batches are split over, in their order.
    one_label: names of features that an op `onehot` made of one label per
      example, as opposed to sets of labels such as ReaL's.
    by_rows: whether the rows of batches, one batch after the other, are in the
      order of the dataset; otherwise those of each host are, see `host_order`.
  """

  get_iter: Callable[[], Iterator[Batch]]
  steps: int
  batch_size: int
  devices: Devices
  one_label: frozenset[str] = frozenset()
  by_rows: bool = False
  _started: list[Iterator[Batch]] = dataclasses.field(
    default_factory=list, init=False, repr=False, compare=False
  )

  def __iter__(self) -> Iterator[Batch]:
    """Yields each batch as a new dict, which the caller may change."""
    batches = self._started.pop() if self._started else self.get_iter()
    for _, batch in zip(range(self.steps), batches, strict=False):
      yield dict(batch)

  def start(self) -> None:
    """Begins to read the next pass in the background, as far as it is buffered."""
    if not self._started:
      batches: Any = self.get_iter()
      if hasattr(batches, "start"):
        batches.start()
      self._started.append(batches)


def open_batches(
  data: dict[str, Any],
  pp_fn: str,
  batch_size: int,
  devices: Devices,
  **kw: Any,
) -> Batches:
  """Opens a dataset for evaluation: each example once, in order, padded.

  Args:
    data: arguments of `datasets.core.get`, for example `name` and `split`.
    pp_fn: preprocessing string.
    batch_size: global batch size, divisible by the number of devices.
    devices: flat array of devices in the order of the mesh.
    **kw: further arguments of `pipeline.evaluation.eval_input_pipeline`.

  Returns:
    The batches.

  Raises:
    ValueError: `batch_size` does not fit the devices, or there is no such
      dataset.
  """
  with pp_labels.record() as uses:
    get_iter, steps = evaluation.eval_input_pipeline(
      data, pp_fn, batch_size, devices, **kw
    )
  one_label = frozenset(u.key_result for u in uses if u.rank == 0)
  by_rows = getattr(get_iter, "by_rows", False)
  return Batches(get_iter, steps, batch_size, devices, one_label, by_rows)


def take(batch: Batch, key: str, argument: str = "label_key") -> Any:
  """Removes a feature from a batch.

  Args:
    batch: dict of arrays, which is changed.
    key: name of the feature.
    argument: the evaluator's argument that names the feature.

  Returns:
    The feature.

  Raises:
    ValueError: the batch does not have the feature.
  """
  if key not in batch:
    raise ValueError(
      f"{argument}={key!r} is not in the batch, which has "
      f"{', '.join(sorted(batch))}: does pp_fn keep it?"
    )
  return batch.pop(key)


def followed_by(
  batches: Iterable[Batch], start: Callable[[], object] | None
) -> Iterator[Batch]:
  """Begins with what comes next while the first batch is computed.

  Args:
    batches: of a dataset.
    start: called once, when the batch after the first one is wanted; None for
      nothing.

  Yields:
    The same batches.
  """
  for batch in batches:
    yield batch
    if start is not None:
      start()
      start = None


def fetch(
  results: Iterable[PyTree],
  lag: int = LAG,
  get: Callable[[PyTree], PyTree] = jax.device_get,
) -> Iterator[PyTree]:
  """Copies device results to the host without stalling the devices.

  Args:
    results: trees of arrays, dispatched as the iterable advances.
    lag: how many to dispatch before the oldest is waited for; bounds what
      piles up in device memory.
    get: copies a tree to the host.

  Yields:
    The same trees as NumPy arrays.
  """
  waiting = collections.deque()
  for result in results:
    waiting.append(result)
    if len(waiting) > lag:
      yield get(waiting.popleft())
  while waiting:
    yield get(waiting.popleft())


def totals(results: Iterable[PyTree], lag: int = LAG) -> PyTree:
  """Adds up what was computed from each batch.

  Args:
    results: for each batch a tree of sums over its examples.
    lag: see `fetch`.

  Returns:
    The tree of the sums over all batches, float64 NumPy arrays.

  Raises:
    ValueError: there are no batches.
  """
  total = None
  for result in fetch(results, lag):
    result = jax.tree.map(lambda x: np.asarray(x, np.float64), result)
    total = result if total is None else jax.tree.map(np.add, total, result)
  if total is None:
    raise ValueError("There are no examples to evaluate: is the split empty?")
  return total


def rows(
  results: Iterable[tuple[PyTree, AnyArray]],
  layout: Layout,
  lag: int = LAG,
) -> PyTree:
  """Joins what was computed for each example, without the padding.

  Args:
    results: for each batch a tree of replicated arrays [B, ...] and the mask
      [B] of the batch.
    layout: the batches that the results were computed from.
    lag: see `fetch`.

  Returns:
    The tree with NumPy arrays [N, ...] in the order of the dataset, examples
    of all processes included.

  Raises:
    ValueError: there are no batches, or an array does not have one row per
      example.
  """
  batches = list(fetch(results, lag))
  if not batches:
    raise ValueError("There are no examples to evaluate: is the split empty?")
  values, masks = zip(*batches, strict=True)
  for name, value in trees.tree_flatten_with_names(values[0])[0]:
    if np.shape(value)[:1] != (layout.batch_size,):
      raise ValueError(
        f"predict_fn must return one row per example: {name!r} has shape "
        f"{np.shape(value)} for a batch of {layout.batch_size}."
      )
  order = np.arange(len(batches) * layout.batch_size)
  if not layout.by_rows:
    order = host_order(layout.devices, layout.batch_size, len(batches))
  order = order[np.concatenate(masks)[order].astype(bool)]
  return jax.tree.map(lambda *parts: np.concatenate(parts)[order], *values)


@jax.jit
def count_unlabeled(labels: Array, mask: Array) -> Array:
  """Counts examples that have no label.

  Args:
    labels: [B, C] multi-hot labels.
    mask: [B], 0 on padding.

  Returns:
    int32 scalar.
  """
  return ((labels.max(axis=-1) == 0) & (mask != 0)).sum(dtype=jnp.int32)


def warn_once(owner: Any, num: float, data: Any, consequence: str) -> None:
  """Says, once for each evaluator, that examples have no label.

  Args:
    owner: the evaluator.
    num: number of such examples; 0 says nothing.
    data: what the evaluator reads.
    consequence: what becomes of them.
  """
  said = owner.__dict__.setdefault("_said_unlabeled", set())
  if num and str(data) not in said:
    said.add(str(data))
    logging.warning(
      "%d examples of %s have no label: %s.", num, data, consequence
    )


def host_order(devices: Devices, batch_size: int, steps: int) -> np.ndarray:
  """Orders all evaluated rows as in the dataset.

  Of a source without random access, and of examples that an evaluator makes,
  every process reads a contiguous part of the dataset into its block of each
  global batch. Sorting by process restores the order of the dataset, so that
  results do not depend on the number of processes.

  Args:
    devices: devices in the order of the batches.
    batch_size: global batch size.
    steps: number of batches.

  Returns:
    [steps * batch_size] int array of positions in the joined batches; the
    identity for one process.
  """
  owner = [d.process_index for d in devices]
  owner = np.repeat(owner, batch_size // len(owner))
  return np.argsort(np.tile(owner, steps), kind="stable")


def process_sum(tree: PyTree) -> PyTree:
  """Sums a tree of numbers over processes.

  Args:
    tree: numbers or arrays, of equal shapes on all processes.

  Returns:
    The same tree; unchanged if there is only one process.
  """
  if jax.process_count() == 1:
    return tree
  from jax.experimental import multihost_utils

  with jax.transfer_guard("allow"):  # The gather moves host data as it likes.
    gathered = multihost_utils.process_allgather(tree)
  return jax.tree.map(lambda x: np.asarray(x).sum(axis=0), gathered)
