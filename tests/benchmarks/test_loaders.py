"""Loaders next to each other: the same boxes, and all that are installed."""

import importlib.util
import time

import numpy as np
import pytest

from big_vision.benchmarks import inputs, loaders
from big_vision.pp import builder
from big_vision.tf import tf

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def jpegs():
  inputs.import_ops()
  return inputs.make_jpegs(3, height=40, width=60)


def test_decoding_alone_has_the_boxes_of_the_pipeline(jpegs):
  crop = builder.get_preprocess_fn(
    "decode_jpeg_and_inception_crop()", log_data=False
  )
  size = lambda x: {"size": tf.size(crop(x)["image"])}
  want = [
    b["size"].numpy()
    for _, b in zip(range(2), loaders._train(jpegs, size), strict=False)
  ]
  sizes = loaders.decoded_sizes(jpegs, 2)
  got = [x.numpy() for _, x in zip(range(4), sizes, strict=False)]
  np.testing.assert_array_equal(got, want * 2)
  assert len(np.unique(got)) > 20


def test_cpu_seconds_count_work_and_not_waiting():
  def work(steps):
    end = time.process_time() + 0.05 * steps
    while time.process_time() < end:
      pass

  seconds = loaders.cpu_seconds(
    {"work": work, "wait": lambda steps: time.sleep(0.02 * steps)}, 2, 1
  )
  assert seconds["work"] >= 0.05 > 2 * seconds["wait"]


def test_compared(jpegs):
  figures = inputs.compare_loaders(jpegs, res=16, rounds=1)
  speeds = figures["images_per_cpu_second"]
  own = {"big_vision", "big_vision_randaug"}
  own |= {"big_vision_raw_256", "big_vision_jpeg_256"}
  own |= {"big_vision_raw_256_random_crop"}
  assert {"decode_and_crop_jpeg_alone", *own} <= speeds.keys()
  assert min(speeds.values()) > 0
  assert figures["speed_relative_to_decoding"]["big_vision"] == pytest.approx(
    speeds["big_vision"] / speeds["decode_and_crop_jpeg_alone"]
  )
  for name, (packages, _) in loaders.OTHERS.items():
    is_here = all(map(importlib.util.find_spec, packages))
    assert (name in speeds) == is_here
    assert (name in figures["not_installed"]) != is_here


def test_large_images():
  speeds = inputs.compare_dct_scale(res=16, num=4, rounds=1)
  assert sorted(speeds) == ["2x", "2x_dct_scale", "4x", "4x_dct_scale"]
  assert min(speeds.values()) > 0
