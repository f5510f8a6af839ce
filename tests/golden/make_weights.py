"""Tiny models of transformers, timm and open_clip, and what they compute.

  python -m venv hf_venv
  hf_venv/bin/pip install torch transformers timm open_clip_torch
  hf_venv/bin/python tests/golden/make_weights.py [LIBRARY/NAME...]

writes `weights/<library>/<name>/{config.json,model.safetensors,expected.npz}`,
which tests read without any of these packages. Made with torch 2.14.1,
transformers 5.24.0, timm 1.0.31 and open_clip_torch 3.3.0. To see that they
compute the same from files that this package wrote, `models/weights` of the same
cases:

  hf_venv/bin/python tests/golden/make_weights.py --check FOLDER

expected.npz: images [B, H, W, 3]; tokens; and outputs, which are logits, or what
the library calls the pooled output.
"""

import argparse
import json
import pathlib
import zlib

import numpy as np
import open_clip
import PIL.Image
import timm
import timm.models
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
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
  "dinov3": (
    "vit_small_patch16_dinov3",
    _TIMM_SIZES | dict(img_size=(4, 8), num_classes=5),
  ),
  "dinov3_biased": (
    "vit_small_plus_patch16_dinov3_qkvb",
    _TIMM_SIZES | dict(num_classes=0, global_pool="token", mlp_ratio=1.4),
  ),
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

_OPEN_CLIP_IMAGE = dict(
  image_size=[4, 6], layers=2, width=12, head_width=4, patch_size=2, mlp_ratio=2
)
_OPEN_CLIP_TEXT = dict(
  context_length=5, vocab_size=20, width=8, heads=2, layers=2
)
_SIGLIP_TEXT = _OPEN_CLIP_TEXT | dict(
  no_causal_mask=True,
  proj_bias=True,
  pool_type="last",
  norm_kwargs=dict(eps=1e-6),
  act_kwargs=dict(approximate="tanh"),
)
# Name -> `model_cfg`.
_OPEN_CLIP = {
  "clip": dict(
    embed_dim=10, vision_cfg=_OPEN_CLIP_IMAGE, text_cfg=_OPEN_CLIP_TEXT
  ),
  "clip_quick": dict(
    embed_dim=10,
    quick_gelu=True,
    vision_cfg=_OPEN_CLIP_IMAGE | dict(ls_init_value=0.3),
    text_cfg=_OPEN_CLIP_TEXT | dict(pool_type="eos", eos_id=3),
  ),
  "clip_mean": dict(
    embed_dim=10,
    vision_cfg=_OPEN_CLIP_IMAGE
    | dict(pool_type="avg", final_ln_after_pool=True, no_ln_pre=True),
    text_cfg=_OPEN_CLIP_TEXT | dict(proj_type="none", width=10),
  ),
  "siglip": dict(
    embed_dim=64,
    init_logit_bias=-10,
    custom_text=True,
    vision_cfg=dict(
      image_size=6,
      timm_model_name="vit_tiny_patch2_siglip_6",
      timm_pool="map",
      timm_proj="none",
    ),
    text_cfg=_SIGLIP_TEXT,
  ),
  "siglip_projected": dict(
    embed_dim=10,
    custom_text=True,
    vision_cfg=dict(
      image_size=6,
      timm_model_name="vit_tiny_patch2_siglip_6",
      timm_pool="map",
      timm_proj="linear",
    ),
    text_cfg=_SIGLIP_TEXT,
  ),
}

# As in the first releases, whose heads have 64 features.
_ORIGINAL_SIZES = dict(
  img_size=6, patch_size=2, embed_dim=64, depth=2, num_heads=1, mlp_ratio=0.5
)


def _dinov2(model):
  """Renames timm's tensors as DINOv2 has them."""
  out = {"mask_token": torch.zeros(1, 64)}
  for name, x in model.items():
    for there, here in (
      ("reg_token", "register_tokens"),
      ("mlp.fc1", "mlp.w12"),
      ("mlp.fc2", "mlp.w3"),
    ):
      name = name.replace(there, here)
    if name == "pos_embed":  # That of the class token is 0, as timm adds it.
      x = torch.nn.functional.pad(x, (0, 0, 1, 0))
    out[name] = x
  return out


def _dinov3(model):
  """Renames timm's tensors as DINOv3 has them."""
  out = {
    "mask_token": torch.zeros(1, 64),
    "local_cls_norm.weight": torch.ones(64),
  }
  out["rope_embed.periods"] = 100 ** (torch.arange(16) / 16)
  for name, x in model.items():
    for there, here in (
      ("reg_token", "storage_tokens"),
      ("mlp.fc1_g", "mlp.w1"),
      ("mlp.fc1_x", "mlp.w2"),
      ("mlp.fc2", "mlp.w3"),
      ("gamma_1", "ls1.gamma"),
      ("gamma_2", "ls2.gamma"),
    ):
      name = name.replace(there, here)
    if name.endswith("q_bias"):
      start = name.removesuffix("q_bias") + "qkv.bias"
      value = model[name.replace("q_bias", "v_bias")]
      keys = torch.full_like(x, 7.0)  # The mask leaves it out.
      out[start] = torch.cat([x, keys, value])
      mask = [torch.ones_like(x), torch.zeros_like(x), torch.ones_like(x)]
      out[f"{start}_mask"] = torch.cat(mask)
    elif not name.endswith("v_bias"):
      out[name] = x
  return out


def _openai(model):
  """Adds what OpenAI's files of CLIP have besides open_clip's tensors."""
  return model | dict(
    input_resolution=torch.tensor(6),
    context_length=torch.tensor(5),
    vocab_size=torch.tensor(20),
  )


# Name -> (how to build, how to rename its tensors).
_ORIGINAL = {
  "dino": (
    lambda: timm.create_model(
      "vit_tiny_patch16_224", num_classes=0, **_ORIGINAL_SIZES
    ),
    dict,
  ),
  "dinov2": (
    lambda: timm.create_model(
      "vit_giant_patch14_reg4_dinov2", **_ORIGINAL_SIZES
    ),
    _dinov2,
  ),
  "dinov3": (
    lambda: timm.create_model(
      "vit_small_plus_patch16_dinov3_qkvb",
      global_pool="token",
      num_classes=0,
      **_ORIGINAL_SIZES,
    ),
    _dinov3,
  ),
  "clip": (
    lambda: _open_clip(
      dict(
        embed_dim=10,
        quick_gelu=True,
        vision_cfg=dict(
          image_size=6, layers=1, width=64, patch_size=2, mlp_ratio=0.5
        ),
        text_cfg=_OPEN_CLIP_TEXT
        | dict(width=64, heads=1, layers=1, mlp_ratio=0.5),
      )
    ),
    _openai,
  ),
}


@timm.models.register_model
def vit_tiny_patch2_siglip_6(pretrained=False, **kwargs):
  """open_clip builds towers of timm from their name only."""
  del pretrained
  kwargs = {"global_pool": "map", **kwargs}
  sizes = dict(img_size=6, patch_size=2, embed_dim=64, depth=1, num_heads=1)
  more = {k: kwargs[k] for k in ("num_classes", "global_pool") if k in kwargs}
  model = timm.models.VisionTransformer(
    **sizes, class_token=False, mlp_ratio=1.5, **more
  )
  model.default_cfg = {}
  return model


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
  if isinstance(model, open_clip.CLIP | open_clip.CustomTextCLIP):
    with torch.no_grad():
      zimg, ztxt, scale, *bias = model(x, torch.tensor(_TEXTS))
      logits = scale * zimg @ ztxt.T
    found = dict(zimg=zimg.numpy(), ztxt=ztxt.numpy(), logits=logits.numpy())
    return found | ({"bias": bias[0].detach().numpy()} if bias else {})
  if name.startswith("clip") and library == "transformers":
    return _clip_outputs(model, x)
  with torch.no_grad():
    if library in ("timm", "original"):
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


def _make(wanted):
  for library, name, build, save, size in _cases():
    if wanted and f"{library}/{name}" not in wanted:
      continue
    torch.manual_seed(zlib.crc32(name.encode()))
    model = build()
    folder = HERE / library / name
    folder.mkdir(parents=True, exist_ok=True)
    save(model, folder)  # Some in float16.
    _expect(library, name, folder, model.float(), size)
  if not wanted:
    _resampled()
    _pixels()
    _mae()


def _cases():
  """Lists (library, name, build, save, size of images)."""
  for name, (cls, config) in {**_HF, **_CLIP, **_CONV}.items():
    cls = getattr(hf, cls)
    build = lambda cls=cls, config=config: _perturb(
      cls(cls.config_class(**config))
    )
    save = lambda model, folder: model.save_pretrained(folder)
    size = config.get("vision_config", config).get("image_size", 6)
    size = (40, 32) if name in _CONV else size
    yield "transformers", name, build, save, size
  for name, (arch, config) in _TIMM.items():
    build = lambda arch=arch, config=config: _perturb(
      timm.create_model(arch, **config)
    )
    yield "timm", name, build, _save_timm, config["img_size"]
  for name, (arch, config) in _TIMM_CONV.items():
    build = lambda arch=arch, config=config: _few_values(
      timm.create_model(arch, **config)
    )
    yield "timm", name, build, _save_timm, (40, 32)
  for name, (arch, cls, size, config) in _TIMM_CLASSES.items():
    build = lambda cls=cls, config=config: _perturb(cls(**config))

    def save(model, folder, arch=arch, size=size, config=config):
      model.pretrained_cfg = dict(architecture=arch, input_size=(3, *size))
      timm.models.save_for_hf(
        model, folder, model_args=config, safe_serialization=True
      )

    yield "timm", name, build, save, size
  for name, config in _OPEN_CLIP.items():
    build = lambda config=config: _perturb(_open_clip(config))
    config = dict(model_cfg=config, preprocess_cfg={})
    save = lambda model, folder, config=config: _save(
      model.half().state_dict(), config, folder
    )
    size = config["model_cfg"]["vision_cfg"]["image_size"]
    yield "open_clip", name, build, save, size

  for name, (build, rename) in _ORIGINAL.items():
    build = lambda build=build: _perturb(build())
    save = lambda model, folder, rename=rename: _save(
      rename(model.half().state_dict()), {}, folder
    )
    yield "original", name, build, save, 6


def _save_timm(model, folder):
  timm.models.save_for_hf(model, folder, safe_serialization=True)


def _save(tensors, config, folder):
  tensors = {k: x.clone().contiguous() for k, x in tensors.items()}
  save_file(tensors, folder / "model.safetensors")
  (folder / "config.json").write_text(json.dumps(config))


def _open_clip(config):
  """Builds a model of open_clip; on the hub, files have other names."""
  config = dict(config)
  custom = config.pop("custom_text", False)
  return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)


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


def _mae():
  """Writes MAE's pre-training model, and what it computes."""
  torch.manual_seed(0)
  config = hf.ViTMAEConfig(
    **_SIZES,
    intermediate_size=20,
    image_size=8,
    decoder_hidden_size=8,
    decoder_num_hidden_layers=2,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=10,
    mask_ratio=0.6,
    norm_pix_loss=True,
  )
  model, folder = _perturb(hf.ViTMAEForPreTraining(config)), HERE.parent / "mae"
  model.save_pretrained(folder)
  image, noise = torch.randn(2, 8, 8, 3), torch.rand(2, 16)
  with torch.no_grad():
    out = model(image.permute(0, 3, 1, 2), noise=noise)
  found = dict(output=out.logits, mask=out.mask, loss=out.loss)
  found |= dict(image=image, noise=noise)
  np.savez(folder / "expected.npz", **{k: x.numpy() for k, x in found.items()})


def _pixels():
  """Preprocesses a picture as image processors of transformers do."""
  values = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
  picture = PIL.Image.fromarray(values).resize((61, 83), 3)
  square = lambda side: {"height": side, "width": side}
  short = dict(size={"shortest_edge": 30}, crop_size=square(25))
  cases = {
    "vit": hf.ViTImageProcessorPil(size=square(24)),
    "siglip": hf.SiglipImageProcessorPil(size={"height": 20, "width": 33}),
    "clip": hf.CLIPImageProcessorPil(**short),
    "dinov2": hf.BitImageProcessorPil(
      **short, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    ),
    "deit": hf.DeiTImageProcessorPil(
      size=square(90), crop_size=square(70), resample=1, image_std=[0.2] * 3
    ),
    "nearest": hf.ViTImageProcessorPil(
      size=square(24), resample=0, do_normalize=False, rescale_factor=1 / 127.5
    ),
  }
  out, configs = {"picture": np.asarray(picture)}, {}
  for name, processor in cases.items():
    pixels = processor(images=picture, return_tensors="np")["pixel_values"][0]
    out[name] = pixels.transpose(1, 2, 0).astype(np.float32)
    configs[name] = json.loads(processor.to_json_string())
  np.savez_compressed(HERE / "pixels.npz", **out)
  (HERE / "pixels.json").write_text(json.dumps(configs, indent=1))


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
    if library == "original":  # These need the code of the releases.
      continue
    if library == "timm" and name in _TIMM_CLASSES:
      args = json.loads((path / "config.json").read_text())["model_args"]
      model = _TIMM_CLASSES[name][1](**args, num_classes=5)
      model.load_state_dict(load_file(path / "model.safetensors"))
    elif library == "timm":
      model = timm.create_model(f"local-dir:{path}", pretrained=True)
    elif library == "open_clip":
      config = json.loads((path / "config.json").read_text())
      model = _open_clip(config["model_cfg"])
      state = load_file(path / "model.safetensors")
      model.load_state_dict(state)
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
  parser.add_argument("cases", nargs="*")
  parser.add_argument("--check")
  args = parser.parse_args()
  _check(args.check) if args.check else _make(args.cases)
