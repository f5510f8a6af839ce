"""Rewards sequences of boxes, as tuning a detector needs it.

Pinto et al. 2023, "Tuning computer vision models with task rewards",
https://arxiv.org/abs/2302.08242. A box is six tokens, [y0, x0, y1, x1, class,
confidence]. Tokens from 0 on are `max_conf + 1` confidences, `max_level + 1`
places of a coordinate, and `num_cls` classes; confidence 0 stands for a missing
box.

At a threshold, a prediction belongs to the true box of its class that it
overlaps most, if the intersection over union (IoU) is above the threshold; of
several predictions a true box is matched by the nearest one. The reward is the
sum over matched boxes of the weight of their class, minus `nms_w` times that
over duplicates. It is averaged over thresholds. (The published sketch named
thresholds by one decimal, so that 0.55 took the place of 0.6, and so on; here
it is the mean over all.)

Shapes: `B` examples, `N` samples, `L` tokens, `P` predicted and `G` true boxes,
`T` thresholds, `V` vocabulary.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import lookup
from big_vision.trainers.proj.reward_tune import reinforce
from big_vision.types import Array, ConfigLike

BOX_TOKENS = 6
# Objects of each class in COCO 2017's training set.
COCO_COUNTS = (
  262465, 7113, 43867, 8725, 5135, 6069, 4571, 9973, 10759, 12884, 1865, 1983,
  1285, 9838, 10806, 4768, 5508, 6587, 9509, 8147, 5513, 1294, 5303, 5131,
  8720, 11431, 12354, 6496, 6192, 2682, 6646, 2685, 6347, 9076, 3276, 3747,
  5543, 6126, 4812, 24342, 7913, 20650, 5479, 7770, 6165, 14358, 9458, 5851,
  4373, 6399, 7308, 7852, 2918, 5821, 7179, 6353, 38491, 5779, 8652, 4192,
  15714, 4157, 5805, 4970, 2262, 5703, 2855, 6434, 1673, 3334, 225, 5610,
  2637, 24715, 6334, 6613, 1481, 4793, 198, 1954,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
  """Holds what `config.reward` says of boxes; the defaults are the paper's.

  Attributes:
    max_level: int, the place of the far edge of the image; 0 is the near one.
    max_conf: int, the largest confidence.
    num_cls: int, number of classes.
    nms_w: float, weight of duplicates.
    cls_smooth: float, how much the weights of classes are alike.
    reward_thr: floats, the thresholds.
    correct_thr: float, the threshold for `correct` and `match_iou`.
    conf_w: float, weight of the loss of confidences.
    cls_counts: ints, objects of each class; None is COCO's for 80 classes, and
      equal ones for another number.
  """

  max_level: int = 1000
  max_conf: int = 2
  num_cls: int = 80
  nms_w: float = 0.3
  cls_smooth: float = 0.05
  reward_thr: Sequence[float] = tuple(i / 100 for i in range(50, 100, 5))
  correct_thr: float = 0.5
  conf_w: float = 0.3
  cls_counts: Sequence[int] | None = None

  @classmethod
  def of(cls, config: ConfigLike) -> "Settings":
    """Reads them from a config, of which other keys are ignored."""
    given = {f.name for f in dataclasses.fields(cls)} & set(config)
    return cls(**{name: config[name] for name in given})

  def __post_init__(self):
    for name in ("max_level", "max_conf", "num_cls"):
      if getattr(self, name) < 1:
        raise lookup.ConfigError(
          f"config.reward.{name}={getattr(self, name)} must be 1 or more."
        )
    if not len(self.reward_thr):
      raise lookup.ConfigError("config.reward.reward_thr has no threshold.")

  @property
  def vocab_size(self) -> int:
    """Number of tokens."""
    return self.max_conf + 1 + self.max_level + 1 + self.num_cls

  def weights(self) -> np.ndarray:
    """Computes float32 [num_cls], the weights of classes, with a mean of 1."""
    counts = self.cls_counts
    if counts is None:
      is_coco = self.num_cls == len(COCO_COUNTS)
      counts = COCO_COUNTS if is_coco else [1] * self.num_cls
    if len(counts) != self.num_cls:
      raise lookup.ConfigError(
        f"config.reward.cls_counts has {len(counts)} classes, but "
        f"config.reward.num_cls={self.num_cls}."
      )
    counts = np.asarray(counts, np.float64)
    weights = 1 / (counts + self.cls_smooth * counts.sum())
    weights *= self.num_cls / weights.sum()
    return weights.astype(np.float32)


def seq2box(
  seq: Array, max_level: int, max_conf: int, num_cls: int
) -> tuple[Array, Array, Array]:
  """Reads boxes from any tokens; an incomplete last one is dropped.

  Args:
    seq: int [..., L].
    max_level: see `Settings`.
    max_conf: see there.
    num_cls: see there.

  Returns:
    (boxes float32 [..., P, 4], classes int [..., P], confidences int [..., P]);
    boxes are (y0, x0, y1, x1), relative to the image.
  """
  num = seq.shape[-1] // BOX_TOKENS
  seq = seq[..., : num * BOX_TOKENS]
  seq = seq.reshape(*seq.shape[:-1], num, BOX_TOKENS)
  place = seq[..., :4] - max_conf - 1
  boxes = jnp.clip(place, 0, max_level).astype(jnp.float32) / max_level
  label = seq[..., 4] - max_conf - 1 - max_level - 1
  conf = seq[..., 5]
  return boxes, jnp.clip(label, 0, num_cls - 1), jnp.clip(conf, 0, max_conf)


def iou_fn(a: Array, b: Array) -> Array:
  """Computes the IoU of boxes, one by one.

  Args:
    a: [..., 4], (y0, x0, y1, x1). An area counts by its absolute value.
    b: the same.

  Returns:
    [...]; 0 of boxes without an area.
  """
  start, end = (
    jnp.maximum(a[..., :2], b[..., :2]),
    jnp.minimum(a[..., 2:], b[..., 2:]),
  )
  both = jnp.prod(jnp.maximum(end - start, 0.0), axis=-1)
  area = lambda x: jnp.abs(jnp.prod(x[..., 2:] - x[..., :2], axis=-1))
  return both / (area(a) + area(b) - both + 1e-9)


def iou_fn_pairwise(a: Array, b: Array) -> Array:
  """Computes the IoU of all pairs of boxes.

  Args:
    a: [P, 4], see `iou_fn`.
    b: [G, 4].

  Returns:
    [P, G].
  """
  return jax.vmap(jax.vmap(iou_fn, (None, 0)), (0, None))(a, b)


def reward_fn(
  seqs_pred: Array, seqs_gt: Array, config: ConfigLike
) -> tuple[Array, dict[str, Any]]:
  """Computes rewards of predicted boxes.

  Args:
    seqs_pred: int [B, N, L], tokens of predictions.
    seqs_gt: int [B, L], tokens of the truth.
    config: mapping with the names of `Settings`, or one.

  Returns:
    (rewards [B, N], dict), in which are
      result: dict of float [B, N]: `reward`, `num_matches` and `nms_penalty`,
        the weight of duplicates, means over thresholds; and each at each
        threshold, `reward-0.5`, `reward-0.55`, and so on.
      correct: int [B, N, P] at the threshold `correct_thr`: 0 for no box, 1 for
        one without a match, 2 for one with a match.
      match_iou: [B, N, P], IoU with the matched box; 0 without a match.
  """
  s = config if isinstance(config, Settings) else Settings.of(config)
  weights = jnp.asarray(s.weights())
  thresholds = jnp.asarray([*s.reward_thr, s.correct_thr], jnp.float32)
  read = lambda seq: seq2box(seq, s.max_level, s.max_conf, s.num_cls)

  def one(seq_pred, seq_gt):
    pred, gt = read(seq_pred), read(seq_gt)
    at = lambda thr: _at_threshold(pred, gt, thr, weights, s.nms_w)
    return jax.vmap(at)(thresholds)

  of_samples = jax.vmap(one, (0, None))
  found, correct, match_iou = jax.vmap(of_samples)(seqs_pred, seqs_gt)
  num = len(s.reward_thr)  # The last one is `correct_thr`.
  result = {k: jnp.mean(x[..., :num], axis=-1) for k, x in found.items()}
  for i, thr in enumerate(s.reward_thr):
    result |= {f"{k}-{name_of(thr)}": x[..., i] for k, x in found.items()}
  more = {"correct": correct[..., -1, :], "match_iou": match_iou[..., -1, :]}
  return result["reward"], {"result": result, **more}


def name_of(threshold: float) -> str:
  """Writes a threshold with as many decimals as it has, at least one."""
  short = f"{threshold:.1f}"
  is_exact = abs(float(short) - threshold) < 1e-6
  return short if is_exact else f"{threshold:.6f}".rstrip("0")


def _at_threshold(pred, gt, thr, weights, nms_w):
  """Matches the boxes of one example; see the top of this file.

  Returns:
    (dict of float [], correct int [P], match_iou [P]).
  """
  (boxes, labels, conf), (boxes_gt, labels_gt, conf_gt) = pred, gt
  iou = iou_fn_pairwise(boxes, boxes_gt)
  fits = labels[:, None] == labels_gt[None, :]
  fits &= (conf > 0)[:, None] & (conf_gt > 0)[None, :] & (iou > thr)
  iou = jnp.where(fits, iou, 0.0)
  one_hot = lambda at, num: jnp.arange(num)[None, :] == at[:, None]
  iou *= one_hot(jnp.argmax(iou, axis=1), iou.shape[1])
  is_match = one_hot(jnp.argmax(iou, axis=0), iou.shape[0]).T & (iou > 0)
  is_duplicate = (iou > 0) & ~is_match
  match = jnp.sum(is_match * weights[labels_gt][None, :])
  penalty = jnp.sum(is_duplicate * weights[labels][:, None])
  found = {
    "reward": match - nms_w * penalty,
    "num_matches": jnp.sum(is_match, dtype=jnp.float32),
    "nms_penalty": penalty,
  }
  correct = jnp.where(conf > 0, 1 + jnp.any(is_match, axis=1), 0)
  return found, correct, jnp.sum(iou * is_match, axis=1)


def scores(logits: Array, config: ConfigLike) -> Array:
  """Computes how certain boxes are: the expected confidence.

  Args:
    logits: [..., L, V], of the tokens of predictions.
    config: as for `reward_fn`.

  Returns:
    float32 [..., P] in [0, 1]; 1 of the largest confidence, 0 of confidence 1
    and of no box.
  """
  s = config if isinstance(config, Settings) else Settings.of(config)
  p = jax.nn.softmax(_of_confidences(logits, s))
  worth = jnp.maximum(jnp.arange(s.max_conf + 1) - 1, 0) / max(
    s.max_conf - 1, 1
  )
  return p @ worth


def _of_confidences(logits, s):
  """Takes the logits of confidences out of those of all tokens."""
  at = logits[..., BOX_TOKENS - 1 :: BOX_TOKENS, : s.max_conf + 1]
  return at.astype(jnp.float32)


def get_reward(config: ConfigLike) -> reinforce.Reward:
  """Makes the reward of boxes.

  Args:
    config: `config.reward`, see `Settings`.

  Returns:
    `(int [B, N, L], int [B, L]) -> [B, N]`, see `reward_fn`.
  """
  settings = Settings.of(config)
  return lambda predictions, truth: reward_fn(predictions, truth, settings)[0]


def get_further_loss(config: ConfigLike) -> Callable[..., Array]:
  """Makes the loss by which confidences learn how good boxes are.

  Args:
    config: `config.reward`, see `Settings`.

  Returns:
    `(logits [B, N, L, V], predictions int [B, N, L], truth int [B, L]) -> []`:
    `conf_w` times the mean cross-entropy of confidences, whose target is
    (no box, 1 - IoU, IoU of the match).

  Raises:
    ConfigError: there are other confidences than 0, 1 and 2.
  """
  settings = Settings.of(config)
  if settings.conf_w and settings.max_conf != 2:
    raise lookup.ConfigError(
      f"config.reward.max_conf={settings.max_conf}: confidences are trained as "
      "no box, wrong, right, so write 2, or config.reward.conf_w = 0."
    )

  def loss(logits, predictions, truth):
    if not settings.conf_w:
      return jnp.float32(0)
    details = reward_fn(predictions, truth, settings)[1]
    iou, empty = details["match_iou"], details["correct"] == 0
    none = empty.astype(jnp.float32)
    target = jnp.stack([none, (1 - iou) * (1 - none), iou], axis=-1)
    log_p = jax.nn.log_softmax(_of_confidences(logits, settings))
    xent = -jnp.sum(jax.lax.stop_gradient(target) * log_p, axis=-1)
    return settings.conf_w * jnp.mean(xent)

  return loss
