"""Weights of other libraries: what their models compute, and the way back.

The files and numbers are from torch, see tests/golden/make_weights.py.
"""

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from big_vision import lookup
from big_vision.models import common, positions
from big_vision.models.weights import families, tables
from big_vision.models.weights.family import Found

pytestmark = pytest.mark.usefixtures("quick_compilation")
GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "weights"
# In 50 layers of float32, torch differs by 1.5e-5 from its own float64, with
# which the float64 here agrees to 2e-14.
TOLERANCE = {"timm/bit": 4e-5}
CASES = sorted("/".join(p.parts[-2:]) for p in GOLDEN.glob("*/*"))


@functools.cache
def case(name):
  """(family, tensors, settings, expected) of a case."""
  folder = GOLDEN / name
  config = json.loads((folder / "config.json").read_text())
  tensors = load_file(folder / "model.safetensors")
  family = families.find(config, tensors)
  return family, tensors, config, dict(np.load(folder / "expected.npz"))


def read(family, tensors, config):
  found = family.read(config, {k: x.shape for k, x in tensors.items()})
  return found, family.to_params(tensors, found)


TEXTS = np.array([[1, 5, 3, 3, 3], [1, 7, 19, 6, 3], [4, 3, 8, 2, 2]])


def build(found):
  """(model, arguments of its call from those that a case has)."""
  module = lookup.module("models", found.model_name, kind="model")
  if "two_towers" in found.model_name:
    return module.Model(**found.model), lambda image: (image, TEXTS)
  model = module.Model(found.num_classes, **found.model)
  if "text" in found.model_name:
    return model, lambda image: (TEXTS,)
  return model, lambda image: (image,)


@functools.cache
def compiled(found):
  found = Found(**json.loads(found))
  model, inputs = build(found)
  return jax.jit(lambda params, x: model.apply({"params": params}, *inputs(x)))


def check(found, params, expected, atol=1e-5):
  fn = compiled(json.dumps(dataclasses.asdict(found)))
  *outputs, out = fn(params, expected["image"])
  if len(outputs) == 2:
    got = dict(zip(("zimg", "ztxt"), outputs, strict=True))
    got["logits"] = got["zimg"] @ got["ztxt"].T * out["t"][None]
  else:
    got = dict.fromkeys(("output", "zimg", "ztxt"), outputs[0])
    got["tokens"] = out.get("encoded")
  for key in expected.keys() - {"image"}:
    np.testing.assert_allclose(got[key], expected[key], atol=atol, err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_same_as_the_library_and_back(name):
  family, tensors, config, expected = case(name)
  found, params = read(family, tensors, config)
  check(found, params, expected, TOLERANCE.get(name, 1e-5))

  written, settings = family.to_tensors(params, found)
  # Heads of pre-training are not used, but for the loader of the library.
  assert not set(written) - set(tensors)
  again, params_again = read(family, written, json.loads(json.dumps(settings)))
  assert (again.num_classes, again.image_size) == (
    found.num_classes,
    found.image_size,
  )
  assert build(again)[0] == build(found)[0]
  jax.tree.map(np.testing.assert_array_equal, params_again, params)


@pytest.mark.parametrize("name", CASES)
def test_the_model_has_these_parameters(name):
  family, tensors, config, expected = case(name)
  found, params = read(family, tensors, config)
  model, inputs = build(found)
  inputs = inputs(expected["image"])
  shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  assert jax.tree.map(np.shape, params) == jax.tree.map(
    lambda x: x.shape, shapes["params"]
  )


@pytest.mark.parametrize("name", ["bit_paper", "mlp_mixer", "nfnet"])
def test_models_load_them(name):
  """A checkpoint that is read already stands for its path."""
  module = lookup.module("models", name, kind="model")
  params = {"head": {"bias": np.ones(3)}, "other": np.ones(2)}
  init = {"head": {"bias": np.zeros(2)}, "other": np.zeros(2)}
  loaded = common.Loaded(params, "hf://org/name")
  out = module.load(init, loaded, {}, dont_load=["head/.*"])
  np.testing.assert_array_equal(out["head"]["bias"], np.zeros(2))
  np.testing.assert_array_equal(out["other"], np.ones(2))


def test_wrong_tensors_are_named():
  family, tensors, config, _ = case("transformers/vit_classes")
  missing = {k: x for k, x in tensors.items() if "layer.1.output" not in k}
  with pytest.raises(ValueError, match=r"missing .*layer\.1\.output\.dense"):
    read(family, missing, config)
  with pytest.raises(ValueError, match="unknown extra"):
    read(family, tensors | {"extra": np.zeros(3)}, config)
  name = "classifier.weight"
  short = tensors | {name: tensors[name][:4]}
  with pytest.raises(
    ValueError, match=r"classifier.weight .* \(4, 12\), .* \(5"
  ):
    read(family, short, config)
  whole = tensors | {name: tensors[name].astype(np.int8)}
  with pytest.raises(ValueError, match="classifier.weight .*int8.*quantized"):
    read(family, whole, config)


@pytest.mark.parametrize(
  "key, value",
  [("hidden_act", "mish"), ("num_channels", 4), ("hidden_size", 0)],
)
def test_settings_without_a_counterpart_are_named(key, value):
  family, tensors, config, _ = case("transformers/vit_classes")
  with pytest.raises(ValueError, match=f"config.json: {key} = {value!r}"):
    read(family, tensors, config | {key: value})


def test_parameters_that_a_library_lacks_are_named():
  family, tensors, config, _ = case("transformers/vit_classes")
  found, params = read(family, tensors, config)
  with pytest.raises(ValueError, match="unknown more"):
    family.to_tensors(params | {"more": np.zeros(2)}, found)
  del params["cls"]
  with pytest.raises(ValueError, match="missing cls"):
    family.to_tensors(params, found)


def test_entries_are_inverse():
  table = tables.dense("x", "y", (2, 3), (4,), part=(1, 3))
  kernel, bias = table
  x = np.arange(12 * 6.0).reshape(12, 6)
  y = kernel.to_param(x)
  assert y.shape == (2, 3, 4)
  np.testing.assert_array_equal(y.reshape(6, 4), x[4:8].T)
  np.testing.assert_array_equal(kernel.to_tensor(y), x[4:8])
  assert bias.tensor == (12,) and bias.shape == (4,)


def test_blocks_are_counted():
  names = ["0.0.x", "0.1.x", "1.0.x", "1.0.y", "other"]
  assert tables.stages(names, "{}.{}.x") == [2, 1]
  with pytest.raises(ValueError, match=r"lacks 0\.1\.x"):
    tables.stages([*names[2:], "0.0.x", "0.2.x"], "{}.{}.x")
  for far in ("999999999.0.x", "2.999999999.x"):
    with pytest.raises(ValueError, match=r"lacks 2\.0\.x"):
      tables.stages([*names, far], "{}.{}.x")
  with pytest.raises(ValueError, match=r"lacks 0\.0\.z"):
    tables.stages(names, "{}.{}.z")


def test_positions_are_resampled_as_by_torch():
  """Numbers of torch.nn.functional.interpolate, bicubic."""
  grid = np.arange(4.0).reshape(2, 2, 1) ** 2
  one = lambda size, method: positions.resample(grid, size, method=method)[
    ..., 0
  ]
  np.testing.assert_allclose(one((2, 2), "bicubic"), grid[..., 0])
  expected = json.loads((GOLDEN / "resampled.json").read_text())
  for method, cases in expected.items():
    for values in cases:
      stored = np.float32(values["stored"])
      size = np.shape(values["resampled"])[:2]
      got = positions.resample(stored, size, method=method)
      np.testing.assert_allclose(got, values["resampled"], atol=4e-6)
