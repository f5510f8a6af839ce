"""Tiny models of transformers and timm, and what they compute.

  python -m venv hf_venv
  hf_venv/bin/pip install torch transformers timm
  hf_venv/bin/python tests/golden/make_weights.py

writes `weights/<library>/<name>/{config.json,model.safetensors,expected.npz}`,
which tests read without any of these packages. Made with torch 2.14.1,
transformers 5.24.0 and timm 1.0.31. To see that they compute the same from files
that this package wrote, `big_vision/models/weights` of the same cases:

  hf_venv/bin/python tests/golden/make_weights.py --check FOLDER

expected.npz: images [B, H, W, 3]; tokens; and outputs, which are logits, or what
the library calls the pooled output.
"""

import argparse
import json
import pathlib
import zlib

import numpy as np
import timm
import timm.models
import torch
import transformers as hf
from safetensors.torch import load_file
from timm.models import mlp_mixer

HERE = pathlib.Path(__file__).parent / "weights"

_SIZES = dict(
  hidden_size=12,
  num_hidden_layers=2,
  num_attention_heads=3,
  patch_size=2,
)
_VIT = _SIZES | dict(intermediate_size=20, image_size=[8, 4])
_DINO = _SIZES | dict(image_size=6)
_DINOV3 = _DINO | dict(intermediate_size=20)

# Name -> (class without its end, settings).
_HF = {
  "vit": ("ViTModel", _VIT),
  "vit_classes": (
    "ViTForImageClassification",
    _VIT | dict(num_labels=5, qkv_bias=False, hidden_act="gelu_new"),
  ),
  "deit": ("DeiTModel", _VIT),
  "deit_classes": ("DeiTForImageClassification", _VIT | dict(num_labels=5)),
  "deit_distilled": (
    "DeiTForImageClassificationWithTeacher",
    _VIT | dict(num_labels=5),
  ),
  "mae": ("ViTMAEModel", _VIT | dict(image_size=6, mask_ratio=0.0)),
  "dinov2": ("Dinov2Model", _DINO | dict(mlp_ratio=2)),
  "dinov2_swiglu": (
    "Dinov2Model",
    _DINO | dict(use_swiglu_ffn=True, layerscale_value=0.3),
  ),
  "dinov2_classes": (
    "Dinov2ForImageClassification",
    _DINO | dict(num_labels=4),
  ),
  "dinov2_registers": (
    "Dinov2WithRegistersForImageClassification",
    _DINO | dict(num_register_tokens=3, num_labels=4),
  ),
  "dinov3": ("DINOv3ViTModel", _DINOV3 | dict(num_register_tokens=2)),
  "dinov3_gated": (
    "DINOv3ViTModel",
    _DINOV3
    | dict(
      num_register_tokens=4,
      use_gated_mlp=True,
      hidden_act="silu",
      query_bias=False,
      value_bias=False,
      layerscale_value=0.4,
    ),
  ),
}

_BIT = dict(
  embedding_size=8, hidden_sizes=[24, 16], depths=[1, 2], num_groups=4
)
# Name -> (class, settings); of networks for images of any size.
_CONV = {
  "bit": ("BitModel", _BIT),
  "bit_classes": ("BitForImageClassification", _BIT | dict(num_labels=5)),
}

_CLIP_IMAGE = _SIZES | dict(intermediate_size=20, image_size=6)
_CLIP_TEXT = dict(
  hidden_size=8,
  num_hidden_layers=2,
  num_attention_heads=2,
  intermediate_size=12,
  vocab_size=20,
  max_position_embeddings=5,
  hidden_act="gelu",
)
# Name -> (class, settings).
_CLIP = {
  "clip": (
    "CLIPModel",
    dict(
      vision_config=_CLIP_IMAGE,
      text_config=_CLIP_TEXT | dict(eos_token_id=3),
      projection_dim=10,
    ),
  ),
  "clip_image": ("CLIPVisionModel", _CLIP_IMAGE),
  "clip_image_projected": (
    "CLIPVisionModelWithProjection",
    _CLIP_IMAGE | dict(projection_dim=7),
  ),
  "clip_text": ("CLIPTextModel", _CLIP_TEXT | dict(eos_token_id=2)),
  "clip_text_projected": (
    "CLIPTextModelWithProjection",
    _CLIP_TEXT | dict(eos_token_id=3, projection_dim=7),
  ),
}
_TEXTS = np.array([[1, 5, 3, 3, 3], [1, 7, 19, 6, 3], [4, 3, 8, 2, 2]])

_TIMM_SIZES = dict(img_size=6, patch_size=2, embed_dim=12, depth=2, num_heads=3)
# Name -> (architecture, arguments).
_TIMM = {
  "augreg": (
    "vit_tiny_patch16_224",
    _TIMM_SIZES | dict(img_size=(4, 8), num_classes=5),
  ),
  "qk_norm": (
    "vit_base_patch16_224",
    _TIMM_SIZES | dict(num_classes=5, qk_norm=True),
  ),
  "deit_distilled": (
    "deit_tiny_distilled_patch16_224",
    _TIMM_SIZES | dict(num_classes=5),
  ),
  "deit3": ("deit3_small_patch16_224", _TIMM_SIZES | dict(num_classes=5)),
  "clip": (
    "vit_base_patch16_clip_quickgelu_224",
    _TIMM_SIZES | dict(num_classes=5),
  ),
  "dinov2": ("vit_small_patch14_dinov2", _TIMM_SIZES),
  "dinov2_registers": ("vit_small_patch14_reg4_dinov2", _TIMM_SIZES),
  "dinov2_swiglu": ("vit_giant_patch14_dinov2", _TIMM_SIZES),
  "siglip": ("vit_base_patch16_siglip_224", _TIMM_SIZES | dict(num_classes=0)),
  "siglip_tanh": (
    "vit_so400m_patch16_siglip_256",
    _TIMM_SIZES | dict(num_classes=0, embed_dim=32, num_heads=16),
  ),
  "registers_with_positions": (
    "vit_so150m2_patch16_reg1_gap_256",
    _TIMM_SIZES | dict(num_classes=5),
  ),
  "flexivit": (
    "flexivit_small",
    _TIMM_SIZES | dict(img_size=(4, 8), num_classes=5),
  ),
  "mean": ("vit_medium_patch16_gap_240", _TIMM_SIZES | dict(num_classes=5)),
}

# Of these, timm fixes the depth.
_TIMM_CONV = {
  "bit": (
    "resnetv2_50x1_bit",
    dict(
      stem_chs=8,
      channels=[24, 16, 16, 32],
      bottle_ratio=0.5,
      norm_layer="groupnorm1",
      num_classes=5,
    ),
  ),
}

# Smaller than the architectures allow: (architecture, class, image, arguments).
_TIMM_CLASSES = {
  "mixer": (
    "mixer_b16_224",
    mlp_mixer.MlpMixer,
    (6, 9),
    dict(
      img_size=(6, 9),
      patch_size=3,
      num_blocks=2,
      embed_dim=12,
      mlp_ratio=(0.3, 1.7),
      num_classes=5,
    ),
  ),
}
_TIMM_CONV["nfnet"] = (
  "dm_nfnet_f0",
  dict(
    depths=[1, 2],
    channels=[16, 24],
    stem_chs=16,
    group_size=4,
    num_features=20,
    ch_div=4,
    num_classes=5,
  ),
)


def _perturb(model):
  with torch.no_grad():
    for x in model.parameters():
      x += 0.2 * torch.randn_like(x)
  return model.eval()


def _few_values(model):
  """Perturbs a larger model, and rounds so that its file can be compressed."""
  model = _perturb(model)
  with torch.no_grad():
    for x in model.parameters():
      x.copy_((x * 8).round() / 8)
  return model


def _outputs(library, name, model, image):
  """Returns what a model computes of images [B, H, W, 3], and of `_TEXTS`."""
  x = torch.tensor(image.transpose(0, 3, 1, 2))
  if name.startswith("clip") and library == "transformers":
    return _clip_outputs(model, x)
  with torch.no_grad():
    if library == "timm":
      found = {"output": model(x).numpy()}
      tokens = model.forward_features(x).numpy()
      return found | ({"tokens": tokens} if hasattr(model, "pos_embed") else {})
    kw = {}
    if "mae" in name and isinstance(model, hf.ViTMAEModel):  # No shuffling.
      num = (image.shape[1] // 2) * (image.shape[2] // 2)
      kw = dict(noise=torch.arange(num).float()[None].repeat(len(x), 1))
    out = model(x, **kw)
  found = {}
  if out.get("last_hidden_state") is not None and "bit" not in name:
    found["tokens"] = out.last_hidden_state.numpy()
  for key in ("logits", "pooler_output"):
    if out.get(key) is not None:
      found["output"] = out[key].flatten(1).numpy()
  return found


def _clip_outputs(model, x):
  inputs = {}
  if "Text" not in type(model).__name__:
    inputs["pixel_values"] = x
  if "Vision" not in type(model).__name__:
    inputs["input_ids"] = torch.tensor(_TEXTS)
  with torch.no_grad():
    out = model(**inputs)
  names = dict(
    image_embeds="zimg",
    text_embeds="ztxt",
    logits_per_image="logits",
    pooler_output="output",
  )
  return {v: out[k].numpy() for k, v in names.items() if k in out}


def _make():
  for name, (cls, settings) in _HF.items():
    cls = getattr(hf, cls)
    torch.manual_seed(zlib.crc32(name.encode()))
    model = _perturb(cls(cls.config_class(**settings)))
    folder = HERE / "transformers" / name
    model.save_pretrained(folder)
    _expect("transformers", name, folder, model, settings["image_size"])
  for name, (cls, settings) in _CLIP.items():
    cls = getattr(hf, cls)
    torch.manual_seed(zlib.crc32(name.encode()))
    model = _perturb(cls(cls.config_class(**settings)))
    folder = HERE / "transformers" / name
    model.save_pretrained(folder)
    _expect("transformers", name, folder, model, 6)
  for name, (cls, settings) in _CONV.items():
    cls = getattr(hf, cls)
    torch.manual_seed(zlib.crc32(name.encode()))
    model = _perturb(cls(cls.config_class(**settings)))
    folder = HERE / "transformers" / name
    model.save_pretrained(folder)
    _expect("transformers", name, folder, model, (40, 32))
  for name, (arch, settings) in _TIMM.items():
    torch.manual_seed(zlib.crc32(name.encode()))
    model = _perturb(timm.create_model(arch, **settings))
    folder = HERE / "timm" / name
    folder.mkdir(parents=True, exist_ok=True)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    _expect("timm", name, folder, model, settings["img_size"])
  for name, (arch, cls, size, settings) in _TIMM_CLASSES.items():
    torch.manual_seed(zlib.crc32(name.encode()))
    model = _perturb(cls(**settings))
    model.pretrained_cfg = dict(architecture=arch, input_size=(3, *size))
    folder = HERE / "timm" / name
    folder.mkdir(parents=True, exist_ok=True)
    timm.models.save_for_hf(
      model, folder, model_args=settings, safe_serialization=True
    )
    _expect("timm", name, folder, model, size)
  for name, (arch, settings) in _TIMM_CONV.items():
    torch.manual_seed(zlib.crc32(name.encode()))
    model = _few_values(timm.create_model(arch, **settings))
    folder = HERE / "timm" / name
    folder.mkdir(parents=True, exist_ok=True)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    _expect("timm", name, folder, model, (40, 32))
  _resampled()


def _resampled():
  """Resamples grids of positions as these libraries and DINO do."""
  torch.manual_seed(0)
  grid = torch.randn(1, 1, 5, 4)
  image = lambda x: x[0].permute(1, 2, 0).numpy().tolist()
  resize = lambda x, **kw: torch.nn.functional.interpolate(
    x, mode="bicubic", align_corners=False, **kw
  )
  sizes = [(5, 4), (7, 9), (3, 2), (1, 8)]
  out: dict = {"bicubic": [], "bicubic_antialias": [], "bicubic_dino": []}
  for size in sizes:
    factors = [(n + 0.1) / m for n, m in zip(size, (5, 4), strict=True)]
    for method, kw in {
      "bicubic": dict(size=size),
      "bicubic_antialias": dict(size=size, antialias=True),
      "bicubic_dino": dict(scale_factor=factors),
    }.items():
      new = resize(grid, **kw)
      assert tuple(new.shape[2:]) == size
      out[method].append({"stored": image(grid), "resampled": image(new)})
  (HERE / "resampled.json").write_text(json.dumps(out))


def _expect(library, name, folder, model, size):
  size = [size] * 2 if isinstance(size, int) else size
  image = torch.randn(2, *size, 3).numpy()
  found = _outputs(library, name, model, image)
  np.savez(folder / "expected.npz", image=image, **found)
  print(library, name, {k: v.shape for k, v in found.items()})


def _check(root):
  """Loads the files of others, and compares what they compute."""
  for path in sorted(pathlib.Path(root).glob("*/*")):
    library, name = path.parts[-2:]
    if library == "timm" and name in _TIMM_CLASSES:
      args = json.loads((path / "config.json").read_text())["model_args"]
      model = _TIMM_CLASSES[name][1](**args, num_classes=5)
      model.load_state_dict(load_file(path / "model.safetensors"))
    elif library == "timm":
      model = timm.create_model(f"local-dir:{path}", pretrained=True)
    else:
      cls = getattr(hf, hf.AutoConfig.from_pretrained(path).architectures[0])
      model = cls.from_pretrained(path)
    expected = np.load(HERE / library / name / "expected.npz")
    found = _outputs(library, name, model.eval(), expected["image"])
    difference = {
      k: np.abs(v - expected[k]).max()
      for k, v in found.items()
      if k in expected
    }
    print(library, name, difference)
    assert max(difference.values()) < 1e-5


if __name__ == "__main__":
  parser = argparse.ArgumentParser()
  parser.add_argument("--check")
  args = parser.parse_args()
  _check(args.check) if args.check else _make()
