"""Describes a scene of `shapes` in words: captions, questions, names.

Every statement follows from the scene alone, and is true.
"""

from __future__ import annotations

import collections

import numpy as np

from big_vision.datasets.shapes import scene as ss

NUM_CAPTIONS = 5
QUESTION_TYPES = (
  "count",
  "color",
  "shape",
  "presence",
  "relation",
  "depth",
)
NUMBERS = (
  "no",
  "one",
  "two",
  "three",
  "four",
  "five",
  "six",
  "seven",
  "eight",
)
# Centers closer than this are neither left nor right, picture widths.
MIN_SHIFT = 0.12


def expressions(scene: ss.Scene) -> list[str]:
  """Names each object so that no other is meant.

  Args:
    scene: the scene.

  Returns:
    One text per object, in their order.
  """
  kinds = collections.Counter(o.kind for o in scene.objects)
  num_before = collections.Counter()
  texts = []
  for o in scene.objects:
    # Objects come nearest first, and there are at most two of a kind.
    order = (
      ("nearest ", "farthest ")[num_before[o.kind]] if kinds[o.kind] > 1 else ""
    )
    num_before[o.kind] += 1
    texts.append(f"the {order}{o.kind}")
  return texts


def captions(scene: ss.Scene, rng: np.random.Generator) -> list[str]:
  """Writes NUM_CAPTIONS different texts about the scene, in varied wording.

  In this order: all objects, the nearest object, how many, where, background.

  Args:
    scene: the scene.
    rng: chooses the wording and what is told.

  Returns:
    The texts.
  """
  return [
    _pick(rng, _all_objects(scene)),
    _pick(rng, _nearest_object(scene)),
    _pick(rng, _counts(scene, rng)),
    _pick(rng, _positions(scene, rng)),
    _pick(rng, _backgrounds(scene)),
  ]


def questions(
  scene: ss.Scene, rng: np.random.Generator
) -> list[dict[str, str]]:
  """Asks questions about the scene and answers them, in lower case.

  Args:
    scene: the scene.
    rng: chooses what is asked.

  Returns:
    Dicts with `question`, `answer` and `type`.
  """
  made = [
    _ask_total(scene),
    _ask_count(scene, rng, "shape", ss.SHAPES),
    _ask_count(scene, rng, "color", ss.COLORS),
    _ask_color(scene, rng),
    _ask_shape(scene, rng),
    _ask_presence(scene, rng),
    _ask_relation(scene, rng),
    _ask_depth(scene, rng),
  ]
  return [dict(type=t, question=q, answer=a) for t, q, a in made]


def plural(noun: str, count: int) -> str:
  """Puts a noun into the plural unless it is one.

  Args:
    noun: of one object.
    count: how many there are.

  Returns:
    The noun.
  """
  if count == 1:
    return noun
  return noun + ("es" if noun.endswith("s") else "s")


def relations(a: ss.Object, b: ss.Object) -> list[str]:
  """Says how one object lies relative to another in the picture.

  Args:
    a: one object.
    b: the other.

  Returns:
    What is true of left, right, above and below.
  """
  found = []
  if abs(a.x - b.x) >= MIN_SHIFT:
    found.append("to the left of" if a.x < b.x else "to the right of")
  if abs(a.y - b.y) >= MIN_SHIFT:
    found.append("above" if a.y < b.y else "below")
  return found


def _pick(rng, options):
  return options[rng.integers(len(options))]


def _a(noun):
  return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _join(parts):
  *head, last = parts
  return f"{', '.join(head)} and {last}" if head else last


def _listing(scene, attribute="kind"):
  """ "a red star and two blue rings", nearest first."""
  found = collections.Counter(getattr(o, attribute) for o in scene.objects)
  return _join(
    [
      _a(noun) if n == 1 else f"{NUMBERS[n]} {plural(noun, n)}"
      for noun, n in found.items()
    ]
  )


def _all_objects(scene):
  things = _listing(scene)
  return [
    things,
    f"a picture of {things}",
    f"an image showing {things}",
    f"{things} in front of a {scene.wall} wall",
    f"{things} above a {scene.floor} floor",
  ]


def _nearest_object(scene):
  main = scene.main
  return [
    f"{_a(main.kind)} is closest to the camera",
    f"the nearest shape is {_a(main.kind)}",
    f"{_a(main.shape)} in the foreground, it is {main.color}",
    f"{_a(main.kind)}, nearer than anything else",
  ]


def _counts(scene, rng):
  n = len(scene.objects)
  total = f"{NUMBERS[n]} {plural('shape', n)}"
  there = "there is" if n == 1 else "there are"
  options = [
    f"{there} {total} in the picture",
    f"exactly {total}: {_listing(scene, 'shape')}",
    f"a scene with {total}",
  ]
  shape = _pick(rng, scene.objects).shape
  k = sum(o.shape == shape for o in scene.objects)
  if k > 1:
    options += [f"there are {NUMBERS[k]} {plural(shape, k)} in the picture"] * 2
  return options


def _positions(scene, rng):
  i = int(rng.integers(len(scene.objects)))
  names = expressions(scene)
  options = []
  for j, other in enumerate(scene.objects):
    if j != i:
      options += [
        f"{names[i]} is {relation} {names[j]}"
        for relation in relations(scene.objects[i], other)
      ]
      side = "in front of" if i < j else "farther away than"
      options.append(f"{names[i]} is {side} {names[j]}")
  return options or [f"{names[i]} is {_where(scene.objects[i])}"]


def _where(obj):
  """Thirds of the picture in words."""
  row = ("at the top", "", "at the bottom")[min(int(obj.y * 3), 2)]
  column = ("on the left", "", "on the right")[min(int(obj.x * 3), 2)]
  return " ".join(filter(None, [row, column])) or "in the middle"


def _backgrounds(scene):
  n = len(scene.objects)
  return [
    f"a room with a {scene.wall} wall and a {scene.floor} floor",
    f"a {scene.floor} floor in front of a {scene.wall} wall with "
    f"{_listing(scene, 'shape')}",
    f"{_a(scene.main.kind)} in a room with a {scene.wall} wall",
    f"{NUMBERS[n]} {plural('shape', n)} over a {scene.floor} floor, the "
    f"nearest is {scene.main.color}",
  ]


def _ask_total(scene):
  return "count", "how many shapes are there?", str(len(scene.objects))


def _ask_count(scene, rng, attribute, values):
  """Half of the questions are about something that is there."""
  if rng.random() < 0.5:
    value = getattr(_pick(rng, scene.objects), attribute)
  else:
    value = _pick(rng, values)
  n = sum(getattr(o, attribute) == value for o in scene.objects)
  noun = plural(value, 0) if attribute == "shape" else f"{value} shapes"
  return "count", f"how many {noun} are there?", str(n)


def _unique(scene, attribute):
  """Objects that no other object shares this attribute with."""
  found = collections.Counter(getattr(o, attribute) for o in scene.objects)
  return [o for o in scene.objects if found[getattr(o, attribute)] == 1]


def _ask_color(scene, rng):
  if objects := _unique(scene, "shape"):
    obj = _pick(rng, objects)
    return "color", f"what color is the {obj.shape}?", obj.color
  return "color", "what color is the nearest shape?", scene.main.color


def _ask_shape(scene, rng):
  if objects := _unique(scene, "color"):
    obj = _pick(rng, objects)
    return "shape", f"what shape is the {obj.color} object?", obj.shape
  return "shape", "what shape is the nearest object?", scene.main.shape


def _ask_presence(scene, rng):
  kinds = {o.kind for o in scene.objects}
  obj = _pick(rng, scene.objects)
  # Half right is the hard kind of wrong: a shape that is there, recolored.
  wrong = [f"{c} {obj.shape}" for c in ss.COLORS]
  wrong = [kind for kind in wrong if kind not in kinds]
  if wrong and rng.random() < 0.5:
    return "presence", f"is there {_a(_pick(rng, wrong))}?", "no"
  return "presence", f"is there {_a(obj.kind)}?", "yes"


def _ask_relation(scene, rng):
  names = expressions(scene)
  pairs = [
    (names[i], names[j], relation)
    for i, a in enumerate(scene.objects)
    for j, b in enumerate(scene.objects)
    if i != j
    for relation in relations(a, b)
  ]
  if not pairs:
    answer = "yes" if len(scene.objects) > 1 else "no"
    return "count", "is there more than one shape?", answer
  a, b, relation = _pick(rng, pairs)
  # Swapping the two turns a true statement into a false one.
  a, b, answer = (a, b, "yes") if rng.random() < 0.5 else (b, a, "no")
  return "relation", f"is {a} {relation} {b}?", answer


def _ask_depth(scene, rng):
  if len(scene.objects) == 1:
    return "color", "what color is the wall?", scene.wall
  i, j = rng.choice(len(scene.objects), 2, replace=False)
  names = expressions(scene)
  question = f"which is closer, {names[i]} or {names[j]}?"
  return "depth", question, names[min(i, j)]
