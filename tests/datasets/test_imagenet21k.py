"""The TFDS builder of ImageNet-21k, on a tiny archive of its layout."""

import gzip
import io
import tarfile

import numpy as np
import pytest

from big_vision import input_pipeline
from big_vision.datasets import core
from big_vision.datasets import tfds as tfds_source
from big_vision.datasets.imagenet import imagenet21k
from big_vision.pp import ops_general, ops_image  # noqa: F401 (registers ops)
from big_vision.tf import tf, tfds
from big_vision.tools import download_tfds_datasets as tool

pytestmark = pytest.mark.tf

SYNSETS = ("n01440764", "n00004475", "n15102894")
NUM = 4


def jpeg(value):
  pixels = np.full([8, 8, 3], value, np.uint8)
  return tf.io.encode_jpeg(pixels).numpy()


def tar_bytes(files):
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode="w") as tar:
    for name, content in files:
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return out.getvalue()


def archive(synsets=SYNSETS):
  """Bytes: per synset four JPEGs, a PNG of that name and two damaged files."""
  inner = []
  for k, synset in enumerate(synsets):
    files = [
      (f"{synset}_{i}.JPEG", jpeg(10 * k + i) + b"\0\n" * (i == 2))
      for i in range(NUM)
    ]
    png = tf.io.encode_png(np.zeros([4, 4, 1], np.uint8)).numpy()
    files.append((f"{synset}_90.JPEG", png))
    files.append((f"{synset}_91.JPEG", jpeg(0)[:300]))
    files.append((f"{synset}_92.JPEG", b"<html>not found</html>"))
    inner.append((f"{synset}.tar", tar_bytes(files)))
  return tar_bytes(inner)


@pytest.fixture
def manual(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  folder = tmp_path / "downloads" / "manual"
  folder.mkdir(parents=True)
  return folder


@pytest.mark.parametrize("name", ["winter21_whole.tar.gz", "fall11_whole.tar"])
def test_prepare_and_use(manual, tmp_path, caplog, name):
  data = archive()
  (manual / name).write_bytes(
    gzip.compress(data) if name.endswith("gz") else data
  )
  tool.prepare(["imagenet21k"])
  left_out = [r.getMessage() for r in caplog.records if "left out" in r.msg]
  assert len(left_out) == 6
  assert "n01440764.tar/n01440764_91.JPEG" in left_out[0]
  # As the configs name it, through the pipeline.
  tfds_source.clear_cache()
  cfg = dict(
    data=dict(name="imagenet21k", split="full[3:]"),
    batch_size=4,
    pp="decode|resize(4)|keep('image', 'label')",
  )
  input_pipeline.validate(cfg, process_count=1, device_count=1)
  ds, total = input_pipeline.training(cfg)
  assert total == 12 and next(iter(ds))["image"].shape == (4, 4, 4, 3)
  builder = tfds.builder("imagenet21k", data_dir=str(tmp_path))
  label = builder.info.features["label"]
  assert label.num_classes == 21843
  everything = core.get("imagenet21k", split="full").get_tfdata(ordered=True)
  seen = {}
  for e in everything.as_numpy_iterator():
    file_name = e["file_name"].decode()
    assert label.int2str(e["label"]) == file_name.split("_")[0]
    seen[file_name] = e["image"]
  assert len(seen) == 15 and seen["n00004475_1.JPEG"] == jpeg(11)
  assert seen["n00004475_2.JPEG"] == jpeg(12) + b"\0\n"
  assert seen["n15102894_90.JPEG"].startswith(b"\x89PNG")
  synsets = [f.split("_")[0] for f in seen]
  assert synsets != sorted(synsets)  # Slices are samples of all classes.


def test_published_synsets():
  names = imagenet21k.published_synsets()
  assert len(names) == len(set(names)) == 21843 and names == sorted(names)
  assert names.index("n01440764") == 359  # Tench.


def test_other_classes(manual, caplog):
  path = manual / "fall11_whole.tar"
  path.write_bytes(archive(["n2", "n1"]))
  assert imagenet21k.list_synsets(str(path)) == ["n1", "n2"]
  assert "none of the synsets" in caplog.text
  path.write_bytes(archive(["n2", "n01440764"]))
  with pytest.raises(ValueError, match="'n2' is none of the 21843 classes"):
    imagenet21k.list_synsets(str(path))
  (manual / imagenet21k.SYNSETS_FILE).write_text("n3\nn01440764\nn2\n")
  names = imagenet21k.list_synsets(str(path))
  assert names == ["n3", "n01440764", "n2"]


def test_damaged_archives(manual):
  path = manual / "winter21_whole.tar.gz"
  data = archive()
  inner = data.index(b"n00004475_0.JPEG")
  zipped = gzip.compress(data)
  for content, message in {
    data[: inner + 100]: "cut off.*'n00004475.tar'",
    gzip.compress(data[: inner + 600]): "ends within n00004475.tar/n00004475_0",
    zipped[: len(zipped) // 2]: "damaged: Compressed file ended",
    data[:inner]
    + b"X"
    + data[inner + 1 :]: "n00004475.tar.*at 0|is not a tar file",
  }.items():
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
      list(imagenet21k.read_archive(str(path)))


def test_without_archive(manual):
  with pytest.raises(RuntimeError, match="winter21_whole.tar.gz"):
    tool.prepare(["imagenet21k"])
  (manual / "ILSVRC2012_img_val.tar").write_bytes(b"x")
  with pytest.raises(RuntimeError, match="(?s)None of winter21.*ILSVRC2012"):
    tool.prepare(["imagenet21k"])
  with pytest.raises(ValueError, match="imagenet21k'.*download_tfds_datasets"):
    tfds_source.clear_cache()
    core.get("imagenet21k", split="full")
