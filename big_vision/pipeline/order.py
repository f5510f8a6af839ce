"""The order of training examples, a function of the config alone.

The order is that of one endless stream of examples, the same on all hosts.
Batch n is made of its positions n * B to (n + 1) * B, B being the global batch
size. `hash_seed` makes the seeds that a stream depends on, `Layout` says which
positions a host needs, `stream` has the datasets. Needs no TensorFlow.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from typing import Any


def hash_seed(*parts: Any) -> int:
  """Hashes printable values, in the same way on every machine.

  Args:
    *parts: the values.

  Returns:
    int in [1, 2**31).
  """
  digest = hashlib.sha256(repr(parts).encode()).digest()
  return int.from_bytes(digest[:8], "little") % (2**31 - 1) + 1


def is_shuffled(shuffle_buffer_size: int | None) -> bool:
  """Tells whether a buffer changes the order: one with a single example cannot.

  Args:
    shuffle_buffer_size: as in `config.input`.

  Returns:
    bool.
  """
  return (shuffle_buffer_size or 0) > 1


def is_class_by_class(labels: Sequence[Any]) -> bool:
  """Tells whether labels come one class after the other.

  Args:
    labels: of pairs of neighbors in the order of the examples, one pair after
      the other: numbers, text, or arrays and lists of several labels.

  Returns:
    bool; False if there are not two of a class on average.
  """
  labels = [str(label) for label in labels]  # Arrays and lists cannot be keys.
  num_runs = sum(1 for _ in itertools.groupby(labels))
  counts = collections.Counter(labels)
  if num_runs == len(counts) > 1 and len(labels) >= 2 * len(counts):
    return True
  # Splits that are joined may each be sorted. How many neighbors differ, and
  # how many would in a random order? Few labels can look sorted by chance.
  differ = sum(a != b for a, b in zip(labels[::2], labels[1::2], strict=False))
  same = sum((n / len(labels)) ** 2 for n in counts.values())
  expected = len(labels) / 2 * (1 - same)
  return expected >= 24 and differ <= expected / 8


@dataclasses.dataclass(frozen=True)
class Layout:
  """Says which rows of global batches a host delivers.

  Host p of P delivers the rows [p * B / P, (p + 1) * B / P) of each batch.

  Attributes:
    batch_size: B, global.
    host: p.
    num_hosts: P, divides B.
  """

  batch_size: int
  host: int = 0
  num_hosts: int = 1

  @property
  def local_batch_size(self) -> int:
    """Rows of a batch per host."""
    return self.batch_size // self.num_hosts

  def is_mine(self, position: Any) -> Any:
    """Tells which positions of the stream this host delivers.

    Args:
      position: int, array or tensor of integers.

    Returns:
      bool, array or tensor of bools.
    """
    return position // self.local_batch_size % self.num_hosts == self.host

  def position(self, number: Any) -> Any:
    """Finds the position in the stream of what this host delivers.

    Args:
      number: how many examples this host delivers before; int or integers.

    Returns:
      int, array or tensor.
    """
    local = self.local_batch_size
    batch, row = number // local, number % local
    return batch * self.batch_size + self.host * local + row

  def split(self, num_examples: int) -> list[int]:
    """Counts what each host delivers of a finite stream.

    Args:
      num_examples: length of the stream.

    Returns:
      Number of examples of each host.
    """
    whole, rest = divmod(num_examples, self.batch_size)
    local = self.local_batch_size
    rows = lambda host: min(max(rest - host * local, 0), local)
    return [whole * local + rows(p) for p in range(self.num_hosts)]


def local_batch_size(batch_size: int | None, num_hosts: int) -> int:
  """Divides a global batch size among the hosts.

  Args:
    batch_size: global; None is 0.
    num_hosts: number of processes.

  Returns:
    Rows of a batch per host.

  Raises:
    ValueError: they do not divide evenly.
  """
  if batch_size and batch_size % num_hosts:
    raise ValueError(
      f"Batch size {batch_size} (config.input.batch_size, or that of an "
      f"evaluator) must be divisible by the number of processes, {num_hosts}."
    )
  return (batch_size or 0) // num_hosts
