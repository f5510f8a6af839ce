"""Preparing one dataset: what is said, unpacked, downloaded and written."""

import io
import tarfile
import zipfile

import pytest
import tensorflow_datasets as tfds

from big_vision.datasets import building
from big_vision.tools import prepare as tool
from tests.datasets import source_trees as trees

pytestmark = pytest.mark.tf


def zipped(files):
  out = io.BytesIO()
  with zipfile.ZipFile(out, "w") as z:
    for name, content in files.items():
      z.writestr(name, content)
  return out.getvalue()


def tarred(files):
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode="w:gz") as tar:
    for name, content in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return out.getvalue()


@pytest.fixture
def server(tmp_path, monkeypatch):
  """A folder with what is published; `small` is made of it."""
  folder = tmp_path / "server"
  jpeg = trees.picture(9)
  trees.write(folder / "text.zip", zipped({"a.txt": "a", "b.txt": "b"}))
  trees.write(folder / "pictures.tar.gz", tarred({"images/x.jpg": jpeg}))
  trees.write(folder / "list.txt", "x")
  url = folder.as_uri()

  class Small(building.Builder):
    name = "small"
    DESCRIPTION = "Small."
    HOMEPAGE = "https://small.example"
    LICENSE = "CC0"
    BUILDER_CONFIGS = [
      tfds.core.BuilderConfig(name=n, version="1.0.0") for n in ("one", "two")
    ]
    DOWNLOADS = (
      building.Download(f"{url}/text.zip", "text/a.txt", into="text"),
      building.Download(f"{url}/text.zip", "text/b.txt", into="text"),
      building.Download(f"{url}/pictures.tar.gz", "images", "pictures"),
      building.Download(f"{url}/list.txt", "list.txt"),
      building.Download(
        "https://x.example",
        "key",
        "behind a form",
        manual=True,
        splits=("two",),
      ),
    )

    def features(self):
      return {"image": tfds.features.Image(), "text": tfds.features.Text()}

    def splits(self):
      return {"one": self._examples("a"), "two": self._examples("b")}

    def _examples(self, text):
      content = building.read_bytes(self.path("text", f"{text}.txt"))
      yield text, {"image": self.image("images", "x.jpg"), "text": content}

  monkeypatch.setattr(building, "builder_class", lambda name: Small)
  monkeypatch.setattr(building, "MODULES", {"small": "x"})
  return folder


def run(*args, source, tmp_path):
  paths = [f"--source={source}", f"--data_dir={tmp_path / 'tfds'}"]
  return tool.main([*args, *paths])


def test_without_download(server, tmp_path, capsys):
  source = tmp_path / "source"
  trees.write(source / "key", "1")
  with pytest.raises(SystemExit, match="4 of 5 downloads are missing") as e:
    run("small", source=source, tmp_path=tmp_path)
  assert "list.txt: from file:" in str(e.value)
  shown = capsys.readouterr().out
  assert "small/one/1.0.0: Small." in shown and "CC0" in shown
  assert "[x] key (behind a form): from https://x.example" in shown
  assert "[ ] text/a.txt: from file:" in shown and "into text" in shown
  # Archives that were downloaded by hand.
  for name in ("text/text.zip", "pictures.tar.gz"):
    trees.write(source / name, (server / name.split("/")[-1]).read_bytes())
  with pytest.raises(SystemExit, match="1 of 5 downloads are missing"):
    run("small", source=source, tmp_path=tmp_path)
  assert (source / "text" / "b.txt").read_text() == "b"
  assert not list(source.rglob("*.unpacked"))
  trees.write(source / "list.txt", "x")
  capsys.readouterr()
  assert run("small", source=source, tmp_path=tmp_path) == 0
  folder = tmp_path / "tfds" / "small"
  out = capsys.readouterr().out
  assert f"small: {folder}/one/1.0.0\nsmall: {folder}/two/1.0.0\n" in out
  # There already.
  assert run("small/two", source="/nowhere", tmp_path=tmp_path) == 0
  assert capsys.readouterr().out == f"small/two: {folder}/two/1.0.0\n"


def test_download(server, tmp_path, capsys):
  source = tmp_path / "source"
  args = ("small/one", "--download")
  with pytest.raises(SystemExit, match="1 of 5 downloads .*missing(?s:.*)form"):
    run(*args, source=source, tmp_path=tmp_path)
  run(*args, "--splits=one", source=source, tmp_path=tmp_path)
  builder = tfds.builder_from_directory(tmp_path / "tfds/small/one/1.0.0")
  assert list(builder.info.splits) == ["one"]
  assert "key" not in capsys.readouterr().out.split("small/one: ")[-1]


def test_bad_archives(server, tmp_path):
  source = tmp_path / "source"
  archive = server / "pictures.tar.gz"
  content = archive.read_bytes()
  args = ("small", "--download")
  for damaged in (content[: len(content) // 2], b"<html>", b""):
    trees.write(source / "pictures.tar.gz", damaged)
    with pytest.raises(SystemExit, match="pictures.tar.gz is no zip or tar"):
      run(*args, source=source, tmp_path=tmp_path)
    assert not (source / "images").exists()
  trees.write(source / "pictures.tar.gz", tarred({"pictures/x.jpg": b"x"}))
  with pytest.raises(
    SystemExit, match="does not have 'images', but .*pictures"
  ):
    run(*args, source=source, tmp_path=tmp_path)
  (source / "pictures.tar.gz").unlink()
  archive.unlink()
  with pytest.raises(SystemExit, match="Cannot download file:.*by hand to"):
    run(*args, source=source, tmp_path=tmp_path)


def test_wrong_arguments(server, tmp_path, capsys):
  with pytest.raises(SystemExit, match="config of the dataset 'small' 'x'"):
    tool.main(["small/x"])
  with pytest.raises(SystemExit):
    tool.main([])
  assert "name a dataset, or use --list" in capsys.readouterr().err


def test_list(capsys):
  assert tool.main(["--list"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == [
    "NAME",
    *sorted(building.MODULES),
  ]
  vqa = next(line for line in lines if line.startswith("vqa "))
  assert vqa.split(maxsplit=1)[1].split("  ")[0] == "annotations: CC BY 4.0"
