"""The base of the builders, with a builder of two files."""

import pathlib
import sys

import pytest
import simple_parsing
import tensorflow_datasets as tfds
from tensorflow_datasets.scripts.cli import build

from big_vision import lookup
from big_vision.datasets import building
from tests.datasets import source_trees

pytestmark = pytest.mark.tf
NAME = "small_qa"


class Small(building.Builder):
  """Two splits; the pictures may lie in either of two folders."""

  name = NAME
  DESCRIPTION = "Small."
  HOMEPAGE = "https://small.example"
  LICENSE = "CC0"
  DOWNLOADS = (
    building.Download("https://a.example/rows.zip", "a.json", splits=("a",)),
    building.Download("https://a.example/rows.zip", "b.json", splits=("b",)),
    building.Download(
      "https://a.example/pictures.tar.gz", "images", "pictures", also=("old",)
    ),
  )

  def features(self):
    return {"image": tfds.features.Image(), "text": tfds.features.Text()}

  def splits(self):
    return {split: self._examples(split) for split in ("a", "b")}

  def _examples(self, split):
    for row in building.read_json(self.path(f"{split}.json")):
      image = self.image("images", row["file"])
      yield row["text"], {"image": image, "text": row["text"]}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
  monkeypatch.setitem(building.MODULES, NAME, __name__)


@pytest.fixture
def source(tmp_path):
  folder = tmp_path / "source"
  source_trees.image(folder / "images" / "x.jpg", 1)
  source_trees.image(folder / "images" / "y.png", 2)
  rows = [dict(file="x.jpg", text="é"), dict(file="y.png", text="2")]
  source_trees.write_json(folder / "a.json", rows)
  source_trees.write_json(folder / "b.json", rows[:1])
  return folder


def test_build_and_read(source, tmp_path):
  read = source_trees.build(NAME, source, tmp_path)
  rows = {e["text"]: e["image"] for e in read("a")}
  assert rows == {
    "é": (source / "images" / "x.jpg").read_bytes(),  # As they are.
    "2": (source / "images" / "y.png").read_bytes(),
  }
  assert len(read("b")) == 1
  info = Small(data_dir=str(tmp_path / "tfds")).info
  assert info.homepage == "https://small.example"
  assert info.redistribution_info.license == "CC0"
  # Prepared once: the files may be gone.
  (source / "a.json").unlink()
  assert len(source_trees.build(NAME, source, tmp_path)("a")) == 2


def test_missing_files(source, tmp_path):
  (source / "b.json").unlink()
  (source / "images").rename(source / "old")
  with pytest.raises(lookup.ConfigError) as e:
    source_trees.build(NAME, source, tmp_path)
  assert "1 of 3 downloads are missing" in str(e.value)
  assert "b.json: from https://a.example/rows.zip, unpacked" in str(e.value)
  assert f"prepare {NAME} --source=DIR" in str(e.value)
  builder = Small(source=str(source), only=["a"])
  assert not builder.missing()  # b.json is not needed.
  assert builder.path("images", "x.jpg") == str(source / "old" / "x.jpg")
  assert builder.exists("images/x.jpg") and not builder.exists("images/z.jpg")
  (source / "old" / "x.jpg").unlink()
  with pytest.raises(lookup.ConfigError, match="images/x.jpg.*pictures.tar.gz"):
    builder.image("images", "x.jpg")
  with pytest.raises(lookup.ConfigError, match="no .*z.json. .*small.example"):
    builder.path("z.json")


def test_only_some_splits(source, tmp_path):
  data_dir = str(tmp_path / "tfds")
  (built,) = building.prepare(NAME, str(source), data_dir, only=["b"])
  assert list(built.info.splits) == ["b"]
  with pytest.raises(ValueError, match="split of small_qa 'c'"):
    building.prepare(NAME, str(source), str(tmp_path / "2"), only=["c"])


@pytest.mark.parametrize("end", [b"", b"<html>"])
def test_damaged_images(source, end):
  path = source / "images" / "x.jpg"
  path.write_bytes(path.read_bytes()[:100] + end)
  with pytest.raises(lookup.ConfigError, match="x.jpg is not an image, or cut"):
    Small(source=str(source)).image("images", "x.jpg")


def test_other_layout(source, tmp_path):
  source_trees.write_json(source / "a.json", [dict(file="x.jpg")])
  with pytest.raises(lookup.ConfigError, match="split 'a'.*KeyError: 'text'"):
    source_trees.build(NAME, source, tmp_path)


def test_unknown_names():
  with pytest.raises(ValueError, match="unknown dataset 'okvq'.*'okvqa'"):
    building.prepare("okvq")
  with pytest.raises(ValueError, match="config of the dataset 'small_qa' 'x'"):
    building.prepare(NAME, config="x")


@pytest.mark.parametrize("name", sorted(building.MODULES))
def test_all_builders(name):
  """Each says where its files are from; names are those of configs."""
  cls = building.builder_class(name)
  assert cls.name == name
  assert cls.DESCRIPTION and cls.HOMEPAGE.startswith("http") and cls.LICENSE
  configs = [c.name for c in cls.BUILDER_CONFIGS] or [None]
  for config in configs:
    builder = cls(config=config, data_dir="/nowhere")
    assert builder.source == f"/nowhere/downloads/manual/{name}"
    assert builder.info.features
    missing = builder.missing()
    assert missing == list(builder.downloads()) and missing
    for d in missing:
      assert d.url.startswith("http") and not d.path.startswith("/")


def test_json(tmp_path, monkeypatch):
  path = tmp_path / "x.json"
  for chunk in (1, 2, 7, 1000):
    monkeypatch.setattr(building, "_CHUNK", chunk)
    for value in ({}, {"a": 12, "b": {"é": [1, "}"]}}, {"": "", "c": None}):
      for indent in (None, 2):
        path.write_text(source_trees.json.dumps(value, indent=indent))
        assert dict(building.read_items(str(path))) == value
    for bad in ("", "[]", '{"a": 1', '{"a": 1, ', '{"a" 1}', '{"a": 1 "b": 2}'):
      path.write_text(bad)
      with pytest.raises(lookup.ConfigError, match="x.json is damaged"):
        list(building.read_items(str(path)))
  path.write_text('{"a": 1}\n\n[2]\n')
  assert list(building.read_jsonl(str(path))) == [{"a": 1}, [2]]
  path.write_text('{"a": 1}\n\n{2\n')
  with pytest.raises(lookup.ConfigError, match="x.json, line 3 is damaged"):
    list(building.read_jsonl(str(path)))
  with pytest.raises(lookup.ConfigError, match="x.json is damaged"):
    building.read_json(str(path))


def test_csv(tmp_path):
  path = tmp_path / "x.csv"
  path.write_text('\ufeffa,b\n1,"x, \n y"\n2,\n')
  rows = list(building.read_csv(str(path)))
  assert rows == [{"a": "1", "b": "x, \n y"}, {"a": "2", "b": ""}]
  for bad in ("a,b\n1\n", "a,b\n1,2,3\n"):
    path.write_text(bad)
    with pytest.raises(lookup.ConfigError, match="line 2 has other columns"):
      list(building.read_csv(str(path)))


def test_small_helpers():
  assert building.group_by([3, 1, 4, 6], lambda x: x % 2) == {
    1: [3, 1],
    0: [4, 6],
  }
  assert building.coco_name(42) == "000000000042.jpg"
  name = "COCO_val2014_000000000042.jpg"
  assert building.coco_name(42, "val2014") == name
  for format in ("JPEG", "PNG", "GIF", "TIFF"):
    content = source_trees.picture(3, format=format)
    assert building.is_image(content) and not building.is_image(content[:6])


@pytest.mark.parametrize("with_name", [True, False])
def test_manual_dir(source, tmp_path, with_name):
  manual = tmp_path / "manual"
  source.rename(manual)
  if with_name:
    manual.rename(tmp_path / NAME)
    manual = tmp_path
  builder = Small(data_dir=str(tmp_path / "tfds"))
  config = tfds.download.DownloadConfig(manual_dir=str(manual))
  builder.download_and_prepare(download_config=config)
  assert builder.info.splits["a"].num_examples == 2
  # That of TFDS, which is not there.
  builder = Small(data_dir=str(tmp_path / "tfds2"))
  with pytest.raises(lookup.ConfigError, match="tfds2/downloads/manual/small_"):
    builder.download_and_prepare()


def test_tfds_build(tmp_path, monkeypatch):
  """What `tfds build` runs; the command itself wants apache-beam, too."""
  folder = tmp_path / "source"
  row = dict(imageURL="http://x/y.jpg", questions=["q"], answers=["a"])
  rows = {k: row | {"split": i} for i, k in enumerate("abc", 1)}
  source_trees.write_json(folder / "dataset.json", rows)
  for k in "abc":
    source_trees.image(folder / "images" / f"{k}.jpg", 1)
  monkeypatch.chdir(pathlib.Path(building.__file__).parent)
  # It imports the folder as a package of its own.
  for name in ("ocrvqa_id", "ocrvqa_id.ocrvqa_id"):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, name)
  parser = simple_parsing.ArgumentParser()
  parser.add_arguments(build.Args, dest="args")
  args = ["--datasets=ocrvqa_id", f"--manual_dir={folder}"]
  parser.parse_args([*args, f"--data_dir={tmp_path}"]).args.execute()
  assert (tmp_path / "ocrvqa_id" / "1.0.0" / "dataset_info.json").exists()
