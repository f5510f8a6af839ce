"""Conversion from and to Hugging Face's files; models/…/test_huggingface.py has
the numbers."""

import json
import pathlib

import ml_collections as mlc
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from big_vision import checkpoints, trees
from big_vision.models.proj.image_text import (
  huggingface,
  huggingface_conversion,
  two_towers,
)
from big_vision.tools import convert_hf

flags.FLAGS.mark_as_parsed()  # As other tests have done, if they came first.
ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "huggingface"
TWO_TOWERS = "proj.image_text.two_towers"


def named(tree):
  return dict(trees.tree_flatten_with_names(tree)[0])


def same(a, b):
  a, b = named(a), named(b)
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def config_of(text):
  """The ConfigDict that the tool has printed."""
  config = mlc.ConfigDict()
  lines = text.splitlines()
  code = [line.strip() for line in lines[2 : lines.index("", 2)]]
  exec("\n".join(code), {"config": config, "dict": dict})
  return config


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_there_and_back(name, tmp_path):
  source, npz = str(GOLDEN / name), str(tmp_path / "x.npz")
  text = huggingface_conversion.from_hf(source, npz)
  config = config_of(text)
  assert config.model_name == TWO_TOWERS and config.model_init == npz
  params = two_towers.load(None, config.model_init, config.model)
  same(params, two_towers.load(None, source, config.model))
  assert f"{sum(x.size for x in named(params).values()):,} parameters" in text
  assert "Texts: 7 tokens" in text
  assert ("14 x 14" if name == "siglip" else "trained with 16.") in text

  folder = tmp_path / "new"
  size = 14 if name == "siglip" else None
  text = huggingface_conversion.to_hf(npz, str(folder), config, size)
  assert f"Siglip{name[6:]}Model.from_pretrained({str(folder)!r})" in text
  old = GOLDEN / name / "model.safetensors"
  assert (folder / "config.json").exists()
  assert len((folder / "model.safetensors").read_bytes()) == old.stat().st_size
  same(two_towers.load(None, str(folder), config.model), params)


def test_one_tower(tmp_path):
  npz = str(tmp_path / "x.npz")
  config = config_of(
    huggingface_conversion.from_hf(str(GOLDEN / "siglip2_text"), npz)
  )
  assert config.model_init.to_dict() == {"text": f"{npz}:txt"}
  params = two_towers.load(None, config.model_init, config.model)
  assert params["img"] is None and "head" in params["txt"]
  with pytest.raises(ValueError, match="no img, t: only one with both"):
    huggingface_conversion.to_hf(npz, str(tmp_path / "new"), config)


def test_checkpoint_of_a_run(tmp_path):
  """A folder of checkpoint.bv, with the blocks stacked."""
  config = mlc.ConfigDict(dict(model_name=TWO_TOWERS))
  hf_config = json.loads((GOLDEN / "siglip" / "config.json").read_text())
  config.model = huggingface.model_config(hf_config)
  params = two_towers.load(None, str(GOLDEN / "siglip"), config.model)
  encoder = params["img"]["Transformer"]
  blocks = [encoder.pop(f"encoderblock_{i}") for i in range(2)]
  stacked = {
    name: np.stack([named(b)[name] for b in blocks])
    for name in named(blocks[0])
  }
  encoder["encoderblock"] = trees.tree_unflatten(list(stacked.items()))
  manager = checkpoints.CheckpointManager()
  path = str(tmp_path / "checkpoint.bv")
  checkpoints.save_checkpoint_ts(manager, {"params": params}, path, step=1)
  manager.wait_until_finished()
  folder = str(tmp_path / "new")
  huggingface_conversion.to_hf(path, folder, config)
  same(
    two_towers.load(None, folder, config.model),
    two_towers.load(None, str(GOLDEN / "siglip"), config.model),
  )


def test_errors(tmp_path):
  with pytest.raises(ValueError, match="--to=x must end in .npz"):
    huggingface_conversion.from_hf(str(GOLDEN / "siglip"), "x")
  with pytest.raises(ValueError, match="config.model_name = 'vit'"):
    huggingface_conversion.to_hf(
      "./x", "y", mlc.ConfigDict(dict(model_name="vit"))
    )
  source, npz = str(GOLDEN / "siglip"), str(tmp_path / "x.npz")
  for given, message in (
    ({}, "--from and --to are required"),
    ({"from": "./nope", "to": "x"}, "./nope has no config.json.*--config"),
    ({"from": source, "to": npz, "resolution": 3}, "are for exports"),
    ({"from": source, "to": "x"}, "must end in .npz"),
  ):
    with flagsaver.flagsaver(**given), pytest.raises(SystemExit, match=message):
      convert_hf.main([])


def test_command_line(tmp_path, capsys):
  config = mlc.ConfigDict(dict(model_name=TWO_TOWERS))
  config.model = dict(image=dict(pool_type="map"), out_dim=(None, 16))
  npz, folder = str(tmp_path / "x.npz"), str(tmp_path / "new")
  with flagsaver.flagsaver(**{"from": str(GOLDEN / "siglip"), "to": npz}):
    convert_hf.main([])
  given = {"from": npz, "to": folder, "config": config, "resolution": 15}
  with flagsaver.flagsaver(**given):
    convert_hf.main([])
  assert f"Wrote {folder}" in capsys.readouterr().out
  vision = json.loads((tmp_path / "new" / "config.json").read_text())
  assert vision["vision_config"]["image_size"] == 15
