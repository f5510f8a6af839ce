"""Digits: the same images as scikit-learn's, prepared once and safely."""

import sys

import numpy as np
import pytest

from big_vision.datasets import digits, embedded
from big_vision.tf import tfds

pytestmark = pytest.mark.tf

# TFDS orders examples by a hash of their keys. Training runs that are compared
# with recorded ones depend on this order.
FIRST = {
  "train": ["train_0267", "train_0843", "train_1421"],
  "test": ["test_1512", "test_1756", "test_1570"],
}


@pytest.fixture(scope="module")
def builder(tfds_data_dir):
  return digits.prepare(tfds_data_dir)


@pytest.fixture(scope="module")
def raw():
  from sklearn import datasets  # Seconds, which other tests need not wait.

  return datasets.load_digits()


@pytest.mark.parametrize(
  "split,first,size", [("train", 0, 1500), ("test", 1500, 297)]
)
def test_examples_are_those_of_scikit_learn(builder, raw, split, first, size):
  examples = list(builder.as_dataset(split=split).as_numpy_iterator())
  assert len(examples) == size
  assert [e["id"].decode() for e in examples[:3]] == FIRST[split]
  indices = []
  for e in examples:
    indices.append(int(e["id"].decode().removeprefix(split + "_")))
    image = raw.images[indices[-1]]  # Integers 0..16.
    np.testing.assert_allclose(e["image"][..., 0] / 255 * 16, image, atol=0.032)
    assert e["label"] == raw.target[indices[-1]]
  assert sorted(indices) == list(range(first, first + size))


def test_arrays_use_the_whole_range(raw):
  images, labels = digits.load_arrays()
  assert images.shape == (1797, 8, 8, 1) and images.dtype == np.uint8
  assert (images.min(), images.max()) == (0, 255)
  half = images[raw.images == 8]
  np.testing.assert_array_equal(half, 128)  # 127.5, to even.
  assert set(labels) == set(range(10))


def test_opens_by_name_with_the_documented_features(builder, tfds_data_dir):
  b = tfds.builder("digits", data_dir=tfds_data_dir)
  assert b.info.full_name == "digits/1.0.0"
  assert b.info.supervised_keys == ("image", "label")
  assert b.info.features["image"].shape == (8, 8, 1)
  assert b.info.features["label"].num_classes == 10
  assert all(s.num_shards == 1 for s in b.info.splits.values())
  encoded = next(
    b.as_dataset(
      split="test", decoders={"image": tfds.decode.SkipDecoding()}
    ).as_numpy_iterator()
  )
  assert encoded["image"].startswith(b"\x89PNG")


def test_second_prepare_reads_nothing(builder, tfds_data_dir, monkeypatch):
  def fail():
    raise RuntimeError("prepared twice")

  monkeypatch.setattr(digits, "load_arrays", fail)
  again = digits.prepare(tfds_data_dir)
  assert again.info.splits["train"].num_examples == 1500


def test_environment_variable_is_read_when_called(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  assert digits.prepare().data_path == tmp_path / "digits" / "1.0.0"
  assert embedded.default_data_dir("/x") == "/x"
  monkeypatch.delenv("TFDS_DATA_DIR")
  assert embedded.default_data_dir() is None


def test_another_process_may_finish_first(tmp_path, monkeypatch):
  original = digits.load_arrays

  def overtaken():
    monkeypatch.setattr(digits, "load_arrays", original)
    digits.prepare(tmp_path)  # The other one, while this one generates.
    return original()

  monkeypatch.setattr(digits, "load_arrays", overtaken)
  builder = digits.prepare(tmp_path)
  assert len(list(builder.as_dataset(split="test"))) == 297
  # No temporary folder is left behind.
  assert [p.name for p in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_failure_leaves_nothing_that_looks_prepared(tmp_path, monkeypatch):
  def fail():
    raise OSError("disk on fire")

  with monkeypatch.context() as m:
    m.setattr(digits, "load_arrays", fail)
    with pytest.raises(OSError, match="disk on fire"):
      digits.prepare(tmp_path)
  assert digits.prepare(tmp_path).info.splits["test"].num_examples == 297


def test_missing_scikit_learn_says_how_to_install_it(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "sklearn", None)
  with pytest.raises(ImportError, match="pip install scikit-learn"):
    digits.prepare(tmp_path)
