"""PaliGemma 1 and 2 of transformers: `proj.paligemma.paligemma`.

transformers 4, transformers 5 and the files on the hub name the same tensors in
several ways, all of which are read:

  [model.]vision_tower.[vision_model.]       a SigLIP, whose head is not used
  [model.]multi_modal_projector.linear.      the `head` of the ViT
  [model.]language_model.[model.]            a Gemma

Written are the names on the hub, which all versions read: without the first
bracket, with the others.

References:
  Beyer et al. 2024, PaliGemma, https://arxiv.org/abs/2407.07726
  Steiner et al. 2024, PaliGemma 2, https://arxiv.org/abs/2412.03555
"""

import dataclasses
import re
from typing import Any

from big_vision.models.ppp import gemma
from big_vision.models.proj.image_text import (
  huggingface_config,
  huggingface_layout,
)
from big_vision.models.proj.paligemma import gemma_bv, modules
from big_vision.models.weights import hf_gemma, hf_siglip, settings, tables
from big_vision.models.weights.family import GEMMA, PALIGEMMA, Family, Found

_TITLE = "transformers' PaliGemma"
_TEXT, _HEAD = "language_model.", "multi_modal_projector."
_IMAGE = huggingface_layout.PREFIXES["img"]
# Beginnings of names of files -> names in the table; the first that matches.
_PLAIN = {
  r"(model\.)?vision_tower\.(vision_model\.)?": _IMAGE,
  r"(model\.)?multi_modal_projector\.": _HEAD,
  r"(language_model\.)?lm_head\.": f"{_TEXT}lm_head.",
  r"(model\.)?language_model\.(model\.)?": _TEXT,
}
_WRITTEN = {
  _IMAGE: "vision_tower.vision_model.",
  _HEAD: _HEAD,
  _TEXT: "language_model.model.",
}
# What `gemma_bv.Model` has, without an argument for it.
_NORM_EPS = 1e-6
_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id")
# In the tokenizer of all public checkpoints.
_IMAGE_TOKEN = 257_152


def _plain(name):
  if name.endswith((".inv_freq", ".position_ids")):
    return None
  for pattern, start in _PLAIN.items():
    if match := re.match(pattern, name):
      name = start + name[match.end() :]
      break
  return None if name.startswith(f"{_IMAGE}head.") else name


def _read(config, shapes):
  s = settings.Settings(config, dict(image_token_index=256_000))
  image = huggingface_config.model_config(_vision(config))["image"]
  sizes = {_plain(name): shape for name, shape in shapes.items()}
  embedding = sizes.get(_TEXT + hf_gemma.EMBEDDING)
  where = "config.json: text_config"
  text = s.section("text_config")
  text = hf_gemma.read_model(text, embedding and embedding[0], where)
  if (eps := text.pop("norm_eps")) != _NORM_EPS:
    raise ValueError(
      f"{where}: rms_norm_eps = {eps} is not supported, only {_NORM_EPS}."
    )
  size = huggingface_config.image_fields(_vision(config))["image_size"]
  return Found(
    PALIGEMMA,
    dict(img=image | dict(pool_type="none"), llm=text),
    image_size=(size, size),
    image_token=s.integer("image_token_index", 0),
  )


def _vision(config):
  """Returns the settings of the image model as of one alone."""
  vision = settings.Settings(config, {}).section("vision_config")
  return {"model_type": "siglip_vision_model", **vision}


def _gemma(found):
  """Makes the language model of PaliGemma, or of this part of it."""
  if found.model_name == GEMMA:
    return gemma.Model(**found.model)
  return gemma.Model(**gemma_bv.Model(**found.model["llm"]).arguments)


def _image_fields(found):
  return hf_siglip.fields_of(found.tower("img"))[0]["img"]


def _image_table(found):
  """Makes the table of the image model, whose paths begin with "img/"."""
  fields = _image_fields(found)
  dim = found.tower("img").num_classes
  return [
    *huggingface_layout.entries({"img": fields}, ("img",)),
    *tables.dense(f"{_HEAD}linear", "img/head", (fields["width"],), (dim,)),
  ]


def _table(found, scan=True):
  text = hf_gemma.table(_gemma(found), scan)
  return _image_table(found) + tables.within(text, _TEXT, "llm/")


def _to_params(tensors, found):
  tensors = tables.Renamed(tensors, _plain)
  embedding = _TEXT + hf_gemma.EMBEDDING
  tensors = hf_gemma.tied(tensors, _TEXT + hf_gemma.HEAD, embedding)
  if found.model_name == PALIGEMMA:
    table, part = _table(found), None
  elif found.model_name == GEMMA:
    part = "llm"
    table = tables.within(hf_gemma.table(_gemma(found)), _TEXT, "llm/")
  else:
    table, part = _image_table(found), "img"
  params = tables.to_params(table, tensors, "the checkpoint", _TITLE)
  return params[part] if part else params


def _written_name(name):
  for start, there in _WRITTEN.items():
    if name.startswith(start):
      return there + name.removeprefix(start)
  return name


def _written_table(found, scan=True):
  return [
    dataclasses.replace(e, name=_written_name(e.name))
    for e in _table(found, scan)
  ]


def _settings(found) -> dict[str, Any]:
  known = dict(img_model=modules.IMG_MODEL, llm_model=modules.LLM_MODEL)
  for key, name in known.items():
    if (value := found.model.get(key, name)) != name:
      raise ValueError(f"config.model.{key}={value!r}: {_TITLE} has {name!r}.")
  model, image = _gemma(found), _image_fields(found)
  token = found.image_token
  if token is None:  # Beyond the vocabulary it has no embedding.
    token = min(_IMAGE_TOKEN, model.vocab_size)
  text = hf_gemma.settings_of(model)
  image = huggingface_config.hf_config(image, None)
  image.pop("architectures")
  return {
    "architectures": ["PaliGemmaForConditionalGeneration"],
    "model_type": "paligemma",
    "image_token_index": token,
    "hidden_size": model.width,
    "projection_dim": model.width,
    "vocab_size": model.vocab_size,
    "tie_word_embeddings": True,
    **{key: text[key] for key in _SPECIAL},
    "text_config": text,
    "vision_config": {**image, "projection_dim": model.width},
  }


def _written(found):
  return {e.name: e.tensor for e in _written_table(found)}, _settings(found)


def _to_tensors(params, found):
  table = _written_table(found, hf_gemma.scanned(params["llm"]))
  return tables.Tensors(table, params, _TITLE), _settings(found)


FAMILY = Family(
  "PaliGemma 1 and 2",
  "transformers",
  "paligemma",
  _read,
  _to_params,
  _to_tensors,
  {
    "img": tuple(
      prefix + name
      for prefix in ("", "model.")
      for name in ("vision_tower.", "multi_modal_projector.")
    ),
    "llm": ("language_model.", "model.language_model.", "lm_head."),
  },
  models=(PALIGEMMA,),
  written=_written,
)
