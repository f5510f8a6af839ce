"""NFNet of timm with the weights of its authors: the architectures dm_nfnet_f*.

GELU is exact there, and 1e-5 is added to the variance of kernels, in contrast
to the authors' code and the default here. As in their code, the expected
standard deviation divides after the activation.

Reference: Brock et al. 2021, https://arxiv.org/abs/2102.06171
"""

from big_vision.models import nfnet
from big_vision.models.weights import tables, timm_settings
from big_vision.models.weights.family import Family, Found

# What the arguments must not change.
_ONLY = dict(
  output_stride=32,
  act_layer="gelu",
  attn_layer="se",
  attn_gain=2.0,
  stem_type="deep_quad",
  std_conv_eps=1e-5,
  reg=False,
  extra_conv=True,
  gamma_in_act=True,
  same_padding=True,
  skipinit=True,
)
_FIXED = dict(std_eps=1e-5, exact_gelu=True, beta_last=True)
_BLOCK = "stages.{}.{}."
_MODEL = "timm's NFNet"


def _read(config, shapes):
  timm_settings.check(config, _ONLY)
  shape = lambda name: timm_settings.shape(shapes, name, _MODEL)
  depth = tables.stages(shapes, _BLOCK + "conv1.weight")
  timm_settings.check_strides(depth)
  first = [_BLOCK.format(i, 0) for i in range(len(depth))]
  kernels = [shape(f"{name}conv2.weight") for name in first]
  groups = {kernel[1] for kernel in kernels}
  if len(groups) > 1:
    raise ValueError(f"Groups of the convolutions differ in size: {groups}.")
  model = dict(
    variant=None,
    width=[shape(f"{name}conv3.weight")[0] for name in first],
    depth=depth,
    group_size=groups.pop(),
    alpha=(config.get("model_args") or {}).get("alpha", 0.2),
    stem_widths=[shape(f"stem.conv{i}.weight")[0] for i in (1, 2, 3, 4)],
    mid_widths=[kernel[0] for kernel in kernels],
    se_widths=[shape(f"{name}attn_last.fc1.weight")[0] for name in first],
    final_width=shape("final_conv.weight")[0],
    **_FIXED,
  )
  head = shapes.get("head.fc.weight")
  size = timm_settings.image_size(config)
  return Found("nfnet", model, head and head[0], size)


def _table(found):
  m = nfnet.Model(found.num_classes, **found.model)
  stem, mid_widths, se_widths, final = m.sizes()
  out, width = [], 3
  for i, num in enumerate(stem, 1):
    out += _conv(f"stem.conv{i}", f"stem/conv{i}", 3, width, num)
    width = num
  for i, depth in enumerate(m.depth):
    last, mid, se = m.width[i], mid_widths[i], se_widths[i]
    for j in range(depth):
      block = [
        *_conv("conv1", "conv1", 1, width, mid),
        *_conv("conv2", "conv2", 3, m.group_size, mid),
        *_conv("conv2b", "conv3", 3, m.group_size, mid),
        *_conv("conv3", "conv4", 1, mid, last),
        *tables.dense(
          "attn_last.fc1", "se/Dense_0", (last,), (se,), window=(1, 1)
        ),
        *tables.dense(
          "attn_last.fc2", "se/Dense_1", (se,), (last,), window=(1, 1)
        ),
        *tables.same("skipinit_gain", "skip_gain"),
      ]
      if j == 0 and (i > 0 or width != last):
        block += _conv("downsample.conv", "conv_proj", 1, width, last)
      path = f"stage{i + 1}/block{j + 1}/"
      out += tables.within(block, _BLOCK.format(i, j), path)
      width = last
  out += _conv("final_conv", "final_conv", 1, width, final)
  if num := found.num_classes:
    out += tables.dense("head.fc", "head", (final,), (num,))
  return out


def _conv(name, path, size, num_in, num_out):
  """Lists a convolution with gains."""
  gain = tables.same(
    f"{name}.gain", f"{path}/gain", num_out, there=(num_out, 1, 1, 1)
  )
  return [*tables.conv(name, path, (size, size), num_in, num_out), *gain]


def _to_params(tensors, found):
  return tables.to_params(_table(found), tensors, "the checkpoint", _MODEL)


def _to_tensors(params, found):
  model = nfnet.Model(found.num_classes, **found.model)
  timm_settings.check_fixed(model, _FIXED, _MODEL)
  tensors = tables.to_tensors(_table(found), params, _MODEL)
  stem, mid, se, final = model.sizes()
  quads = [stem[-1] // n for n in (8, 4, 2, 1)]
  if list(stem) != quads:
    raise ValueError(f"{_MODEL} has stem_widths {quads}, but the model {stem}.")
  find = timm_settings.find_ratio
  ratio, divisor = find("mid_widths", mid, model.width, (8, 1))
  se_ratio, se_divisor = find("se_widths", se, model.width, (8, 1), 0.0)
  args = dict(
    depths=list(model.depth),
    channels=list(model.width),
    alpha=model.alpha,
    stem_chs=stem[-1],
    num_features=final,
    group_size=model.group_size,
    bottle_ratio=ratio,
    ch_div=divisor,
    attn_kwargs=dict(rd_ratio=se_ratio, rd_divisor=se_divisor),
  )
  factor = model.depth[0] if model.depth[0] in range(1, 8) else 1
  return tensors, timm_settings.written(
    f"dm_nfnet_f{factor - 1}",
    found,
    args,
    num_features=final,
    first_conv="stem.conv1",
    classifier="head.fc",
  )


FAMILY = Family(
  "NFNet",
  "timm",
  "dm_nfnet_f",
  _read,
  _to_params,
  _to_tensors,
  models=("nfnet",),
)
