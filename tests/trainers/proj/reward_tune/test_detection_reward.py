"""Rewards of boxes: by hand, and against loops in NumPy."""

import functools
import math

import jax
import ml_collections as mlc
import numpy as np
import pytest
import scipy.special

from big_vision import lookup
from big_vision.trainers.proj.reward_tune import detection_reward as dr

THRESHOLDS = tuple(i / 100 for i in range(50, 100, 5))
SMALL = dict(
  max_level=10, max_conf=2, num_cls=3, nms_w=0.3, cls_smooth=0.05,
  reward_thr=THRESHOLDS, correct_thr=0.5, cls_counts=(10, 20, 70),
)  # fmt: skip


def tokens(*boxes, length=None, s=SMALL):
  """[y0, x0, y1, x1, class, confidence] of each as tokens, padded with 0."""
  first = s["max_conf"] + 1
  out = []
  for *places, label, conf in boxes:
    out += [p + first for p in places]
    out += [label + first + s["max_level"] + 1, conf]
  return np.pad(np.array(out, np.int32), (0, (length or len(out)) - len(out)))


@functools.cache
def compiled(**changes):
  cfg = {**SMALL, **changes}
  return jax.jit(lambda pred, gt: dr.reward_fn(pred, gt, cfg))


def of_one(pred, gt, **changes):
  """(reward, result, correct, match_iou) of one prediction."""
  reward, more = compiled(**changes)(pred[None, None], gt[None])
  result = {k: float(v[0, 0]) for k, v in more["result"].items()}
  return (
    float(reward[0, 0]),
    result,
    more["correct"][0, 0].tolist(),
    more["match_iou"][0, 0],
  )


def weights(counts=SMALL["cls_counts"], smooth=SMALL["cls_smooth"]):
  raw = [1 / (c + smooth * sum(counts)) for c in counts]
  return [len(counts) * r / sum(raw) for r in raw]


def test_seq2box():
  seq = np.array([3, 13, 8, 0, 15, 2, 99, 5, 6, 7, 3, 9, 3, 3, 3])
  boxes, labels, conf = dr.seq2box(seq, 10, 2, 3)
  # The last three tokens are not a box. What is out of range is moved into it.
  np.testing.assert_allclose(
    boxes, [[0, 1, 0.5, 0], [1, 0.2, 0.3, 0.4]], rtol=1e-6
  )
  np.testing.assert_array_equal(labels, [1, 0])
  np.testing.assert_array_equal(conf, [2, 2])
  several = dr.seq2box(np.stack([seq, seq])[None], 10, 2, 3)
  assert [x.shape for x in several] == [(1, 2, 2, 4), (1, 2, 2), (1, 2, 2)]
  np.testing.assert_array_equal(several[0][0, 1], boxes)


def test_iou():
  a = np.array([[0, 0, 1, 1], [0, 0, 0.5, 1], [0.5, 0.5, 0.5, 0.5]])
  b = np.array([[0, 0, 1, 0.5], [0.5, 0, 1, 1]])
  want = [[0.5, 0.5], [1 / 3, 0], [0, 0]]
  got = dr.iou_fn_pairwise(a, b)
  np.testing.assert_allclose(got, want, atol=1e-6)
  np.testing.assert_allclose(dr.iou_fn(a[:2], b), [0.5, 0], atol=1e-6)
  # Turned over, a box has its area but meets nothing.
  assert dr.iou_fn(a[0], a[0][[2, 3, 0, 1]]) == 0


def test_one_box():
  gt = tokens((0, 0, 10, 10, 1, 2))
  reward, result, correct, iou = of_one(tokens((0, 0, 9, 8, 1, 2)), gt)
  # An IoU of 0.72 is above five of the thresholds.
  assert result["num_matches"] == pytest.approx(0.5)
  assert reward == pytest.approx(0.5 * weights()[1], rel=1e-6)
  assert correct == [2] and iou[0] == pytest.approx(0.72)
  # The mean is over all ten, each of which has a name of its own.
  ten = "0.5 0.55 0.6 0.65 0.7 0.75 0.8 0.85 0.9 0.95"
  names = [f"reward-{n}" for n in ten.split()]
  assert {k for k in result if k.startswith("reward-")} == set(names)
  assert reward == pytest.approx(np.mean([result[n] for n in names]))
  assert result["reward-0.55"] > 0 == result["reward-0.75"]
  assert len(result) == 3 * 11 and result["reward"] == reward
  # Of another class, or no box.
  assert of_one(tokens((0, 0, 10, 8, 0, 2)), gt)[0] == 0
  none = of_one(tokens((0, 0, 10, 8, 1, 0)), gt)
  assert none[0] == 0 and none[2] == [0] and none[3][0] == 0
  assert of_one(tokens((0, 0, 9, 8, 1, 1)), gt)[0] == reward
  assert (
    of_one(tokens((0, 0, 10, 8, 1, 2)), tokens((0, 0, 10, 10, 1, 0)))[0] == 0
  )


def test_duplicates():
  gt = tokens((0, 0, 10, 10, 1, 2), (0, 0, 5, 5, 2, 2), length=24)
  pred = tokens(
    (0, 0, 10, 9, 1, 2),
    (0, 0, 10, 10, 1, 1),
    (0, 0, 5, 4, 2, 2),
    (0, 0, 9, 9, 0, 2),
  )
  w = weights()
  reward, result, correct, iou = of_one(pred, gt, reward_thr=(0.75, 0.85))
  assert result["reward-0.75"] == pytest.approx(
    w[1] + w[2] - 0.3 * w[1], rel=1e-5
  )
  assert result["reward-0.85"] == pytest.approx(w[1] - 0.3 * w[1], rel=1e-5)
  assert result["nms_penalty"] == pytest.approx(w[1], rel=1e-5)
  assert result["num_matches-0.75"] == 2 and result["num_matches-0.85"] == 1
  assert reward == pytest.approx(
    np.mean([result["reward-0.75"], result["reward-0.85"]])
  )
  assert correct == [1, 2, 2, 1]
  np.testing.assert_allclose(iou, [0, 1, 0.8, 0], atol=1e-6)


def slow(pred, gt, thr, s=SMALL):
  """(reward, matches, penalty, correct, match_iou) by loops."""

  def read(seq):
    for i in range(len(seq) // 6):
      *places, label, conf = (int(t) for t in seq[6 * i : 6 * i + 6])
      clip = lambda x, most: min(max(x, 0), most)
      yield (
        [
          clip(p - s["max_conf"] - 1, s["max_level"]) / s["max_level"]
          for p in places
        ],
        clip(label - s["max_conf"] - s["max_level"] - 2, s["num_cls"] - 1),
        clip(conf, s["max_conf"]),
      )

  def iou(a, b):
    height = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    width = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    area = lambda x: abs((x[2] - x[0]) * (x[3] - x[1]))
    return height * width / (area(a) + area(b) - height * width + 1e-9)

  pred, gt, w = list(read(pred)), list(read(gt)), weights()
  best = {}  # Prediction -> (IoU, true box).
  for i, (box, label, conf) in enumerate(pred):
    for j, (true_box, true_label, true_conf) in enumerate(gt):
      value = iou(box, true_box)
      fits = value > thr + 1e-7 and label == true_label and conf and true_conf
      if fits and value > best.get(i, (0, 0))[0] + 1e-7:
        best[i] = value, j
  chosen = {}  # True box -> prediction.
  for i, (value, j) in best.items():
    if j not in chosen or value > best[chosen[j]][0] + 1e-7:
      chosen[j] = i
  penalty = sum(w[pred[i][1]] for i in best if i not in chosen.values())
  reward = sum(w[gt[j][1]] for j in chosen) - s["nms_w"] * penalty
  matched = set(chosen.values())
  correct = [
    0 if not c else 1 + (i in matched) for i, (_, _, c) in enumerate(pred)
  ]
  match_iou = [best[i][0] if i in matched else 0 for i in range(len(pred))]
  return reward, len(chosen), penalty, correct, match_iou


def test_same_as_loops():
  """On boxes that often coincide, some of which are none or incomplete."""
  rng = np.random.default_rng(0)

  def draw(num):
    places = rng.integers(0, 11, size=(num, 2, 2))
    if rng.random() < 0.8:
      places.sort(axis=1)
    label, conf = rng.integers(0, 3, num), rng.choice([0, 1, 2, 2, 2], num)
    return np.column_stack([places.reshape(num, 4), label, conf])

  batch, num = 40, 3
  gt, pred = [], []
  for _ in range(batch):
    boxes = draw(4)
    gt.append(tokens(*boxes))
    for _ in range(num):
      noisy = boxes[rng.integers(0, 4, 6)]
      noisy[:, :4] += rng.integers(-1, 2, (6, 4)) * (rng.random((6, 1)) < 0.5)
      noisy[:, 4] = np.where(
        rng.random(6) < 0.2, rng.integers(0, 3, 6), noisy[:, 4]
      )
      seq = tokens(*np.where(rng.random((6, 1)) < 0.15, draw(6), noisy))
      pred.append(np.append(seq, rng.integers(0, 18, 2)))
  gt, pred = np.stack(gt), np.stack(pred).reshape(batch, num, -1)
  thresholds = (0.31, 0.52, 0.57, 0.83)  # No IoU here is one of these.
  reward, more = compiled(reward_thr=thresholds, correct_thr=0.52)(pred, gt)
  pairs = list(zip(pred, gt, strict=True))
  want = {
    t: [[slow(p, g, t) for p in several] for several, g in pairs]
    for t in thresholds
  }
  pick = lambda t, i: np.array([[x[i] for x in row] for row in want[t]])
  for i, name in enumerate(("reward", "num_matches", "nms_penalty")):
    each = [pick(t, i) for t in thresholds]
    for t, x in zip(thresholds, each, strict=True):
      np.testing.assert_allclose(more["result"][f"{name}-{t}"], x, atol=1e-5)
    np.testing.assert_allclose(
      more["result"][name], np.mean(each, 0), atol=1e-5
    )
  np.testing.assert_array_equal(reward, more["result"]["reward"])
  np.testing.assert_array_equal(more["correct"], pick(0.52, 3))
  np.testing.assert_allclose(more["match_iou"], pick(0.52, 4), atol=1e-5)
  assert (pick(0.31, 2) > 0).mean() > 0.2 and (pick(0.31, 1) > 1).mean() > 0.2


def test_classes_of_coco():
  settings = dr.Settings()
  assert len(dr.COCO_COUNTS) == 80 and sum(dr.COCO_COUNTS) == 860001
  got, want = settings.weights(), weights(dr.COCO_COUNTS, 0.05)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert got.dtype == np.float32 and got.sum() == pytest.approx(80)
  # Persons count least, hair dryers most.
  assert got.argmin() == 0 and got.argmax() == 78
  assert got.max() / got.min() == pytest.approx(
    (262465 + 43000.05) / (198 + 43000.05)
  )
  assert settings.vocab_size == 3 + 1001 + 80
  assert settings.reward_thr == THRESHOLDS
  np.testing.assert_array_equal(dr.Settings(num_cls=5).weights(), np.ones(5))


def test_names_of_thresholds():
  values = [0.5, 0.1 + 0.2, 0.6000000000000001, 0.55, 0.95, 0.125, 1.0]
  want = ["0.5", "0.3", "0.6", "0.55", "0.95", "0.125", "1.0"]
  assert [dr.name_of(v) for v in values] == want


def test_config_may_have_other_keys():
  pred, gt = tokens((0, 0, 9, 9, 0, 2)), tokens((0, 0, 9, 10, 0, 2))
  config = mlc.ConfigDict({**SMALL, "lr": 0.1, "name": "detection_reward"})
  reward, _ = dr.reward_fn(pred[None, None], gt[None], config)
  assert reward == of_one(pred, gt)[0]
  np.testing.assert_array_equal(
    dr.get_reward(config)(pred[None, None], gt[None]), reward
  )


def test_confidences():
  gt = tokens((0, 0, 10, 10, 1, 2), length=18)
  pred = tokens((0, 0, 10, 8, 1, 2), (5, 5, 6, 6, 1, 1), length=18)
  logits = (
    np.random.default_rng(0).normal(size=(1, 1, 18, 17)).astype(np.float32)
  )
  of_conf = logits[0, 0, [5, 11, 17], :3].astype(np.float64)
  log_p = scipy.special.log_softmax(of_conf, axis=-1)
  # A match, one without, no box.
  target = np.array([[0, 0.2, 0.8], [0, 1, 0], [1, 0, 0]])
  loss = dr.get_further_loss({**SMALL, "conf_w": 0.7})
  want = -0.7 * (target * log_p).sum(-1).mean()
  assert loss(logits, pred[None, None], gt[None]) == pytest.approx(
    want, rel=1e-5
  )
  assert dr.get_further_loss({**SMALL, "conf_w": 0.0})(None, None, None) == 0
  np.testing.assert_allclose(
    dr.scores(logits[0], SMALL), np.exp(log_p)[None, :, 2], rtol=1e-5
  )
  more = dr.scores(logits, {**SMALL, "max_conf": 4})
  p = scipy.special.softmax(logits[0, 0, 5, :5].astype(np.float64))
  assert more[0, 0, 0] == pytest.approx(p @ [0, 0, 1 / 3, 2 / 3, 1], rel=1e-5)
  assert math.isclose(
    dr.scores(np.zeros([6, 17]), SMALL)[0], 1 / 3, rel_tol=1e-6
  )


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    (dict(max_level=0), r"config\.reward\.max_level=0"),
    (
      dict(num_cls=2),
      r"cls_counts has 3 classes, but config\.reward\.num_cls=2",
    ),
    (dict(reward_thr=()), r"reward_thr has no threshold"),
    (dict(max_conf=3), r"max_conf=3.*write 2"),
  ],
)
def test_bad_settings(changes, match):
  with pytest.raises(lookup.ConfigError, match=match):
    dr.get_further_loss({**SMALL, **changes})
    dr.Settings.of({**SMALL, **changes}).weights()
