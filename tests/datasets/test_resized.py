"""Copies of datasets with smaller images."""

import os

import numpy as np
import pytest

from big_vision import input_pipeline, lookup
from big_vision.benchmarks import inputs
from big_vision.datasets import resized, tfds
from big_vision.pp import decoding
from big_vision.tools import convert_dataset

pytestmark = pytest.mark.tf

NUM = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """TFDS folder with JPEGs of 500x375 pixels."""
  path = str(tmp_path_factory.mktemp("full"))
  inputs.write_dataset(path, NUM, 3)
  yield path
  tfds.clear_cache()


def write(folder, out, *more, size=64):
  args = ["jpegs", f"--data_dir={folder}", f"--out={out}", *more]
  convert_dataset.main([*args, f"--resize={size}", "--num_workers=1"])
  return os.path.join(out, "jpegs", "1.0.0")


def examples(data_dir, **kw):
  source = tfds.DataSource("jpegs", "train", str(data_dir), **kw)
  return list(source.get_tfdata(ordered=True).as_numpy_iterator())


def area(image, height, width):
  """Means of what becomes a pixel, by the shares of the pixels in it."""

  def shares(new, old):
    edges = np.arange(new + 1) * old / new
    pixels = np.arange(old)
    high = np.minimum(edges[1:, None], pixels + 1)
    low = np.maximum(edges[:-1, None], pixels)
    return np.maximum(high - low, 0) * new / old

  rows, columns = (
    shares(height, image.shape[0]),
    shares(width, image.shape[1]),
  )
  return np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float64), columns)


@pytest.mark.parametrize("to", ["index", "array_record"])
def test_raw(folder, tmp_path, to):
  new = write(folder, tmp_path, f"--format={to}")
  assert ("big_vision_index.npz" in os.listdir(new)) == (to == "index")
  before, after = examples(folder), examples(tmp_path)
  assert len(after) == NUM
  for a, b in zip(before, after, strict=True):
    assert (a["label"], a["tfds_id"], a["_id"]) == (
      b["label"],
      b["tfds_id"],
      b["_id"],
    )
    want = area(decoding.decode(a["image"]), 64, 85)
    got = decoding.decode(b["image"])
    assert got.shape == (64, 85, 3)
    assert len(b["image"]) == 64 + 64 * 85 * 3
    # Rounded down.
    assert np.all((want - got > -0.01) & (want - got < 1.01))


def test_jpeg(folder, tmp_path):
  raw, jpeg = tmp_path / "raw", tmp_path / "jpeg"
  write(folder, raw)
  write(folder, jpeg, "--store=jpeg")
  for a, b in zip(examples(raw), examples(jpeg), strict=True):
    assert b["image"][:3] == b"\xff\xd8\xff"
    one, two = (decoding.decode(x["image"]).astype(int) for x in (a, b))
    assert 0 < np.abs(one - two).mean() < 5  # Of noise.


def test_the_same_config_reads_it_in_the_same_order(folder, tmp_path):
  write(folder, tmp_path)

  def labels(data_dir):
    config = dict(
      data=dict(name="jpegs", split="train", data_dir=str(data_dir)),
      batch_size=4,
      shuffle_buffer_size=100,
      pp='decode_jpeg_and_inception_crop(16)|flip_lr|keep("image", "label")',
    )
    ds, num = input_pipeline.training(config)
    assert num == NUM
    batches = [b for _, b in zip(range(5), ds, strict=False)]
    assert batches[0]["image"].shape == (4, 16, 16, 3)
    return np.array([b["label"] for b in batches])

  inputs.import_ops()
  np.testing.assert_array_equal(labels(folder), labels(tmp_path))


def test_smaller_images_stay(folder, tmp_path):
  write(folder, tmp_path, size=400)
  for a, b in zip(examples(folder), examples(tmp_path), strict=True):
    one, two = (decoding.decode(x["image"]) for x in (a, b))
    np.testing.assert_array_equal(one, two)


def test_goes_on_where_it_was_interrupted(folder, tmp_path, monkeypatch):
  new = write(folder, tmp_path)
  want = examples(tmp_path)
  os.remove(os.path.join(new, "dataset_info.json"))
  monkeypatch.setattr(resized, "_converted", None)  # All shards are there.
  write(folder, tmp_path)
  assert [x["image"] for x in examples(tmp_path)] == [x["image"] for x in want]


def test_errors(folder, tmp_path, capsys):
  write(folder, tmp_path)
  resize = resized.Resizing(32)
  with pytest.raises(lookup.ConfigError, match="was made with .*'size': 64"):
    resized.write("jpegs", resize, str(tmp_path), data_dir=folder)
  with pytest.raises(lookup.ConfigError, match="is no resized copy"):
    resized.write("jpegs", resize, folder, data_dir=folder)
  resize = resized.Resizing(32, feature="imag")
  with pytest.raises(ValueError, match="Did you mean 'image'"):
    resized.write("jpegs", resize, str(tmp_path / "x"), data_dir=folder)
  for bad in (["--replace"], ["--quality=0"]):
    with pytest.raises(SystemExit):
      write(folder, tmp_path, *bad)
  with pytest.raises(SystemExit):
    convert_dataset.main(["jpegs", "--resize=64"])
  assert "belong together" in capsys.readouterr().err
