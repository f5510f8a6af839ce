"""Preprocessing ops for the labels of the Visual Task Adaptation Benchmark.

Some of its tasks have labels that follow from others, see `configs/vtab_tasks.py`.

References: Zhai et al. 2019, appendix A, https://arxiv.org/abs/1910.04867.
"""

from __future__ import annotations

from collections.abc import Sequence

from big_vision import lookup
from big_vision.pp import utils
from big_vision.pp.registry import Registry
from big_vision.pp.types import Example, ExampleFn, TensorFn
from big_vision.tf import tf

InKeyOutKey = utils.InKeyOutKey

# Upper ends of the intervals of distances that are classes, and the last class.
_CLEVR_ENDS = (8.0, 8.5, 9.0, 9.5, 10.0)  # Depths in the rendered scene.
_KITTI_ENDS = (8.0, 20.0, 999.0)  # Meters; beyond is "no vehicle".
_KITTI_VEHICLES = 3  # The first types: car, van, truck.
_FEWEST_OBJECTS = 3  # Of pictures of CLEVR.


def _class_of(distance: tf.Tensor, ends: Sequence[float]) -> tf.Tensor:
  """Counts the ends that are less than a distance."""
  less = tf.constant(ends, tf.float32) < distance
  return tf.reduce_sum(tf.cast(less, tf.int64))


def _clevr_count(example: Example) -> tf.Tensor:
  return tf.size(example["objects"]["size"], tf.int64) - _FEWEST_OBJECTS


def _clevr_distance(example: Example) -> tf.Tensor:
  depths = example["objects"]["pixel_coords"][:, 2]
  return _class_of(tf.reduce_min(depths), _CLEVR_ENDS)


def _kitti_distance(example: Example) -> tf.Tensor:
  objects = example["objects"]
  ahead = objects["location"][:, 2]
  vehicle = objects["type"] < _KITTI_VEHICLES
  none = tf.constant([1000.0])  # Where there is no vehicle.
  ahead = tf.concat([tf.boolean_mask(ahead, vehicle), none], axis=0)
  return _class_of(tf.reduce_min(ahead), _KITTI_ENDS)


_LABELS = {
  "clevr_count": _clevr_count,
  "clevr_distance": _clevr_distance,
  "kitti_distance": _kitti_distance,
}


@Registry.register("preprocess_ops.vtab_label")
def get_vtab_label(kind: str, key_result: str = "label") -> ExampleFn:
  """Computes the label of a task from the objects of a picture.

  Args:
    kind: "clevr_count", number of objects minus 3; "clevr_distance" of the
      nearest object, 6 classes; "kitti_distance" of the nearest vehicle, 4
      classes, of which the last one is that there is none.
    key_result: entry for the label.

  Returns:
    `dict -> dict`; adds an int64 scalar.

  Raises:
    ValueError: unknown kind.
  """
  if kind not in _LABELS:
    raise lookup.unknown("label of VTAB", kind, _LABELS)

  def vtab_label(example: Example) -> Example:
    example[key_result] = _LABELS[kind](example)
    return example

  return vtab_label


@Registry.register("preprocess_ops.bin_label")
@InKeyOutKey(indefault="label", outdefault="label")
def get_bin_label(num_bins: int, num_values: int) -> TensorFn:
  """Puts neighboring values into bins of equal size.

  Args:
    num_bins: number of classes of the result.
    num_values: number of values of the label.

  Returns:
    `int tensor -> int tensor`, `floor(label * num_bins / num_values)`.
  """
  return lambda label: label * num_bins // num_values
