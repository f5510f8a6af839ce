"""Class-balanced sampling: every class comes equally often, whatever its size.

Of K classes, each K positions of the stream have every class once, in an order of
their own. A class goes through its examples in passes, each a permutation of all of
them, so those of small classes come more often. Which example is at a position
follows from the position and the seed alone, like the rest of the order of training.

An example of several labels belongs to each of their classes; those without any
label are one class more. Examples whose only label is -1 are never drawn.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from absl import logging

from big_vision.datasets.label_sets import LabelSets
from big_vision.lookup import ConfigError
from big_vision.pipeline import order, stream
from big_vision.tf import tf

_MAX_READ = 200_000  # Examples to read for the sake of their labels.


@dataclasses.dataclass(frozen=True)
class Balance:
  """Holds which examples the classes have.

  Attributes:
    members: int64, indices of the examples of all classes, one after the other.
    begins, sizes: int64 [K], where those of a class begin, and how many they are.
    ranks: int64, of each member, how many of its classes come before this one.
    most: largest number of classes of an example.
    seed: of the shuffling.
    shuffle: whether classes and examples are shuffled.
  """

  members: np.ndarray
  begins: np.ndarray
  sizes: np.ndarray
  ranks: np.ndarray
  most: int
  seed: int
  shuffle: bool

  def locate(self, elements: stream.Stream) -> stream.Stream:
    """Finds the examples at positions.

    Args:
      elements: (position, anything).

    Returns:
      The stream, with the index in place of the example. Its epoch counts how
      often the example was used before.
    """
    num = len(self.sizes)
    arrays = (self.members, self.begins, self.sizes, self.ranks)
    members, begins, sizes, ranks = map(tf.constant, arrays)
    seed = order.hash_seed(self.seed, "balance")

    def one(position, _):
      turn, kind = position // num, position % num
      if self.shuffle:
        kind = stream.permuted(kind, num, seed, turn)
      size = tf.gather(sizes, kind)
      number, place = turn // size, turn % size
      if self.shuffle:
        place = stream.permuted(place, size, seed + 1 + kind, number)
      place += tf.gather(begins, kind)
      index = tf.gather(members, place)
      epoch = number * self.most + tf.gather(ranks, place)
      return position, (epoch, (index, index))

    return elements.map(one)


def make(
  source: Any, feature: Any, key: str, *, seed: int, shuffle: bool
) -> Balance:
  """Sorts the examples of a source by class.

  Args:
    source: DataSource.
    feature: name of the feature with the labels; True is "label".
    key: the config key that asks for it, for errors.
    seed: of the shuffling.
    shuffle: whether classes and examples are shuffled.

  Returns:
    The Balance.

  Raises:
    ConfigError: the source cannot read examples by their number, or has no such
      labels.
  """
  if not _by_index(source):
    raise ConfigError(
      f"config.{key}: this source is read from front to back, so examples of a "
      "class cannot be picked. Sources with random access can: bv:folder, bv:jsonl, "
      "bv:hf, bv:webdataset, and TFDS datasets after tools.convert_dataset."
    )
  feature = "label" if feature is True else str(feature)
  labels = labels_of(source, feature, key)
  groups = _groups(labels)
  if not groups:
    raise ConfigError(f"config.{key}: no example has a label {feature!r}.")
  sizes = np.array([len(g) for g in groups], np.int64)
  members = np.concatenate(groups)
  # The position of a member among those of the same example.
  by_example = np.argsort(members, kind="stable")
  same = members[by_example]
  begin = np.searchsorted(same, same, side="left")
  ranks = np.empty([len(members)], np.int64)
  ranks[by_example] = np.arange(len(members)) - begin
  logging.info(
    "config.%s: %d classes of %d to %d examples each come equally often",
    key,
    len(groups),
    sizes.min(),
    sizes.max(),
  )
  return Balance(
    members=members,
    begins=np.cumsum(sizes) - sizes,
    sizes=sizes,
    ranks=ranks,
    most=int(ranks.max()) + 1,
    seed=seed,
    shuffle=shuffle,
  )


def labels_of(source: Any, feature: str, key: str) -> Any:
  """Looks up the labels of all examples.

  Args:
    source: DataSource.
    feature: name of the feature with the labels.
    key: the config key that asks for it, for errors.

  Returns:
    [N] integers, or LabelSets.

  Raises:
    ConfigError: the source has no such labels, or too many examples to read.
  """
  labels = source.values_of(feature)
  return _read(source, feature, key) if labels is None else labels


def _by_index(source):
  return source.random_access or source.can_read_by_index


def _groups(labels):
  """Returns the indices of the examples of each class, without empty ones."""
  if not isinstance(labels, LabelSets):
    labels = np.asarray(labels, np.int64)
    return [np.flatnonzero(labels == k) for k in np.unique(labels) if k >= 0]
  lengths = np.diff(labels.splits)
  owner = np.repeat(np.arange(len(labels)), lengths)
  kinds = np.unique(labels.values)
  groups = [np.unique(owner[labels.values == k]) for k in kinds if k >= 0]
  unlabeled = np.flatnonzero(lengths == 0)
  return groups + ([unlabeled] if len(unlabeled) else [])


def _read(source, feature, key):
  """Reads the labels of all examples."""
  num = source.total_examples
  spec = source.example_spec()
  if feature not in spec:
    raise ConfigError(
      f"config.{key}: there is no feature {feature!r}; raw examples have "
      f"{', '.join(sorted(spec))}."
    )
  if not spec[feature].dtype.is_integer or spec[feature].shape.rank not in (
    0,
    1,
  ):
    raise ConfigError(
      f"config.{key}: {feature!r} is {spec[feature].dtype.name} "
      f"{spec[feature].shape}, but labels are integers."
    )
  if num > _MAX_READ:
    raise ConfigError(
      f"config.{key}: only reading all {num} examples would tell their labels, too "
      "many to do so at each start. bv:folder, bv:jsonl and bv:hf know them."
    )
  logging.info("config.%s: reading the labels of %d examples", key, num)
  if _by_index(source):
    ds, one = tf.data.Dataset.range(num), lambda i: source.read(i)[feature]
  else:
    ds = source.get_tfdata(True, process_split=False, allow_cache=False)
    one = lambda example: example[feature]
  ds = ds.map(one, tf.data.AUTOTUNE, deterministic=True)
  labels = list(ds.as_numpy_iterator())
  return LabelSets(labels) if spec[feature].shape.rank else np.array(labels)
