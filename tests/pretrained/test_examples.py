"""Example pictures of a run for demos."""

import ml_collections
import numpy as np
import pytest
from PIL import Image

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
