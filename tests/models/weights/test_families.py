"""Weights of other libraries: what their models compute, and the way back.

The files and numbers are from torch, see tests/golden/make_weights.py.
"""

import dataclasses
import functools
import json
import pathlib
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from big_vision import lookup
from big_vision.models import common, positions, vit
from big_vision.models.weights import families, original_vit, tables
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
    got["bias"] = out.get("b", [None])[0]
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

  written, settings = families.write(family.library, params, found)
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


@pytest.mark.parametrize(
  "name, where, value",
  [
    ("transformers/vit_classes", "id2label", 7),
    ("transformers/dinov2", "mlp_ratio", [2, "a"]),
    ("transformers/dinov3", "num_register_tokens", -1),
    ("transformers/dinov3", "rope_theta", "x"),
    ("transformers/clip", "vision_config", [1]),
    ("timm/augreg", "model_args.num_heads", 1.5),
    ("timm/augreg", "model_args.img_size", "x"),
    ("timm/augreg", "model_args.global_pool", {}),
    ("timm/dinov3", "model_args.rope_type", "mixed"),
    ("timm/augreg", "architecture", "vit_base_patch16_rpn_224"),
    ("timm/augreg", "architecture", "vit_pe_core_base_patch16_224"),
    ("open_clip/clip", "model_cfg", None),
    ("open_clip/clip", "model_cfg.vision_cfg.head_width", 0),
    ("open_clip/clip", "model_cfg.vision_cfg.attentional_pool", True),
    ("open_clip/clip", "model_cfg.text_cfg.hf_model_name", "roberta-base"),
    ("open_clip/siglip", "model_cfg.vision_cfg.timm_model_name", "swin_base"),
  ],
)
def test_odd_settings_are_refused_with_their_name(name, where, value):
  _, tensors, config, _ = case(name)
  config = json.loads(json.dumps(config))
  *path, key = where.split(".")
  part = config
  for k in path:
    part = part[k]
  part[key] = value
  key = "heads" if key == "num_heads" else key
  with pytest.raises(ValueError, match=key) as e:
    read(families.find(config, tensors), tensors, config)
  assert "\n" not in str(e.value)


def test_odd_shapes_are_refused_with_their_name():
  family, tensors, config, _ = case("timm/augreg")
  name = "blocks.0.mlp.fc2.weight"
  with pytest.raises(ValueError, match="timm's ViT"):
    read(family, tensors | {name: np.zeros(3)}, config)
  with pytest.raises(ValueError, match=re.escape(name)):
    read(family, tensors | {name: np.zeros(())}, config)


def test_parameters_that_a_library_lacks_are_named():
  family, tensors, config, _ = case("transformers/vit_classes")
  found, params = read(family, tensors, config)
  with pytest.raises(ValueError, match="unknown more"):
    family.to_tensors(params | {"more": np.zeros(2)}, found)
  del params["cls"]
  with pytest.raises(ValueError, match="missing cls"):
    family.to_tensors(params, found)


@pytest.mark.parametrize(
  "name", ["open_clip/clip", "open_clip/siglip", "original/clip"]
)
def test_one_tower_is_read_alone(name):
  family, tensors, config, _ = case(name)
  found, params = read(family, tensors, config)
  for part in ("img", "txt"):
    some = {k: tensors[k] for k in family.select(tensors, part)}
    tower = family.to_params(some, found.tower(part))
    jax.tree.map(np.testing.assert_array_equal, tower, params[part])


def renamed(tensors, rename):
  """Renames tensors as another release has them, and adds what it drops."""
  other = {f"student.module.{k}": x + 1 for k, x in tensors.items()}
  noise = {f"optimizer.{k}": x for k, x in tensors.items()}
  head = {rename("head.0.weight"): np.ones((3, 64), np.float32)}
  return {rename(k): x for k, x in tensors.items()} | other | noise | head


@pytest.mark.parametrize(
  "name, rename",
  [
    ("dino", lambda k: f"teacher.backbone.{k}"),
    ("dino", lambda k: f"teacher.module.backbone.{k}"),
    ("dino", lambda k: f"state_dict.module.base_encoder.{k}"),
    ("dino", lambda k: f"module.momentum_encoder.{k}"),
    ("dino", lambda k: f"model.{k}"),
    ("dinov2", lambda k: re.sub(r"^(blocks.)(\d+)", r"\g<1>\2.\2", k)),
    ("dinov2", lambda k: f"teacher.backbone.{k}"),
    ("dinov3", lambda k: f"teacher.backbone.{k}"),
  ],
)
def test_other_names_of_releases(name, rename):
  family, tensors, config, _ = case(f"original/{name}")
  _, params = read(family, tensors, config)
  other = renamed(tensors, rename)
  if name == "dinov2" and rename("") == "":
    other = {rename(k): x for k, x in tensors.items()}
  assert families.find(config, other) is family
  _, again = read(family, other, config)
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_deit3_and_mae_of_the_releases():
  """Their names with classes: LayerScale, and which tokens have positions."""
  _, tensors, config, _ = case("original/dino")
  tensors = {f"model.{k}": x for k, x in tensors.items()} | {
    f"model.blocks.{i}.gamma_{j}": np.full(64, i + j, np.float32)
    for i in (0, 1)
    for j in (1, 2)
  }
  tensors["model.head.weight"] = np.ones((5, 64), np.float32)
  tensors["model.head.bias"] = np.ones(5, np.float32)
  tensors["model.pos_embed"] = tensors["model.pos_embed"][:, 1:]
  family = families.find(config, tensors)
  found, params = read(family, tensors, config)
  assert found.num_classes == 5 and found.image_size == (6, 6)
  assert params["Transformer"]["encoderblock_1"]["ls2"][0] == 3
  written, _ = families.write("original", params, found)
  assert written.keys() == tensors.keys()

  for key in ("weight", "bias"):  # As MAE is fine-tuned.
    tensors[f"model.fc_norm.{key}"] = tensors.pop(f"model.norm.{key}")
  found, _ = read(family, tensors, config)
  assert found.model["pool_type"] == "gap" and found.model["pool_norm"]


def test_mocos_small_model_has_12_heads():
  shapes = {
    "cls_token": (1, 1, 384),
    "pos_embed": (1, 10, 384),
    "patch_embed.proj.weight": (384, 3, 4, 4),
    "blocks.0.mlp.fc2.weight": (384, 768),
  }
  read_with = lambda prefix: original_vit.FAMILY.read(
    {}, {prefix + k: x for k, x in shapes.items()}
  )
  moco = read_with("module.base_encoder.")
  assert moco.model["num_heads"] == 12 and moco.image_size == (12, 12)
  assert read_with("model.").model["num_heads"] == 6


def test_files_of_timm_without_settings_are_refused():
  _, tensors, _, _ = case("timm/augreg")
  with pytest.raises(ValueError, match=r"no config\.json"):
    read(families.find({}, tensors), tensors, {})
  _, tensors, _, _ = case("transformers/vit_classes")
  with pytest.raises(ValueError, match=r"no config\.json"):
    families.find({}, tensors)


def plain_vit(num_classes=5, **kw):
  """(parameters, Found) of a ViT of this package."""
  model = dict(
    width=16, depth=1, mlp_dim=24, num_heads=2, patch_size=(2, 2), **kw
  )
  found = Found("vit", model, num_classes, (4, 6))
  shapes = jax.eval_shape(
    vit.Model(num_classes, **model).init,
    jax.random.key(0),
    np.zeros((1, 4, 6, 3), np.float32),
  )
  rng = np.random.default_rng(0)
  random = lambda x: np.float32(rng.normal(size=x.shape))
  return jax.tree.map(random, shapes["params"]), found


@pytest.mark.parametrize(
  "library, option",
  [
    ("transformers", dict(pool_type="gap")),
    ("transformers", dict(pool_type="tok", layerscale=0.1)),
    ("transformers", dict(pool_type="tok", glu=True)),
    ("transformers", dict(pool_type="tok", qk_norm="rms")),
    ("transformers", dict(pool_type="tok", norm="rms")),
    ("transformers", dict(pool_type="tok", posemb=None)),
    ("transformers", dict(pool_type="tok", rope="dinov3")),
    ("transformers", dict(pool_type="tok", registers=3)),
    ("transformers", dict(pool_type="tok", rep_size=8)),
    ("transformers", dict(pool_type="tok", head_bias=False)),
    ("timm", dict(pool_type="tok+gap")),
    ("timm", dict(pool_type="gap", rep_size=8)),
    ("timm", dict(pool_type="gap", mlp_bias=False)),
    ("timm", dict(pool_type="gap", norm_eps=1e-3)),
    ("timm", dict(pool_type="gap", rope="dinov3")),
    ("open_clip", dict(pool_type="tok")),
  ],
)
def test_options_without_a_counterpart_are_named(library, option):
  params, found = plain_vit(**option)
  name = list(option)[-1]
  if library == "open_clip":
    name = "_name"
  with pytest.raises(ValueError, match=f"config.model\\.?{name}=") as e:
    families.write(library, params, found)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("scan", [False, True])
def test_fixed_positions_and_stacked_blocks_are_written(scan):
  params, found = plain_vit(posemb="sincos2d", scan=scan)
  tensors, config = families.write("timm", params, found)
  family = families.find(config, tensors)
  again, got = read(family, tensors, config)
  image = np.random.default_rng(1).normal(size=(2, 4, 6, 3))
  logits = lambda found, params: build(found)[0].apply(
    {"params": params}, image
  )
  np.testing.assert_allclose(
    logits(again, got)[0], logits(found, params)[0], atol=1e-6, rtol=2e-6
  )


def test_entries_are_inverse():
  table = tables.dense("x", "y", (2, 3), (4,), part=(1, 3))
  kernel, bias = table
  x = np.arange(12 * 6.0).reshape(12, 6)
  y = kernel.to_param(x)
  assert y.shape == (2, 3, 4)
  np.testing.assert_array_equal(y.reshape(6, 4), x[4:8].T)
  np.testing.assert_array_equal(kernel.to_tensor(y), x[4:8])
  assert bias.tensor == (12,) and bias.shape == (4,)


@pytest.mark.parametrize(
  "name, key, value",
  [
    ("transformers/bit", "layer_type", "bottleneck"),
    ("transformers/bit", "global_padding", "SAME"),
    ("transformers/bit", "output_stride", 4),
    ("transformers/bit", "hidden_act", "gelu"),
    ("timm/bit", "avg_down", True),
    ("timm/mixer", "stem_norm", True),
    ("timm/mixer", "global_pool", ""),
    ("timm/nfnet", "act_layer", "silu"),
  ],
)
def test_networks_without_a_counterpart(name, key, value):
  family, tensors, config, _ = case(name)
  if name.startswith("timm"):
    config = config | dict(model_args=config["model_args"] | {key: value})
  with pytest.raises(ValueError, match=f"config.json.*: {key} = {value!r}"):
    read(family, tensors, config | {key: value})


@pytest.mark.parametrize(
  "name, config, library, words",
  [
    ("bit_paper", dict(width=0.5, depth=[1, 2]), "transformers", "std_eps"),
    ("bit_paper", dict(width=0.5, depth=[1, 2]), "timm", "std_eps"),
    ("mlp_mixer", dict(variant="S/32", num_blocks=1), "timm", "exact_gelu"),
    ("nfnet", dict(variant="mu"), "timm", "std_eps"),
  ],
)
def test_networks_of_runs_are_written(name, config, library, words):
  """Their configs tell widths in other ways than those of checkpoints."""
  module = lookup.module("models", name, kind="model")
  same = dict(
    bit_paper=dict(std_eps=1e-8, pool_padding=0.0),
    mlp_mixer=dict(exact_gelu=True),
    nfnet=dict(std_eps=1e-5, exact_gelu=True, beta_last=True),
  )[name]
  model = module.Model(3, **config)
  image = np.zeros((1, 64, 64, 3), np.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
  params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params)
  found = Found(name, config | same, 3, (64, 64))
  tensors, settings = families.write(library, params, found)
  read(families.find(settings, tensors), tensors, settings)
  with pytest.raises(ValueError, match=words):
    families.write(library, params, Found(name, config, 3, (64, 64)))


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
