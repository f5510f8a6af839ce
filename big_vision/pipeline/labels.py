"""Compares the labels of a dataset with what its preprocessing makes of them.

Nothing is read: the preprocessing is traced with the types of a raw example. That
shows which features an op reads; where its labels follow from one label of the
source alone, those of all classes are computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import logging

from big_vision import lookup
from big_vision.datasets import core
from big_vision.datasets.classes import Classes
from big_vision.datasets.source import DataSource
from big_vision.lookup import ConfigError
from big_vision.pp import builder, rng
from big_vision.pp import labels as label_lib
from big_vision.tf import tf
from big_vision.trees import tree_flatten_with_names

_MAX_COMPUTED = 30_000  # Classes whose labels are computed one by one.


@dataclasses.dataclass(frozen=True)
class Labels:
  """Says what is known about labels at some point of the preprocessing.

  Attributes:
    feature: the feature of the source that they follow from.
    classes: of that feature.
    largest: the largest label that they can be, -1 if that means none.
    unchanged: whether they are the very labels of the source.
  """

  feature: str
  classes: Classes
  largest: int
  unchanged: bool


@dataclasses.dataclass(frozen=True)
class OneHot:
  """Describes an op `onehot`.

  Attributes:
    use: what it reads and writes.
    labels: what it reads, None if unknown.
  """

  use: label_lib.Use
  labels: Labels | None


@dataclasses.dataclass(frozen=True)
class Trace:
  """Says what a preprocessing does with the labels of a source.

  Attributes:
    onehots: ops `onehot`, in order.
    outputs: entries of the result -> what is known about them as labels.
    names: all entries of the result.
  """

  onehots: tuple[OneHot, ...] = ()
  outputs: Mapping[str, Labels] = dataclasses.field(default_factory=dict)
  names: frozenset[str] = frozenset()


def trace(
  spec: Any,
  classes_of: Callable[[str], Classes | None],
  pp: str | None,
  *outputs: str,
) -> Trace:
  """Finds out what preprocessing does with the labels of a source.

  Args:
    spec: of a raw example, see `DataSource.example_spec`.
    classes_of: see `DataSource.classes_of`.
    pp: preprocessing string.
    *outputs: entries of the result to describe.

  Returns:
    The Trace; an empty one if the preprocessing cannot be traced, which the
    pipeline will report.

  Raises:
    ConfigError: an op that reads labels gets text, or there is no feature of
      the name that an op reads.
  """
  flat = tf.nest.flatten(spec)
  feeds, uses, results = {}, [], {}

  def run(*values):
    example = tf.nest.pack_sequence_as(spec, list(values))
    for name, value in tree_flatten_with_names(example)[0]:
      if tf.is_tensor(value) and not isinstance(value, tf.RaggedTensor):
        feeds[name] = value
    fn = builder.get_preprocess_fn(pp, log_data=False)
    zero = tf.zeros([], tf.int64)
    with label_lib.record() as noted, rng.example_seed([0, 0], zero):
      results.update(fn(_Features(example)))
    uses.extend(noted)
    return zero

  try:
    graph = tf.compat.v1.wrap_function(run, flat)
  except ConfigError:
    raise
  except _NoFeature as e:
    raise ConfigError(e.args[0]) from e
  except Exception as e:  # Ops of users raise anything.
    logging.info("Cannot compare the labels of %r: %s", pp, e)
    return Trace()
  known = _Known(classes_of, graph, feeds)
  onehots = tuple(OneHot(use, known.labels(use.labels)) for use in uses)
  described = {k: known.labels(results[k]) for k in outputs if k in results}
  return Trace(
    onehots,
    {k: v for k, v in described.items() if v is not None},
    frozenset(results),
  )


class _NoFeature(KeyError):
  """Says that there is no feature of a name; ops may catch it as a KeyError."""


class _Features(dict):
  """An example that says what it has if an op reads something else."""

  def __missing__(self, key):
    raise _NoFeature(
      f"there is no feature {key!r}{lookup.did_you_mean(key, sorted(self))}"
    )


class _Known:
  """Finds out about tensors of a traced preprocessing."""

  def __init__(self, classes_of, graph, feeds):
    self._classes_of, self._graph = classes_of, graph
    self._feeds = {id(tensor): name for name, tensor in feeds.items()}
    self._by_op = {tensor.op.name: tensor for tensor in feeds.values()}

  def labels(self, tensor) -> Labels | None:
    """Describes a tensor as labels, None if they do not follow from classes."""
    if isinstance(tensor, tf.RaggedTensor):
      tensor = tensor.flat_values
    if not isinstance(tensor, tf.Tensor) or not hasattr(tensor, "op"):
      return None
    feed = self._origin(tensor)
    name = self._feeds.get(id(feed), "")
    classes = self._classes_of(name) if name else None
    if classes is None or not classes.num:
      return None
    if feed is tensor:
      return Labels(name, classes, classes.num - 1, True)
    values = self._computed(feed, tensor, classes.num)
    if values is None:
      return None
    same = np.array_equal(values, np.arange(classes.num))
    return Labels(name, classes, int(values.max()), bool(same))

  def _origin(self, tensor):
    """Returns the one input that a tensor follows from, or None."""
    origins, seen, todo = {}, set(), [tensor.op]
    while todo:
      op = todo.pop()
      if op.name in seen:
        continue
      seen.add(op.name)
      if op.type == "Placeholder":
        origins[op.name] = self._by_op.get(op.name, op.outputs[0])
      todo += [x.op for x in op.inputs]
    captured = {t.op.name for t in self._graph.graph.internal_captures}
    found = [t for name, t in origins.items() if name not in captured]
    return found[0] if len(found) == 1 else None

  def _computed(self, feed, tensor, num):
    """Computes the scalar labels that follow from those of the source."""
    if feed.shape.rank != 0 or tensor.shape.rank not in (0, 1):
      return None
    if num > _MAX_COMPUTED or not (
      feed.dtype.is_integer
      and (tensor.dtype.is_integer or tensor.dtype.is_floating)
    ):
      return None
    try:
      one = self._graph.prune(feed, tensor)
      largest = lambda i: tf.reduce_max(one(tf.cast(i, feed.dtype)))
      ds = tf.data.Dataset.range(num).map(largest)
      return np.array(list(ds.as_numpy_iterator()))
    except Exception as e:  # Labels may be looked up in what is not there yet.
      logging.info("Cannot compute the labels of %s: %s", tensor.name, e)
      return None


def check(
  source: DataSource,
  pp: str | None,
  pp_key: str,
  data_key: str,
  filtered: bool = False,
) -> tuple[OneHot, ...]:
  """Refuses an `onehot` that has fewer classes than the data.

  Args:
    source: where the raw examples come from.
    pp: preprocessing string.
    pp_key: the config key that holds it.
    data_key: the config key of the source.
    filtered: whether examples are left out, so that their labels may be few.

  Returns:
    The ops `onehot`.

  Raises:
    ConfigError: labels of the data do not fit into it, or they are text.
  """
  if "onehot" not in (pp or "") or not _tells(source):
    return ()
  try:
    onehots = trace(source.example_spec(), source.classes_of, pp).onehots
  except ConfigError as e:
    raise ConfigError(f"config.{pp_key}: {e}") from e
  for onehot in onehots:
    labels, depth = onehot.labels, onehot.use.depth
    if labels is None or labels.largest < depth or filtered:
      continue
    num = labels.largest + 1
    what = f"{labels.feature!r} of config.{data_key} has {labels.classes.num}"
    if not labels.unchanged:
      what = f"{onehot.use.key!r} gets labels up to {labels.largest}: {what}"
    raise ConfigError(
      f"config.{pp_key}: onehot({depth}, key={onehot.use.key!r}) is for {depth} "
      f"classes, but {what} classes, {labels.classes}. Write onehot({num}, …) and "
      f"set config.num_classes={num}, or take out of the data what is too much."
    )
  return onehots


def _tells(source: DataSource) -> bool:
  """Tells whether to look at a source: one of this project or with classes.

  Sources of users need not expect to be opened more often than they are read.
  """
  own = getattr(source, "_source", source)
  if type(own).__module__.startswith("big_vision."):
    return True
  overrides = getattr(type(own), "classes_of", DataSource.classes_of)
  return bool(
    overrides is not DataSource.classes_of
    or source.class_names
    or source.num_classes
  )


def check_data(
  data: Mapping[str, Any],
  pp: str | None,
  pp_key: str,
  data_key: str,
  filtered: bool = False,
) -> tuple[OneHot, ...]:
  """Does `check` for the source of a config.

  Args:
    data: arguments of `datasets.core.get`.
    pp, pp_key, data_key, filtered: as in `check`.

  Returns:
    The ops `onehot`.

  Raises:
    ConfigError: as `check`.
    ValueError: the data cannot be opened, or what else its source raises.
  """
  try:
    source = core.get(**data)
  except ValueError as e:
    usual, text = "config.input.data", str(e)
    if not text.startswith(usual) or data_key == "input.data":
      raise
    # Sources name the key of training.
    raise ConfigError(f"config.{data_key}{text.removeprefix(usual)}") from e
  return check(source, pp, pp_key, data_key, filtered)
