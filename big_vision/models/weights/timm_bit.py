"""BiT of timm: the architectures resnetv2_*x*_bit."""

from big_vision.models import bit_paper
from big_vision.models.weights import (
  bit_layout,
  settings,
  tables,
  timm_settings,
)
from big_vision.models.weights.family import Family, Found

_NAMES = dict(
  stem="stem.conv", block="stages.{}.blocks.{}.", norm="norm", head="head.fc"
)
# Blocks of each stage -> (layers, factors of widths) in names.
_ARCHITECTURES: dict[tuple[int, ...], tuple[int, tuple[int, int]]] = {
  (3, 4, 6, 3): (50, (1, 3)),
  (3, 4, 23, 3): (101, (1, 3)),
  (3, 8, 36, 3): (152, (2, 4)),
}
# What else the arguments may change.
_ONLY = dict(
  preact=True,
  basic=False,
  avg_down=False,
  output_stride=32,
  act_layer="relu",
)
_GROUPS = {"groupnorm": 32, "groupnorm1": 1}  # By `norm_layer`.
_MODEL = "timm's BiT"


def _read(config, shapes):
  timm_settings.check(config, _ONLY)
  model = bit_layout.sizes(shapes, _NAMES)
  timm_settings.check_strides(model["depth"])
  args = config.get("model_args") or {}
  s = settings.Settings(args, dict(norm_layer="groupnorm"), "model_args")
  model["num_groups"] = _GROUPS[s.one_of("norm_layer", _GROUPS)]
  head = shapes.get(f"{_NAMES['head']}.weight")
  size = timm_settings.image_size(config)
  return Found("bit_paper", model, head and head[0], size)


def _table(found):
  model = bit_paper.Model(found.num_classes, **found.model)
  return bit_layout.table(model, _NAMES, (1, 1))


def _to_params(tensors, found):
  return tables.to_params(_table(found), tensors, "the checkpoint", _MODEL)


def _to_tensors(params, found):
  tensors = tables.to_tensors(_table(found), params, _MODEL)
  model = bit_paper.Model(found.num_classes, **found.model)
  groups = {n: layer for layer, n in _GROUPS.items()}
  if model.num_groups not in groups:
    raise ValueError(
      f"timm's BiT has {' or '.join(map(str, groups))} groups, but the model "
      f"num_groups = {model.num_groups}."
    )
  blocks, stem, mid, widths = model.sizes()
  bit_layout.check(model, _MODEL)
  ratio, _ = timm_settings.find_ratio("mid_widths", mid, widths)
  # For other depths, `create_model` has no such model, but `ResNetV2`.
  layers, factors = _ARCHITECTURES.get(tuple(blocks), (50, (1, 3)))
  factor = factors[stem == 64 * factors[1]]
  args = dict(
    stem_chs=stem // factor,
    channels=[n // factor for n in widths],
    bottle_ratio=ratio,
    norm_layer=groups[model.num_groups],
  )
  if tuple(blocks) not in _ARCHITECTURES:
    args["layers"] = list(blocks)
  return tensors, timm_settings.written(
    f"resnetv2_{layers}x{factor}_bit",
    found,
    args,
    num_features=widths[-1],
    first_conv="stem.conv",
    classifier="head.fc",
    custom_load=False,
  )


FAMILY = Family(
  "BiT",
  "timm",
  r"resnetv2_\d+x\d+_bit",
  _read,
  _to_params,
  _to_tensors,
  models=("bit_paper",),
)
