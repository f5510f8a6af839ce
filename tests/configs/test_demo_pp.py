"""Preprocessing strings for small data."""

import pytest

from big_vision.configs import demo_pp

pytestmark = pytest.mark.tf


@pytest.mark.parametrize(
  "pp, want",
  [
    ("decode|flip_lr||value_range(-1,1)", "decode|flip_lr|value_range(-1,1)"),
    ("resize(256)|central_crop(224)", "resize(37)|central_crop(32)"),
    ("resize_small(448)|random_crop(384)", "resize_small(37)|random_crop(32)"),
    (
      'resize(size=(64, 128), method="area")|central_crop',
      "resize(size=(16, 32), method='area')|central_crop",
    ),
    ("inception_crop(224, 20)", "inception_crop(32, 50)"),
    ("inception_crop(area_min=80)", "inception_crop(area_min=80)"),
    ("inception_crop", "inception_crop(area_min=50)"),
    ("randaug(2,10)", "randaug(1, 5)"),
    ("randaug(2,0)", "randaug(1, 0)"),
    ("randaug", "randaug(num_layers=1, magnitude=5)"),
    ("onehot(100)", 'copy("color", "labels")|onehot(8)'),
    (
      'onehot(9, "real_label", "labels", on=0.9)|keep("labels")',
      "copy(\"color\", \"real_label\")|onehot(8, 'real_label', 'labels', on=0.9)"
      '|keep("labels")',
    ),
    (
      'onehot(depth=9, key="label")|keep("image", "label")',
      "copy(\"color\", \"label\")|onehot(depth=8, key='label')"
      '|keep("image", "label")',
    ),
    ('lower|strfmt("a|{x}", "b")', 'lower|strfmt("a|{x}", "b")'),
  ],
)  # fmt: skip
def test_shrink(pp, want):
  got = demo_pp.shrink(pp, size=32, num_classes=8, label="color")
  assert got == want


def test_sizes_of_each_feature():
  """Student and teacher see images of different sizes: both become `size`."""
  pp = (
    'decode|copy("image", "prof")|resize(272)|central_crop(240)'
    '|resize(256, key="prof")|central_crop(224, key="prof")'
    '|resize(224, outkey="prof")'
  )
  got = demo_pp.shrink(pp, size=30, num_classes=8, label="color")
  assert got == (
    'decode|copy("image", "prof")|resize(34)|central_crop(30)'
    "|resize(34, key='prof')|central_crop(30, key='prof')"
    "|resize(30, outkey='prof')"
  )
