"""Hugging Face datasets: files and splits, types of columns, the hub."""

import os
import sys

import numpy as np
import pyarrow as pa
import pytest

from big_vision.datasets import core
from big_vision.datasets import hf as hf_source
from big_vision.datasets.classes import Classes
from big_vision.tf import tf

hf = pytest.importorskip("datasets")
pytestmark = pytest.mark.tf


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
  hf.disable_progress_bars()
  monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def rows(path, *args, **kw):
  source = hf_source.DataSource(str(path), *args, **kw)
  return list(source.get_tfdata(ordered=True).as_numpy_iterator())


def counted(begin, end):
  return hf.Dataset.from_dict({"n": list(range(begin, end))})


def ns(es):
  return [int(e["n"]) for e in es]


def test_types(tmp_path):
  (tmp_path / "x.png").write_bytes(b"from a file\0")
  features = hf.Features(
    {
      "image": hf.Image(),
      "file": hf.Image(),
      "label": hf.ClassLabel(names=["a", "b"]),
      "text": hf.Value("string"),
      "raw": hf.Value("large_binary"),
      "half": hf.Value("float16"),
      "flag": hf.Value("bool"),
      "texts": hf.List(hf.Value("string")),
      "labels": hf.List(hf.ClassLabel(names=["a", "b", "c"])),
      "boxes": hf.List(hf.List(hf.Value("float32"), length=4)),
      "grid": hf.Array2D((2, 3), "int32"),
      "meta": {"id": hf.Value("uint8"), "more": {"x": hf.Value("float64")}},
      "when": hf.Value("timestamp[s]"),
      "pairs": [{"q": hf.Value("string")}],
    }
  )
  row = {
    "image": {"bytes": b"encoded\0\0", "path": "dir/1.jpg"},
    "file": {"bytes": None, "path": str(tmp_path / "x.png")},
    "label": 1, "text": "h\u00e9\0", "raw": b"\0r\0", "half": 0.5, "flag": True,
    "texts": ["a", ""], "labels": [2, 0], "boxes": [[1.0, 2, 3, 4]] * 2,
    "grid": [[1, 2, 3], [4, 5, 6]], "meta": {"id": 7, "more": {"x": 0.25}},
    "when": 0, "pairs": [{"q": "?"}],
  }  # fmt: skip
  empty = {**row, "texts": [], "labels": [], "boxes": []}
  ds = hf.Dataset.from_list([row, empty], features=features)
  ds.save_to_disk(tmp_path / "ds")
  first, second = rows(tmp_path / "ds")
  assert first["image"] == b"encoded\0\0" and first["file"] == b"from a file\0"
  assert first["text"].decode() == "h\u00e9\0" and first["raw"] == b"\0r\0"
  assert first["half"] == 0.5 and first["half"].dtype == np.float16
  assert first["flag"] is np.True_ and first["label"].dtype == np.int64
  assert first["texts"].tolist() == [b"a", b""]
  assert first["labels"].tolist() == [2, 0] and first["boxes"].shape == (2, 4)
  assert first["grid"].tolist() == [[1, 2, 3], [4, 5, 6]]
  assert first["meta/id"].dtype == np.uint8 and first["meta/more/x"] == 0.25
  assert "when" not in first and "pairs" not in first
  assert second["texts"].shape == (0,) and second["boxes"].shape == (0, 4)
  assert first["tfds_id"].endswith(b"data-00000-of-00001.arrow:0 (x.png)")
  assert first["_id"] != second["_id"]
  features = {"x": "meta/more/x", "labels": "labels"}
  spec = hf_source.DataSource(str(tmp_path / "ds"), features=features)
  spec = spec.get_tfdata(ordered=True).element_spec
  assert set(spec) == {"x", "labels", "tfds_id", "_id"}
  assert spec["labels"].shape.as_list() == [None]
  with pytest.raises(ValueError, match="'labl'. Did you mean 'label'"):
    rows(tmp_path / "ds", features={"y": "labl"})
  with pytest.raises(
    ValueError, match="'when' has a type.*Those that can: boxes"
  ):
    rows(tmp_path / "ds", features=["when"])


@pytest.mark.parametrize(
  "value, feature, message",
  [
    ({"label": None}, hf.ClassLabel(names=["a"]), "'label' of .*:0 is null"),
    ({"label": -1}, hf.ClassLabel(names=["a"]), r"label -1 of .*:0 .*\[0, 1\)"),
    ({"x": [[1], [2, 3]]}, hf.List(hf.List(hf.Value("int8"))), "'x' of .*:0"),
    (
      {"image": {"bytes": None, "path": "/none.jpg"}},
      hf.Image(),
      "'image' of .*:0.*No such file.*none.jpg",
    ),
  ],
)
def test_bad_values(tmp_path, value, feature, message):
  (key,) = value
  schema = hf.Features({key: feature}).arrow_schema
  table = pa.Table.from_pylist([value], schema)
  with pa.ipc.new_stream(str(tmp_path / "x.arrow"), schema) as out:
    out.write_table(table)
  source = hf_source.DataSource(str(tmp_path))
  with pytest.raises(ValueError, match=message):
    source.read(tf.constant(0, tf.int64))


def test_num_classes(tmp_path):
  hf.Dataset.from_dict({"y": [0, 3]}).save_to_disk(tmp_path / "ds")
  source = hf_source.DataSource(
    str(tmp_path / "ds"), features={"label": "y"}, num_classes=3
  )
  assert source.read(tf.constant(0, tf.int64))["label"] == 0
  with pytest.raises(ValueError, match=r"3 of .*:1 .*\[0, 3"):
    source.read(tf.constant(1, tf.int64))


def test_labels_are_integers_in_range(tmp_path):
  names = hf.Features({"label": hf.ClassLabel(names=["a", "b"])})
  path = str(tmp_path / "ds")
  hf.Dataset.from_dict({"label": [0, 1]}, names).save_to_disk(path)
  source = hf_source.DataSource(path)
  assert source.classes_of("label") == Classes(2, ("a", "b"))
  assert source.classes_of("image") is None
  path = str(tmp_path / "ints")
  columns = {"y": [0, 3, -1], "text": ["1", "x", ""], "x": [1.0, 0.5, 2.0]}
  hf.Dataset.from_dict(columns).save_to_disk(path)
  open_ = lambda column, **kw: hf_source.DataSource(
    path, features={"label": column}, **kw
  )
  assert open_("y").classes_of("label") == Classes(4)
  bad = open_("y", num_classes=2).bad_examples()  # Before they are read.
  assert len(bad) == 2 and ":1 is outside of [0, 2)" in bad[0]
  read = lambda source, row: source.read(tf.constant(row, tf.int64))
  with pytest.raises(ValueError, match="label 'x' of .*:1 is text"):
    read(open_("text", num_classes=2), 1)
  with pytest.raises(ValueError, match="label 0.5 of .*:1 is not an integer"):
    read(open_("x", num_classes=2), 1)
  assert read(open_("x", num_classes=2), 0)["label"] == 1


def test_saved_dict(tmp_path):
  parts = {"train": counted(0, 6), "test": counted(6, 9)}
  hf.DatasetDict(parts).save_to_disk(
    tmp_path, num_shards={"train": 2, "test": 1}
  )
  assert ns(rows(tmp_path, "test")) == [6, 7, 8]
  assert ns(rows(tmp_path, "test+train[50%:]")) == [6, 7, 8, 3, 4, 5]
  with pytest.raises(
    ValueError, match="several splits, name one: 'train', 'test'"
  ):
    rows(tmp_path)
  with pytest.raises(ValueError, match="'tests'. Did you mean 'test'"):
    rows(tmp_path, "tests")
  assert ns(rows(tmp_path / "train")) == [0, 1, 2, 3, 4, 5]
  es = rows(tmp_path / "train", "train[4:]")  # The name that `datasets` gives.
  assert ns(es) == [4, 5]
  assert es[0]["tfds_id"].decode().endswith("/data-00001-of-00002.arrow:1")


def test_parquet_files(tmp_path):
  data = tmp_path / "data"
  data.mkdir()
  names = {
    "data/train-00000-of-00002": (0, 2), "data/train-00001-of-00002": (2, 5),
    "data/validation-00000-of-00001": (5, 7),
  }  # fmt: skip
  for name, span in names.items():
    counted(*span).to_parquet(tmp_path / f"{name}.parquet")
  assert ns(rows(tmp_path, "train")) == [0, 1, 2, 3, 4]
  es = rows(tmp_path, "validation")
  assert ns(es) == [5, 6]
  assert es[1]["tfds_id"].decode() == str(
    tmp_path / "data/validation-00000-of-00001.parquet:1"
  )
  assert ns(rows(data / "validation-*.parquet")) == [5, 6]
  assert ns(rows(data / "train-00001-of-00002.parquet")) == [2, 3, 4]
  assert ns(rows(data / "train-0000[0]-of-*.parquet")) == [0, 1]
  (data / "train-00000-of-00002.parquet").rename(data / "away")
  source = hf_source.DataSource(str(data / "train-*.parquet"))
  assert source.total_examples == 4 and "00000-of" in source.bad_examples()[0]
  (data / "away").rename(data / "train-00000-of-00002.parquet")
  with pytest.raises(ValueError, match="name one: 'train', 'validation'"):
    rows(tmp_path)
  # The id of an example does not depend on where the files are.
  moved = tmp_path.with_name(tmp_path.name + "_moved")
  os.rename(tmp_path, moved)
  assert rows(moved, "validation")[1]["_id"] == es[1]["_id"]


def test_split_by_folder_and_both_arrow_formats(tmp_path):
  for name, begin in {"train/a": 0, "train/b": 3, "test/a": 6}.items():
    path = tmp_path / f"{name}.arrow"
    path.parent.mkdir(exist_ok=True)
    table = pa.table({"n": list(range(begin, begin + 3))})
    new = pa.ipc.new_file if name.endswith("b") else pa.ipc.new_stream
    with new(str(path), table.schema) as out:
      out.write_table(table)
  assert ns(rows(tmp_path, "train")) == [0, 1, 2, 3, 4, 5]
  assert ns(rows(tmp_path, "test[1:]")) == [7, 8]


def test_hub(monkeypatch):
  calls = []
  # Rows in another order than stored, as after `shuffle`.
  parts = {"train": counted(0, 5).select([4, 0, 2]), "test": counted(5, 8)}

  def load_dataset(path, split=None, **kw):
    calls.append((path, split, kw))
    if path == "org/none":
      raise hf.exceptions.DatasetNotFoundError(
        "Dataset 'org/none' does not exist"
      )
    return parts[split] if split else hf.DatasetDict(parts)

  monkeypatch.setattr(hf, "load_dataset", load_dataset)
  source = core.get(
    "bv:hf", path="org/pets", split="train", config="small", revision="abc"
  )
  es = list(source.get_tfdata(ordered=True).as_numpy_iterator())
  assert ns(es) == [4, 0, 2] and es[2]["tfds_id"] == b"org/pets:train:2"
  assert calls == [("org/pets", "train", {"name": "small", "revision": "abc"})]
  assert ns(rows("org/pets", "test[:2]+train[1:]")) == [5, 6, 0, 2]
  with pytest.raises(ValueError, match="name one: 'train', 'test'"):
    rows("org/pets")
  parts.pop("test")
  assert ns(rows("org/pets")) == [4, 0, 2]
  with pytest.raises(
    ValueError, match="'org/none' is not a folder of this machine"
  ):
    rows("org/none", "train")
  with pytest.raises(ValueError, match="gs://.*Copy"):
    rows("gs://bucket/pets")


def test_without_the_library(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "datasets", None)
  with pytest.raises(ValueError, match="pip install datasets"):
    rows(tmp_path)
