"""TFDS as data: ids, splits, file order, preparing, errors."""

import os
import shutil

import jax
import numpy as np
import pytest

from big_vision import input_pipeline
from big_vision.datasets import core, digits, embedded, tfds
from big_vision.pp import ops_general  # noqa: F401  (Registers ops.)
from big_vision.tf import tf

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def four_files(tmp_path_factory):
  """TFDS folder with digits in four files."""
  path = str(tmp_path_factory.mktemp("four"))
  embedded.prepare(lambda: digits.Digits(data_dir=path), num_shards=4)
  return path


def test_hash_of_ids():
  got = tfds.hash_id(tf.constant(["cifar10-train.tfrecord-00000-of-00001__0"]))
  assert got.dtype == tf.int32 and got.numpy().tolist() == [859170631]


def test_examples(tfds_data_dir):
  for skip_decode in (["image", "not there"], ("image",)):
    source = tfds.DataSource("digits", "train[:4]", skip_decode=skip_decode)
    (*_, e) = source.get_tfdata(ordered=True).as_numpy_iterator()
    assert isinstance(e["image"], bytes) and e["tfds_id"].endswith(b"__3")
    assert e["_id"] == tfds.hash_id(e["tfds_id"])
  source = tfds.DataSource("digits", "train[:4]", skip_decode=())
  e = next(source.get_tfdata(ordered=True).as_numpy_iterator())
  assert e["image"].shape == (8, 8, 1)
  assert source.total_examples == 4
  assert source.get_tfdata() is source.get_tfdata()
  assert source.get_tfdata(allow_cache=False) is not source.get_tfdata()


def test_decodes_images_as_the_op_does(tfds_data_dir, monkeypatch):
  open_ = lambda: tfds.DataSource("digits", "train[:4]", skip_decode=())
  spec = open_().example_spec()["image"]
  assert spec == tf.TensorSpec([8, 8, 1], tf.uint8)
  monkeypatch.setenv("BV_MAX_IMAGE_PIXELS", "63")
  with pytest.raises(
    tf.errors.InvalidArgumentError, match="64 pixels, at most"
  ):
    next(iter(open_().get_tfdata(ordered=True)))
  monkeypatch.setenv("BV_MAX_IMAGE_PIXELS", "64")
  got = next(open_().get_tfdata(ordered=True).as_numpy_iterator())
  raw = tfds.DataSource("digits", "train[:4]").get_tfdata(ordered=True)
  want = tf.io.decode_image(next(raw.as_numpy_iterator())["image"])
  np.testing.assert_array_equal(got["image"], want)


def test_classes(tfds_data_dir):
  source = core.get("shapes/tiny", split="train")
  assert source.classes_of("label").num == 8
  assert source.classes_of("label").known[:2] == ("circle", "square")
  assert source.classes_of("boxes/color").known[0] == "red"
  assert source.classes_of("qa/type").num == 6
  for name in ("image", "boxes", "boxes/depth", "nothing", "label/0"):
    assert source.classes_of(name) is None
  spec = source.get_tfdata(ordered=True).element_spec
  assert source.example_spec() == spec


@pytest.mark.parametrize("random_access", [None, False])
def test_labels_out_of_range_are_errors(tfds_data_dir, tmp_path, random_access):
  """A dataset whose files have other labels than its description."""
  shutil.copytree(os.path.join(tfds_data_dir, "digits"), tmp_path / "digits")
  (features,) = tmp_path.glob("digits/*/features.json")
  text = features.read_text()
  assert '"numClasses": "10"' in text
  features.write_text(text.replace('"numClasses": "10"', '"numClasses": "5"'))
  data = dict(name="digits", split="train[:50]", data_dir=str(tmp_path))
  source = core.get(**data, random_access=random_access)
  with pytest.raises(
    tf.errors.InvalidArgumentError,
    match=r"label [5-9] \(label\) of digits-train.*is outside of \[0, 5\)",
  ):
    list(source.get_tfdata(ordered=True))
  cfg = dict(batch_size=8, data=data, pp="keep('label')", skip_errors=True)
  ds, _ = input_pipeline.training(cfg)
  assert max(int(x["label"].numpy().max()) for x in ds.take(4)) < 5


def test_processes_share_the_split(tfds_data_dir, monkeypatch):
  source = tfds.DataSource("digits", "test[:10]")
  everything = [
    e["id"] for e in source.get_tfdata(ordered=True).as_numpy_iterator()
  ]
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  assert source.num_examples_per_process() == [4, 3, 3]
  parts = []
  for i in range(3):
    monkeypatch.setattr(jax, "process_index", lambda i=i: i)
    ds = source.get_tfdata(ordered=True, allow_cache=False)
    parts += [e["id"] for e in ds.as_numpy_iterator()]
  assert parts == everything
  assert source.get_tfdata(process_split=False).cardinality() == 10


def test_opens_a_folder(four_files):
  folder = str(tfds.get_builder("digits", four_files).data_path)
  source = tfds.DataSource("from_data_dir", "test", data_dir=folder)
  assert source.total_examples == 297
  with pytest.raises(ValueError, match="data_dir"):
    tfds.get_builder("from_data_dir")


def ids(cfg, num, **kw):
  ds, _ = input_pipeline.training(cfg, **kw)
  batches = ds.take(num).as_numpy_iterator()
  return np.concatenate([b["id"] for b in batches])


def test_shuffled_training_over_several_files(four_files):
  """Files come in another order each epoch; all the same it is an order."""
  cfg = {
    "batch_size": 150,
    "data": {"name": "digits", "split": "train", "data_dir": four_files},
    "tfdata": {"interleave_cycle_length": 1},
    "shuffle_buffer_size": 20,
  }
  straight = ids(cfg, 24)
  epochs = straight[:3000].reshape(2, 1500)
  assert len(set(epochs[0])) == len(set(epochs[1])) == 1500
  # Further apart than the buffer could carry it.
  place = {x: i for i, x in enumerate(epochs[0])}
  moved = np.abs([place[x] - i for i, x in enumerate(epochs[1])])
  assert np.median(moved) > 100
  tf.random.set_seed(1)
  np.testing.assert_array_equal(ids(cfg, 24), straight)
  np.testing.assert_array_equal(
    ids(cfg, 4, start_step=17), straight[17 * 150 : 21 * 150]
  )
  hosts = [
    ids(cfg, 3, start_step=12, process_index=i, process_count=2)
    for i in range(2)
  ]
  rows = np.stack(hosts).reshape(2, 3, 75).transpose(1, 0, 2).ravel()
  np.testing.assert_array_equal(rows, straight[12 * 150 : 15 * 150])


def test_prepares_what_needs_no_download(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  assert tfds.DataSource("digits", "test").total_examples == 297
  assert (tmp_path / "digits").is_dir()


def test_uses_a_copy_made_by_others(four_files, monkeypatch):
  def prepare(data_dir):
    raise RuntimeError("should not be called")

  monkeypatch.setattr(digits, "prepare", prepare)
  tfds._get_builder.cache_clear()
  assert tfds.DataSource("digits", "test", four_files).total_examples == 297


@pytest.mark.parametrize(
  "name, split, match",
  [
    ("digitz", "train", "digits'.*download_tfds_datasets NAME"),
    ("mnist", "train", "not prepared.*download_tfds_datasets mnist"),
    ("digits", "trian", "config.input.data.split.*Did you mean 'train'"),
    ("digits", "train+tst", "'tst'"),
    ("digits", "train[5:5]", "no examples"),
    ("digits", "train[5:", "bad split"),
  ],
)
def test_errors(tfds_data_dir, name, split, match):
  with pytest.raises(ValueError, match=match):
    tfds.DataSource(name, split)
  cfg = {"batch_size": 8, "data": {"name": name, "split": split}}
  with pytest.raises(ValueError, match=match):
    input_pipeline.validate(cfg)
