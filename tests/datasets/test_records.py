"""Random access to TFDS files, and training on it."""

import itertools
import os
import re
import shutil

import numpy as np
import pytest

from big_vision import input_pipeline
from big_vision.datasets import conversion, digits, embedded, records, tfds
from big_vision.pipeline import failures, indexed
from big_vision.tf import tf
from big_vision.tools import convert_dataset

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """TFDS folder with digits in four files; not to be changed."""
  path = str(tmp_path_factory.mktemp("prepared"))
  embedded.prepare(lambda: digits.Digits(data_dir=path), num_shards=4)
  return path


@pytest.fixture
def folder(prepared, tmp_path):
  """A copy of `prepared` to be changed."""
  path = str(tmp_path / "tfds")
  shutil.copytree(prepared, path)
  yield path
  tfds.clear_cache()


def source(data_dir, split="train", **kw):
  return tfds.DataSource("digits", split, data_dir, **kw)


def examples(data_dir, split="train", **kw):
  """All examples by index, as the pipeline reads them."""
  s = source(data_dir, split, **kw)
  ds = tf.data.Dataset.range(s.total_examples).map(s.read)
  return list(ds.as_numpy_iterator())


def shard(folder, number=1):
  return os.path.join(
    folder, f"digits/1.0.0/digits-train.tfrecord-0000{number}-of-00004"
  )


@pytest.mark.parametrize("split", ["train", "test[10:290]+train[-3:]"])
@pytest.mark.parametrize("kind", ["scanned", "index", "array_record"])
def test_reads_what_tfds_reads(folder, kind, split):
  if kind != "scanned":
    conversion.convert("digits", kind, data_dir=folder)
  by_number = examples(folder, split)
  s = source(folder, split)
  in_order = s.get_tfdata(ordered=True, interleave_cycle_length=1)
  in_order = list(in_order.as_numpy_iterator())
  assert len(by_number) == len(in_order) == s.total_examples
  for a, b in zip(by_number, in_order, strict=True):
    assert a.keys() == b.keys()
    for k in a:
      np.testing.assert_array_equal(a[k], b[k])


def test_without_the_tfrecord_files(folder, prepared):
  conversion.convert(
    "digits", "array_record", data_dir=folder, replace=True, num_workers=2
  )
  assert not os.path.exists(shard(folder))
  before, after = examples(prepared), examples(folder)
  assert [e["tfds_id"] for e in before] == [e["tfds_id"] for e in after]
  ds = source(folder).get_tfdata(ordered=True)
  assert [e["id"] for e in ds.as_numpy_iterator()] == [e["id"] for e in before]
  with pytest.raises(ValueError, match="random_access=False"):
    _ = source(folder, random_access=False).random_access


def test_what_has_random_access(prepared, monkeypatch):
  assert source(prepared).random_access
  assert not source(prepared, random_access=False).random_access
  monkeypatch.setattr(records, "_MAX_EXAMPLES", 1499)
  assert not source(prepared).random_access
  assert source(prepared, "test").random_access
  assert source(prepared, random_access=True).random_access


def config(data_dir, **kw):
  return {
    "batch_size": 50,
    "data": {"name": "digits", "split": "train", "data_dir": data_dir},
    "shuffle_buffer_size": 2,  # How large it is does not matter.
    **kw,
  }


def ids(cfg, num, **kw):
  ds, _ = input_pipeline.training(cfg, **kw)
  batches = itertools.islice(failures.iterate(ds), num)
  return np.concatenate([b["id"].numpy() for b in batches])


@pytest.mark.parametrize("filtered", [False, True])
def test_shuffles_everything(prepared, filtered):
  kw = {"pre_filter_fn": lambda x: x["label"] != 3} if filtered else {}
  cfg = config(prepared, **kw)
  per_epoch = 1500
  if filtered:
    labels = [e["label"] for e in examples(prepared)]
    per_epoch -= labels.count(3)
  straight = ids(cfg, 62)
  epochs = straight[: 2 * per_epoch].reshape(2, per_epoch)
  for e in epochs:
    assert len(set(e)) == per_epoch
    # As far from the order of the files as a random permutation.
    moved = np.abs(np.argsort(e) - np.arange(per_epoch))
    assert abs(np.mean(moved) / per_epoch - 1 / 3) < 0.03
  assert np.mean(epochs[0] == epochs[1]) < 0.01
  assert (ids(cfg, 5, seed=1) != straight[:250]).any()
  np.testing.assert_array_equal(ids(cfg, 3, start_step=40), straight[2000:2150])
  hosts = [
    ids(cfg, 3, start_step=28, process_index=i, process_count=2)
    for i in range(2)
  ]
  rows = np.stack(hosts).reshape(2, 3, 25).transpose(1, 0, 2).ravel()
  np.testing.assert_array_equal(rows, straight[1400:1550])


def test_all_formats_give_the_same_batches(folder):
  straight = ids(config(folder), 33)
  for kind in ("index", "array_record"):
    conversion.convert("digits", kind, data_dir=folder)
    np.testing.assert_array_equal(ids(config(folder), 33), straight)


def test_starts_anywhere_at_once(prepared, monkeypatch):
  """Nothing is read, nor counted, of what comes before."""
  read = count_reads(monkeypatch)
  cfg = config(prepared, num_parallel_calls=1, prefetch=0)
  ids(cfg, 1, start_step=10**12)
  # A batch and what tf.data reads ahead meanwhile; an epoch is 1500.
  assert 50 <= len(read) <= 750


def test_memory_limit(prepared, caplog, monkeypatch):
  monkeypatch.setattr(records, "_MAX_EXAMPLES", 0)
  size = source(prepared).bytes_per_example
  assert 100 < size < 1000
  free = config(prepared, cache_raw=True, shuffle_buffer_size=1500)
  tight = {**free, "memory_gb": 200.5 * size / 2**30}
  with caplog.at_level("WARNING", logger="absl"):
    ids(free, 1)
    assert "memory_gb" not in caplog.text
    got = ids(tight, 4)
  assert "not cached and shuffled among 200" in caplog.text
  # Nothing comes from further away than the buffer and the files allow.
  without = ids({**tight, "cache_raw": False, "shuffle_buffer_size": 200}, 4)
  np.testing.assert_array_equal(got, without)


def count_reads(monkeypatch):
  """List that gets the number of every record that is read."""
  read, getitem = [], records.Records.__getitem__

  def counted(self, i):
    read.append(i)
    return getitem(self, i)

  monkeypatch.setattr(records.Records, "__getitem__", counted)
  return read


@pytest.mark.parametrize(
  "kw", [{}, {"pre_filter_fn": lambda x: x["label"] > 4}]
)
def test_cache_raw_loads_small_datasets(prepared, monkeypatch, kw):
  want = ids(config(prepared, **kw), 40, start_step=7)
  read = count_reads(monkeypatch)
  got = ids(config(prepared, cache_raw=True, **kw), 40, start_step=7)
  np.testing.assert_array_equal(got, want)
  assert sorted(read) == list(range(1500))
  del read[:]
  monkeypatch.setattr(indexed, "_LOADED_BYTES", 1000)
  got = ids(config(prepared, cache_raw=True), 2)
  np.testing.assert_array_equal(got, ids(config(prepared), 2))
  assert len(read) < 1500


def test_small_datasets_are_filtered_once(prepared, monkeypatch):
  cfg = config(prepared, pre_filter_fn=lambda x: x["label"] > 4)
  read = count_reads(monkeypatch)
  got = ids(cfg, 30, start_step=7)
  assert sorted(set(read)) == list(range(1500))
  # Once to judge all; then nothing but what is kept, and read a little ahead.
  again = np.bincount(read) - 1
  labels = np.array([e["label"] for e in examples(prepared)])
  assert not again[labels <= 4].any()
  assert 1500 <= again.sum() <= 1500 + 40 * 50
  # The same where all are read in their turn.
  monkeypatch.setattr(indexed, "_LOADED_BYTES", 1000)
  np.testing.assert_array_equal(ids(cfg, 30, start_step=7), got)


@pytest.mark.parametrize("loaded_bytes", [1000, indexed._LOADED_BYTES])
def test_filter_of_a_damaged_file(folder, monkeypatch, loaded_bytes):
  """The error comes in the example's turn, however filters work."""
  path = shard(folder)
  bounds = records.record_bounds(path)
  with open(path, "r+b") as f:
    f.seek(int(bounds[3]) + 14)
    f.write(b"\xff" * 40)
  monkeypatch.setattr(indexed, "_LOADED_BYTES", loaded_bytes)
  cfg = config(folder, pre_filter_fn=lambda x: x["label"] > 4)
  assert len(ids(cfg, 1)) == 50
  with pytest.raises(ValueError, match="Record 3 of .* match its checksum"):
    ids(cfg, 60)


def test_cache_raw_of_a_damaged_file(folder, caplog):
  path = shard(folder)
  bounds = records.record_bounds(path)
  with open(path, "r+b") as f:
    f.seek(int(bounds[3]) + 14)
    f.write(b"\xff" * 40)
  with caplog.at_level("WARNING", logger="absl"):
    got = ids(config(folder, cache_raw=True, skip_errors=True), 60)
  assert "config.input.cache_raw of digits" in caplog.text
  assert "input.skip_errors: dropped 1" in caplog.text
  want = ids(config(folder, skip_errors=True), 60)
  np.testing.assert_array_equal(got, want)


def flip_bit(path, at):
  with open(path, "r+b") as f:
    f.seek(at)
    byte = f.read(1)[0]
    f.seek(at)
    f.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("kind", ["scanned", "index", "array_record"])
def test_a_flipped_bit_is_an_error_of_its_record(folder, prepared, kind):
  if kind != "scanned":
    conversion.convert("digits", kind, data_dir=folder)
  path, number = shard(folder), 7
  # The content, the length and the checksums of the record.
  begin = int(records.record_bounds(path)[number])
  places = [begin + 40, begin + 9, begin - 2]
  if kind == "array_record":
    path = path.replace("tfrecord", "array_record")
    with open(path, "rb") as f:
      content = f.read()
    reader = source(prepared)._records
    record = reader[375 + number][0]
    middle = record[len(record) // 2 :][:20]  # All images begin alike.
    assert content.count(middle) == 1
    places = [content.index(middle)]
  elif kind == "index":
    places.append(begin)
  good = list(source(folder)._records)
  assert good == list(source(prepared)._records)
  for place in places:
    flip_bit(path, place)
    tfds.clear_cache()
    opened, bad = source(folder)._records, {}
    for i in range(len(opened)):
      try:
        assert opened[i] == good[i]
      except ValueError as e:
        bad[i] = str(e)
    # The checksum in front of a record belongs to that before it.
    expected = 375 + number - (place < begin)
    assert list(bad) == [expected]
    name = os.path.basename(path)
    assert name in bad[expected] and "\n" not in bad[expected]
    assert re.search(rf"ecord {expected - 375}\b", bad[expected])
    flip_bit(path, place)


def test_a_flipped_bit_in_training(folder, caplog):
  path = shard(folder)
  flip_bit(path, int(records.record_bounds(path)[7]) + 40)
  message = "Record 7 of .*00001-of-00004 is damaged.*checksum"
  with pytest.raises(ValueError, match=message):
    ids(config(folder), 60)
  with caplog.at_level("WARNING", logger="absl"):
    got = ids(config(folder, skip_errors=True), 30)
  assert "dropped 1 of the examples of digits" in caplog.text
  assert "Record 7 of " in caplog.text
  assert len(set(np.ravel(got))) == 1499
  # In order, TensorFlow's reader notices it without saying where.
  in_order = config(folder)
  in_order["data"]["random_access"] = False
  with pytest.raises(ValueError, match=message):
    ids(in_order, 60)


def test_a_shard_with_fewer_records(folder):
  path = shard(folder)
  with open(path, "r+b") as f:
    f.truncate(int(records.record_bounds(path)[200]))
  with pytest.raises(ValueError, match="00001.* has 200 records, .* 375"):
    ids(config(folder), 60)
  with open(path, "r+b") as f:
    f.truncate(1000)
  tfds.clear_cache()
  with pytest.raises(ValueError, match="00001-of-00004 is cut off or damaged"):
    ids(config(folder), 60)


def test_a_damaged_index(folder):
  conversion.convert("digits", "index", data_dir=folder)
  with open(
    os.path.join(folder, "digits/1.0.0", records.INDEX_FILE), "wb"
  ) as f:
    f.write(b"<html>")
  tfds.clear_cache()
  with pytest.raises(ValueError, match="big_vision_index.npz cannot be read"):
    ids(config(folder), 1)


def test_missing_shard(folder):
  os.remove(shard(folder))
  with pytest.raises(
    ValueError, match="train.tfrecord-00001-of-00004.*missing"
  ):
    ids(config(folder), 1)
  for kind in ("index", "array_record"):
    with pytest.raises(ValueError, match="00001-of-00004 is missing"):
      conversion.convert("digits", kind, data_dir=folder)


def test_damaged_shard(folder):
  size = os.path.getsize(shard(folder))
  os.truncate(shard(folder), size - 1)
  with pytest.raises(ValueError, match="00001-of-00004 is cut off"):
    ids(config(folder), 1)
  with pytest.raises(ValueError, match="00001-of-00004 is cut off"):
    conversion.convert("digits", "index", data_dir=folder)


def test_index_of_other_files(folder):
  conversion.convert("digits", "index", data_dir=folder)
  shutil.copy(shard(folder, 0), shard(folder, 1))
  with pytest.raises(Exception, match="00001-of-00004 does not fit its index"):
    ids(config(folder), 30)


def test_wrong_count(folder):
  shutil.copy(shard(folder, 0), shard(folder, 3))
  info = tfds.get_builder("digits", folder).info.splits["train"]
  assert len(set(info.shard_lengths)) == 1  # Else the copy would be noticed.
  with open(shard(folder, 3), "ab") as f, open(shard(folder, 0), "rb") as g:
    f.write(g.read())
  for kind in ("index", "array_record"):
    with pytest.raises(ValueError, match="has 750 examples.*says 375"):
      conversion.convert("digits", kind, data_dir=folder)


def test_bounds_of_records(tmp_path):
  path = str(tmp_path / "x.tfrecord")
  with tf.io.TFRecordWriter(path) as w:
    for n in (0, 5, 1000):
      w.write(b"x" * n)
  np.testing.assert_array_equal(records.record_bounds(path), [0, 16, 37, 1053])
  open(path, "wb").close()
  np.testing.assert_array_equal(records.record_bounds(path), [0])


def test_index_needs_the_files(prepared):
  with pytest.raises(ValueError, match="--replace"):
    conversion.convert("digits", "index", data_dir=prepared, replace=True)


def test_command_line(folder, capsys):
  convert_dataset.main(["digits", "--data_dir", folder, "--num_workers=1"])
  assert "digits: random access (index)" in capsys.readouterr().out
  assert os.path.exists(
    os.path.join(folder, "digits/1.0.0", records.INDEX_FILE)
  )
  with pytest.raises(SystemExit, match="Error: .*digitz"):
    convert_dataset.main(["digitz", "--data_dir", folder])
