"""MLP-Mixer of timm: the architectures mixer_*; their GELU is exact.

Reference: Tolstikhin et al. 2021, https://arxiv.org/abs/2105.01601
"""

from big_vision.models import mlp_mixer
from big_vision.models.weights import tables, timm_settings
from big_vision.models.weights.family import Family, Found

# What the arguments must not change.
_ONLY = dict(stem_norm=False)
_FIXED = dict(exact_gelu=True)
_MODEL = "timm's MLP-Mixer"


def _read(config, shapes):
  timm_settings.check(config, _ONLY)
  shape = lambda name: timm_settings.shape(shapes, name, _MODEL)
  width, _, *patch = shape("stem.proj.weight")
  model = dict(
    patch_size=patch,
    num_blocks=len({n.split(".")[1] for n in shapes if n.startswith("blocks")}),
    hidden_dim=width,
    tokens_mlp_dim=shape("blocks.0.mlp_tokens.fc1.weight")[0],
    channels_mlp_dim=shape("blocks.0.mlp_channels.fc1.weight")[0],
    **_FIXED,
  )
  num_classes = shapes["head.weight"][0] if "head.weight" in shapes else None
  size = timm_settings.image_size(config)
  return Found("mlp_mixer", model, num_classes, size)


def _table(found):
  model = mlp_mixer.Model(found.num_classes, **found.model)
  width, patch = model.hidden_dim, model.patch_size
  num = 1
  for side, part in zip(found.image_size, patch, strict=True):
    num *= side // part
  out = tables.conv("stem.proj", "stem", patch, 3, width)
  for i in range(model.num_blocks):
    block = [
      *tables.norm("norm1", "LayerNorm_0", width),
      *_mlp("mlp_tokens", "token_mixing", num, model.tokens_mlp_dim),
      *tables.norm("norm2", "LayerNorm_1", width),
      *_mlp("mlp_channels", "channel_mixing", width, model.channels_mlp_dim),
    ]
    out += tables.within(block, f"blocks.{i}.", f"MixerBlock_{i}/")
  out += tables.norm("norm", "pre_head_layer_norm", width)
  if found.num_classes:
    out += tables.dense("head", "head", (width,), (found.num_classes,))
  return out


def _mlp(name, path, width, hidden):
  return [
    *tables.dense(f"{name}.fc1", f"{path}/Dense_0", (width,), (hidden,)),
    *tables.dense(f"{name}.fc2", f"{path}/Dense_1", (hidden,), (width,)),
  ]


def _to_params(tensors, found):
  return tables.to_params(_table(found), tensors, "the checkpoint", _MODEL)


def _to_tensors(params, found):
  model = mlp_mixer.Model(found.num_classes, **found.model)
  timm_settings.check_fixed(model, _FIXED, _MODEL)
  tensors = tables.to_tensors(_table(found), params, _MODEL)
  args = dict(
    img_size=list(found.image_size),
    mlp_ratio=[
      _ratio(n, model.hidden_dim)
      for n in (model.tokens_mlp_dim, model.channels_mlp_dim)
    ],
  )
  sizes = (*model.patch_size, model.num_blocks, model.hidden_dim)
  if sizes not in _ARCHITECTURES:
    # `create_model` has no such model, but the class `MlpMixer`.
    args |= dict(
      patch_size=list(model.patch_size),
      num_blocks=model.num_blocks,
      embed_dim=model.hidden_dim,
    )
  return tensors, timm_settings.written(
    _ARCHITECTURES.get(sizes, "mixer_b16_224"),
    found,
    args,
    num_features=model.hidden_dim,
    first_conv="stem.proj",
    classifier="head",
    fixed_input_size=True,
  )


_SIZES = dict(s=(8, 512), b=(12, 768), l=(24, 1024))
_ARCHITECTURES = {
  (patch, patch, *sizes): f"mixer_{name}{patch}_224"
  for name, sizes in _SIZES.items()
  for patch in (16, 32)
}


def _ratio(n, width):
  """Returns a number whose product with the width is rounded down to n."""
  return n / width if int(n / width * width) == n else (n + 0.5) / width


FAMILY = Family(
  "MLP-Mixer",
  "timm",
  "mixer_",
  _read,
  _to_params,
  _to_tensors,
  models=("mlp_mixer",),
)
