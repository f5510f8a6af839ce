"""Writes a model in the formats of this package and of other libraries.

npz         DST.npz with the parameters, and DST.json with the rest
orbax       a folder that is used like the workdir of a run
hf          a folder for transformers
timm        a folder for timm
open_clip   a folder for open_clip
"""

import json
import math
import os
from collections.abc import Callable
from typing import Any

from big_vision import checkpoint_npz, checkpoints, fs, lookup
from big_vision.models.weights import (
  families,
  native,
  processors,
  safetensors_file,
  sources,
  tables,
)
from big_vision.models.weights.family import (
  GEMMA,
  PALIGEMMA,
  TWO_TOWERS,
  Tensors,
)
from big_vision.pretrained import published, vision_language
from big_vision.publishing import card
from big_vision.publishing.source import Source

TOKENIZER_FILES = (
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "spiece.model",
  "tokenizer.model",
  "vocab.json",
  "merges.txt",
)
# Bytes of a file for transformers, as on the hub: more is split.
_MAX_FILE = 5_000_000_000
_LIBRARIES = dict(hf="transformers", timm="timm", open_clip="open_clip")
FORMATS = ("npz", "orbax", *_LIBRARIES)
_LANGUAGE = (GEMMA, PALIGEMMA)


def write(source: Source, target: str, form: str) -> list[str]:
  """Writes a model.

  Args:
    source: the model.
    target: path of a new npz file, or of a new folder.
    form: one of `FORMATS`.

  Returns:
    Paths of the files; of an orbax checkpoint its folder.

  Raises:
    ValueError: the format cannot hold this model; says why.
    FileExistsError: there is something at `target`.
  """
  if form not in FORMATS:
    raise lookup.unknown("format", form, FORMATS)
  if (form == "npz") != target.endswith(".npz"):
    raise lookup.ConfigError(
      f"--to={target}: --format=npz writes a file whose name ends in .npz, other "
      "formats a folder."
    )
  if fs.exists(target):
    raise FileExistsError(f"--to={target} exists already: name a new one.")
  if form == "npz":
    return _npz(source, target)
  # Whatever does not fit is said before the first file is written.
  write_it = _orbax(source) if form == "orbax" else _library(source, form)
  fs.makedirs(target)
  return write_it(target)


def config_of(source: Source) -> dict[str, Any]:
  """Writes what a config needs for a model.

  Args:
    source: the model.

  Returns:
    Dict for JSON.
  """
  found = source.found
  config = {"model_name": found.model_name, "model": found.model}
  if found.num_classes:
    config |= {"num_classes": found.num_classes, "loss": source.loss}
  if found.model_name == PALIGEMMA:
    pps = [pp for pp in (source.pp, source.pp_txt) if pp]
    config["input"] = {"pp": "|".join(pps)}
    config["pp_modules"] = list(published.PROMPT_MODULES)
  elif source.pp_txt:
    config["embed"] = {"pp_img": source.pp, "pp_txt": source.pp_txt}
    names = ("general", "image", "text")
    config["pp_modules"] = [f"ops_{name}" for name in names]
    config["pp_modules"] += ["proj.image_text.ops_naflex"]
  return config


def _data_of(source):
  names = source.class_names
  return {
    "class_names": list(names) if names else None,
    "num_classes": source.found.num_classes,
    "pp": source.pp,
  }


def _npz(source, target):
  folder = os.path.dirname(target)
  if folder:
    fs.makedirs(folder)
  checkpoint_npz.save_checkpoint({"params": source.params}, target)
  about = target.removesuffix(".npz") + ".json"
  _json(about, {"config": config_of(source), **_data_of(source)})
  return [target, about]


def _orbax(source):
  def write_it(target):
    checkpoint = fs.join(target, "checkpoint.bv")
    manager = checkpoints.CheckpointManager()
    state = {"params": source.params}
    checkpoints.save_checkpoint_ts(manager, state, checkpoint, 0)
    manager.wait_until_finished()
    _json(fs.join(target, "config.json"), config_of(source))
    _json(fs.join(target, "data.json"), _data_of(source))
    _text(fs.join(target, "README.md"), card.make(source, "orbax", target))
    names = ("checkpoint.bv", "config.json", "data.json", "README.md")
    return [fs.join(target, name) for name in names]

  return write_it


def _library(source: Source, form: str) -> Callable[[str], list[str]]:
  library = _LIBRARIES[form]
  tensors, config = families.write(library, source.params, source.found)
  more, steps = {}, None
  naflex = source.found.model.get("image_model") == native.NAFLEX
  naflex = naflex or source.found.model_name == native.NAFLEX
  if source.pp and not naflex:
    steps = processors.parse(source.pp)
  names = source.class_names
  named = names and source.found.num_classes == len(names)
  if form == "hf":
    if named:
      config["id2label"] = {str(i): name for i, name in enumerate(names)}
      config["label2id"] = {name: i for i, name in enumerate(names)}
    if naflex:
      vision = config.get("vision_config") or config
      more["preprocessor_config.json"] = {
        "image_processor_type": "Siglip2ImageProcessor",
        "patch_size": vision["patch_size"],
        "max_num_patches": vision["num_patches"],
        "resample": 2,
        "image_mean": list(processors.HALF[0]),
        "image_std": list(processors.HALF[1]),
      }
    if steps:
      kind = str(config["model_type"])
      more["preprocessor_config.json"] = processors.to_transformers(steps, kind)
    if steps and source.found.model_name == PALIGEMMA:
      grid = source.found.tower("img").grid()
      more["preprocessor_config.json"] |= {
        "image_seq_length": math.prod(grid or ()),
        "processor_class": "PaliGemmaProcessor",
      }
  elif form == "timm":
    config.setdefault("pretrained_cfg", {})
    if steps:
      config["pretrained_cfg"] |= processors.to_timm(steps)
    if named:
      config["label_names"] = list(names)
  elif steps:
    config["preprocess_cfg"] = processors.to_open_clip(steps)
  reads = source.found.text_length or source.found.model_name in _LANGUAGE
  tokenizer = _tokenizer(source) if reads else {}

  def write_it(target):
    opens = form == "open_clip"
    name = "open_clip_model" if opens else "model"
    written = _safetensors(target, name, tensors, split=form == "hf")
    settings = fs.join(
      target, "open_clip_config.json" if opens else "config.json"
    )
    _json(settings, config)
    written.append(settings)
    for name, content in more.items():
      written.append(fs.join(target, name))
      _json(written[-1], content)
    for name, content in tokenizer.items():
      written.append(fs.join(target, name))
      with fs.open(written[-1], "wb") as f:
        f.write(content)
    written.append(fs.join(target, "README.md"))
    _text(written[-1], card.make(source, form, target, config))
    return written

  return write_it


def _tokenizer(source):
  """Reads the files of the tokenizer, as far as there are any: name -> bytes."""
  out = {}
  if folder := source.folder or _folder_of_tokenizer(source):
    for name in TOKENIZER_FILES:
      if path := sources.fetch_optional(folder, name):
        out[name] = _bytes(path)
    return out
  from big_vision import download
  from big_vision.pp import builder, registry

  for section in builder.split_pipeline(source.pp_txt or ""):
    name, _, kw = registry.parse_name(section)
    model = str(kw.get("model", ""))
    if name.strip() != "tokenize" or "." not in os.path.basename(model):
      continue
    content = _bytes(download.fetch(model))
    if model.partition("#")[0].endswith(".json"):
      out["tokenizer.json"] = content
    elif source.found.model_name == TWO_TOWERS:
      out["spiece.model"] = content
      about = {
        "tokenizer_class": "SiglipTokenizer",
        "model_max_length": source.found.text_length,
        "do_lower_case": kw.get("lower", True),
      }
      out["tokenizer_config.json"] = json.dumps(about).encode()
  return out


def _folder_of_tokenizer(source):
  """Finds where a run of PaliGemma has the tokenizer of transformers from."""
  from big_vision.pp import registry

  if source.found.model_name != PALIGEMMA or not source.pp_txt:
    return None
  tokenizer, _ = vision_language.texts_of([source.pp_txt])
  file = str(registry.parse_name(tokenizer)[2].get("model"))
  return fs.dirname(file) if file.endswith("/tokenizer.json") else None


def _bytes(path):
  with open(path, "rb") as f:
    return f.read()


def _safetensors(
  folder: str, name: str, tensors: Tensors, split: bool
) -> list[str]:
  """Writes tensors one by one into files of limited size: their paths."""
  shapes = tables.shapes_of(tensors)
  files, size = [{}], 0
  for key, shape in shapes.items():
    size += 4 * math.prod(shape)
    if split and size > _MAX_FILE and files[-1]:
      files.append({})
      size = 4 * math.prod(shape)
    files[-1][key] = shape
  written, where = [], {}
  for i, part in enumerate(files, 1):
    of = f"-{i:05}-of-{len(files):05}" if files[1:] else ""
    written.append(fs.join(folder, f"{name}{of}.safetensors"))
    with fs.open(written[-1], "wb") as f:
      safetensors_file.write(f, tensors, part)
    where |= dict.fromkeys(part, f"{name}{of}.safetensors")
  if files[1:]:
    total = sum(4 * math.prod(shape) for shape in shapes.values())
    written.append(fs.join(folder, f"{name}.safetensors.index.json"))
    about = {"metadata": {"total_size": total}, "weight_map": where}
    _json(written[-1], about)
  return written


def _json(path, content):
  _text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _text(path, text):
  with fs.open(path, "w") as f:
    f.write(text)
