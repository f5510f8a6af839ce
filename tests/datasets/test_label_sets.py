"""Several labels per example and targets, from CSV, JSON lines, Hugging Face."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from big_vision import lookup
from big_vision.datasets import core, label_sets
from big_vision.datasets.classes import Classes

pytestmark = pytest.mark.tf

NAMES = ["cat", "dog", "emu"]
# Which of them are in each picture.
FLAGS = [[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 1]]
SETS = [[0], [1, 2], [], [0, 1, 2], [2]]
TARGETS = [[3, 0.5], [4, -1], [-1, 2.25], [0, 1e6], [7, 0]]
WORDS = [[NAMES[i] for i in x] for x in SETS]


@pytest.mark.parametrize(
  "cells, want",
  [
    (["a;b", "", "b"], [["a", "b"], [], ["b"]]),
    (["a | b", "c"], [["a", "b"], ["c"]]),
    (["a, x;b", "c"], [["a, x", "b"], ["c"]]),  # The first that there is.
    (["a,b", "a"], [["a", "b"], ["a"]]),
    (["['a', 'b;c']", "[]", ""], [["a", "b;c"], [], []]),
    (['["a"]', "[1]"], [["a"], ["1"]]),
    (["[a] x", "[b]"], [["[a] x"], ["[b]"]]),
    (["traffic light"], [["traffic light"]]),
    ([";a;;b;"], [["a", "b"]]),
    ([], []),
  ],
)
def test_split_cells(cells, want):
  assert label_sets.split_cells(cells) == want


def test_yes_or_no():
  where = lambda i: f"line {i}"
  for values in (
    [1, 0],
    [True, False],
    [1.0, 0.0],
    ["1", "0"],
    ["True", "false"],
    ["1.0", "0.0"],
    ["yes", "No"],
  ):
    got = label_sets.yes_or_no(values, "c", where)
    assert got.tolist() == [True, False]
    assert label_sets.is_yes_or_no(values)
  for value in ("", "-1", "2", None, 0.5, "cat"):
    with pytest.raises(
      lookup.ConfigError, match="'c' has .* in line 1: write 1"
    ):
      label_sets.yes_or_no([1, value], "c", where)


def test_numbers():
  where = lambda i: f"line {i}"
  got = label_sets.numbers({"a": ["1", "-2e3"], "b": [True, 0.5]}, where)
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, [[1, 1], [-2000, 0.5]])
  got = label_sets.numbers({"a": [[1, 2], [3, 4]], "b": [5, 6]}, where)
  np.testing.assert_array_equal(got, [[1, 2, 5], [3, 4, 6]])
  for bad in ("", "x", "nan", "inf", None, "3,5", [1, 2]):
    with pytest.raises(
      lookup.ConfigError, match="'a' has .* in line 1: write a"
    ):
      label_sets.numbers({"a": [1, bad]}, where)
  with pytest.raises(lookup.ConfigError, match="has 'xxx.*x… in line 0"):
    label_sets.numbers({"a": ["x" * 1000]}, where)
  with pytest.raises(lookup.ConfigError, match="write 2 numbers"):
    label_sets.numbers({"a": [[1, 2], [3]]}, where)


def test_class_numbers():
  numbers = label_sets.class_numbers
  assert numbers([["b", "a"], ["a"]], None) == ([[1, 0], [0]], ["a", "b"])
  assert numbers([[3, 1], []], None) == ([[3, 1], []], None)
  assert numbers([["3", "1"]], None) == ([[3, 1]], None)
  assert numbers([["a", "x"]], ["z", "a"]) == ([[1, -1]], ["z", "a"])
  # 0 or 1 for each class.
  for one in (1, 1.0, True):
    vectors = [[one, 0 * one, 0 * one], [0 * one, one, one]]
    assert numbers(vectors, None) == ([[0], [1, 2]], ["0", "1", "2"])
  assert numbers([[1, 0, 0]], ["a", "b", "c"]) == ([[0]], ["a", "b", "c"])
  # Could be numbers of classes.
  assert numbers([[0, 1], [1, 0]], None) == ([[0, 1], [1, 0]], None)


def test_sets():
  sets = label_sets.LabelSets(SETS)
  assert len(sets) == 5
  assert [x.tolist() for x in sets] == SETS
  assert [sets.read(i).numpy().tolist() for i in range(5)] == SETS
  assert [x.tolist() for x in sets.take([3, 0])] == [SETS[3], SETS[0]]
  assert sets.outside(3) == sets.outside(None) == {}
  assert sets.outside(2) == {1: 1, 3: 2, 4: 0}
  assert label_sets.LabelSets([[1], [-1, -1]]).outside(None) == {1: 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The same five examples in all kinds of files."""
  root = tmp_path_factory.mktemp("data")
  files = [f"{i}.png" for i in range(5)]
  for i, file in enumerate(files):
    Image.new("RGB", (4, 4), (40 * i, 0, 0)).save(root / file)
  with open(root / "t.csv", "w", newline="") as f:
    table = csv.writer(f)
    table.writerow(["file", "tags", *NAMES, "age", "price"])
    for row in zip(files, WORDS, FLAGS, TARGETS, strict=True):
      table.writerow([row[0], "|".join(row[1]), *row[2], *row[3]])
  with open(root / "t.jsonl", "w") as f:
    for row in zip(files, WORDS, SETS, FLAGS, TARGETS, strict=True):
      d = dict(zip(("image", "tags", "ids", "hot", "both"), row, strict=True))
      d |= dict(zip(NAMES, row[3], strict=True), age=row[4][0], price=row[4][1])
      d["age"] = float(d["age"])
      d["price"] = float(d["price"])
      f.write(json.dumps(d) + "\n")
  return root


@pytest.fixture(scope="module")
def arrow(folder):
  datasets = pytest.importorskip("datasets")
  value = datasets.Value
  columns = dict(
    image=[str(folder / f"{i}.png") for i in range(5)],
    tags=SETS,
    words=WORDS,
    ids=SETS,
    hot=[[float(x) for x in row] for row in FLAGS],
    both=TARGETS,
    age=[x for x, _ in TARGETS],
    price=[x for _, x in TARGETS],
    **{name: [row[i] for row in FLAGS] for i, name in enumerate(NAMES)},
  )
  label = datasets.ClassLabel(names=NAMES)
  features = datasets.Features(
    image=datasets.Image(),
    tags=datasets.Sequence(label),
    words=datasets.Sequence(value("string")),
    ids=datasets.Sequence(value("int32")),
    hot=datasets.Sequence(value("float32")),
    both=datasets.Sequence(value("float64")),
    age=value("int64"),
    price=value("float32"),
    **dict.fromkeys(NAMES, value("bool")),
  )
  ds = datasets.Dataset.from_dict(columns, features=features)
  ds.save_to_disk(str(folder / "hf"))
  return folder


def source_of(kind, folder, feature, columns, **kw):
  data = dict(split="all[:4]")
  if kind == "csv":
    data |= dict(name="bv:folder", path=str(folder), labels=f"{folder}/t.csv")
    image = {"image": "file"}
  elif kind == "jsonl":
    data |= dict(name="bv:jsonl", fname=f"{folder}/t.jsonl")
    image = {}
  else:
    data |= dict(name="bv:hf", path=f"{folder}/hf", split="train[:4]")
    image = {"image": "image"}
  return core.get(**{**data, "features": {**image, feature: columns}, **kw})


def read(source, feature):
  ds = source.get_tfdata(ordered=True)
  spec = ds.element_spec[feature]
  assert source.example_spec()[feature] == spec
  return [x[feature].tolist() for x in ds.as_numpy_iterator()], spec


@pytest.mark.parametrize(
  "kind, columns, kw, classes",
  [
    ("csv", "tags", dict(multi_label=True), NAMES),
    ("csv", NAMES, {}, NAMES),
    ("jsonl", "tags", {}, NAMES),
    ("jsonl", ["tags"], {}, NAMES),
    ("jsonl", "ids", {}, None),
    ("jsonl", "hot", {}, ["0", "1", "2"]),
    ("jsonl", NAMES, {}, NAMES),
    ("hf", ["tags"], {}, NAMES),
    ("hf", ["words"], {}, NAMES),
    ("hf", ["ids"], {}, None),
    ("hf", ["hot"], {}, ["0", "1", "2"]),
    ("hf", NAMES, {}, NAMES),
  ],
)
def test_labels(arrow, kind, columns, kw, classes):
  source = source_of(kind, arrow, "label", columns, **kw)
  got, spec = read(source, "label")
  assert got == SETS[:4]
  assert spec.shape.as_list() == [None] and spec.dtype == "int64"
  assert source.classes_of("label") == Classes(3, classes and tuple(classes))
  values = source.values_of("label")
  assert [list(x) for x in values] == SETS[:4]
  assert source.some_labels(1) == [SETS[0], SETS[1]]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "hf"])
def test_one_column(arrow, kind):
  """A yes or no, by itself or in the order that the user says."""
  kw = dict(multi_label=True) if kind == "csv" else {}
  columns = "dog" if kind == "csv" else ["dog"]
  source = source_of(kind, arrow, "label", columns, **kw)
  assert read(source, "label")[0] == [[], [0], [], [0]]
  assert source.classes_of("label") == Classes(1, ("dog",))
  source = source_of(kind, arrow, "label", ["emu", "cat"])
  assert read(source, "label")[0] == [[1], [0], [], [0, 1]]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "hf"])
def test_targets(arrow, kind):
  source = source_of(kind, arrow, "targets", ["age", "price"])
  got, spec = read(source, "targets")
  assert got == TARGETS[:4]
  assert spec.shape.as_list() == [2] and spec.dtype == "float32"
  np.testing.assert_array_equal(source.values_of("targets"), TARGETS[:4])
  if kind != "csv":
    source = source_of(kind, arrow, "targets", ["both"])
    assert read(source, "targets")[0] == TARGETS[:4]
  assert source_of(kind, arrow, "targets", ["age"]).values_of(
    "targets"
  ).shape == (
    4,
    1,
  )


def test_values_of_one_label(arrow):
  """What balancing classes asks for."""
  for kind in ("csv", "jsonl", "hf"):
    source = source_of(kind, arrow, "label", "dog")
    values = source.values_of("label")
    assert values is not None
    assert np.asarray(values).tolist() == [0, 1, 0, 1]
    assert source.values_of("nothing") is None
  source = source_of("hf", arrow, "label", "tags")  # As a list of labels.
  assert [x.tolist() for x in source.values_of("label")] == SETS[:4]


def test_given_classes(arrow):
  order = ["emu", "cat", "dog"]
  want = [[1], [2, 0], [], [1, 2, 0]]
  for kind, columns, kw in (
    ("csv", "tags", dict(multi_label=True)),
    ("jsonl", "tags", {}),
    ("hf", ["words"], {}),
  ):
    source = source_of(kind, arrow, "label", columns, classes=order, **kw)
    assert read(source, "label")[0] == want
    assert source.classes_of("label") == Classes(3, tuple(order))
  found = source_of("jsonl", arrow, "label", "tags").labels_as_text()
  assert found == source_of("hf", arrow, "label", ["words"]).labels_as_text()
  assert found == NAMES


def test_labels_that_are_none(arrow):
  kw = dict(multi_label=True, classes=["cat", "dot"])
  source = source_of("csv", arrow, "label", "tags", **kw)
  assert len(source.bad_examples()) == 2
  assert "'dog'" in source.bad_examples()[0]
  assert "1.png" in source.bad_examples()[0]
  with pytest.raises(Exception, match="dog.* is not a class.*dot"):
    read(source, "label")
  with pytest.raises(ValueError, match="'dog', which is none of the 2 classes"):
    source_of("jsonl", arrow, "label", "tags", classes=["cat", "dot"])
  source = source_of("jsonl", arrow, "label", "ids", num_classes=2)
  assert len(source.bad_examples()) == 2
  for columns, kw in (
    (["words"], dict(classes=["cat", "dot"])),
    (["ids"], dict(num_classes=2)),
  ):
    with pytest.raises(lookup.ConfigError, match="none of the 2 classes"):
      source_of("hf", arrow, "label", columns, **kw)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "hf"])
def test_columns_of_another_kind(arrow, kind):
  with pytest.raises(lookup.ConfigError, match="'age' has .* write 1 for") as e:
    source_of(kind, arrow, "label", ["cat", "age"])
  assert "\n" not in str(e.value)
  column = "words" if kind == "hf" else "tags"
  with pytest.raises(lookup.ConfigError, match="write a number|write 1 numb"):
    source_of(kind, arrow, "targets", ["age", column])
  with pytest.raises(ValueError, match="'agee'|agee"):
    source_of(kind, arrow, "targets", ["agee"])


def test_lists_elsewhere(arrow):
  """They are left out where features are named; else they are errors."""
  path = f"{arrow}/t.jsonl"
  with pytest.raises(
    ValueError, match="'tags' must be a string, number or bool"
  ):
    core.get("bv:jsonl", fname=path)
  source = core.get("bv:jsonl", fname=path, features=dict(x="age"))
  assert "tags" not in source.example_spec()
  source = core.get("bv:jsonl", fname=path, features=dict(x="both"))
  assert read(source, "x")[0] == TARGETS
