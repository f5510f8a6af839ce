"""Colored panoptic maps: segments, their colors and classes, boundaries."""

import json

import numpy as np
import pytest
import scipy.ndimage

from big_vision import lookup, segment_colors
from big_vision.datasets import panoptic_categories
from big_vision.trainers.proj.uvim import coco_utils

MAPS = np.stack(
  [[[0, 1, 1], [-1, 1, 133], [0, 133, 133]], [[0, 1, 2], [5, 1, 0], [9, 0, 3]]],
  axis=-1,
)


def test_segments(monkeypatch, tmp_path):
  monkeypatch.setenv("COCO_DATA_DIR", str(tmp_path))  # Without files.
  rgb, segments = coco_utils.rgb_panoptic_from_twochannels(MAPS)
  assert rgb.dtype == np.uint8 and rgb.shape == (3, 3, 3)
  assert not rgb[:, 0].any()
  void = segments.pop(-1)
  assert void == {
    "id": -1, "color": (0, 0, 0), "category_id": -1, "name": "void",
    "isthing": False,
  }  # fmt: skip
  assert len(segments) == 4
  for number, info in segments.items():
    red, green, blue = info["color"]
    assert number == info["id"] == red + 256 * green + 65536 * blue
  found = rgb.astype(int) @ [1, 256, 65536]
  names = [segments[i]["name"] for i in found[MAPS[..., 0] > 0]]
  assert names == ["person"] * 3 + ["rug-merged"] * 3
  assert {segments[i]["category_id"] for i in found[1:, 2]} == {200}
  assert (
    segments[found[0, 1]]["isthing"] and not segments[found[2, 2]]["isthing"]
  )
  assert found[0, 1] == found[1, 1] != found[0, 2]
  # Those of a class are near each other, and it is always the same colors.
  assert np.abs(rgb[0, 1].astype(int) - rgb[0, 2]).max() <= 16
  again, _ = coco_utils.rgb_panoptic_from_twochannels(MAPS.astype(np.int16))
  np.testing.assert_array_equal(again, rgb)


def test_categories(monkeypatch, tmp_path):
  shapes = panoptic_categories.shapes()
  maps = np.array([[[9, 0], [1, 4]]])
  for categories in (shapes, panoptic_categories.to_json(shapes)):
    _, segments = coco_utils.rgb_panoptic_from_twochannels(
      maps, categories=categories
    )
    assert [s["name"] for s in segments.values()] == ["circle", "wall"]
  with pytest.raises(lookup.ConfigError, match="at most 10.*got 11"):
    coco_utils.rgb_panoptic_from_twochannels(maps + 2, categories=shapes)
  with pytest.raises(lookup.ConfigError, match=r"\(1, 2\)"):
    coco_utils.rgb_panoptic_from_twochannels(maps[..., 0])
  own = [dict(id=5, name="own", isthing=0, color=[1, 2, 3])] * 1
  path = tmp_path / "panoptic_coco_categories.json"
  path.write_text(json.dumps(own))
  monkeypatch.setenv("COCO_DATA_DIR", str(tmp_path))
  _, segments = coco_utils.rgb_panoptic_from_twochannels(maps[:, 1:])
  assert [s["name"] for s in segments.values()] == ["own"]


def test_boundaries():
  """Pixels whose cross of neighbors is of several segments."""
  rng = np.random.default_rng(0)
  maps = np.stack(
    [rng.integers(0, 4, (5, 6)), rng.integers(0, 2, (5, 6))], axis=-1
  ).repeat(3, axis=0).repeat(4, axis=1)  # fmt: skip
  plain, _ = coco_utils.rgb_panoptic_from_twochannels(maps)
  lined, _ = coco_utils.rgb_panoptic_from_twochannels(maps, boundaries=True)
  cross = scipy.ndimage.generate_binary_structure(2, 1)
  ids = plain.astype(int) @ [1, 256, 65536]
  most = scipy.ndimage.maximum_filter(ids, footprint=cross, mode="nearest")
  least = scipy.ndimage.minimum_filter(ids, footprint=cross, mode="nearest")
  want = np.where((most == least)[..., None], plain, 0)
  np.testing.assert_array_equal(lined, want)


def test_colors():
  """Classes are far apart; segments are never of the same color."""
  base = np.array([segment_colors.of_class(i) for i in range(133)])
  away = np.abs(base[:, None] - base[None]).sum(axis=-1)
  assert (away + 1000 * np.eye(133)).min() >= 64
  colors = segment_colors.SegmentColors()
  found = [colors.next(c) for c in [*range(133)] * 3 + [7] * 500]
  assert len({number for number, _ in found}) == len(found)
  assert [color for _, color in found[:133]] == list(map(tuple, base.tolist()))
  assert all(0 <= min(c) and max(c) < 256 and max(c) for _, c in found)


def test_facts():
  coco = panoptic_categories.coco()
  assert len(coco) == 133 and sum(c.is_thing for c in coco) == 80
  ids = [c.id for c in coco]
  assert ids == sorted(set(ids)) and ids[79] == 90 and ids[80] == 92
  by_id = {c.id: c.name for c in coco}
  assert [by_id[i] for i in (1, 13, 90, 92, 149, 184, 200)] == [
    "person", "stop sign", "toothbrush", "banner", "road", "tree-merged",
    "rug-merged",
  ]  # fmt: skip
  assert [c.name for c in panoptic_categories.shapes() if not c.is_thing] == [
    "wall", "floor",
  ]  # fmt: skip
  assert panoptic_categories.of_dataset("coco/2017_panoptic:1.1.0") == coco


@pytest.mark.parametrize(
  "content,message",
  [
    ("[", "cannot read"),
    ("[]", "distinct"),
    ('[{"id": 1, "name": "a"}]', "isthing"),
    ('{"things": []}', "list of categories"),
    ('[{"id": 1, "name": "a", "isthing": 1}, {"id": 1, "name": "b", "isthing": 0}]',
     "distinct"),
  ],
)  # fmt: skip
def test_files_of_categories(tmp_path, content, message):
  path = tmp_path / "c.json"
  path.write_text(content)
  with pytest.raises(lookup.ConfigError, match=rf"c\.json.*{message}"):
    panoptic_categories.of_file(str(path))
