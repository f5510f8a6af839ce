"""Reads and writes the files of checkpoints of Hugging Face's SigLIP.

A checkpoint is a folder, local or `hf://org/repo[@revision]` on the hub, with

  config.json                             settings
  model.safetensors                       tensors, or in several files
  model.safetensors.index.json            a list which file has which tensor

Files of the hub are kept in its cache, see hub.py.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes  # noqa: F401 (gives NumPy its bfloat16, which files may have)
import numpy as np
from safetensors import numpy as safetensors_numpy

from big_vision import download, fs, types, untrusted
from big_vision.models import common
from big_vision.models.proj.image_text import huggingface
from big_vision.models.weights import sources, tensor_files

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def read_config(path: str) -> dict[str, Any]:
  """Reads config.json.

  Args:
    path: str, see the top of this file.

  Returns:
    dict.

  Raises:
    ValueError: the file is missing or not JSON of a dict.
  """
  config = _read_json(path, _CONFIG)
  if not isinstance(config, dict):
    raise ValueError(f"{path}/{_CONFIG} is not a dict: {config!r:.60}")
  for part in ("vision_config", "text_config"):
    if not isinstance(config.get(part) or {}, dict):
      raise ValueError(
        f"{path}/{_CONFIG}: {part} is not a dict: {config[part]!r:.60}"
      )
  return config


def load(
  path: str, parts: Sequence[str] | None = None
) -> tuple[types.Params, dict[str, Any]]:
  """Reads parameters, and only those files that they need.

  Args:
    path: str, see the top of this file.
    parts: some of `huggingface.PARTS`; None means all that the checkpoint has.

  Returns:
    (params, hf_config), see `huggingface.to_params`.

  Raises:
    ValueError: files are missing or broken, or as `huggingface.to_params`.
  """
  hf_config = read_config(path)
  try:
    huggingface.check_parts(hf_config, parts)  # Before a long download.
    tensors = _read(path, lambda n: huggingface.select(n, hf_config, parts))
    return huggingface.to_params(tensors, hf_config, parts), hf_config
  except ValueError as e:
    text = str(e)  # Of a file it names that.
    raise ValueError(text if path in text else f"{path}: {text}") from e


def load_parts(parts: Mapping[str, Any], image_model: str) -> dict[str, Any]:
  """Reads the parts of a model that are in published checkpoints.

  Args:
    parts: mapping from `huggingface.PARTS` to what to load for them. Values
      `<source>` or `<source>:<part>`, see `weights/sources.py`, are replaced,
      others stay.
    image_model: str, `config.model.image_model`.

  Returns:
    Dict: `parts` with arrays for "t" and "b", `common.Loaded` for towers.

  Raises:
    ValueError: as `load`, or the checkpoint is for another image model.
  """
  asked: dict[str, dict[str, str]] = {}
  for name, value in parts.items():
    if isinstance(value, str) and sources.is_source(value):
      path, part = sources.split(value)
      asked.setdefault(path, {})[name] = part or name
  out = dict(parts)
  for path, names in asked.items():
    if "img" in names and is_siglip(path):
      _check_image_model(path, image_model)
    loaded = _load_parts(path, set(names.values()))
    out |= {name: loaded[part] for name, part in names.items()}
  return out


def is_siglip(path: str) -> bool:
  """Tells whether a published checkpoint is a SigLIP of transformers.

  Args:
    path: str, see `weights/sources.py`.

  Returns:
    Whether it is.

  Raises:
    ConfigError: it has no settings.
  """
  if path.endswith(sources.FILES) or path.startswith("timm/"):
    return False
  config = sources.settings(path)
  return str(config.get("model_type")).startswith("siglip")


def _load_parts(path, parts):
  """Reads parts of one checkpoint; each as its `load` takes it."""
  if is_siglip(path):  # Of which only those files are read that are needed.
    params, hf_config = load(path, sorted(parts))
    size = None
    if "img" in parts:
      size = huggingface.fields_of(hf_config, ["img"])["img"]["side"]
    grid = (size, size) if size else None
    return {
      part: common.Loaded(x, path, grid) if isinstance(x, dict) else x
      for part, x in params.items()
    }
  checkpoint = sources.Checkpoint(path)
  return checkpoint.parts(parts)


def save(
  folder: str, tensors: Mapping[str, np.ndarray], hf_config: Mapping[str, Any]
) -> None:
  """Writes a checkpoint.

  Args:
    folder: str, made if it does not exist.
    tensors: dict of name -> contiguous array.
    hf_config: dict, content of config.json.
  """
  fs.makedirs(folder)
  path = fs.join(folder, _WEIGHTS)
  metadata = {"format": "pt"}  # Without it transformers refuses the file.
  if fs.is_local(path):
    safetensors_numpy.save_file(tensors, path, metadata)
  else:
    with fs.open(path, "wb") as f:
      f.write(safetensors_numpy.save(tensors, metadata))
  with fs.open(fs.join(folder, _CONFIG), "w") as f:
    f.write(json.dumps(hf_config, indent=2) + "\n")


def _fetch(path, name):
  """Fetches a file of a checkpoint; returns its local path."""
  uri = f"{path.rstrip('/')}/{name}"
  return download.fetch(uri, download.cache_dir("huggingface"))


def _read_json(path, name):
  with open(_fetch(path, name), encoding="utf-8") as f:
    try:
      return untrusted.json_value(f.read())
    except ValueError as e:  # Of JSON or UTF-8.
      raise ValueError(f"{path}/{name} is not JSON: {e}") from e


def _read(path, select):
  """Reads the tensors that `select` picks from a list of names: dict."""
  try:
    files = [_fetch(path, _WEIGHTS)]
  except ValueError as e:
    try:
      _fetch(path, _INDEX)
    except ValueError:
      raise e from None  # Most checkpoints have this file, not the index.
    index = _read_json(path, _INDEX)
    where = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(where, dict):
      raise ValueError(f"{path}/{_INDEX} lacks the dict `weight_map`.") from e
    names = sorted({str(where[n]) for n in select(where)})
    for name in names:
      sources.check_shard(f"{path}/{_INDEX}", name)
    files = [_fetch(path, name) for name in names]
  out = {}
  for file in files:
    out |= tensor_files.read(file, select(tensor_files.shapes(file)))
  return out


def _check_image_model(path, image_model):
  """Raises ValueError if config and checkpoint have different image models."""
  try:
    want = huggingface.model_config(read_config(path)).get("image_model")
  except ValueError as e:
    raise ValueError(f"{path}: {e}") from e
  both = (huggingface.VIT, huggingface.NAFLEX)
  if want and image_model in both and image_model != want:
    raise ValueError(
      f"{path} has config.model.image_model = {want!r}, but the config says "
      f"{image_model!r}."
    )
