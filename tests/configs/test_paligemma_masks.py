"""The masks of PaliGemma's demo: how good the codec is, and what it is given."""

import os

import jax
import numpy as np
import pytest
from PIL import Image

from big_vision.configs.proj.paligemma import demo, demo_masks
from big_vision.datasets import shapes
from big_vision.models.proj.paligemma import locations, mask_codec
from big_vision.pp import builder, ops_general, ops_image, ops_text  # noqa: F401
from big_vision.pp.proj.paligemma import segmentation  # noqa: F401
from big_vision.tf import tf

pytestmark = [
  pytest.mark.tf, pytest.mark.usefixtures("quick_compilation")
]  # fmt: skip


def answers(config, num):
  """(what the demo trains on, example) of held-out pictures."""
  c = shapes.make_config(config)
  make = lambda i: shapes.make_example(
    "test", i, image_size=c.image_size, **c.scene
  )
  examples = [make(i) for i in range(num)]
  pick = lambda x: {
    "image": x["image"],
    "panoptic": x["panoptic"],
    "boxes": {
      "bbox": [[*b["bbox"]] for b in x["boxes"]],
      "expression": [b["expression"] for b in x["boxes"]],
    },
  }
  signature = {
    "image": tf.TensorSpec([], tf.string),
    "panoptic": tf.TensorSpec([None, None, 2], tf.uint8),
    "boxes": {
      "bbox": tf.TensorSpec([None, 4], tf.float32),
      "expression": tf.TensorSpec([None], tf.string),
    },
  }
  ds = tf.data.Dataset.from_generator(
    lambda: map(pick, examples), output_signature=signature
  )
  pp = "|".join(demo.before("segment", c.image_size))
  ds = ds.map(builder.get_preprocess_fn(pp, log_data=False))
  return zip(ds.as_numpy_iterator(), examples, strict=True)


@pytest.mark.parametrize("config", ["closeup", "64"])
def test_answers(config):
  """They name an object, and draw it where it is, in an IoU of 0.85 or more."""
  ious = []
  reconstruct = mask_codec.get_reconstruct_masks(demo.MASKS)
  for got, x in answers(config, 32):
    prompt, answer = (got[k].decode() for k in ("prefix", "suffix"))
    (found,) = locations.parse(answer)
    names = [b["expression"] for b in x["boxes"]]
    assert prompt == f"segment {found.label}"
    i = names.index(found.label)
    np.testing.assert_allclose(found.box, x["boxes"][i]["bbox"], atol=1 / 2046)
    true = x["panoptic"][..., 1] == i + 1
    y1, x1, y2, x2 = np.round(np.multiply(found.box, len(true))).astype(int)
    mask = reconstruct(np.array([found.codes]))[0, ..., 0]
    mask = Image.fromarray(mask).resize(
      (x2 - x1, y2 - y1), Image.Resampling.BILINEAR
    )
    drawn = np.zeros_like(true)
    drawn[y1:y2, x1:x2] = np.asarray(mask) > 0
    ious.append((drawn & true).sum() / (drawn | true).sum())
  assert np.mean(ious) > 0.85 and np.min(ious) > 0.5


def test_held_out_masks():
  masks = demo_masks.cut_masks("64", "test", 28)[:64]
  assert masks.shape == (64, 64, 64, 1) and masks.dtype == np.uint8
  codec = mask_codec.load(demo.MASKS)
  codes = mask_codec.encode_to_codebook_indices(codec, masks / 255)
  assert len(np.unique(codes)) > 32
  drawn = mask_codec.get_reconstruct_masks(demo.MASKS)(codes)
  assert demo_masks.iou(masks, drawn).mean() > 0.85


def test_file():
  """Small, and complete."""
  assert os.path.getsize(demo.MASKS) < 200_000
  codec = mask_codec.load(demo.MASKS)
  want = {k: v.shape for k, v in demo_masks.init().items()}
  assert {k: v.shape for k, v in codec.items()} == want
  assert all(np.isfinite(x).all() for x in codec.values())


def test_cut_masks_are_what_the_op_encodes():
  """The codes in the first answer are those of the first mask."""
  ((got, _),) = answers("closeup", 1)
  (found,) = locations.parse(got["suffix"].decode())
  codes = mask_codec.encode_to_codebook_indices(
    mask_codec.load(demo.MASKS),
    demo_masks.cut_masks("closeup", "test", 1) / 255,
  )
  # Pillow rounds to integers, which may decide between neighbors.
  assert (codes[0] == found.codes).mean() > 0.8


def test_iou():
  masks = np.zeros((2, 2, 2, 1), np.uint8)
  masks[0, 0] = 255
  masks[1] = 200
  drawn = np.float32([[[1, -1], [1, -1]], [[3, 2], [1, 0]]])[..., None]
  np.testing.assert_allclose(demo_masks.iou(masks, drawn), [1 / 3, 3 / 4])


def test_gradient():
  """Goes straight through codes; only those that are used move."""
  params = demo_masks.init()
  masks = np.float32(demo_masks.cut_masks("closeup", "train", 2) / 255)
  grads, (vectors, codes) = jax.jit(jax.grad(demo_masks.loss_fn, has_aux=True))(
    params, masks
  )
  assert all(np.abs(grads[n]).max() > 0 for n in params if "weight" in n)
  book = params[mask_codec.CODEBOOK]
  # By hand: the mean over 2 masks, 16 vectors, DIM channels of the square of
  # (code - vector).
  want = np.zeros_like(book)
  difference = 2 * (book[codes] - vectors) / vectors.size
  np.add.at(want, np.asarray(codes), difference)
  got = grads[mask_codec.CODEBOOK]
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)


def test_codes_that_no_mask_needs(monkeypatch):
  """They are put where vectors are; they have no gradient."""
  masks = demo_masks.cut_masks("closeup", "train", 2)
  before = demo_masks.init()[mask_codec.CODEBOOK]
  moved = []
  for patience in (1, 3):
    monkeypatch.setattr(demo_masks, "PATIENCE", patience)
    params = demo_masks.train(masks, steps=3)
    assert {x.dtype.name for x in params.values()} == {"float16"}
    change = np.abs(params[mask_codec.CODEBOOK] - before).max(axis=1)
    moved.append((change > 0.1).mean())
  assert moved[0] > 0.5 and moved[1] == 0
