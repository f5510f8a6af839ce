"""Writes parameters as the files of a library, and refuses what these lack."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision.models import mlp_mixer, positions, vit, vit_checkpoints
from big_vision.models.ppp import gemma
from big_vision.models.proj.paligemma import gemma_bv
from big_vision.models.weights import vit_family, vit_layout
from big_vision.models.weights.family import (
  GEMMA,
  PALIGEMMA,
  TEXT_MODEL,
  TWO_TOWERS,
  Family,
  Found,
  Tensors,
  instance,
)
from big_vision.types import Params

# Fields that change neither what a model computes nor its parameters.
_IRRELEVANT = frozenset(
  {
    "parent",
    "name",
    "scan",
    "remat_policy",
    "dtype_mm",
    "dropout",
    "drop_path",
    "stoch_depth",
    "head_zeroinit",
    "temperature_init",
  }
)
_IRRELEVANT_OF_GEMMA = (
  "variant", "embed_dtype", "cache_dtype", "dropout_bdims"
)  # fmt: skip
# Models without images, or for images of any size.
_ANY_SIZE = (TEXT_MODEL, GEMMA, "bit_paper", "nfnet")


def write(
  family: Family, params: Params, found: Found
) -> tuple[Tensors, dict[str, Any]]:
  """Writes a model as a family has it.

  Args:
    family: the family.
    params: parameters of the model, scanned or not.
    found: the model. Fixed positions, of `posemb="sincos2d"`, become learned
      ones with these values.

  Returns:
    (tensors, settings).

  Raises:
    ValueError: the family has no such model; names the option, its value and
      what the family has.
  """
  title = family.title
  if family.models and found.model_name not in family.models:
    raise ValueError(
      f"config.model_name={found.model_name!r}: {title} is "
      f"{' or '.join(family.models)}."
    )
  params, found = _plain(params, found)
  if family.written:  # Says sooner and more clearly what does not fit.
    _check(family, found, *family.written(found), title)
  tensors, settings = family.to_tensors(params, found)
  if not family.written:
    shapes = {name: x.shape for name, x in tensors.items()}
    _check(family, found, shapes, settings, title)
  return tensors, settings


def _check(family, found, shapes, settings, title):
  """Raises ValueError if what was written stands for another model."""
  again = _options(family.read(settings, shapes))
  for key, value in _options(found).items():
    if key not in again:
      raise ValueError(f"{key}={value!r}: {title} lacks it.")
    if not _equal(key, value, again[key]):
      raise ValueError(f"{key}={value!r}: {title} has {again[key]!r}.")


def _equal(key, a, b):
  if key.endswith(".layerscale"):  # Else only an initial value.
    return (a is None) == (b is None)
  if key.endswith(".bias_init"):  # It is 0 where the model has none.
    return a is None or b is not None
  if isinstance(a, float) and isinstance(b, float | int):
    return bool(np.isclose(a, b, rtol=1e-6, atol=0))
  return a == b


def _options(found):
  """Returns what makes a difference: config key -> value."""
  model = instance(found.model_name, found.num_classes, found.model)
  out: dict[str, Any] = {"config.model_name": found.model_name}
  if found.model_name == TWO_TOWERS:
    dims = vit_family.out_dims(found)
    out["config.model.out_dim"] = dims
    out["config.model.bias_init"] = model.bias_init
    for key, name, config, dim in (
      ("image", model.image_model, model.image, dims[0]),
      ("text", model.text_model, model.text, dims[1]),
    ):
      out[f"config.model.{key}_model"] = name
      tower = instance(name, dim, config or {})
      out |= _fields(tower, f"config.model.{key}")
  elif found.model_name == PALIGEMMA:
    out["config.model.img_model"] = model.img_model
    out["config.model.llm_model"] = model.llm_model
    image = instance("vit", None, model.img)
    out |= _fields(image, "config.model.img")
    text = gemma.Model(**gemma_bv.Model(**model.llm).arguments)
    out |= _fields(text, "config.model.llm")
  else:
    out["num_classes"] = found.num_classes or None
    out |= _fields(model, "config.model")
  if found.model_name not in _ANY_SIZE:
    out["image_size"] = tuple(found.image_size)
  if found.text_length and found.model_name in (TEXT_MODEL, TWO_TOWERS):
    out["text_length"] = found.text_length
  return out


def _fields(model, key):
  """Lists the fields of a model, those that mean the same in one form."""
  out = {
    f.name: getattr(model, f.name)
    for f in dataclasses.fields(model)
    if f.name not in _IRRELEVANT
  }
  out.pop("num_classes", None)
  if isinstance(model, gemma.Model):
    out = {k: x for k, x in out.items() if k not in _IRRELEVANT_OF_GEMMA}
    out["sliding_window"] = model.window
    for name in ("final_logits_softcap", "attn_logits_softcap"):
      out[name] = out[name] or 0.0
    if model.head_dim == model.width // model.num_heads:  # Both are the same.
      out["query_pre_attn_norm"] = "rsqrt_head_dim"
  if isinstance(model, mlp_mixer.MlpMixer):
    out.pop("model_name")  # Of old configs.
  if hasattr(model, "sizes"):  # Networks whose widths can be told in two ways.
    out = {k: x for k, x in out.items() if k not in model.SIZES}
    out["sizes"] = tuple(map(_plain_value, model.sizes()))
  if out.get("mlp_dim", 0) is None:
    out["mlp_dim"] = 4 * model.width
  if out.get("rep_size") is True:
    out["rep_size"] = model.width
  if "rope" in out and out["rope"] is None:
    out.pop("rope_theta")
  if isinstance(model, vit.Model().__class__):
    out["class_token"] = vit_layout.has_class_token(model)
    out["patch_size"] = tuple(model.patch_size)
    first = out["class_token"] and out["pool_type"] in ("0", "none")
    if first and (out["pool_type"] == "0" or not model.num_classes):
      out["pool_type"] = "tok"  # The tokens are there anyway.
    if not model.num_classes:
      out.pop("head_bias")
  return {f"{key}.{name}": _plain_value(x) for name, x in out.items()}


def _plain_value(x):
  return tuple(x) if isinstance(x, list) else x


def _plain(params, found):
  """Unstacks blocks, and stores fixed positions."""
  params = _unstacked(params)
  config = dict(found.model)
  if found.model_name == "vit":
    params, config = _stored(params, config, found)
  elif found.model_name == TWO_TOWERS and (
    config.get("image_model", "vit") == "vit" and "img" in params
  ):
    image = dict(config.get("image") or {})
    params["img"], config["image"] = _stored(params["img"], image, found)
  return params, dataclasses.replace(found, model=config)


def _stored(params, config, found):
  if config.get("posemb") != "sincos2d":
    return params, config
  model = vit.Model(**config)
  sizes = zip(found.image_size, model.patch_size, strict=True)
  rows, columns = (s // p for s, p in sizes)
  pos = positions.posemb_sincos_2d(rows, columns, model.width)
  return (
    {**params, "pos_embedding": np.asarray(pos)},
    {**config, "posemb": "learn"},
  )


def _unstacked(tree) -> Any:
  """Gives the blocks of all encoders their own subtrees."""
  if not isinstance(tree, Mapping):
    return tree
  out = {name: _unstacked(x) for name, x in tree.items()}
  if "encoderblock" in out:
    # The function knows the encoder by its name in image models.
    out = vit_checkpoints.scan_to_pyloop({"Transformer": out})["Transformer"]
  return out
