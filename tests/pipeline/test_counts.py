"""Counts of classes for weights of the loss."""

import json

import ml_collections
import numpy as np
import pytest

from big_vision import lookup
from big_vision.pipeline import counts

pytestmark = pytest.mark.tf


LABELS = [*np.repeat([0, 1, 3], [5, 2, 3]).tolist(), -1]


@pytest.fixture(scope="module")
def write(tmp_path_factory):
  """Makes the config of a dataset with these labels."""
  from big_vision.pp import ops_general  # noqa: F401

  def fn(labels):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"label": y}) for y in labels))
    return {"name": "bv:jsonl", "fname": str(path)}

  return fn


@pytest.fixture(scope="module")
def rows(write):
  """Config of a dataset with 5, 2, 0 and 3 examples of four classes."""
  return write(LABELS)


def count(rows, num=4, **kw):
  config = ml_collections.ConfigDict({"data": rows, **kw})
  return counts.of_classes(config, num, "class_weights")


def test_counts(rows):
  got, num = count(rows, pp='onehot(4, key="label", key_result="labels")')
  assert got.tolist() == [5, 2, 0, 3] and num == 10
  assert count(rows, pp="")[0].tolist() == [5, 2, 0, 3]


def test_several_labels_count_once_per_example(write):
  rows = write([*([0, 0, y] for y in LABELS[:-1]), []])
  pp = 'onehot(4, key="label", key_result="labels", multi=True)'
  got, num = count(rows, pp=pp)
  assert got.tolist() == [10, 2, 0, 3] and num == 10


def test_reads_what_comes_from_front_to_back(tfds_data_dir):
  data = dict(name="digits", split="train")
  got, num = count(data, 10, pp="")
  assert num == got.sum() > 1000 and got.min() > 50


def test_refusals(rows):
  with pytest.raises(
    lookup.ConfigError, match="labels up to 3.*num_classes = 3"
  ):
    count(rows, 3)
  with pytest.raises(lookup.ConfigError, match="config.class_weights.*mixture"):
    count({"a": 0.5, "b": 0.5})
