"""Finds published checkpoints and reads them.

A source is one of

  hf://org/repo[@revision]     on the Hugging Face hub, see hub.py
  timm/NAME[.TAG]              short for hf://timm/NAME.TAG
  a folder                     with what such a repository has
  a file                       *.safetensors, *.bin, *.pth, *.pth.tar, *.pt

and has settings (config.json, or open_clip_config.json; files of original
releases need none) beside the tensors. `:img` or `:txt` after it names one of two
towers, `:img` or `:llm` a part of PaliGemma.
"""

import contextlib
import dataclasses
import re
from collections.abc import Collection
from typing import Any

from big_vision import download, fs, lookup, untrusted
from big_vision.models import common
from big_vision.models.weights import families, tensor_files
from big_vision.models.weights.family import (
  GEMMA,
  PALIGEMMA,
  TEXT_MODEL,
  TWO_TOWERS,
  Family,
  Found,
  instance,
)

CONFIGS = ("config.json", "open_clip_config.json")
# The first of these that is there counts.
WEIGHTS = (
  "model.safetensors",
  "model.safetensors.index.json",
  "open_clip_model.safetensors",
  "pytorch_model.bin",
  "pytorch_model.bin.index.json",
  "open_clip_pytorch_model.bin",
)
_HUB, _TIMM = "hf://", "timm/"
FILES = (
  ".safetensors", ".bin", ".pth", ".pth.tar", ".pt", ".index.json"
)  # fmt: skip
_INDEX = ".index.json"
_MAX_JSON = 1 << 24  # Bytes; more is cut off, and then not JSON.
_PARTS = {TEXT_MODEL: "txt", GEMMA: "llm"}  # Of a model that is one tower.
_WHOLE = (TWO_TOWERS, PALIGEMMA)
_PART = re.compile(r"(.+):(img|txt|llm|t|b)")


def is_source(path: Any) -> bool:
  """Tells whether something is a published checkpoint of another library.

  Args:
    path: anything, for example `config.model_init`.

  Returns:
    False for checkpoints of this package, and workdirs of its runs.
  """
  if not isinstance(path, str) or not path or ".npz" in path:
    return False
  path = split(path)[0]
  if path.startswith(_HUB) or path.endswith(FILES):
    return True
  if path.startswith(_TIMM):
    return not fs.exists(path) or _is_folder(path)
  return _is_folder(path)


def split(source: str) -> tuple[str, str | None]:
  """Splits off the part of a model that a source names.

  Args:
    source: see the top of this file.

  Returns:
    (source, "img", "txt", "llm", "t", "b" or None).
  """
  match = _PART.fullmatch(source)
  return match.groups() if match else (source, None)  # pyright: ignore[reportReturnType]


def _is_folder(path):
  """Tells whether a folder holds a model of another library."""
  if any(fs.exists(fs.join(path, name)) for name in (*WEIGHTS, CONFIGS[1])):
    return True
  try:
    config = _read_json(fs.join(path, CONFIGS[0]))
  except (ValueError, OSError):
    return False
  # The config.json of a run has a `model_name`.
  return bool({"model_type", "architecture", "architectures"} & config.keys())


class Checkpoint:
  """A published checkpoint.

  Attributes:
    source: what the user calls it.
    folder: where its other files are, a path or `hf://org/repo`.
    config: its settings; empty if it has none.
    files: name of a tensor -> local file that has it.
    shapes: name of a tensor -> its shape.
    family: that knows its layout.
    found: describes the model.
  """

  def __init__(self, source: str, model_name: str | None = None):
    """Reads the settings and the names of the tensors.

    Args:
      source: see the top of this file, without a part.
      model_name: `config.model_name` that is asked for, see `families.find`.

    Raises:
      ConfigError: it lacks a file, or is of no family; says which.
    """
    self.source, path = source, source
    if path.startswith(_TIMM) and not fs.exists(path):
      path = _HUB + path
    file = path.endswith(FILES)
    self.folder = fs.dirname(path) if file else path.rstrip("/")
    with _naming(source):
      pickled = file and ".safetensors" not in path
      self.config = _settings(self.folder, required=not pickled)
      weights = [path.rpartition("/")[2]] if file else WEIGHTS
      self.files, self.shapes = _headers(self.folder, weights)
      self.family: Family = families.find(self.config, self.shapes, model_name)
      self.found: Found = self.family.read(self.config, self.shapes)
      _check_depths(self.found.model, len(self.shapes))

  @property
  def is_whole(self) -> bool:
    """Whether it has several parts, see `params`."""
    return self.found.model_name in _WHOLE

  def json(self, name: str) -> dict[str, Any]:
    """Reads one of its other files.

    Args:
      name: of a JSON file, such as "preprocessor_config.json".

    Returns:
      Its content; {} if there is no such file.

    Raises:
      ConfigError: it is damaged.
    """
    path = fetch_optional(self.folder, name)
    return {} if path is None else _read_json(path, f"{self.folder}/{name}")

  def params(self, part: str | None = None) -> Any:
    """Reads the parameters.

    Args:
      part: "img", "txt", "t" or "b" of two towers, "img" or "llm" of PaliGemma;
        None means all.

    Returns:
      Nested dict of float32 arrays, as the model has them with scan=False, Gemma
      with scan=True; or an array for "t" and "b".

    Raises:
      ConfigError: a tensor is missing, unknown, or damaged; there is no such
        part.
    """
    found = self.found
    with _naming(self.source):
      if not self.is_whole:
        if part not in (None, _PARTS.get(found.model_name, "img")):
          raise ValueError(
            f"It is a {found.model_name!r}: it has no part {part!r}."
          )
        part = None
      names = list(self.files)
      if part is not None and part in self.family.prefixes:
        found, names = found.tower(part), self.family.select(names, part)
      tensors = tensor_files.Tensors({name: self.files[name] for name in names})
      params = self.family.to_params(tensors, found)
      if part is None or found is not self.found:
        return params
      if part not in params:
        raise ValueError(f"It has no {part!r}.")
      return params[part]

  def parts(self, names: Collection[str]) -> dict[str, Any]:
    """Reads parts of two towers, each as `loaded` returns it.

    Args:
      names: some of "img", "txt", "t", "b".

    Returns:
      Name -> part.

    Raises:
      ConfigError: as for `params`.
    """
    if not {"img", "txt"} <= set(names):
      return {name: self.loaded(name) for name in names}
    whole, out = self.params(), {}
    for name in names:
      if name not in whole:
        raise lookup.ConfigError(f"{self.source} has no {name!r}.")
      out[name] = whole[name]
      if isinstance(whole[name], dict):
        found = self.found.tower(name)
        out[name] = common.Loaded(
          whole[name], self.source, found.grid(), found.resample
        )
    return out

  def loaded(self, part: str | None = None) -> Any:
    """Reads parameters as `load` of a model takes them.

    Args:
      part: as for `params`.

    Returns:
      `common.Loaded`; an array for "t" and "b".

    Raises:
      ConfigError: as for `params`.
    """
    params = self.params(part)
    if not isinstance(params, dict):
      return params
    found = self.found if part is None else self.found.tower(part)
    return common.Loaded(
      params, self.source, found.grid(), found.resample, found.image_token
    )


def fetch_optional(folder: str, name: str) -> str | None:
  """Makes a file local.

  Args:
    folder: path or `hf://org/repo`.
    name: of the file.

  Returns:
    Its path; None if it cannot be had.
  """
  try:
    return _fetch(folder, name)
  except ValueError:
    return None


def _fetch(folder, name):
  uri = f"{folder.rstrip('/')}/{name}" if folder else name
  return download.fetch(uri, download.cache_dir("huggingface"))


def settings(folder: str) -> dict[str, Any]:
  """Reads the settings of a checkpoint.

  Args:
    folder: path or `hf://org/repo`.

  Returns:
    Content of config.json, or of open_clip_config.json.

  Raises:
    ConfigError: there is none, or it is damaged.
  """
  with _naming(folder):
    return _settings(folder, required=True)


@contextlib.contextmanager
def _naming(source):
  """Names the checkpoint in errors."""
  try:
    yield
  except ValueError as e:
    text = str(e)
    if source in text:
      raise lookup.ConfigError(text) from e
    raise lookup.ConfigError(f"{source}: {text}") from e


def _settings(folder, required):
  """Reads the settings of a checkpoint; {} if there are none."""
  first = None
  for name in CONFIGS:
    try:
      path = _fetch(folder, name)
    except ValueError as e:
      first = first or e
      continue
    config = _read_json(path, f"{folder}/{name}")
    if {"model_type", "architecture", "model_cfg"} & config.keys():
      return config
    first = ValueError(
      f"{folder}/{name} has no `model_type` (as of transformers), `architecture` "
      "(of timm) or `model_cfg` (of open_clip): it is not that of a model."
    )
  if required:
    raise ValueError(
      f"{first} The weights alone do not tell the model: config.json has to be "
      "beside them."
    )
  return {}


def _headers(folder, names):
  """Finds the tensors; (name -> file, name -> shape)."""
  first = None
  for name in names:
    try:
      path = _fetch(folder, name)
    except ValueError as e:
      first = first or e
      continue
    if not name.endswith(_INDEX):
      shapes = tensor_files.shapes(path)
      return dict.fromkeys(shapes, path), shapes
    return _sharded(folder, name, path)
  raise ValueError(
    f"{first} There are no weights; they are in one of {', '.join(names)}."
  )


def _sharded(folder, name, path):
  where = _read_json(path, f"{folder}/{name}").get("weight_map")
  if not isinstance(where, dict):
    raise ValueError(f"{folder}/{name} lacks the dict `weight_map`.")
  files, shapes = {}, {}
  for shard in sorted(set(map(str, where.values()))):
    check_shard(f"{folder}/{name}", shard)
    local = _fetch(folder, shard)
    found = tensor_files.shapes(local)
    if twice := found.keys() & shapes.keys():
      raise ValueError(
        f"{folder}/{shard} has {min(twice)}, as another file of {name}."
      )
    files |= dict.fromkeys(found, local)
    shapes |= found
  if missing := where.keys() - shapes.keys():
    raise ValueError(
      f"{folder}/{name} lists {min(missing)}, which is in none of the files."
    )
  return files, shapes


def check_shard(index: str, name: str) -> None:
  """Refuses a file that an index must not name.

  Args:
    index: the file that lists it.
    name: of the file.

  Raises:
    ValueError: it is not one beside the index.
  """
  if "/" in name or "\\" in name or name.startswith("."):
    raise ValueError(
      f"{index} names the file {name!r}, which is not in its folder."
    )


def _read_json(path, name=None):
  """Reads a JSON file, which has to be a dict."""
  name = name or path
  try:
    with fs.open(path, "rb") as f:
      content = untrusted.json_value(f.read(_MAX_JSON))
  except ValueError as e:  # Of JSON or UTF-8.
    raise ValueError(f"{name} is not JSON: {e}") from e
  if not isinstance(content, dict):
    raise ValueError(f"{name} is not a dict: {content!r:.60}")
  return content


def _check_depths(model, num):
  """Refuses more blocks than the file can have."""
  for part in (model, *map(model.get, ("image", "text", "img", "llm"))):
    depth = (part or {}).get("depth")
    if isinstance(depth, int) and depth > num:
      raise ValueError(
        f"config.json says that there are {depth} blocks, but there are only "
        f"{num} tensors."
      )


# Fields of models that may differ between training and use.
_FREE = ("num_classes", "dropout", "drop_path", "layerscale", "scan", "name")
_FREE += ("remat_policy", "dtype_mm", "head_zeroinit", "parent", "seqhw")
_FREE += ("vocab_size", "cache_dtype", "embed_dtype", "dropout_bdims")


def differences(found: Found, name: str, model: Any) -> str:
  """Says in which settings a model differs from that of a checkpoint.

  Args:
    found: describes the model of the checkpoint.
    name: `config.model_name`.
    model: linen module of that name.

  Returns:
    "act='gelu_erf' (config.model.act='gelu')", say; "" without a difference.
  """
  if name != found.model_name:
    return ""
  same = instance(name, found.num_classes, found.model)
  pairs = {
    f.name: (getattr(same, f.name), getattr(model, f.name))
    for f in dataclasses.fields(same)
    if f.name not in _FREE and hasattr(model, f.name)
  }
  return ", ".join(
    f"{key}={there!r} (config.model.{key}={here!r})"
    for key, (there, here) in pairs.items()
    if _plain(there) != _plain(here)
  )


def _plain(value):
  return tuple(value) if isinstance(value, list) else value
