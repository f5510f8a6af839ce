"""Opening Hugging Face datasets: Arrow files, Parquet files, the hub."""

from __future__ import annotations

import collections
import contextlib
import fnmatch
import os
import re
import types
from collections.abc import Mapping
from typing import Any

from big_vision import fs, lookup, untrusted
from big_vision.datasets import slices

_SHARD = re.compile(r"(?P<base>.+?)-(?P<n>\d+)-of-(?P<total>\d+)")
_SUFFIXES = (".arrow", ".parquet")
_SPLITS = frozenset(
  "train training val valid validation dev test testing eval".split()
)
_NO_SPLITS = ("data", "part")  # Usual names of files.


class Part:
  """Holds the rows of one file; if it cannot be used, one row that says so.

  Args:
    path: of the file, for errors.
    name: the same on all machines.
    table: pyarrow.Table or None.
    problem: str or None.
  """

  def __init__(
    self,
    path: str,
    name: str,
    table: Any = None,
    problem: str | None = None,
  ):
    self.path = path
    self.name = name
    self.table = table
    self.problem = problem

  def __len__(self) -> int:
    return 1 if self.problem else self.table.num_rows


def library() -> types.ModuleType:
  """Imports the module `datasets`.

  Raises:
    ValueError: it is not installed.
  """
  try:
    import datasets
  except ImportError as e:
    raise ValueError(
      "config.input.data.name='bv:hf' needs the package `datasets`: pip install "
      "datasets, or 'big_vision[data]'."
    ) from e
  return datasets


def open_splits(
  path: str, split: str | None, load: Mapping[str, Any]
) -> tuple[str, dict[str, list[Part]]]:
  """Opens what a split string needs.

  Args:
    path, split: as in `hf.DataSource`.
    load: further arguments of `datasets.load_dataset`.

  Returns:
    (split, dict of split name -> list of `Part`): the split string, complete,
    and the splits in it.

  Raises:
    ValueError: no such dataset or split.
  """
  library()
  path = os.fspath(path)
  if not fs.is_local(path):
    raise ValueError(
      f"config.input.data.path={path!r}: bv:hf reads local files and the hub. "
      "Copy the dataset to a local disk first."
    )
  in_folder = lambda name: os.path.join(path, name)
  if os.path.exists(in_folder("dataset_dict.json")):
    names = _names(split, _splits(in_folder("dataset_dict.json")))
    parts = {n: _saved(in_folder(n), f"{n}/") for n in names}
  elif os.path.exists(in_folder("state.json")):
    names = _names(split, [])
    parts = {n: _saved(path, "") for n in names}
  elif files := _find(path):
    if not os.path.isdir(path):
      path = os.path.commonpath([os.path.dirname(f) for f in files])
    by_split = _by_split(files, path)
    names = _names(split, [n for n in by_split if n != slices.ALL])
    all_files = dict.fromkeys(names, files)
    parts = {
      n: _from_files(f, path, load)
      for n, f in {**all_files, **by_split}.items()
      if n in names
    }
  else:
    parts = _loaded(path, split, load)
    names = list(parts)
  return split or "+".join(names), parts


def split_names(path: str) -> list[str]:
  """Lists the splits of a dataset.

  Args:
    path: as in `hf.DataSource`.

  Returns:
    Their names; none where everything is one.

  Raises:
    ValueError: no such dataset.
  """
  datasets, saved = library(), os.path.join(path, "dataset_dict.json")
  if os.path.exists(saved):
    return _splits(saved)
  if os.path.exists(os.path.join(path, "state.json")):
    return []
  if files := _find(path):
    if not os.path.isdir(path):
      path = os.path.commonpath([os.path.dirname(f) for f in files])
    return [n for n in _by_split(files, path) if n != slices.ALL]
  with _errors_of_config(path, path):
    return datasets.get_dataset_split_names(path)


def _splits(path):
  return _listed(path, "splits", lambda name: name)


def _listed(path, key, name_of):
  """Reads names of files or folders beside a JSON file out of it."""
  try:
    with fs.open(path) as f:
      names = [name_of(x) for x in untrusted.json_value(f.read())[key]]
    if bad := [n for n in names if n != os.path.basename(n)]:
      raise ValueError(f"{bad[0]!r:.100} is not in its folder")
  except (ValueError, TypeError, LookupError) as e:
    raise ValueError(
      f"config.input.data.path: {path} is damaged: {type(e).__name__}: {e}. Copy "
      "the dataset again."
    ) from e
  return names


def _names(split, known):
  """Names in a split string, checked against the `known` ones."""
  if not split and len(known) > 1:
    raise ValueError(
      "config.input.data.split: there are several splits, name one: "
      f"{', '.join(map(repr, known))}."
    )
  if not split:
    return list(known) or [slices.ALL]
  names = slices.names(split)
  # What has one nameless split is called "train" by `datasets`.
  allowed = known or [slices.ALL, "train"]
  for name in names:
    if name not in allowed:
      raise lookup.unknown("split", name, allowed, "input.data.split")
  return names


def _saved(folder, prefix):
  """Opens what `Dataset.save_to_disk` wrote."""
  state = os.path.join(folder, "state.json")
  if not os.path.exists(state):
    raise ValueError(
      f"config.input.data.path: {state} is missing. Copy the dataset again."
    )
  names = _listed(state, "_data_files", lambda entry: entry["filename"])
  return [_arrow(os.path.join(folder, name), prefix + name) for name in names]


def _arrow(path, name):
  """`Part` of an Arrow file: a stream (as `datasets` writes) or a file."""
  import pyarrow as pa

  try:
    source = pa.memory_map(path)
    if bytes(source.read(6)) == b"ARROW1":
      return Part(path, name, pa.ipc.open_file(source).read_all())
    source.seek(0)
    return Part(path, name, pa.ipc.open_stream(source).read_all())
  except FileNotFoundError:
    return Part(path, name, problem=_missing(path))
  except (OSError, pa.ArrowException) as e:
    return Part(path, name, problem=_damaged(path, e))


def _missing(path):
  return f"The shard {path} is missing."


def _damaged(path, e):
  reason = str(e).rstrip(".")
  return f"The shard {path} is cut off or damaged: {reason}. Copy it again."


def _find(path):
  """Finds Arrow or Parquet files: one, those that a glob matches, or all below
  a folder; sorted. Those that the numbers in their names imply are included,
  so that it is noticed when one is missing."""
  if os.path.isfile(path):
    return [path] if path.endswith(_SUFFIXES) else []
  if os.path.isdir(path):
    found = {
      os.path.join(folder, name)
      for folder, _, names in os.walk(path, followlinks=True)
      for name in names
    }
  else:
    found = set(fs.glob(path))
  found = {name for name in found if name.endswith(_SUFFIXES)}
  implied = set()
  for name in found:
    stem, suffix = os.path.splitext(name)
    if match := _SHARD.fullmatch(stem):
      base, width, total = match["base"], len(match["n"]), match["total"]
      implied |= {
        f"{base}-{n:0{width}d}-of-{total}{suffix}" for n in range(int(total))
      }
  if not os.path.isdir(path):
    implied = fnmatch.filter(implied, path)
  return sorted(found.union(implied))


def _by_split(files, root):
  """dict of split name -> files, "all" for what seems to be no split."""
  out = collections.defaultdict(list)
  for path in files:
    stem = os.path.splitext(os.path.relpath(path, root))[0]
    match = _SHARD.fullmatch(stem)
    *folders, base = (match["base"] if match else stem).split("/")
    words = [base, re.split(r"[-._]", base)[0], *reversed(folders)]
    named = [w for w in words if w.lower() in _SPLITS]
    if not named and match and base not in _NO_SPLITS:
      named = [base]
    out[named[0] if named else slices.ALL].append(path)
  return dict(out)


def _from_files(files, root, load):
  """`Part`s of Arrow and Parquet files."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  names = {f: os.path.relpath(f, root) for f in files}
  parts, num_rows = {}, {}
  for path, name in names.items():
    if path.endswith(".arrow"):
      parts[path] = _arrow(path, name)
      continue
    try:
      num_rows[path] = pq.read_metadata(path).num_rows
    except FileNotFoundError:
      parts[path] = Part(path, name, problem=_missing(path))
    except (OSError, pa.ArrowException) as e:
      parts[path] = Part(path, name, problem=_damaged(path, e))
  if num_rows:
    cache = {k: v for k, v in load.items() if k == "cache_dir"}
    kw = {"data_files": list(num_rows), "split": "train", **cache}
    table, begin = _table(_load("parquet", root, **kw)), 0
    for path, n in num_rows.items():
      parts[path] = Part(path, names[path], table.slice(begin, n))
      begin += n
  return [parts[path] for path in files]


def _loaded(path, split, load):
  """Opens what `datasets.load_dataset` gives."""
  if split:
    names = slices.names(split)
    loaded = {n: _load(path, path, split=n, **load) for n in names}
  else:
    loaded = dict(_load(path, path, **load))
    _names(None, list(loaded))  # There must be one only.
  return {
    name: [Part(f"{path}:{name}", f"{path}:{name}", _table(dataset))]
    for name, dataset in loaded.items()
  }


def _load(builder, path, **kw):
  """`datasets.load_dataset`, its errors as those of the config."""
  with _errors_of_config(builder, path):
    return library().load_dataset(builder, **kw)


@contextlib.contextmanager
def _errors_of_config(builder, path):
  datasets = library()
  try:
    yield
  except (datasets.exceptions.DatasetsError, OSError, ValueError) as e:
    raise ValueError(
      f"config.input.data.path: {path!r} is not a folder of this machine with "
      f"Arrow or Parquet files, and `datasets` cannot load it: {e}"
      if builder == path
      else f"config.input.data.path: `datasets` cannot read {path!r}: {e}"
    ) from e


def _table(dataset):
  """pyarrow.Table of a Dataset; nothing is copied or decoded."""
  if getattr(dataset, "_indices", None) is not None:
    dataset = dataset.flatten_indices()
  return dataset.with_format("arrow")[:]
