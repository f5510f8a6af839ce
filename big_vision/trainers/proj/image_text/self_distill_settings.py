"""The keys of `config.self_distill`, with their defaults and ranges."""

from dataclasses import dataclass
from typing import Any

from big_vision.training import settings
from big_vision.training.settings import number

OLD_NAMES = {"centre_decay": "center_decay"}  # Of keys in earlier versions.


@dataclass(frozen=True)
class Settings:
  """Keys of `config.self_distill`.

  Attributes:
    weight: factor of both terms.
    start: fraction of the training before which these losses are off: the
      teacher is the student, and heads keep their initial values.
    decay: of the moving average, per step.
    local_weight: of the local views; 0 switches them off.
    views: V, if they are cut here.
    local_size: side of local views in pixels, a multiple of the patch size; None
      is the nearest to 3/7 of the image, such as 96 of 224.
    area: (lowest, highest) fraction of the image that a local view shows.
    masked_weight: of the hidden patches; 0 switches them off.
    mask_ratio: fraction of patches that are hidden.
    hidden, bottleneck, prototypes: widths of the heads, see `PrototypeHead`.
    student_temperature, teacher_temperature: of the softmax.
    center_decay: of the running mean of the teacher's outputs, per step.
  """

  weight: float = number(1.0)
  start: float = number(0.8, high=1)
  decay: float = number(0.999, high=1)
  local_weight: float = number(1.0)
  views: int = number(8, low=1)
  local_size: int | None = None
  area: tuple[float, float] = (0.05, 0.4)
  masked_weight: float = number(0.25)
  mask_ratio: float = number(0.5, high=1)
  hidden: int = number(2048, low=1)
  bottleneck: int = number(256, low=1)
  prototypes: int = number(8192, low=2)
  student_temperature: float = number(0.1, low=1e-6)
  teacher_temperature: float = number(0.04, low=1e-6)
  center_decay: float = number(0.9, high=1)

  def __post_init__(self):
    if len(self.area) != 2 or not 0 < self.area[0] <= self.area[1] <= 1:
      raise ValueError(
        f"config.self_distill.area = {self.area!r} must be (lowest, highest), "
        "fractions of the image."
      )
    if not self.local_weight and not self.masked_weight:
      raise ValueError(
        "config.self_distill: local_weight and masked_weight are both 0; leave "
        "self_distill away instead."
      )


def read(config: Any) -> Settings:
  """Reads the settings of a config.

  Args:
    config: `config.self_distill`.

  Returns:
    The Settings.

  Raises:
    ValueError: a key is unknown or its value is wrong.
  """
  return settings.make(Settings, config, "self_distill", OLD_NAMES)
