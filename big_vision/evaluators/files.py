"""Writes the files of evaluators: their paths, and parts of many processes."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
from absl import flags

from big_vision import devices as bv_devices
from big_vision import fs
from big_vision.chrono import chrono

Json = TypeVar("Json", list[Any], dict[str, Any])


def resolve_outfile(
  outfile: str | None, split: str = "", **kw: Any
) -> str | None:
  """Fills in the path of an output file; call it when the file is written.

  Args:
    outfile: format string with any of {workdir}, {split}, {step} and `kw`.
    split: name of a split; its characters `[ ] % :` become `_`.
    **kw: further or other values. An evaluator gives the `workdir` ("" for
      none) and the `step` of its run. Where they are missing or None, the
      workdir is that of the flag, if a program defines one, and the step that
      of the clock.

  Returns:
    The path; None if `outfile` is empty or needs a workdir that is not set.
  """
  if not outfile:
    return None
  workdir, step = kw.pop("workdir", None), kw.pop("step", None)
  if workdir is None:
    workdir = _workdir_flag()
  if step is None:
    step = chrono.prev_step or 0
  if "{workdir}" in outfile and not workdir:
    return None
  for char in "[]%:":
    split = split.replace(char, "_")
  return outfile.format(workdir=workdir, split=split, step=step, **kw)


def _workdir_flag() -> str | None:
  """Returns the flag `workdir`, None where no program has defined it."""
  return flags.FLAGS["workdir"].value if "workdir" in flags.FLAGS else None


def class_names(data: Mapping[str, Any] | None, num: int) -> list[str]:
  """Names the classes of a dataset.

  Args:
    data: arguments of `datasets.core.get`.
    num: number of classes.

  Returns:
    Their names; their numbers if they have none.
  """
  from big_vision.datasets import core  # The TensorFlow wing.

  names = None
  if data and "name" in data:
    source = core.get(**data)
    found = source.classes_of("label")
    names = source.class_names or (found and found.names)
  return list(names if names and len(names) == num else map(str, range(num)))


def write_csv(
  path: str, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
  """Writes a table, again if it is there.

  Args:
    path: of the file; its folder is made.
    header: names of the columns.
    rows: cells.
  """
  text = io.StringIO()
  table = csv.writer(text, lineterminator="\n")
  table.writerow(header)
  table.writerows(rows)
  if fs.dirname(path):
    fs.makedirs(fs.dirname(path))
  with fs.open(path, "w") as f:
    f.write(text.getvalue())


def multiprocess_write_json(outfile: str | None, jobj: Json) -> Json | None:
  """Merges the parts of all processes into one JSON file.

  Args:
    outfile: path, see `resolve_outfile`; falsy writes nothing.
    jobj: list (concatenated in process order) or dict (merged, later wins) of
      this process.

  Returns:
    The merged object on process 0, an empty one on others; None if nothing is
    written.

  Raises:
    TypeError: `jobj` is neither a list nor a dict.
  """
  path = resolve_outfile(outfile)
  if not path:
    return None
  if not isinstance(jobj, list | dict):
    raise TypeError(f"Can only write lists and dicts, got {type(jobj)}.")
  if fs.dirname(path):
    fs.makedirs(fs.dirname(path))

  part = lambda i: f"{path}.p{i}"
  with fs.open(part(jax.process_index()), "w") as f:
    f.write(json.dumps(jobj))
  _wait_for_all()  # All parts are there.
  merged = type(jobj)()
  if jax.process_index() == 0:
    for i in range(jax.process_count()):
      with fs.open(part(i)) as f:
        other = json.loads(f.read())
      merged.update(other) if isinstance(merged, dict) else merged.extend(other)
    with fs.open(path, "w") as f:
      f.write(json.dumps(merged))
  _wait_for_all()  # All parts are read.
  fs.remove(part(jax.process_index()))
  return merged


def _wait_for_all() -> None:
  """Waits for all processes; evaluators run under the transfer guard."""
  with jax.transfer_guard("allow"):
    bv_devices.sync()
