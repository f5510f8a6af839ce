"""Seeds, and which rows of a batch a host delivers: without TensorFlow."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from big_vision.datasets import source
from big_vision.pipeline import order


def test_seeds_are_the_same_on_every_machine():
  digest = hashlib.sha256(b"(3, 'toy', 'shuffle')").digest()
  number = int.from_bytes(digest[:8], "little")
  assert order.hash_seed(3, "toy", "shuffle") == number % (2**31 - 1) + 1
  assert order.hash_seed(3, "toy") != order.hash_seed(3, "toys")


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
def test_hosts_deliver_contiguous_rows(num_hosts):
  batches = np.arange(24).reshape(3, 8)
  for host in range(num_hosts):
    layout = order.Layout(8, host, num_hosts)
    mine = np.arange(24)[layout.is_mine(np.arange(24))]
    rows = np.split(batches, num_hosts, axis=1)[host]
    np.testing.assert_array_equal(mine, rows.ravel())
    assert layout.local_batch_size == rows.shape[1]


@pytest.mark.parametrize(
  "labels, expected",
  [
    ([0, 0, 1, 1], True),
    ([0, 1, 0, 1], False),
    ([0, 0, 0, 0], False),
    ([0, 1, 2, 2], False),
    (["b", "b", "a", "a"], True),
    ([np.array(3), np.array(3), np.array(1), np.array(1)], True),
    ([[0, 1], [0, 1], [2], [2]], True),
    ([np.array([0, 1]), np.array([2]), np.array([0, 1]), np.array([2])], False),
  ],
)
def test_labels_that_come_class_by_class(labels, expected):
  assert order.is_class_by_class(labels) == expected


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
  "labels, expected",
  [
    (np.repeat(np.arange(1000), 50), True),  # More classes than are looked at.
    (np.repeat(RNG.permutation(1000), 50), True),
    (np.tile(np.repeat([0, 1], 400), 2), True),  # As in train+val.
    (np.arange(10_000), False),  # There is no second one of a class.
    (RNG.integers(0, 2, 5000), False),
    (RNG.integers(0, 1000, 50_000), False),
    (RNG.integers(0, 100, 5000) == 0, False),
  ],
)
def test_labels_of_pairs_of_neighbors(labels, expected):
  picked = source.pairs_of_neighbors(len(labels), 128)
  assert order.is_class_by_class(labels[picked].tolist()) == expected


def test_pairs_of_neighbors():
  assert source.pairs_of_neighbors(3, 5) == [0, 1, 1, 2]
  assert source.pairs_of_neighbors(100, 2) == [0, 1, 98, 99]
  assert source.pairs_of_neighbors(1, 2) == []


def test_batch_size_must_divide():
  assert order.local_batch_size(12, 4) == 3
  assert order.local_batch_size(None, 4) == 0
  with pytest.raises(ValueError, match="Batch size 10 .* processes, 4"):
    order.local_batch_size(10, 4)


@pytest.mark.parametrize(
  "size, shuffled", [(None, False), (0, False), (1, False), (2, True)]
)
def test_a_buffer_of_one_keeps_the_order(size, shuffled):
  assert order.is_shuffled(size) == shuffled


def test_needs_no_tensorflow():
  code = "import sys; import big_vision.pipeline.order as o; o.hash_seed(1)\n"
  code += "assert not {'tensorflow', 'big_vision.tf'} & set(sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True)
