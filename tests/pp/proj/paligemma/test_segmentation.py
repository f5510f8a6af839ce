"""Masks of objects, and the mask of one as text."""

import re

import numpy as np
import pytest
from PIL import Image

from big_vision import lookup
from big_vision.datasets import shapes
from big_vision.models.proj.paligemma import locations, mask_codec
from big_vision.pp import builder, ops_choice  # noqa: F401
from big_vision.pp.proj.paligemma import segmentation
from big_vision.tf import tf

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  """An encoder with random weights."""
  r = np.random.RandomState(0)
  shapes = {"0": (4, 1, 4, 4), "10": (3, 4, 1, 1)}
  shapes |= {str(i): (4, 4, 4, 4) for i in (2, 4, 6)}
  for i in (8, 9):
    shapes[f"{i}.net.0"] = shapes[f"{i}.net.2"] = (4, 4, 3, 3)
    shapes[f"{i}.net.4"] = (4, 4, 1, 1)
  arrays = {"_vq_vae._embedding": r.randn(128, 3)}
  for name, shape in shapes.items():
    scale = (2 / np.prod(shape[1:])) ** 0.5
    arrays[f"encoder.{name}.weight"] = scale * r.randn(*shape)
    arrays[f"encoder.{name}.bias"] = np.zeros(shape[0])
  arrays = {k: v.astype(np.float32) for k, v in arrays.items()}
  # As training does, put codes where masks are.
  spread = np.linspace(-1, 1, 128)[:, None] * [[1, -1, 0.5]]
  arrays["_vq_vae._embedding"] = spread.astype(np.float32)
  file = tmp_path_factory.mktemp("codec") / "vae.npz"
  np.savez(file, **arrays)
  return str(file)


def example(h=75, w=90, box=(0.113, 0.25, 0.8, 0.97)):
  """A disk, in the first channel only."""
  y, x = np.mgrid[:h, :w]
  disk = (y - 0.45 * h) ** 2 + (x - 0.6 * w) ** 2 < (0.3 * h) ** 2
  mask = np.random.RandomState(0).randint(0, 256, (h, w, 3))
  mask[..., 0] = 255 * disk
  return {
    "objects/mask": mask.astype(np.uint8),
    "objects/bbox": np.float32(box),
    "objects/refs/sentence": b"the disk",
  }


def run(path, data):
  """Result in eager mode, after a check that graphs give the same."""
  fn = builder.get_preprocess_fn(f"refcoco_mask2str({path!r})", log_data=False)
  data = {k: tf.constant(v) for k, v in data.items()}
  got = fn(dict(data))
  ds = tf.data.Dataset.from_tensors(data).repeat(8)
  ds = ds.map(fn, num_parallel_calls=4)
  assert ds.element_spec["prefix"].shape == []
  assert ds.element_spec["suffix"].shape == []
  for graph in ds.as_numpy_iterator():
    assert graph["suffix"] == got["suffix"].numpy()
    assert graph["prefix"] == got["prefix"].numpy() == b"the disk"
  return got["suffix"].numpy().decode()


@pytest.mark.parametrize(
  "size, box",
  [
    ((75, 90), (0.113, 0.25, 0.8, 0.97)),
    ((300, 211), (0.1, 0.2, 0.9, 0.9)),
    ((40, 50), (-0.1, 0.0, 1.2, 1.0)),
  ],
)
def test_refcoco_mask2str(path, size, box):
  data = example(*size, box)
  text = run(path, data)
  assert re.fullmatch(r"(<loc\d{4}>){4}(<seg\d{3}>){16}", text)
  assert text.startswith(locations.format_box(box))
  rows, columns = (
    slice(max(round(n * box[i]), 0), round(n * box[i + 2]))
    for i, n in enumerate(size)
  )
  crop = data["objects/mask"][rows, columns, 0].astype(np.float32)
  small = Image.fromarray(crop).resize((64, 64), Image.Resampling.BILINEAR)
  small = np.asarray(small)[None, ..., None] / 255
  assert 0.2 < small.mean() < 0.9
  want = mask_codec.encode_to_codebook_indices(mask_codec.load(path), small)
  found = [int(i) for i in re.findall(r"<seg(\d+)>", text)]
  # Rounding may decide between neighbors.
  np.testing.assert_allclose(found, want[0], atol=1)
  assert (found == want[0]).mean() > 0.8
  assert len(set(found)) > 3


def test_batches(path):
  masks = np.random.RandomState(0).uniform(0, 1, (3, 64, 64, 1))
  weights = mask_codec.load(path)
  got = segmentation.encode_to_codebook_indices(weights, tf.constant(masks))
  assert got.dtype == tf.int32 and got.shape == [3, 16]
  want = mask_codec.encode_to_codebook_indices(weights, masks)
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("box", [(0.5, 0.1, 0.5, 0.9), (0.1, 0.9, 0.5, 0.2)])
def test_boxes_without_pixels(path, box):
  fn = builder.get_preprocess_fn(f"refcoco_mask2str({path!r})", log_data=False)
  data = example(box=box)
  error, match = tf.errors.InvalidArgumentError, "objects/bbox has"
  with pytest.raises(error, match=match):
    fn(dict(data))
  with pytest.raises(error, match=match):
    list(tf.data.Dataset.from_tensors(data).map(fn))


def test_weights_of_something_else(tmp_path):
  np.savez(tmp_path / "other.npz", weight=np.zeros(3))
  with pytest.raises(lookup.ConfigError, match="other.npz.*not.*mask codec"):
    segmentation.get_refcoco_mask2str(str(tmp_path / "other.npz"))
  with pytest.raises(ValueError, match="model='oid'.*mean 'oi'"):
    segmentation.get_refcoco_mask2str("oid")


def picture():
  """A picture of `shapes` of several objects, flat."""
  x = shapes.make_example("train", 7, image_size=48)
  boxes = [[*b["bbox"]] for b in x["boxes"]]
  assert len(boxes) > 2
  return {
    "panoptic": x["panoptic"],
    "boxes/bbox": np.float32(boxes),
    "boxes/expression": [b["expression"] for b in x["boxes"]],
  }


def preprocess(pp, data, num=1):
  """Results in a graph, of sizes that are not known before."""
  fn = builder.get_preprocess_fn(pp, log_data=False)
  signature = {
    k: tf.TensorSpec([None] * np.ndim(v), tf.constant(v).dtype)
    for k, v in data.items()
  }
  ds = tf.data.Dataset.from_generator(
    lambda: iter([data] * num), output_signature=signature
  )
  return list(ds.map(fn).as_numpy_iterator())


def test_instance_masks():
  data = picture()
  want = np.stack(
    [data["panoptic"][..., 1] == i + 1 for i in range(len(data["boxes/bbox"]))]
  )
  want = np.repeat(255 * want[..., None], 3, -1)
  (got,) = preprocess("instance_masks", data)
  assert got["boxes/mask"].dtype == np.uint8
  np.testing.assert_array_equal(got["boxes/mask"], want)
  # They are in their boxes, and fill them.
  for mask, box in zip(want[..., 0], data["boxes/bbox"], strict=True):
    y, x = np.nonzero(mask)
    tight = [y.min(), x.min(), y.max() + 1, x.max() + 1]
    np.testing.assert_allclose(tight, box * 48, atol=1e-4)
  fn = builder.get_preprocess_fn("instance_masks", log_data=False)
  eager = fn({k: tf.constant(v) for k, v in data.items()})["boxes/mask"]
  np.testing.assert_array_equal(eager, want)
  assert eager.shape == want.shape


def test_instance_masks_by_hand():
  ids = np.int32([[[0], [2]], [[2], [1]]])
  pp = 'instance_masks("ids", "names", "out")'
  (got,) = preprocess(pp, {"ids": ids, "names": ["a", "b", "hidden"]})
  assert got["out"][..., 0].tolist() == [
    [[0, 0], [0, 255]],
    [[0, 255], [255, 0]],
    [[0, 0], [0, 0]],
  ]
  (none,) = preprocess(pp, {"ids": 0 * ids, "names": np.zeros(0, np.int32)})
  assert none["out"].shape == (0, 2, 2, 3)


def test_one_object_at_random(path):
  """Its mask, box and name are of the same one."""
  data = picture()
  pp = (
    'instance_masks|choice(inkey=["boxes/mask", "boxes/bbox", '
    '"boxes/expression"], outkey=["objects/mask", "objects/bbox", '
    f'"objects/refs/sentence"])|refcoco_mask2str({path!r})'
  )
  names = set()
  for got in preprocess(pp, data, 20):
    name = got["prefix"].decode()
    i = data["boxes/expression"].index(name)
    names.add(name)
    assert (
      got["suffix"]
      .decode()
      .startswith(locations.format_box(data["boxes/bbox"][i]))
    )
    want = data["panoptic"][..., 1] == i + 1
    np.testing.assert_array_equal(got["objects/mask"][..., 1] > 0, want)
  assert len(names) > 1


def test_maps_of_something_else():
  fn = builder.get_preprocess_fn("instance_masks", log_data=False)
  boxes = np.zeros((1, 4), np.float32)
  for ids in (np.zeros((4, 4), np.int32), np.zeros((4, 4, 1), np.float32)):
    with pytest.raises(lookup.ConfigError, match="'panoptic'.*Set inkey"):
      fn({"panoptic": ids, "boxes/bbox": boxes})
  data = {"panoptic": np.full((4, 4, 1), 2), "boxes/bbox": boxes}
  error, match = tf.errors.InvalidArgumentError, "boxes/bbox.*lacks objects"
  with pytest.raises(error, match=match):
    fn(dict(data))
  with pytest.raises(error, match=match):
    preprocess("instance_masks", data)
