"""Keeps figures of benchmarks in a file, one line for each run.

A line is a JSON object with `date`, `commit` (where there is a git repository),
`machine`, `versions` and `results`: part -> figures. Needs neither jax nor
TensorFlow, and names those that the process has loaded.
"""

import datetime
import fcntl
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from big_vision import untrusted
from big_vision.benchmarks.measure import num_cpus

FILE = "benchmarks.jsonl"

_PACKAGES = ("jax", "jaxlib", "flax", "tensorflow", "torch", "timm")
_KEYS = ("date", "machine", "versions", "results")


def machine() -> dict[str, Any]:
  """Describes the machine: processor, cores, bytes of memory, accelerators."""
  facts = {
    "platform": f"{platform.system()} {platform.machine()}",
    "cpu": _cpu(),
    "cpu_cores": num_cpus(),
  }
  if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
    pages = os.sysconf("SC_PHYS_PAGES")
    facts["memory_bytes"] = pages * os.sysconf("SC_PAGE_SIZE")
  if "jax" in sys.modules:
    devices = sys.modules["jax"].devices()
    facts["devices"] = len(devices)
    facts["device_kind"] = devices[0].device_kind
  return facts


def _cpu() -> str:
  """Returns the model of the processor, "" if it is not known."""
  info = pathlib.Path("/proc/cpuinfo")
  if info.exists():
    for line in info.read_text(errors="replace").splitlines():
      name, _, value = line.partition(":")
      if name.strip() in ("model name", "Model"):
        return value.strip()
  return platform.processor()


def versions() -> dict[str, str]:
  """Returns the versions of Python, and of packages that are loaded."""
  found = {"python": platform.python_version()}
  for name in _PACKAGES:
    version = getattr(sys.modules.get(name), "__version__", None)
    if version:
      found[name] = str(version)
  return found


def commit(root: pathlib.Path | None = None) -> dict[str, Any]:
  """Finds the commit of the code.

  Args:
    root: folder of the repository; None means that of this package.

  Returns:
    Dict of `commit` (as `git describe` names it) and `dirty` (whether files
    differ from it); empty if the folder is not a repository of its own.
  """
  root = root or pathlib.Path(__file__).parents[2]
  if not (root / ".git").exists():  # An installed package, in whatever folder.
    return {}
  try:
    done = subprocess.run(
      ["git", "-C", str(root), "describe", "--always", "--tags", "--dirty"],
      capture_output=True,
      text=True,
    )
  except OSError:  # There is no git.
    return {}
  if done.returncode:
    return {}
  name = done.stdout.strip()
  clean = name.removesuffix("-dirty")
  return {"commit": clean, "dirty": clean != name}


def make_row(results: Mapping[str, Any]) -> dict[str, Any]:
  """Makes a row of what this process has measured.

  Args:
    results: part -> figures.

  Returns:
    The row.
  """
  now = datetime.datetime.now(datetime.UTC)
  return {
    "date": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    **commit(),
    "machine": machine(),
    "versions": versions(),
    "results": dict(results),
  }


def append(path: str, row: Mapping[str, Any]) -> None:
  """Appends a row with a single write.

  Args:
    path: local file, which is made if it is not there.
    row: see `make_row`.
  """
  line = json.dumps(row).encode() + b"\n"
  fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
  with open(fd, "rb+", buffering=0) as f:
    fcntl.flock(f, fcntl.LOCK_EX)  # Held until the file is closed.
    size = f.seek(0, os.SEEK_END)
    if size:
      f.seek(size - 1)
      if f.read(1) != b"\n":  # A write was cut short: it keeps its own line.
        line = b"\n" + line
    f.write(line)


def read(path: str) -> list[dict[str, Any]]:
  """Reads the rows of a file.

  Args:
    path: local file.

  Returns:
    The rows in their order. Lines of writes that were cut short are left out,
    and counted on stderr.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line is not a row, or there are none; names file and line.
  """
  rows, torn = [], 0
  with open(path, encoding="utf-8", errors="replace") as f:
    for number, line in enumerate(f, 1):
      text = line.strip()
      if not text:
        continue
      try:
        row = untrusted.json_value(text)
      except ValueError as e:
        if text.startswith("{") and not text.endswith("}"):
          torn += 1
          continue
        raise _bad(path, number, f"it is not JSON ({e})") from e
      _check(row, path, number)
      rows.append(row)
  if torn:
    print(f"{path}: left out {torn} torn row(s)", file=sys.stderr)
  if not rows:
    raise ValueError(f"{path} has no rows: run tools.benchmark --record {path}")
  return rows


def _check(row: Any, path: str, number: int) -> None:
  """Refuses what is not a row."""
  if not isinstance(row, dict):
    raise _bad(path, number, f"it is a {type(row).__name__}, not an object")
  if missing := [key for key in _KEYS if key not in row]:
    raise _bad(path, number, f"it lacks {', '.join(missing)}")
  objects = {key: row[key] for key in ("machine", "versions", "results")}
  objects |= {
    f"results.{part}": figures
    for part, figures in (
      row["results"].items() if isinstance(row["results"], dict) else ()
    )
  }
  for key, value in objects.items():
    if not isinstance(value, dict):
      raise _bad(path, number, f"{key} is {value!r}, not an object")
  for key in ("date", "commit"):
    if not isinstance(row.get(key, ""), str):
      raise _bad(path, number, f"{key} is {row[key]!r}, not a string")


def _bad(path: str, number: int, why: str) -> ValueError:
  """Makes the error for a line that is not a row."""
  return ValueError(
    f"{path}:{number} is not a row of tools.benchmark --record: {why}. Remove "
    "the line."
  )
