"""Pictures of labels."""

import colorsys

import numpy as np
import pytest

from big_vision import drawing, lookup


def test_panoptic():
  labels = np.zeros([6, 8, 2], np.int32)
  labels[1:4, 1:4] = (5, 1)
  labels[1:4, 4:7] = (5, 2)
  labels[4:, :] = (7, 3)
  out = drawing.draw(labels, boundaries=False)
  assert out.dtype == np.uint8 and out.shape == (6, 8, 3)
  assert not out[0].any()  # Nothing.
  a, b, c = out[2, 2], out[2, 5], out[5, 0]
  np.testing.assert_array_equal(a, drawing.segment_color(5, 1))
  hue = lambda x: colorsys.rgb_to_hsv(*(np.float64(x) / 255))[0]
  assert hue(a) == pytest.approx(hue(b), abs=0.02)  # One class, two shades.
  assert abs(int(a.max()) - int(b.max())) > 30
  assert abs(hue(a) - hue(c)) > 0.05
  edged = drawing.draw(labels)
  white = (edged == 255).all(axis=2)
  want = np.zeros([6, 8], bool)
  want[1:4, [3, 6]] = want[3, 1:7] = True  # Right and below, not of nothing.
  np.testing.assert_array_equal(white, want)
  np.testing.assert_array_equal(edged[~white], out[~white])


def test_colors_of_classes_differ():
  colors = np.array([drawing.segment_color(i) for i in range(1, 134)], int)
  far = np.abs(colors[:, None] - colors[None]).sum(axis=2)
  assert (far + 999 * np.eye(len(far), dtype=int)).min() >= 4
  assert drawing.segment_color(0, 5) == drawing.segment_color(-1) == (0, 0, 0)


def test_depth():
  depth = np.linspace(0.001, 10, 256, dtype=np.float32)[None]
  out = drawing.draw({"depth": depth}, 10.0)[0].astype(float)
  light = out @ (0.2126, 0.7152, 0.0722)
  assert (np.diff(light) <= 0).all() and light[0] > 215 and light[-1] < 15
  np.testing.assert_array_equal(
    drawing.draw_depth([[0, -1, np.nan, np.inf]]), np.zeros([1, 4, 3])
  )
  # The largest distance is the darkest one.
  np.testing.assert_array_equal(
    drawing.draw_depth(np.array([[[1.0], [4.0]]])),
    drawing.draw_depth([[2.5, 10.0]], 10),
  )
  # Beyond the end is as far as the end.
  np.testing.assert_array_equal(*drawing.draw_depth([[[5.0]], [[9.0]]], 5))


def test_color():
  image = np.array([[[-1, 0, 1], [-2, 0.5, 2]]], np.float32)
  np.testing.assert_array_equal(
    drawing.draw({"color": image}), [[[0, 128, 255], [0, 191, 255]]]
  )
  gray = np.full([2, 2, 1], 7, np.uint8)
  np.testing.assert_array_equal(drawing.to_uint8(gray), np.full([2, 2, 3], 7))


def test_grid():
  small = np.zeros([2, 4, 3], np.uint8)
  large = np.full([150, 130, 3], 7, np.uint8)
  out = drawing.grid([[small, large], [large, small]])
  assert out.shape == (2 * 150 + 4, 2 * 130 + 4, 3)
  assert not out[:64, :128].any() and (out[:64, 128:134] == 255).all()
  assert (out[:150, 134:] == 7).all() and (out[150:154] == 255).all()


@pytest.mark.parametrize(
  "labels", [np.zeros([2, 2, 3]), np.zeros([2, 2]), {"x": 1}]
)
def test_what_cannot_be_drawn(labels):
  with pytest.raises(lookup.ConfigError, match="int .height, width, 2."):
    drawing.draw(labels)
