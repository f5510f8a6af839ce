"""Models handed on: each format is read back, with all that belongs to it."""

import json
import pathlib

import jax
import numpy as np
import pytest

import fake_hub
from big_vision import lookup, pretrained
from big_vision.publishing import formats, source, upload
from big_vision.tools import convert

pytestmark = pytest.mark.usefixtures("quick_compilation")
GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
WEIGHTS = GOLDEN / "weights"
PICTURE = np.arange(9 * 12 * 3, dtype=np.uint8).reshape(9, 12, 3)
NAMES = ["ant", "bee", "cat", "dog", "elk"]


def named(name, tmp_path):
  """A copy of a case whose classes have names: its folder."""
  folder = tmp_path / "named"
  folder.mkdir()
  for path in (WEIGHTS / name).glob("*"):
    (folder / path.name).write_bytes(path.read_bytes())
  config = json.loads((folder / "config.json").read_text())
  config["id2label"] = {str(i): n for i, n in enumerate(NAMES)}
  (folder / "config.json").write_text(json.dumps(config))
  return folder


def plain(model):
  """What neither shapes nor defaults of a library tell."""
  keys = ("act", "norm_eps", "num_heads", "pool_type", "pre_norm", "causal")
  towers = [model[k] for k in ("image", "text") if k in model] or [model]
  return [{k: m[k] for k in keys if k in m} for m in towers]


def to(form, tmp_path):
  return str(tmp_path / ("out.npz" if form == "npz" else "out"))


@pytest.mark.parametrize("form", ["npz", "orbax", "hf"])
def test_classifiers(form, tmp_path):
  folder = named("transformers/vit_classes", tmp_path)
  target = to(form, tmp_path)
  assert (
    convert.main(["--from", str(folder), "--to", target, "--format", form]) == 0
  )
  old, new = pretrained.load(folder), pretrained.load(target)
  np.testing.assert_array_equal(
    new.raw_outputs([new.prepare(PICTURE)])[0],
    old.raw_outputs([old.prepare(PICTURE)])[0],
  )
  assert new.class_names == old.class_names == tuple(NAMES)
  assert new.pp == old.pp and new.loss == old.loss == "softmax"
  if form != "npz":
    card = (pathlib.Path(target) / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert "ant, bee, cat, dog, elk" in card
  # Nothing is overwritten.
  assert (
    convert.main(["--from", str(folder), "--to", target, "--format", form]) == 1
  )


@pytest.mark.parametrize(
  "name, form",
  [
    ("timm/augreg", "hf"),
    ("timm/dinov2", "hf"),
    ("timm/mixer", "timm"),
    ("transformers/deit_distilled", "hf"),
    ("open_clip/clip", "open_clip"),
  ],
)
def test_other_libraries(name, form, tmp_path):
  model = source.read(str(WEIGHTS / name))
  target = to(form, tmp_path)
  formats.write(model, target, form)
  again = source.read(target)
  jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
  assert plain(again.found.model) == plain(model.found.model)
  assert again.found.image_size == model.found.image_size
  if "mixer" not in name:  # timm knows one crop_pct for both sides.
    assert again.pp == model.pp


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_siglip_has_its_tokenizer(name, tmp_path):
  folder = GOLDEN / "huggingface" / name
  model, target = source.read(str(folder)), to("hf", tmp_path)
  formats.write(model, target, "hf")
  again = source.read(target)
  jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
  for file in formats.TOKENIZER_FILES:
    if (folder / file).exists():
      copy = pathlib.Path(target) / file
      assert copy.read_bytes() == (folder / file).read_bytes()
  processor = pathlib.Path(target) / "preprocessor_config.json"
  kind = json.loads(processor.read_text())["image_processor_type"]
  assert kind == f"{name.title()}ImageProcessor"


def test_upload(tmp_path, monkeypatch, capsys):
  args = ["--from", str(WEIGHTS / "transformers" / "dinov2"), "--format", "hf"]
  with fake_hub.serve(tmp_path, monkeypatch) as hub:
    target = str(tmp_path / "first")
    assert convert.main([*args, "--to", target, "--upload", "org/dino"]) == 1
    assert "hf auth login" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "secret")
    target = str(tmp_path / "second")
    assert convert.main([*args, "--to", target, "--upload", "org/dino"]) == 0
    assert f"{hub.url}/org/dino/commit/1" in capsys.readouterr().out
    names = {p.name for p in (hub.folder / "org" / "dino" / "main").iterdir()}
    assert names == {
      "model.safetensors", "config.json", "preprocessor_config.json", "README.md"
    }  # fmt: skip
    m = pretrained.load("hf://org/dino")
  assert m.features([PICTURE]).shape == (1, 12)


def test_mistakes(tmp_path, capsys):
  folder = str(WEIGHTS / "transformers" / "dinov2")
  with pytest.raises(ValueError, match="timm's ViT"):
    formats.write(
      source.read(str(WEIGHTS / "transformers" / "vit_classes")),
      str(tmp_path / "x"),
      "timm",
    )
  assert not (tmp_path / "x").exists()
  with pytest.raises(lookup.ConfigError, match="whose name ends in .npz"):
    formats.write(source.read(folder), str(tmp_path / "x"), "npz")
  args = ["--from", folder, "--to", str(tmp_path / "y"), "--format", "hf"]
  assert convert.main([*args, "--upload", "no_slash"]) == 1
  assert "org/name" in capsys.readouterr().err
  assert not (tmp_path / "y").exists()
  with pytest.raises(lookup.ConfigError):
    upload.check_name("a/b/c")
