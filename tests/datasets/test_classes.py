"""What sources say about the classes of their labels."""

import pytest

from big_vision.datasets import core, source
from big_vision.datasets.classes import Classes, comparable, first_difference

pytestmark = pytest.mark.tf


def classes(*names, num=None):
  return Classes(len(names) if num is None else num, names or None)


@pytest.mark.parametrize(
  "a, b, difference",
  [
    (classes("ant", "bee"), classes("ant", "bee"), None),
    (classes("ant", "bee"), classes("bee"), 0),
    (classes("ant", "bee"), classes("ant", "cat"), 1),
    (classes("ant", "bee", "cat"), classes("ant", "bee"), None),
    (classes("Ant_eater", "bee"), classes("ant eater", "BEE"), None),
    (classes(num=3), classes(num=5), None),
    (classes(num=3), classes("0", "1", "2"), None),
    (classes(num=11), classes("0", "1", "10", "2"), 2),
    (classes("ant", "bee", num=5), classes("ant", "bee", "cat"), None),
  ],
)
def test_first_difference(a, b, difference):
  assert first_difference(a, b) == difference
  assert first_difference(b, a) == difference


@pytest.mark.parametrize(
  "a, b, difference",
  [
    (classes("ant", "crab"), classes("ant", "cra"), None),
    (classes("ant", "bee"), classes("bee", "cat"), 0),
    (classes("bug", "ant"), classes("ant", "bee"), 0),
    (classes("ant", "bee"), classes("cat", "dog", "ant"), 0),
  ],
)
def test_first_difference_of_names_that_moved(a, b, difference):
  assert first_difference(a, b, moved_only=True) == difference
  assert first_difference(b, a, moved_only=True) == difference


def test_comparable():
  assert not comparable(classes("ant"), classes("bee"))
  assert not comparable(classes("ant"), classes(num=1))
  assert comparable(classes("ant", "bee"), classes("cat", "Ant"))


def test_texts():
  assert str(classes("ant", "bee")) == "'ant', 'bee'"
  assert str(classes(num=10)) == str(classes(*"0123456789")) == "0 to 9"
  many = classes(*(f"n{i}" for i in range(1000)))
  assert str(many).startswith("'n0', 'n1'") and str(many).endswith("'n9', …")
  assert len(str(many)) < 80


class Contract:
  """The least that a source has."""

  total_examples = 3

  def get_tfdata(self, ordered, **kw):
    raise NotImplementedError

  def num_examples_per_process(self):
    return [3]


class Named(Contract):
  class_names = ["ant", "bee"]


class Numbered(source.DataSource):
  num_classes = 7


class Several(Contract):
  def classes_of(self, feature):
    return Classes(4) if feature == "color" else None


def test_sources_of_ones_own(monkeypatch):
  def get(cls):
    monkeypatch.setattr(core, "source_class", lambda name: cls)
    return core.get("mine")

  assert get(Contract).classes_of("label") is None
  assert get(Named).classes_of("label") == classes("ant", "bee")
  assert get(Named).classes_of("color") is None
  assert get(Numbered).classes_of("label") == Classes(7)
  assert get(Several).classes_of("color") == Classes(4)


def test_equal_arguments_open_a_source_once(tmp_path):
  path = tmp_path / "x.jsonl"
  path.write_text('{"x": 1}')
  get = lambda **kw: core.get("bv:jsonl", fname=str(path), **kw)
  opened = {}
  with core.shared(opened):
    first = get()
    assert get() is first and get(start=0) is not first
  with core.shared(opened):
    assert get() is first
  assert get() is not first
