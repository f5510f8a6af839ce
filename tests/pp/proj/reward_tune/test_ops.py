"""Boxes as tokens, and moved with their picture."""

import numpy as np
import pytest

from big_vision import lookup
from big_vision.pp import builder, rng
from big_vision.pp.proj.reward_tune import ops  # noqa: F401  (Registers.)
from big_vision.tf import tf
from big_vision.trainers.proj.reward_tune import detection_reward as dr

pytestmark = pytest.mark.tf

BOXES = np.array(
  [[0.0, 0.1, 0.5, 1.0], [0.25, 0.5, 0.75, 0.7], [0.3, 0.3, 0.6, 0.9]],
  np.float32,
)
LABELS = np.array([4, 0, 2])


def run(pp, seed=0, **data):
  """Result in eager mode, after a check that graphs give the same."""
  fn = builder.get_preprocess_fn(pp, log_data=False)

  def seeded(data):
    with rng.example_seed([seed, 1]):
      return fn(dict(data))

  eager = tf.nest.map_structure(np.asarray, seeded(data))
  graph = tf.data.Dataset.from_tensors(data).map(seeded)
  tf.nest.map_structure(np.testing.assert_array_equal, eager, next(iter(graph)))
  return eager


def test_tokens():
  given = {"objects/bbox": BOXES, "objects/label": LABELS}
  seq = run("boxes2seq(4, 20, shuffle=False)", **given)["labels"]
  assert seq.dtype == np.int32 and seq.shape == (24,)
  # 0 to 2 are confidences, 3 to 23 places, 24 on classes.
  assert seq.tolist() == [
    3, 5, 13, 23, 28, 2, 8, 13, 18, 17, 24, 2, 9, 9, 15, 21, 26, 2, *[0] * 6
  ]  # fmt: skip
  boxes, labels, conf = dr.seq2box(seq, 20, 2, 5)
  np.testing.assert_allclose(boxes[:3], BOXES, atol=1 / 40 + 1e-6)
  assert labels[:3].tolist() == LABELS.tolist()
  assert conf.tolist() == [2, 2, 2, 0]
  keys = {"a": BOXES, "b": LABELS}
  other = run(
    'boxes2seq(4, 20, 2, False, inkey="a", labels_key="b", outkey="c")', **keys
  )
  assert other["c"].tolist() == seq.tolist()


def test_order():
  given = {"objects/bbox": BOXES, "objects/label": LABELS}
  seqs = [run("boxes2seq(3)", i, **given)["labels"] for i in range(25)]
  orders = {tuple(dr.seq2box(s, 1000, 2, 80)[1].tolist()) for s in seqs}
  assert len(orders) == 6 and {tuple(sorted(o)) for o in orders} == {(0, 2, 4)}
  # All of them have the same chance where there is not enough room.
  firsts = {
    int(run("boxes2seq(1)", i, **given)["labels"][4]) for i in range(25)
  }
  assert firsts == {1004, 1006, 1008}


def test_confidences():
  given = {"objects/bbox": BOXES, "objects/label": LABELS}
  seqs = [
    run("boxes2seq(4, max_conf=3, random_conf=True)", i, **given)["labels"]
    for i in range(10)
  ]
  conf = np.stack(seqs).reshape(10, 4, 6)[..., 5]
  assert set(conf[:, :3].flat) == {1, 2, 3} and not conf[:, 3].any()
  assert len({tuple(c) for c in conf}) > 3


def test_without_objects():
  none = {
    "objects/bbox": np.zeros([0, 4], np.float32),
    "objects/label": np.zeros([0], np.int64),
  }
  assert not run("boxes2seq(2)", **none)["labels"].any()


def test_crowds():
  given = {
    "objects/bbox": BOXES,
    "objects/label": LABELS,
    "objects/is_crowd": np.array([False, True, False]),
  }
  got = run("drop_objects", **given)
  np.testing.assert_array_equal(got["objects/bbox"], BOXES[[0, 2]])
  np.testing.assert_array_equal(got["objects/label"], LABELS[[0, 2]])


def test_jitter():
  """The pixels within the box stay those of the object."""
  image = np.zeros([20, 30, 3], np.uint8)
  image[8:12, 9:18] = np.arange(9)[None, :, None] + 1
  box = np.array([[8 / 20, 9 / 30, 12 / 20, 18 / 30]], np.float32)
  given = {"image": image, "objects/bbox": box}
  moves, mirrored = set(), 0
  for i in range(30):
    got = run("jitter_boxes(0.2)", i, **given)
    y0, x0, y1, x1 = (
      (got["objects/bbox"][0] * [20, 30, 20, 30]).round().astype(int)
    )
    inside = got["image"][y0:y1, x0:x1]
    assert inside.shape == (4, 9, 3)
    flipped = inside[0, 0, 0] == 9
    want = image[8:12, 9:18]
    np.testing.assert_array_equal(inside, want[:, ::-1] if flipped else want)
    assert got["image"].sum() == image.sum()
    mirrored += flipped
    moves.add((y0 - 8, (30 - x1 if flipped else x0) - 9))
  rows, columns = zip(*moves, strict=True)
  assert min(rows) == -4 and max(rows) == 4
  assert -6 <= min(columns) < -3 and 3 < max(columns) <= 6
  assert 5 < mirrored < 25
  still = run("jitter_boxes(0.0, flip=False)", **given)
  np.testing.assert_array_equal(still["image"], image)
  np.testing.assert_allclose(still["objects/bbox"], box)


def test_jitter_at_borders():
  image = np.arange(10, dtype=np.float32)[:, None, None].repeat(10, 1)
  box = np.array([[0.0, 0.0, 1.0, 1.0]], np.float32)
  for i in range(5):
    got = run("jitter_boxes(0.5)", i, image=image, **{"objects/bbox": box})
    # What comes in is the border.
    column = got["image"][:, 0, 0]
    assert set(np.diff(column)) <= {0, 1}
    y0, x0, y1, x1 = got["objects/bbox"][0]
    assert 0 <= y0 < y1 <= 1 and 0 <= x0 < x1 <= 1
    assert (y0 == 0) | (y1 == 1)


def test_bad_arguments():
  with pytest.raises(lookup.ConfigError, match="max_boxes=0"):
    builder.get_preprocess_fn("boxes2seq(0)")
  with pytest.raises(lookup.ConfigError, match="shift=1.5"):
    builder.get_preprocess_fn("jitter_boxes(1.5)")
