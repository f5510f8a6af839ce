"""What a run stores about its labels and preprocessing."""

import json

import ml_collections as mlc
import pytest

from big_vision.configs.proj.image_text import siglip_pretrain
from big_vision.datasets.classes import Classes
from big_vision.training import data_file
from big_vision.training.label_check import Space


def space(key="input.data", names=("a", "b"), depth=2, result="labels"):
  return Space(key, Classes(depth, names), True, depth, result)


def config(**kw):
  data = dict(name="bv:folder", path="/x")
  return mlc.ConfigDict(
    dict(input=dict(data=data, pp="decode|flip_lr"), num_classes=2, **kw)
  )


def test_names_of_the_labels_that_are_predicted():
  spaces = [
    space(depth=3, names=("x", "y", "z")),
    space(result="other", names=("c", "d")),
    space(),
  ]
  got = data_file.describe(config(), spaces)
  assert got == dict(
    class_names=["a", "b"],
    num_classes=2,
    pp="decode",
    label=dict(
      key="input.data", data=dict(name="bv:folder", path="/x"), onehot=2
    ),
  )
  files = data_file.files(config(), spaces)
  assert {k: json.loads(v) for k, v in files.items()} == {"data.json": got}


@pytest.mark.parametrize(
  "spaces", [[], [space(names=None)], [space(depth=3, names=("x", "y", "z"))]]
)
def test_unknown_names(spaces):
  got = data_file.describe(config(), spaces)
  assert got["class_names"] is None and got["num_classes"] == 2


def test_evaluators_say_how_to_preprocess():
  evals = dict(
    mean=dict(type="mean", pp_fn="decode|resize(3)"),
    none=None,
    val=dict(type="classification", pp_fn="decode|resize(4)"),
  )
  assert data_file.describe(config(evals=evals), [])["pp"] == "decode|resize(4)"


def test_images_and_texts():
  run = siglip_pretrain.get_config("demo")
  got = data_file.describe(run, [])
  assert got["class_names"] is got["num_classes"] is got["label"] is None
  assert got["pp"].startswith("resize(32)")


def test_mixtures():
  run = config()
  run.input = dict(
    data=dict(a=1, b=2),
    a=dict(data=dict(name="x"), pp="decode|random_crop(8)"),
    b=dict(data=dict(name="y"), pp="decode"),
  )
  got = data_file.describe(run, [space("input.a.data")])
  assert got["label"]["data"] == {"name": "x"}
  assert got["pp"] == "decode|central_crop(8)"
