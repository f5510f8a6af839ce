"""Exported models, run in their runtimes, compute what the models of JAX do."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import random_run
from big_vision import export, exported, lookup, pretrained
from big_vision.export import forward, onnx_file, quantize

pytestmark = pytest.mark.usefixtures("quick_compilation")
FORMATS = [
  "stablehlo",
  "onnx",
  pytest.param("savedmodel", marks=pytest.mark.tf),
]
SLOW = [pytest.mark.tf, pytest.mark.slow]
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (3, 40, 60, 3)).astype(np.uint8)
# Runs without the code of the models.
ALONE = """
import sys
for name in ("models", "pretrained", "export", "training", "pp"):
  sys.modules[f"big_vision.{name}"] = None
import numpy as np
from big_vision import exported
m = exported.load(sys.argv[1])
np.savez(sys.argv[3], **m(image=np.load(sys.argv[2])))
"""


def needs(format):
  modules = {"onnx": "onnxruntime", "savedmodel": "tensorflow"}
  pytest.importorskip(modules.get(format, "jax"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  path = tmp_path_factory.mktemp("runs") / "vit"
  return pretrained.load(random_run.vit(path, pool_type="map", scan=True))


@pytest.fixture(scope="module")
def images(model):
  return np.stack([model.preprocess(picture) for picture in PICTURES])


@pytest.fixture(scope="module")
def want(model):
  logits, features = model.raw_outputs(map(model.prepare, PICTURES))
  probabilities = model.probabilities(list(PICTURES))
  return dict(logits=logits, features=features, probabilities=probabilities)


def check(m, inputs, want, nums=(1, 3), **kw):
  """Compares for some sizes of a batch."""
  for num in nums:
    got = m(image=inputs[:num])
    assert set(got) == set(want) == {o["name"] for o in m.info["outputs"]}
    for name, x in got.items():
      assert x.dtype == np.float32
      np.testing.assert_allclose(x, want[name][:num], err_msg=name, **kw)


@pytest.mark.parametrize("format", FORMATS)
def test_outputs(format, model, images, want, tmp_path):
  needs(format)
  info = export.save(model, tmp_path / "new" / "m", format)
  m = exported.load(tmp_path / "new/m")
  check(m, images, want, atol=1e-5)
  assert (
    m.info == info == json.loads((tmp_path / "new/m/export.json").read_text())
  )
  assert info["inputs"] == [
    {"name": "image", "shape": ["batch", 32, 32, 3], "dtype": "float32"}
  ]
  shapes = {o["name"]: o["shape"] for o in info["outputs"]}
  assert shapes["logits"] == shapes["probabilities"] == ["batch", 3]
  assert info["class_names"] == ["cat", "dog", "red panda"]
  assert info["loss"] == "softmax" and not info["preprocessing_included"]
  assert info["pp"] == "decode|resize(32)|value_range(-1, 1)"
  assert info["versions"]["jax"] == jax.__version__
  files = {p.name for p in (tmp_path / "new/m").iterdir()}
  assert files == {*info["files"], "export.json"}
  assert {p.name for p in (tmp_path / "new").iterdir()} == {"m"}
  if format != "onnx":
    assert info["platforms"] == ["cpu", "cuda", "tpu"]


@pytest.mark.parametrize(
  "format", [*FORMATS[:2], pytest.param("savedmodel", marks=SLOW)]
)
def test_preprocessing_and_int8(format, model, images, want, tmp_path):
  """One file with both; what remains is the error of 8 bits."""
  needs(format)
  info = export.save(
    model,
    tmp_path,
    format,
    preprocess=True,
    input_size=(40, 60),
    quantize="int8",
  )
  assert info["inputs"][0]["shape"] == ["batch", 40, 60, 3]
  assert info["inputs"][0]["dtype"] == "uint8"
  size = info["quantize"]["num_bytes_of_params"]
  assert size < 0.4 * info["num_bytes_of_params"]  # There are norms.
  m = exported.load(tmp_path)
  whole = forward.of(model)
  whole = whole.with_params(quantize.quantize(whole.params))
  rounded = jax.jit(whole.fn)(whole.params, {"image": images})
  check(m, PICTURES, rounded, nums=(3,), atol=1e-5)
  error = np.abs(rounded["logits"] - want["logits"]).max()
  assert 1e-5 < error < 0.05 * np.ptp(want["logits"])


@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
def test_without_the_code_of_models(format, model, images, want, tmp_path):
  needs(format)
  export.save(model, tmp_path / "m", format)
  np.save(tmp_path / "x.npy", images)
  command = [sys.executable, "-c", ALONE]
  paths = [str(tmp_path / name) for name in ("m", "x.npy", "y.npz")]
  done = subprocess.run([*command, *paths], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]
  with np.load(paths[2]) as got:
    for name in want:
      np.testing.assert_allclose(got[name], want[name], atol=1e-5)


@pytest.mark.parametrize(
  "name, model, call",
  [
    ("vit", dict(pool_type="tok", rep_size=True, posemb="sincos2d"), {}),
    ("vit", dict(pool_type="gap", dtype_mm="bfloat16"), {}),
    ("bit", dict(depth=(1,), width=0.5), {}),
    ("mlp_mixer", dict(patch_size=(8, 8), num_blocks=1, hidden_dim=8, tokens_mlp_dim=4, channels_mlp_dim=6), {}),
pytest.param(
      "nfnet", dict(width=(128,), depth=(2,)), {}, marks=pytest.mark.slow
    ),
    ("proj.flexi.vit", dict(pool_type="map", posemb_size=(5, 5)), {"seqhw": 4}),
  ],
)  # fmt: skip
def test_models_in_onnx(name, model, call, tmp_path):
  """Their calls, from random parameters."""
  pytest.importorskip("onnxruntime")
  size = dict(width=8, depth=1, mlp_dim=8, num_heads=2, patch_size=(8, 8))
  if "vit" in name:
    model = size | model
  config = dict(
    num_classes=3,
    model_name=name,
    model=model,
    input=dict(pp="resize(32)|value_range(0, 1)"),
    flexi=dict(seqhw=dict(v=(2, 4), p=(1, 1))) if call else {},
  )
  x = RNG.uniform(0, 1, (3, 32, 32, 3)).astype(np.float32)
  m = pretrained.load(random_run.make(tmp_path / "w", config, x, **call))
  assert m.call == call
  half = "dtype_mm" in model
  export.save(m, tmp_path / "m", "onnx")
  whole = forward.of(m)
  want = jax.jit(whole.fn)(whole.params, {"image": x})
  largest = np.abs(want["logits"]).max()
  # Computed in float32 there, in bfloat16 here.
  atol = 0.03 * largest if half else 1e-5 * max(1, largest)
  check(exported.load(tmp_path / "m"), x, want, atol=atol, rtol=1e-5)


def test_fixed_batch(model, images, want, tmp_path):
  export.save(model, tmp_path, "stablehlo", batch_size=2)
  m = exported.load(tmp_path)
  assert m.info["inputs"][0]["shape"] == [2, 32, 32, 3]
  got = m(image=images[:2])["logits"]
  np.testing.assert_allclose(got, want["logits"][:2], atol=1e-5)
  with pytest.raises(ValueError, match=r"float32 \[2, 32, 32, 3\], not"):
    m(image=images)
  with pytest.raises(ValueError, match="The inputs are image; found x"):
    m(x=images)


def test_inputs_are_checked(model, tmp_path):
  export.save(model, tmp_path, "stablehlo", preprocess=True)
  m = exported.load(tmp_path)
  assert m.info["inputs"][0]["shape"] == ["batch", 32, 32, 3]
  with pytest.raises(
    ValueError, match=r"uint8 \[batch, 32, 32, 3\], not float"
  ):
    m(image=np.zeros([1, 32, 32, 3]))
  with pytest.raises(ValueError, match="not uint8"):
    m(image=np.zeros([1, 32, 33, 3], np.uint8))


def test_only_what_is_an_export_is_replaced(model, tmp_path):
  export.save(model, tmp_path / "m", "stablehlo")
  export.save(model, tmp_path / "m", "stablehlo", batch_size=1)
  assert exported.load(tmp_path / "m").info["inputs"][0]["shape"][0] == 1
  (tmp_path / "other").mkdir()
  (tmp_path / "other/letter.txt").write_text("Dear")
  with pytest.raises(lookup.ConfigError, match=r"such as letter\.txt"):
    export.save(model, tmp_path / "other", "stablehlo")
  with pytest.raises(lookup.ConfigError, match="is a file"):
    export.save(model, tmp_path / "other/letter.txt", "stablehlo")
  with pytest.raises(lookup.ConfigError, match=r"has no export\.json"):
    exported.load(tmp_path / "other")
  (tmp_path / "other/export.json").write_text("{}")
  with pytest.raises(lookup.ConfigError, match="should name a format"):
    exported.load(tmp_path / "other")


def test_nothing_is_left_of_a_failed_export(model, tmp_path, monkeypatch):
  pytest.importorskip("onnx")

  def fail(*args):
    raise lookup.ConfigError("no")

  monkeypatch.setattr(onnx_file, "_model", fail)
  with pytest.raises(lookup.ConfigError, match="no"):
    export.save(model, tmp_path / "m", "onnx")
  assert not list(tmp_path.iterdir())


def test_mistakes(model, tmp_path):
  with pytest.raises(ValueError, match="export format"):
    export.save(model, tmp_path, "onxx")
  with pytest.raises(ValueError, match="quantization"):
    export.save(model, tmp_path, "stablehlo", quantize="int4")
  with pytest.raises(ValueError, match="tower='image' is for models of images"):
    export.save(model, tmp_path, "stablehlo", tower="image")
  with pytest.raises(ValueError, match="batch_size=0"):
    export.save(model, tmp_path, "stablehlo", batch_size=0)
