"""Checkpoints of this package, and those that its models read: npz, orbax, zarr.

They hold parameters alone; the model follows from their names and shapes.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision import checkpoints, fs, lookup, trees
from big_vision.models import bit_paper, mlp_mixer, vit
from big_vision.models.ppp import gemma
from big_vision.models.proj.image_text import two_towers
from big_vision.models.weights.family import (
  GEMMA,
  PALIGEMMA,
  TEXT_MODEL,
  TWO_TOWERS,
  Found,
)
from big_vision.types import Params

NAFLEX = "proj.image_text.naflex_vit"
# In whose `VANITY_NAMES` a name is looked up, in this order.
NAMED = {
  TWO_TOWERS: two_towers,
  "vit": vit,
  "mlp_mixer": mlp_mixer,
  "bit_paper": bit_paper,
}


def names() -> list[str]:
  """Lists the names of published checkpoints that models know.

  Returns:
    The names.
  """
  known: dict[str, None] = {}
  for module in NAMED.values():
    known |= dict.fromkeys(module.VANITY_NAMES)
  return list(known)


def is_checkpoint(path: str) -> bool:
  """Tells whether something is such a checkpoint, and not a workdir.

  Args:
    path: name, path of a file, folder or prefix, perhaps with `:<sub/tree>`.

  Returns:
    Whether `describe` reads it.
  """
  if ".npz" in path or path in names():
    return True
  folder, _, name = path.rstrip("/").rpartition("/")
  path = fs.join(folder, name.partition(":")[0])
  if not folder or fs.exists(fs.join(path, "config.json")):
    return False
  is_folder = fs.isdir(path) and any(
    name.startswith("params") for name in checkpoints.leaf_names(path)
  )
  return is_folder or checkpoints.latest(path) is not None


def describe(path: str) -> Found:
  """Finds the model of a checkpoint.

  Args:
    path: see `is_checkpoint`.

  Returns:
    What it is.

  Raises:
    ConfigError: parameters of no known model.
  """
  params = read(path)
  for name, (is_it, model) in _MODELS.items():
    if is_it(params):
      return model(name, params)
  raise lookup.ConfigError(
    f"{path} has the parameters {', '.join(sorted(params)[:5])}, which are of none "
    f"of the models that can be told by them, {', '.join(_MODELS)}: set "
    "config.model_name, config.model and config.model_init."
  )


def read(path: str) -> Params:
  """Reads all parameters, in the layout of today's models.

  Args:
    path: see `is_checkpoint`.

  Returns:
    Nested dict of arrays.

  Raises:
    ConfigError: it cannot be read.
  """
  for module in NAMED.values():
    path = module.VANITY_NAMES.get(path, path)
  params = checkpoints.load_params(path)
  if not isinstance(params, dict):
    raise lookup.ConfigError(f"{path} is one array, not a model.")
  if "Transformer" in params and not _is_naflex(params):
    return vit.restack(vit.fix_old_checkpoints(params), scan=False)
  if "Mixer" in params:
    return mlp_mixer.convert(params)
  return bit_paper.maybe_convert_big_transfer_format(params)


def _is_naflex(params):
  return np.ndim(params.get("embedding", {}).get("kernel")) == 2


def _size(params: Any, name: str) -> tuple[int, ...]:
  return tuple(np.shape(trees.tree_get(params, name)))


def _classes(params):
  return _size(params, "head/kernel")[-1] if "head" in params else None


def _depth(params, prefix):
  return sum(name.startswith(prefix) for name in params)


def _blocks(encoder: Mapping[str, Any]) -> dict[str, Any]:
  """Reads the sizes of the blocks of a transformer."""
  scan = "encoderblock" in encoder
  block = encoder["encoderblock" if scan else "encoderblock_0"]
  query = _size(block, "MultiHeadDotProductAttention_0/query/kernel")
  mlp = _size(block, "MlpBlock_0/Dense_0/kernel")
  width, heads, _ = query[-3:]
  model = dict(
    width=width,
    depth=query[0] if scan else _depth(encoder, "encoderblock_"),
    mlp_dim=mlp[-1],
    num_heads=heads,
  )
  return model | _options(block)


def _options(block: Mapping[str, Any]) -> dict[str, Any]:
  """Finds the options of `transformer.Options` that show in parameters."""
  attention, mlp = block["MultiHeadDotProductAttention_0"], block["MlpBlock_0"]
  names = ("query", "key", "value", "out")
  bias = "".join(n[0] for n in names if "bias" in attention[n])
  out: dict[str, Any] = {}
  if bias != "qkvo":
    out["attn_bias"] = bias
  if "query_norm" in attention:
    out["qk_norm"] = "layer" if "bias" in attention["query_norm"] else "rms"
  if "RMSNorm_0" in block:
    out["norm"] = "rms"
  if "ls1" in block:
    out["layerscale"] = 1.0  # Only its initial value.
  if "up" in mlp:
    out["glu"] = True
  if "bias" not in mlp["Dense_0"]:
    out["mlp_bias"] = False
  return out


def _vit(name, params):
  kernel = _size(params, "embedding/kernel")
  model = _blocks(params["Transformer"])
  naflex = name == NAFLEX
  model["pool_type"] = "gap"
  if "MAPHead_0" in params:
    model["pool_type"] = "map"
  elif "cls" in params and not naflex:
    model["pool_type"] = "tok"
    both = "head" in params and _size(params, "head/kernel")[0]
    if both == 2 * model["width"] and "pre_logits" not in params:
      model["pool_type"] = "tok+gap"
  if "pre_logits" in params:
    model["rep_size"] = _size(params, "pre_logits/kernel")[-1]
  if naflex:
    side, patch = _size(params, "pos_embedding")[0], math.isqrt(kernel[0] // 3)
    model["nposemb"] = side
    pixels = side * patch
    return Found(name, model, _classes(params), (pixels, pixels))
  model["patch_size"] = kernel[:2]
  for key in ("pre_norm", "pool_norm"):
    if key in params:
      model[key] = True
  if "cls" in params and model["pool_type"] == "map":
    model["class_token"] = True
  if "dist" in params:
    model["dist_token"] = True
  if "registers" in params:
    model["registers"] = _size(params, "registers")[1]
  if "bias" not in params["embedding"]:
    model["patch_bias"] = False
  if "head" in params and "bias" not in params["head"]:
    model["head_bias"] = False
  size: tuple[int, int] = 224, 224
  if "pos_embedding" in params:
    side = math.isqrt(_size(params, "pos_embedding")[1])
    size = (side * kernel[0], side * kernel[1])
  else:
    model["posemb"] = "sincos2d"
  return Found(name, model, _classes(params), size, "corners")


def _text(name, params):
  model = _blocks(params["Encoder_0"])
  model["vocab_size"] = _size(params, "Embed_0/embedding")[0]
  if "MAPHead_0" in params:
    model["pool_type"] = "map"
  length = _size(params, "pos_embedding")[1]
  return Found(name, model, _classes(params), text_length=length)


def _two_towers(name, params):
  image_name = NAFLEX if _is_naflex(params["img"]) else "vit"
  image = _vit(image_name, params["img"])
  text = _text(TEXT_MODEL, params["txt"])
  model = dict(
    image=image.model,
    text=text.model,
    image_model=image.model_name,
    text_model=TEXT_MODEL,
    out_dim=(image.num_classes, text.num_classes),
    temperature_init=10.0,
  )
  if "b" in params:
    model["bias_init"] = -10.0
  return Found(name, model, None, image.image_size, "corners", text.text_length)


def _gemma(name, params):
  """Takes what parameters do not tell from the size that is like it."""
  scan = "0" not in params["layers"]
  layers = params["layers"] if scan else params["layers"]["0"]
  out, mlp = (
    _size(layers, path) for path in ("attn/attn_vec_einsum/w", "mlp/linear")
  )
  heads, head_dim, width = out[-3:]
  both = "kv_einsum" in layers["attn"]
  sizes = dict(
    width=width,
    depth=out[0] if scan else len(params["layers"]),
    mlp_dim=mlp[-2],
    num_heads=heads,
    num_kv_heads=_size(layers, "attn/kv_einsum/w")[-3] if both else heads,
    head_dim=head_dim,
  )
  variant = "gemma2_2b" if "post_ffw_norm" in layers else "gemma_2b"
  for known in gemma.VARIANTS:
    if {k: gemma.get_config(known)[k] for k in sizes} == sizes:
      variant = known
  table = _size(params, "embedder/input_embedding")
  model = dict(gemma.get_config(variant)) | sizes | {"vocab_size": table[0]}
  return Found(name, model | {"scan": scan})


def _paligemma(name, params):
  image, text = _vit("vit", params["img"]), _gemma(GEMMA, params["llm"]).model
  del text["norm_eps"]
  model = dict(img=image.model | {"pool_type": "none"}, llm=text)
  return Found(name, model, None, image.image_size, "corners")


def _mixer(name, params):
  kernel = _size(params, "stem/kernel")
  tokens, hidden = _size(params, "MixerBlock_0/token_mixing/Dense_0/kernel")
  channels = _size(params, "MixerBlock_0/channel_mixing/Dense_0/kernel")[-1]
  side = math.isqrt(tokens)
  model = dict(
    patch_size=kernel[:2],
    num_blocks=_depth(params, "MixerBlock_"),
    hidden_dim=kernel[-1],
    tokens_mlp_dim=hidden,
    channels_mlp_dim=channels,
  )
  size = (side * kernel[0], side * kernel[1])
  return Found(name, model, _classes(params), size)


def _resnet(name, params):
  root = "conv_root" if name == "bit" else "root_block/conv_root"
  depth = [len(params[f"block{i}"]) for i in range(1, 5)]
  width = _size(params, f"{root}/kernel")[-1] / 64
  model = dict(depth=depth, width=int(width) if width == int(width) else width)
  return Found(name, model, _classes(params))


def _nfnet(name, params):
  block = [params[f"stage{i}"]["block1"] for i in range(1, 5)]
  width = [_size(b, "conv4/kernel")[-1] for b in block]
  model = dict(
    variant=None,
    width=width,
    depth=[len(params[f"stage{i}"]) for i in range(1, 5)],
    group_size=_size(block[0], "conv2/kernel")[2],
    bottleneck=_size(block[0], "conv2/kernel")[3] / width[0],
    se_ratio=_size(block[0], "se/Dense_0/kernel")[1] / width[0],
  )
  return Found(name, model, _classes(params))


# Name -> (whether parameters are its own, what describes them).
_MODELS: dict[str, tuple[Any, Any]] = {
  TWO_TOWERS: (lambda p: "img" in p and "txt" in p, _two_towers),
  PALIGEMMA: (lambda p: "img" in p and "llm" in p, _paligemma),
  GEMMA: (lambda p: "embedder" in p and "layers" in p, _gemma),
  NAFLEX: (lambda p: "Transformer" in p and _is_naflex(p), _vit),
  "vit": (lambda p: "Transformer" in p and "embedding" in p, _vit),
  TEXT_MODEL: (lambda p: "Encoder_0" in p, _text),
  "mlp_mixer": (lambda p: "MixerBlock_0" in p, _mixer),
  "nfnet": (lambda p: "stage1" in p and "final_conv" in p, _nfnet),
  "bit_paper": (lambda p: "root_block" in p, _resnet),
  "bit": (lambda p: "conv_root" in p and "block1" in p, _resnet),
}
