"""Shapes: all truths about a picture agree with each other and the pixels."""

import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image

from big_vision.datasets import shapes
from big_vision.datasets.shapes import render, text
from big_vision.datasets.shapes import scene as ss
from big_vision.tf import tfds

pytestmark = pytest.mark.tf

NUMBERS = dict(zip(text.NUMBERS, range(9), strict=True))


def scenes(num, max_objects=5, seed=11):
  return [
    shapes.make_scene("train", i, max_objects=max_objects, seed=seed)
    for i in range(num)
  ]


def alone(scene, i):
  """The pixels of one object if nothing hides it."""
  single = dataclasses.replace(scene, objects=(scene.objects[i],))
  return render.render(single, 64).panoptic[..., 1] == 1


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
  return shapes.prepare(str(tmp_path_factory.mktemp("tfds")), "tiny")


@pytest.fixture(scope="module")
def examples(builder):
  return list(builder.as_dataset(split="train").as_numpy_iterator())


def resolve(scene, text):
  """Index of the object that e.g. "the nearest red star" names."""
  order, color, shape = re.fullmatch(
    r"the (nearest |farthest )?(\w+) (\w+)", text
  ).groups()
  found = [
    (o.depth, i)
    for i, o in enumerate(scene.objects)
    if (o.color, o.shape) == (color, shape)
  ]
  assert (order is not None) == (len(found) > 1), text
  return (max if order == "farthest " else min)(found)[1]


def singular(noun):
  return re.sub(r"(?<=ss)es$|(?<!s)s$", "", noun)


def count_listed(text):
  """Counts of "a red star, two blue rings and an orange cross"."""
  counts = {}
  for part in re.split(r", | and ", text):
    number, noun = part.split(" ", 1)
    n = 1 if number in ("a", "an") else NUMBERS[number]
    assert (number == "an") == (n == 1 and noun[0] in "aeiou")
    counts[singular(noun) if n > 1 else noun] = n
  return counts


def holds(a, relation, b):
  return {
    "to the left of": a.x < b.x,
    "to the right of": a.x > b.x,
    "above": a.y < b.y,
    "below": a.y > b.y,
    "in front of": a.depth < b.depth,
    "farther away than": a.depth > b.depth,
  }[relation]


def count(scene, **attributes):
  return sum(
    all(getattr(o, k) == v for k, v in attributes.items())
    for o in scene.objects
  )


def test_an_example_depends_on_seed_split_and_index_alone():
  make = shapes.make_example
  a, b = make("train", 3, seed=5), make("train", 3, seed=5)
  assert a["image"] == b["image"] and a["captions"] == b["captions"]
  assert a["qa"] == b["qa"] and (a["depth"] == b["depth"]).all()
  for other in (
    make("train", 3, seed=6),
    make("test", 3, seed=5),
    make("train", 4, seed=5),
  ):
    assert a["image"] != other["image"]


def test_scene_is_drawn_with_the_documented_generator():
  """One recorded scene: a change of these numbers is a new version."""
  scene, _ = shapes.make_scene("test", 1)
  kinds = ["purple ring", "blue star", "cyan star", "white ring", "green ring"]
  assert [o.kind for o in scene.objects] == kinds
  rng = np.random.default_rng([0, 2, 1])
  assert ss.sample_scene(rng, 5) == scene
  wall, floor = np.random.default_rng([0, 2, 1]).choice(
    ["grey", "beige", "brown", "black"], 2, replace=False
  )
  assert (scene.wall, scene.floor) == (wall, floor)


def test_scenes_are_varied_and_possible():
  all_scenes = [s for s, _ in scenes(600)]
  for values, seen in (
    (ss.SHAPES, {s.main.shape for s in all_scenes}),
    (ss.COLORS, {s.main.color for s in all_scenes}),
    (range(1, 6), {len(s.objects) for s in all_scenes}),
    (ss.SURFACES, {s.floor for s in all_scenes}),
  ):
    assert set(values) == seen
  shares = np.unique([s.main.shape for s in all_scenes], return_counts=True)[1]
  assert shares.min() > 600 / 8 * 0.6  # Classes are balanced: 4 sigma.
  for s in all_scenes:
    assert s.wall != s.floor
    depths = [o.depth for o in s.objects]
    assert depths == sorted(depths)
    assert 1.7 <= depths[0] and depths[-1] <= 4.2 < s.wall_depth
    if len(depths) > 1:
      assert depths[1] / depths[0] >= 1.149
    for o in s.objects:
      assert o.radius == pytest.approx(0.8 * 0.5 / o.depth)
      assert o.radius <= o.x <= 1 - o.radius and o.radius <= o.y
      # It floats above the floor or stands on it: pinhole projection.
      assert o.y + o.radius <= 0.42 + 0.8 * 1.2 / o.depth + 1e-9
      assert count(s, kind=o.kind) <= 2


@pytest.mark.parametrize("size,max_objects", [(32, 8), (64, 5), (100, 3)])
def test_panoptic_map_agrees_with_boxes_and_labels(size, max_objects):
  for scene, _ in scenes(60, max_objects):
    p = render.render(scene, size)
    assert p.image.shape == (size, size, 3) and p.image.dtype == np.uint8
    semantic, instance = p.panoptic[..., 0], p.panoptic[..., 1]
    assert set(np.unique(instance)) - {0} == set(
      range(1, len(scene.objects) + 1)
    )
    for i, (o, box) in enumerate(zip(scene.objects, p.boxes, strict=True)):
      mask = instance == i + 1
      names = {render.SEMANTICS[k] for k in semantic[mask]}
      assert names == {o.shape}
      y0, x0, y1, x1 = np.round(box * size).astype(int)
      outside = mask.copy()
      outside[y0:y1, x0:x1] = False
      assert not outside.any()
      inside = mask[y0:y1, x0:x1]
      for border in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
        assert border.any()
      # The visible part lies in the circle around the object.
      y, x = (np.stack(np.nonzero(mask)) + 0.5) / size
      assert np.hypot(x - o.x, y - o.y).max() <= o.radius + 0.75 / size
      assert p.visible[i] > 0.35
    background = {render.SEMANTICS[k] for k in semantic[instance == 0]}
    assert background <= {"wall", "floor"}


def test_nearer_objects_hide_farther_ones():
  hidden = 0
  for scene, _ in scenes(60):
    p = render.render(scene, 64)
    masks = np.stack([alone(scene, i) for i in range(len(scene.objects))])
    depths = np.array([o.depth for o in scene.objects])
    covering = np.where(masks, depths[:, None, None], np.inf)
    winner = np.where(masks.any(0), covering.argmin(0) + 1, 0)
    np.testing.assert_array_equal(p.panoptic[..., 1], winner)
    on_object = masks.any(0)
    np.testing.assert_allclose(
      p.depth[on_object], covering.min(0)[on_object], rtol=1e-6
    )
    shown = [(winner == i + 1).sum() for i in range(len(depths))]
    np.testing.assert_allclose(p.visible, shown / masks.sum((1, 2)), rtol=1e-5)
    hidden += (p.visible < 0.99).sum()
  assert hidden > 20  # Occlusion does happen.


def test_background_depth_is_a_wall_and_a_floor_in_perspective():
  scene, _ = shapes.make_scene("train", 0)
  p = render.render(scene, 64)
  semantic, instance = p.panoptic[..., 0], p.panoptic[..., 1]
  wall = semantic == render.SEMANTICS.index("wall")
  floor = semantic == render.SEMANTICS.index("floor")
  assert ((instance == 0) == (wall | floor)).all()
  np.testing.assert_allclose(p.depth[wall], scene.wall_depth, rtol=1e-6)
  y = (np.nonzero(floor)[0] + 0.5) / 64
  np.testing.assert_allclose(p.depth[floor], 0.96 / (y - 0.42), rtol=1e-5)
  assert p.depth[floor].max() < scene.wall_depth


def test_objects_have_the_colors_that_are_claimed():
  palette = {
    "red": (1, 0, 0),
    "green": (0, 0.6, 0.2),
    "blue": (0.1, 0.3, 0.9),
    "yellow": (1, 0.9, 0.1),
    "orange": (1, 0.5, 0),
    "purple": (0.55, 0.2, 0.75),
    "cyan": (0.2, 0.9, 0.9),
    "white": (1, 1, 1),
  }
  right = total = 0
  for i in range(60):
    scene, _ = shapes.make_scene("train", i)
    e = shapes.make_example("train", i, image_size=64)
    image = np.asarray(Image.open(io.BytesIO(e["image"]))) / 255
    for k, o in enumerate(scene.objects):
      color = np.median(image[e["panoptic"][..., 1] == k + 1], axis=0)
      near = min(palette, key=lambda c: np.abs(color - palette[c]).sum())
      right += near == o.color
      total += 1
  assert right / total > 0.95  # Outlines fill most of the smallest objects.


def test_outlines_stay_in_the_unit_disc():
  for name, outlines in render._OUTLINES.items():
    for points in outlines:
      assert np.linalg.norm(points, axis=-1).max() <= 1 + 1e-9, name


def test_captions_tell_the_truth():
  patterns = set()
  for scene, rng in scenes(400):
    captions = text.captions(scene, rng)
    assert len(set(captions)) == text.NUM_CAPTIONS == 5
    everything, nearest, number, position, background = captions

    listed = re.sub(r"^(a picture of|an image showing) ", "", everything)
    if m := re.search(r" in front of a (\w+) wall$", listed):
      assert m[1] == scene.wall
    if m := re.search(r" above a (\w+) floor$", listed):
      assert m[1] == scene.floor
    listed = re.sub(r" (in front of|above) a \w+ (wall|floor)$", "", listed)
    kinds = {o.kind: count(scene, kind=o.kind) for o in scene.objects}
    assert count_listed(listed) == kinds

    first = min(scene.objects, key=lambda o: o.depth)
    assert first.color in nearest and first.shape in nearest

    m = re.search(r"(\w+) shapes?\b", number)
    if m:
      assert NUMBERS[m[1]] == len(scene.objects)
    else:
      m = re.fullmatch(r"there are (\w+) (\w+) in the picture", number)
      assert NUMBERS[m[1]] == count(scene, shape=singular(m[2]))
    if ":" in number:
      by_shape = {o.shape: count(scene, shape=o.shape) for o in scene.objects}
      assert count_listed(number.split(": ")[1]) == by_shape

    names = r"the (?:nearest |farthest )?\w+ \w+"
    m = re.fullmatch(rf"({names}) is (.*?) ({names})", position)
    if m and len(scene.objects) > 1:
      a, b = (scene.objects[resolve(scene, m[i])] for i in (1, 3))
      assert a is not b and holds(a, m[2], b), position
      patterns.add(m[2])
    else:
      where = position.split(" is ")[1]
      o = scene.objects[0]
      assert len(scene.objects) == 1
      assert ("left" in where) == (o.x < 1 / 3)
      assert ("right" in where) == (o.x >= 2 / 3)
      assert ("top" in where) == (o.y < 1 / 3)
      assert ("bottom" in where) == (o.y >= 2 / 3)
    for m in re.finditer(r"(\w+) (wall|floor)", background):
      assert m[1] == getattr(scene, m[2])
    if m := re.match(r"(\w+) shapes? over", background):
      assert NUMBERS[m[1]] == len(scene.objects)
      assert background.endswith(f"the nearest is {first.color}")
    if " with " in background and "floor in front" in background:
      by_shape = {o.shape: count(scene, shape=o.shape) for o in scene.objects}
      assert count_listed(background.split(" with ")[1]) == by_shape
  assert len(patterns) == 6  # All relations occur.


def test_answers_are_right():
  answers, asked = {"presence": [], "relation": []}, set()
  for scene, rng in scenes(400):
    questions = text.questions(scene, rng)
    assert len(questions) == 8
    for qa in questions:
      question, answer, kind = qa["question"], qa["answer"], qa["type"]
      assert kind in text.QUESTION_TYPES
      asked.add(kind)
      assert answer == true_answer(scene, question), question
      if kind in answers:
        answers[kind].append(answer == "yes")
  assert asked == set(text.QUESTION_TYPES)
  for yes in answers.values():  # Guessing does not help.
    assert 0.4 < np.mean(yes) < 0.6


def true_answer(scene, question):
  """Answers a question by looking at the list of objects."""
  objects = scene.objects
  name = r"(the (?:nearest |farthest )?\w+ \w+)"
  if m := re.fullmatch(r"how many (.*) are there\?", question):
    words = m[1].split()
    if words == ["shapes"]:
      return str(len(objects))
    if words[-1] == "shapes":
      return str(count(scene, color=words[0]))
    return str(count(scene, shape=singular(words[0])))
  if question == "is there more than one shape?":
    return "yes" if len(objects) > 1 else "no"
  if question == "what color is the wall?":
    return scene.wall
  if m := re.fullmatch(r"what (\w+) is the nearest \w+\?", question):
    return getattr(min(objects, key=lambda o: o.depth), m[1])
  if m := re.fullmatch(r"what color is the (\w+)\?", question):
    (o,) = (o for o in objects if o.shape == m[1])
    return o.color
  if m := re.fullmatch(r"what shape is the (\w+) object\?", question):
    (o,) = (o for o in objects if o.color == m[1])
    return o.shape
  if m := re.fullmatch(r"is there an? (\w+) (\w+)\?", question):
    return "yes" if count(scene, color=m[1], shape=m[2]) else "no"
  if m := re.fullmatch(rf"which is closer, {name} or {name}\?", question):
    pair = [(objects[resolve(scene, m[i])].depth, m[i]) for i in (1, 2)]
    return min(pair)[1]
  m = re.fullmatch(rf"is {name} (.*?) {name}\?", question)
  a, b = (objects[resolve(scene, m[i])] for i in (1, 3))
  return "yes" if holds(a, m[2], b) else "no"


def test_expressions_name_one_object_each():
  for scene, _ in scenes(300, max_objects=8):
    for i, expression in enumerate(text.expressions(scene)):
      assert resolve(scene, expression) == i


def test_prepared_dataset_has_the_documented_features(builder, examples):
  splits = {k: v.num_examples for k, v in builder.info.splits.items()}
  assert splits == {"train": 128, "validation": 32, "test": 32}
  assert {e["id"].decode() for e in examples} == {
    f"train_{i:06d}" for i in range(128)
  }
  names = builder.info.features["label"].names
  assert tuple(names) == ss.SHAPES
  for e in examples:
    index = int(e["id"].decode().removeprefix("train_"))
    assert e["image/id"] == index
    scene, _ = shapes.make_scene("train", index, max_objects=3)
    assert e["image"].shape == (32, 32, 3) and e["image"].dtype == np.uint8
    assert e["depth"].shape == (32, 32) and e["depth"].dtype == np.float32
    assert e["panoptic"].shape == (32, 32, 2)
    assert e["num_objects"] == len(scene.objects) == len(e["boxes"]["label"])
    assert len(e["captions"]) == 5 and len(e["qa"]["answer"]) == 8
    nearest = e["boxes"]["depth"].argmin()
    assert e["label"] == e["boxes"]["label"][nearest]
    assert e["color"] == e["boxes"]["color"][nearest]
    assert e["shape_color"] == e["label"] * 8 + e["color"]
    assert builder.info.features["shape_color"].int2str(e["shape_color"]) == (
      scene.main.kind
    )


def test_coco_layout_says_the_same_as_the_panoptic_map(builder, examples):
  label_names = builder.info.features["panoptic_objects"]["label"].names
  assert label_names == [*ss.SHAPES, "wall", "floor"]
  for e in examples[:40]:
    ids = e["panoptic_image"].astype(np.int64) @ [1, 256, 65536]
    assert ids.min() == 1  # Every pixel belongs to a segment.
    segments = e["panoptic_objects"]
    assert segments["id"].tolist() == list(range(1, ids.max() + 1))
    semantic = (segments["label"] + 1)[ids - 1]
    np.testing.assert_array_equal(semantic, e["panoptic"][..., 0])
    n = e["num_objects"]
    np.testing.assert_array_equal(
      np.where(ids <= n, ids, 0), e["panoptic"][..., 1]
    )
    np.testing.assert_array_equal(
      segments["area"], np.bincount(ids.ravel())[1:]
    )
    np.testing.assert_allclose(segments["bbox"][:n], e["boxes"]["bbox"])
    assert not segments["is_crowd"].any()


def test_image_is_a_jpeg_without_chroma_subsampling():
  e = shapes.make_example("train", 0)
  image = Image.open(io.BytesIO(e["image"]))
  assert image.format == "JPEG" and image.size == (64, 64)
  scene, _ = shapes.make_scene("train", 0)
  drawn = render.render(scene, 64).image.astype(float)
  assert np.abs(np.asarray(image) - drawn).mean() < 3


def test_overrides_make_a_config_of_their_own(builder, tmp_path):
  b = shapes.prepare(
    tmp_path, "tiny", num_train=3, num_validation=1, num_test=2, seed=0
  )
  assert b.builder_config.name == "tiny-num_test2-num_train3-num_validation1"
  assert b.info.splits["train"].num_examples == 3
  again = tfds.builder(f"shapes/{b.builder_config.name}", data_dir=tmp_path)
  ids = {
    e["id"].decode()
    for e in again.as_dataset(split="train").as_numpy_iterator()
  }
  assert ids == {"train_000000", "train_000001", "train_000002"}
  assert shapes.make_config("tiny", num_train=128).name == "tiny"
  assert shapes.make_config().name == "64"


@pytest.mark.parametrize(
  "config,overrides,message",
  [
    ("tinny", {}, "tiny"),
    (None, {"image_sise": 64}, "image_size"),
    (None, {"image_size": 16}, "image_size=16"),
    (None, {"num_test": 0}, "num_test=0"),
    (None, {"seed": -1}, "seed=-1"),
    (None, {"num_train": 2.5}, "num_train=2.5"),
    (None, {"max_objects": 9}, "max_objects=9"),
    (None, {"near": 0.5}, "near=0.5"),
    ("closeup", {"far": 0.8}, "far=0.8"),
    ("closeup", {"max_objects": 3}, "far=1.0 is too close.*3 objects"),
  ],
)
def test_bad_options_are_named(tmp_path, config, overrides, message):
  with pytest.raises(ValueError, match=message):
    shapes.prepare(tmp_path, config, **overrides)
  assert not list(tmp_path.iterdir())


def test_too_small_pictures_are_refused():
  with pytest.raises(ValueError, match="image_size=31"):
    render.render(shapes.make_scene("train", 0)[0], 31)


def test_close_ups_are_large_and_balanced():
  config = shapes.make_config("closeup")
  kinds = []
  for i in range(128):
    scene, _ = shapes.make_scene("train", i, **config.scene)
    (thing,) = scene.objects
    assert config.near <= thing.depth <= config.far
    assert 0.4 <= thing.radius < 0.5
    kinds.append((thing.shape, thing.color))
  assert len(set(kinds[:64])) == len(set(kinds[64:])) == 64


def test_close_ups_stay_in_the_order_in_which_they_are_made(tmp_path):
  builder = shapes.prepare(
    tmp_path, "closeup", num_train=70, num_validation=1, num_test=1
  )
  examples = list(builder.as_dataset(split="train").as_numpy_iterator())
  assert [e["id"].decode() for e in examples] == [
    f"train_{i:06d}" for i in range(70)
  ]
  assert len({int(e["shape_color"]) for e in examples[:64]}) == 64
