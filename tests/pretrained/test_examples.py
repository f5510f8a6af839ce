"""Example pictures of a run for demos."""

import json

import ml_collections
import numpy as np
import pytest
from PIL import Image

from big_vision.pp import ops_image, ops_text  # noqa: F401
from big_vision.pretrained import examples

pytestmark = pytest.mark.tf


def config_of(**data):
  val = dict(type="classification", data=data)
  return ml_collections.ConfigDict(dict(evals=dict(x=dict(type="mean"), v=val)))


def test_examples_of_all_classes(tmp_path):
  for c, name in enumerate(["cat", "dog"]):
    (tmp_path / name).mkdir()
    for i in range(5):
      image = np.full([8, 8, 3], 10 * c + i, np.uint8)
      Image.fromarray(image).save(tmp_path / name / f"{i}.png")
  config = config_of(name="bv:folder", path=str(tmp_path), split="all")
  found = examples.labeled_images(config, ("cat", "dog"), 4)
  assert [name for _, name in found] == ["cat", "cat", "dog", "dog"]
  first = (tmp_path / "cat" / "0.png").read_bytes()
  assert found[0][0] == first
  assert examples.labeled_images(config, (), 99)[0] == (first, "")


def test_no_examples():
  for config in (
    config_of(name="bv:folder", path="/not/there", split="all"),
    config_of(name="bv:hf", path="org/name", split="all"),
    config_of(
      name="bv:my.own.source", split="all"
    ),  # Of somebody else: never imported.
    ml_collections.ConfigDict(dict(evals={})),
  ):
    assert examples.labeled_images(config, (), 4) == []


PP = "decode|resize(8)|strfmt('find {name}', outkey='prefix')|tok(model='byte')"


def folder(path, color, num=4):
  """Pictures in one color, with JSON lines that name it."""
  path.mkdir()
  for i in range(num):
    image = np.full([8, 8, 3], 10 * color + i, np.uint8)
    Image.fromarray(image).save(path / f"{i}.png")
  lines = [
    {"image": f"{i}.png", "name": f"{path.name} {i}"} for i in range(num)
  ]
  file = path / "all.jsonl"
  file.write_text("\n".join(map(json.dumps, lines)))
  return dict(name="bv:jsonl", fname=str(file), fopen_keys={"image": str(path)})


def test_questions(tmp_path):
  data = folder(tmp_path / "cat", 0)
  config = ml_collections.ConfigDict(dict(input=dict(data=data, pp=PP)))
  found = examples.questions(config, 3)
  assert [prompt for _, prompt in found] == [f"find cat {i}" for i in (0, 1, 3)]
  assert found[2][0] == (tmp_path / "cat" / "3.png").read_bytes()
  assert len(examples.questions(config, 9)) == 4
  config.input.pp = "decode|keep('image')"
  assert [prompt for _, prompt in examples.questions(config, 2)] == ["", ""]
  config.input.pp = "decode|strfmt('{other}', outkey='prefix')"
  assert [prompt for _, prompt in examples.questions(config, 2)] == ["", ""]
  config.input.data.fname = "/not/there"
  assert examples.questions(config, 3) == []
  assert examples.questions(ml_collections.ConfigDict(), 3) == []


def test_questions_of_parts_and_evaluators(tmp_path):
  parts = {
    name: dict(data=folder(tmp_path / name, i), pp=PP)
    for i, name in enumerate(["cat", "dog"])
  }
  config = ml_collections.ConfigDict(
    dict(
      input=dict(data=dict(cat=0.5, dog=0.5), **parts),
      evals=dict(none=None, of_no_data=dict(type="mean")),
    )
  )
  prompts = lambda: [prompt for _, prompt in examples.questions(config, 4)]
  assert prompts() == ["find cat 0", "find dog 1", "find cat 2", "find dog 3"]
  dog = parts["dog"]
  config.evals.val = dict(type="x", data=dog["data"], pp_fn=dog["pp"])
  assert prompts() == [f"find dog {i}" for i in range(4)]
  config.evals.val.data.fname = "/not/there"  # Pictures of training, then.
  assert prompts()[0] == "find cat 0"
