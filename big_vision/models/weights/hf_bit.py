"""BiT of transformers: BitModel, BitForImageClassification, BitBackbone.

Settings that no published checkpoint has are refused: blocks in the order of
ResNet v1 (`layer_type`), other padding, dilated convolutions.
"""

from big_vision.models import bit_paper
from big_vision.models.weights import (
  bit_layout,
  settings,
  tables,
  timm_settings,
)
from big_vision.models.weights.family import Family, Found

_NAMES = dict(
  stem="embedder.convolution",
  block="encoder.stages.{}.layers.{}.",
  norm="norm",
  head="classifier.1",
)
_DEFAULTS = dict(
  num_channels=3,
  layer_type="preactivation",
  hidden_act="relu",
  global_padding=None,
  num_groups=32,
  embedding_dynamic_padding=False,
  output_stride=32,
)
_ONLY = (
  "num_channels",
  "layer_type",
  "hidden_act",
  "global_padding",
  "embedding_dynamic_padding",
)
_PREFIX = "bit."
_MODEL = "transformers' BiT"


def _read(config, shapes):
  s = settings.Settings(config, _DEFAULTS)
  for key in _ONLY:
    s.one_of(key, [_DEFAULTS[key]])
  shapes = {name.removeprefix(_PREFIX): x for name, x in shapes.items()}
  model = bit_layout.sizes(shapes, _NAMES)
  timm_settings.check_strides(model["depth"], s.integer("output_stride"))
  model["num_groups"] = s.integer("num_groups")
  head = f"{_NAMES['head']}.weight"
  num_classes = shapes[head][0] if head in shapes else None
  return Found("bit_paper", model, num_classes)


def _table(found):
  model = bit_paper.Model(found.num_classes, **found.model)
  return bit_layout.table(model, _NAMES, ())


def _to_params(tensors, found):
  tensors = {name.removeprefix(_PREFIX): x for name, x in tensors.items()}
  return tables.to_params(_table(found), tensors, "the checkpoint", _MODEL)


def _to_tensors(params, found):
  tensors = tables.to_tensors(_table(found), params, _MODEL)
  if found.num_classes:
    tensors = {
      name if name.startswith(_NAMES["head"]) else _PREFIX + name: x
      for name, x in tensors.items()
    }
  model = bit_paper.Model(found.num_classes, **found.model)
  bit_layout.check(model, _MODEL)
  blocks, stem, mid, widths = model.sizes()
  expected = [timm_settings.multiple_of(8, n / 4) for n in widths]
  if list(mid) != expected:
    raise ValueError(
      f"{_MODEL} has {expected} channels inside blocks of {list(widths)}, but "
      f"the model {list(mid)}."
    )
  end = "ForImageClassification" if found.num_classes else "Model"
  return tensors, {
    "architectures": [f"Bit{end}"],
    "model_type": "bit",
    **_DEFAULTS,
    "num_groups": model.num_groups,
    "embedding_size": stem,
    "hidden_sizes": list(widths),
    "depths": list(blocks),
    **settings.classes(found.num_classes),
  }


FAMILY = Family(
  "BiT",
  "transformers",
  "bit",
  _read,
  _to_params,
  _to_tensors,
  models=("bit_paper",),
)
