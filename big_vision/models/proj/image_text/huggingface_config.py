"""Settings of SigLIP: Hugging Face's config.json and `config.model`.

Between the two are the fields of a tower, a dict:

  width, depth, mlp_dim, num_heads   both towers
  patch_size, side                   images: pixels; rows of the grid of
                                     positions, which is a square
  naflex, use_head                   images: bools; whether it has a MAP head
  image_size                         images without NaFlex: pixels
  vocab_size, length, out_dim        texts: tokens known and in a text; size of
                                     the embeddings
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from big_vision.types import ConfigLike

PARTS = ("img", "txt", "t", "b")
VIT, NAFLEX = "vit", "proj.image_text.naflex_vit"
TEXT_MODEL = "proj.image_text.text_transformer"

_KINDS = {"img": "vision", "txt": "text"}
_SIZES = dict(
  width="hidden_size",
  depth="num_hidden_layers",
  mlp_dim="intermediate_size",
  num_heads="num_attention_heads",
)

# Defaults of transformers for settings that config.json may leave out; those of
# public checkpoints do.
_DEFAULTS = dict(
  hidden_size=768,
  intermediate_size=3072,
  num_hidden_layers=12,
  num_attention_heads=12,
  image_size=224,
  patch_size=16,
  num_patches=256,
  vocab_size=32_000,
  max_position_embeddings=64,
)

# Settings that the models of this package do not have, and the values that
# match them. All these activations are the approximation of GELU with tanh.
_FIXED = dict(
  hidden_act=("gelu_pytorch_tanh", "gelu_new", "gelu_fast"),
  layer_norm_eps=(1e-6,),
  attention_dropout=(0,),
  num_channels=(3,),
)

# In the other direction: settings of `config.model` that Hugging Face's model
# does not have, with their defaults. `huggingface` finds those that add
# parameters by these.
_EXPORTABLE = dict(
  image_model=(VIT, (VIT, NAFLEX)),
  text_model=(TEXT_MODEL, (TEXT_MODEL,)),
)
_EXPORTABLE_IMAGE = dict(
  pool_type=("gap", ("map",)),
  posemb=("learn", ("learn",)),
  rep_size=(False, (False, None)),
)
_EXPORTABLE_TEXT = dict(
  pool_type=("last", ("last",)),
  pad_token=(None, (None,)),
)


def parts_of(hf_config: Mapping[str, Any]) -> tuple[str, ...]:
  """Lists the parts of a checkpoint.

  Args:
    hf_config: mapping, content of config.json.

  Returns:
    Tuple, some of `PARTS`.

  Raises:
    ValueError: the checkpoint is not a SigLIP, or is quantized.
  """
  if hf_config.get("quantization_config"):
    raise _unsupported(
      "quantization_config", hf_config["quantization_config"], [None]
    )
  known = {"siglip": PARTS, "siglip2": PARTS}
  for family in ("siglip", "siglip2"):
    for part, kind in _KINDS.items():
      known[f"{family}_{kind}_model"] = (part,)
  model_type = hf_config.get("model_type")
  if model_type not in known:
    raise _unsupported("model_type", model_type, known)
  return known[model_type]


def image_fields(hf_config: Mapping[str, Any]) -> dict[str, Any]:
  """Reads the fields of the image tower of a checkpoint.

  Args:
    hf_config: mapping, content of config.json.

  Returns:
    Dict, see the top of this file.

  Raises:
    ValueError: a setting that the models of this package do not have; names it.
  """
  config, fields = _tower(hf_config, "vision")
  naflex = hf_config["model_type"].startswith("siglip2")
  patch = _number(config, "patch_size", "vision")
  use_head = bool(config.get("vision_use_head", True))
  if not use_head and "txt" in parts_of(hf_config):
    raise _unsupported("vision_config.vision_use_head", False, [True])
  fields |= dict(naflex=naflex, patch_size=patch, use_head=use_head)
  if not naflex:
    size = _number(config, "image_size", "vision")
    return fields | dict(image_size=size, side=size // patch)
  num = _number(config, "num_patches", "vision")
  if math.isqrt(num) ** 2 != num:
    raise _unsupported("vision_config.num_patches", num, ["a square number"])
  return fields | dict(side=math.isqrt(num))


def text_fields(hf_config: Mapping[str, Any]) -> dict[str, Any]:
  """Reads the fields of the text tower of a checkpoint.

  Args:
    hf_config: mapping, content of config.json.

  Returns:
    Dict, see the top of this file.

  Raises:
    ValueError: a setting that the models of this package do not have; names it.
  """
  config, fields = _tower(hf_config, "text")
  return fields | dict(
    vocab_size=_number(config, "vocab_size", "text"),
    length=_number(config, "max_position_embeddings", "text"),
    out_dim=config.get("projection_size") or fields["width"],
  )


def fields_of(
  hf_config: Mapping[str, Any], parts: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
  """Reads the fields of the towers of a checkpoint.

  Args:
    hf_config: mapping, content of config.json.
    parts: some of `PARTS`; None means all that the checkpoint has.

  Returns:
    Dict of the fields of "img" and "txt", if they are among the parts.

  Raises:
    ValueError: a setting that the models of this package do not have; names it.
  """
  read = dict(img=image_fields, txt=text_fields)
  parts = parts_of(hf_config) if parts is None else parts
  return {part: fn(hf_config) for part, fn in read.items() if part in parts}


def model_config(hf_config: Mapping[str, Any]) -> dict[str, Any]:
  """Writes the model config of a checkpoint.

  Args:
    hf_config: mapping, content of config.json.

  Returns:
    Dict to be used as `config.model` of `two_towers`: `image` and `text`, the
    arguments of the towers, `image_model`, `text_model`, `out_dim`,
    `temperature_init` and `bias_init`. A checkpoint of one tower gives only the
    keys of that tower. An image tower without a head returns all its tokens
    (pool type "none").

  Raises:
    ValueError: a setting that the models of this package do not have; names it.
  """
  fields = fields_of(hf_config)
  out: dict[str, Any] = {}
  if image := fields.get("img"):
    out["image_model"] = NAFLEX if image["naflex"] else VIT
    out["image"] = {k: image[k] for k in _SIZES}
    out["image"]["pool_type"] = "map" if image["use_head"] else "none"
    if image["naflex"]:
      out["image"]["nposemb"] = image["side"]
    else:
      out["image"]["patch_size"] = (image["patch_size"],) * 2
  if text := fields.get("txt"):
    out["text_model"] = TEXT_MODEL
    out["text"] = {k: text[k] for k in (*_SIZES, "vocab_size")}
  # Images have no projection: their embedding is what the head pools.
  out["out_dim"] = (None, text["out_dim"] if text else None)
  if "t" in parts_of(hf_config):
    # The initial values of the paper. Without `bias_init`, models have no bias.
    out |= dict(temperature_init=10.0, bias_init=-10.0)
  return out


def hf_config(
  image: Mapping[str, Any] | None, text: Mapping[str, Any] | None
) -> dict[str, Any]:
  """Writes the content of config.json for two towers, or for one.

  Args:
    image: fields of the image tower, or None.
    text: fields of the text tower, or None; one of both.

  Returns:
    Dict for JSON.
  """
  out = {}
  # A text tower alone is the same in both.
  naflex = bool(image and image["naflex"])
  family, cls = ("siglip2", "Siglip2") if naflex else ("siglip", "Siglip")
  tower = lambda fields, kind, **kw: {
    "model_type": f"{family}_{kind}_model",
    **{there: fields[here] for here, there in _SIZES.items()},
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "attention_dropout": 0.0,
    **kw,
  }
  if text:
    out["text_config"] = tower(
      text,
      "text",
      vocab_size=text["vocab_size"],
      max_position_embeddings=text["length"],
      projection_size=text["out_dim"],
      # The defaults are tokens that SigLIP does not have.
      bos_token_id=None,
      eos_token_id=None,
    )
  if image:
    size = (
      dict(num_patches=image["side"] ** 2)
      if naflex
      else dict(image_size=image["image_size"])
    )
    out["vision_config"] = tower(
      image,
      "vision",
      num_channels=3,
      patch_size=image["patch_size"],
      vision_use_head=image["use_head"],
      **size,
    )
  if len(out) == 1:
    (config,) = out.values()
    kind = "Vision" if image else "Text"
    return {"architectures": [f"{cls}{kind}Model"], **config}
  return {"architectures": [f"{cls}Model"], "model_type": family, **out}


def check_exportable(model_cfg: ConfigLike) -> None:
  """Checks the settings of a model that do not show in its parameters.

  Args:
    model_cfg: mapping, `config.model` of `two_towers`.

  Raises:
    ValueError: it has a setting that Hugging Face's model does not have.
  """
  image = {**(model_cfg.get("image") or {})}
  if image.get("posemb", "").startswith("learn_2d"):
    image["posemb"] = "learn"  # Of NaFlex.
  for prefix, config, settings in (
    ("config.model", model_cfg, _EXPORTABLE),
    ("config.model.image", image, _EXPORTABLE_IMAGE),
    ("config.model.text", model_cfg.get("text") or {}, _EXPORTABLE_TEXT),
  ):
    for key, (default, allowed) in settings.items():
      value = config.get(key, default)
      if value not in allowed:
        raise ValueError(
          f"{prefix}.{key} = {value!r}: Hugging Face's SigLIP only has "
          f"{' or '.join(map(repr, allowed))}."
        )


def _tower(hf_config, kind):
  """Reads the settings of a tower, and the fields that both kinds have."""
  if hf_config["model_type"].endswith(f"_{kind}_model"):
    config = hf_config
  else:
    config = hf_config.get(f"{kind}_config") or {}
  for key, allowed in _FIXED.items():
    if config.get(key, allowed[0]) not in allowed:
      raise _unsupported(f"{kind}_config.{key}", config[key], allowed)
  fields = {k: _number(config, name, kind) for k, name in _SIZES.items()}
  if fields["width"] % fields["num_heads"]:
    raise _unsupported(
      f"{kind}_config.num_attention_heads",
      fields["num_heads"],
      [f"a divisor of hidden_size = {fields['width']}"],
    )
  return config, fields


def _number(config, key, kind):
  """Reads a number; a pair of equal numbers counts as one."""
  value = config.get(key, _DEFAULTS[key])
  one = value
  if isinstance(value, list | tuple) and len(set(value)) == 1:
    one = value[0]
  if not isinstance(one, int) or one < 1:
    raise _unsupported(f"{kind}_config.{key}", value, ["a positive number"])
  return one


def _unsupported(key, value, allowed):
  allowed = " or ".join(a if " " in str(a) else repr(a) for a in allowed)
  return ValueError(
    f"{key} = {value!r} in config.json of the Hugging Face checkpoint is "
    f"not supported by the models of this package: it must be {allowed}."
  )
