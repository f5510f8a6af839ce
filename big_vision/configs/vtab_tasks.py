"""Defines the 19 tasks of VTAB: datasets, splits, labels.

"VTAB-1k" trains on 800 examples, chooses settings on 200 others, trains once more
on all 1000 of them, and tests on the whole test set. Splits are slices of TFDS
splits, whose sizes the comments have where they matter.

References: Zhai et al. 2019, A large-scale study of representation learning with
  the Visual Task Adaptation Benchmark, https://arxiv.org/abs/1910.04867.
"""

import dataclasses

from big_vision import lookup

GROUPS = ("Natural", "Specialized", "Structured")


@dataclasses.dataclass(frozen=True)
class Task:
  """Describes a task.

  Attributes:
    group: one of `GROUPS`.
    dataset: TFDS name.
    num_classes: number of classes.
    train: 800 examples.
    val: 200 examples.
    test: the test set.
    label: ops that make the feature `label`, where the dataset does not have it.
    in_max: largest value of a pixel.
  """

  group: str
  dataset: str
  num_classes: int
  train: str
  val: str
  test: str
  label: str = ""
  in_max: int = 255

  @property
  def splits(self) -> dict[str, str]:
    """The protocol's names of splits -> splits of TFDS."""
    return {
      "train800": self.train,
      "val200": self.val,
      "train800val200": f"{self.train}+{self.val}",
      "test": self.test,
    }


def _task(group, dataset, num_classes, val, test="test", **kw):
  return Task(group, dataset, num_classes, "train[:800]", val, test, **kw)


def _after(num, split="train"):
  """The 200 examples after the first `num`."""
  return f"{split}[{num}:{num + 200}]"


_VAL = "validation[:200]"
_copy = 'copy("{}", "label")|'.format
_computed = 'vtab_label("{}")|'.format

TASKS = {
  # The first 90% of 3060 are for training, the rest for validation.
  "caltech101": _task("Natural", "caltech101", 102, _after(2754)),
  "cifar100": _task("Natural", "cifar100", 100, _after(45_000)),
  "dtd": _task("Natural", "dtd", 47, _VAL),
  "oxford_flowers102": _task("Natural", "oxford_flowers102", 102, _VAL),
  # 80% of 3680.
  "oxford_iiit_pet": _task("Natural", "oxford_iiit_pet", 37, _after(2944)),
  "sun397": _task("Natural", "sun397/tfds", 397, _VAL),
  # 90% of 73257.
  "svhn": _task("Natural", "svhn_cropped", 10, _after(65_931)),
  "patch_camelyon": _task("Specialized", "patch_camelyon", 2, _VAL),
  # 60%, 20% and 20% of the one split that these two have.
  "eurosat": _task(
    "Specialized", "eurosat/rgb", 10, _after(16_200), "train[21600:]"
  ),
  "resisc45": _task(
    "Specialized", "resisc45", 45, _after(18_900), "train[25200:]"
  ),
  "diabetic_retinopathy": _task(
    "Specialized", "diabetic_retinopathy_detection/btgraham-300", 5, _VAL
  ),
  # The test split of CLEVR has no objects; 90% of 70 000 are for training.
  "clevr_count": _task(
    "Structured", "clevr", 8, _after(63_000), "validation",
    label=_computed("clevr_count"),
  ),
  "clevr_distance": _task(
    "Structured", "clevr", 6, _after(63_000), "validation",
    label=_computed("clevr_distance"),
  ),
  "dmlab": _task("Structured", "dmlab", 6, _VAL),
  "kitti_distance": _task(
    "Structured", "kitti", 4, _VAL, label=_computed("kitti_distance")
  ),
  # 80%, 10% and 10% of 737 280; pixels are 0 and 1.
  "dsprites_location": _task(
    "Structured", "dsprites", 16, _after(589_824), "train[663552:]",
    label=_copy("label_x_position") + "bin_label(16, 32)|", in_max=1,
  ),
  "dsprites_orientation": _task(
    "Structured", "dsprites", 16, _after(589_824), "train[663552:]",
    label=_copy("label_orientation") + "bin_label(16, 40)|", in_max=1,
  ),
  # Half of the test split is for validation.
  "smallnorb_azimuth": _task(
    "Structured", "smallnorb", 18, "test[:200]", "test[50%:]",
    label=_copy("label_azimuth"),
  ),
  "smallnorb_elevation": _task(
    "Structured", "smallnorb", 9, "test[:200]", "test[50%:]",
    label=_copy("label_elevation"),
  ),
}  # fmt: skip


def find(name: str) -> Task:
  """Finds a task.

  Args:
    name: one of `TASKS`.

  Returns:
    The task.

  Raises:
    ConfigError: there is none of this name; suggests the nearest one.
  """
  if name not in TASKS:
    raise lookup.unknown("task", name, TASKS, "task", lookup.ConfigError)
  return TASKS[name]
