"""The reward of boxes, at its published place; it is that of the trainer."""

from big_vision.trainers.proj.reward_tune.detection_reward import (
  iou_fn as iou_fn,
)
from big_vision.trainers.proj.reward_tune.detection_reward import (
  reward_fn as reward_fn,
)
from big_vision.trainers.proj.reward_tune.detection_reward import (
  seq2box as seq2box,
)
