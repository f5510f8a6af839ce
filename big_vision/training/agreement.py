"""Makes sure that all processes of a run run the same: config, code, data.

Each process computes with its own copy of them. If these differ nothing fails: all
train to the end, and their parameters drift apart.
"""

import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import socket
import sys
from collections.abc import Mapping
from typing import Any

import jax

import big_vision
from big_vision import compat, config_history, lookup, metrics
from big_vision.training import hosts
from big_vision.types import ConfigLike

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorflow")
# Settings of JAX, also by environment variables, that change results.
_JAX = (
  "jax_enable_x64",
  "jax_default_matmul_precision",
  "jax_default_prng_impl",
  "jax_threefry_partitionable",
)
# The environment that `setup.sh` may make in the package, and what the resolved
# config stands for.
_NO_CODE = ("bv_venv", "configs")
_MODULE = "hash of module "
_MAX_FACTS, _MAX_HOSTS, _MAX_LENGTH = 8, 4, 100
# Seconds to wait for another process: they start at about the same time, but one
# may read the code from a slow disk.
_TIMEOUT = 300
# Each use in a process has keys of its own in the store that all share.
_uses = itertools.count()


def check(config: ConfigLike, workdir: str | None) -> None:
  """Compares with process 0; does nothing in a run of one process.

  Args:
    config: of the run.
    workdir: its folder, or None.

  Raises:
    lookup.ConfigError: on every process if one differs; names which, and in what.
    TimeoutError: another process does not answer.
  """
  num, me = jax.process_count(), jax.process_index()
  if num == 1:
    return
  prefix = f"big_vision/agreement/{next(_uses)}"
  client = compat.coordination_client()

  def get(name: str, process: int) -> str:
    try:
      return client.blocking_key_value_get(f"{prefix}/{name}", 1000 * _TIMEOUT)
    except RuntimeError as e:
      raise TimeoutError(
        f"Process {process} has not said within {_TIMEOUT} s which config it has."
      ) from e

  # Through process 0, since each with each would be millions of messages.
  mine = facts(config, workdir)
  if me == 0:
    client.key_value_set(f"{prefix}/facts", json.dumps(mine))
    answers = [get(f"answer/{i}", i) for i in range(1, num)]
    client.key_value_set(f"{prefix}/verdict", verdict([*filter(None, answers)]))
  else:
    found = differences(json.loads(get("facts", 0)), mine)
    text = f"{_this()} has {describe(found)}" if found else ""
    client.key_value_set(f"{prefix}/answer/{me}", text)
  if text := get("verdict", 0):
    raise lookup.ConfigError(text)


def check_opened(data: Mapping[str, str]) -> None:
  """Compares what is known when data are open and all modules are imported.

  Args:
    data: result of `facts_of_data`.

  Raises:
    lookup.ConfigError: see `check`; names the first process that differs.
  """
  if jax.process_count() == 1:
    return
  mine = {**data, **own_modules()}
  first = json.loads(hosts.from_first(lambda: json.dumps(mine)))
  found = {
    key: pair
    for key, pair in differences(first, mine).items()
    # Process 0 alone may need what reports to a tracker.
    if not (key.startswith(_MODULE) and "none" in pair)
  }
  answer = f"{_this()} has {describe(found)}" if found else ""
  if problem := hosts.first_problem(answer):
    raise lookup.ConfigError(verdict([problem]))


def _this() -> str:
  return f"Process {jax.process_index()} on {socket.gethostname()}"


def facts(config: ConfigLike, workdir: str | None) -> dict[str, str]:
  """Lists what has to be the same on all processes.

  Args:
    config: of the run.
    workdir: its folder, or None.

  Returns:
    What it is called -> text: dotted keys of the config with their values as
    JSON, versions, hashes of the files of the package.
  """
  leaves = config_history.flatten(
    json.loads(metrics.to_json(config)), "config."
  )
  # Where an object lies in memory says nothing about it.
  value = lambda v: re.sub(r" at 0x[0-9a-f]+", "", json.dumps(v))
  return {
    "--workdir": str(workdir),
    "number of local devices": str(jax.local_device_count()),
    **{key: value(leaf) for key, leaf in leaves.items()},
    **{f"jax.config.{key}": str(getattr(jax.config, key)) for key in _JAX},
    "version of Python": platform.python_version(),
    **{f"version of {name}": version(name) for name in _LIBRARIES},
    **{f"hash of {path}": text for path, text in sources().items()},
  }


def facts_of_data(opened: Mapping[str, Any]) -> dict[str, str]:
  """Lists what has to be the same of the datasets on all processes.

  Hosts may have copies of their own, of which one can be incomplete.

  Args:
    opened: what a dataset is called -> its source, see `datasets.core.shared`.

  Returns:
    What it is called -> text: numbers of examples, names of classes.
  """
  if jax.process_count() == 1:  # Numbers may take time to find.
    return {}
  found = {}
  for name, source in opened.items():
    found[f"number of examples of {name}"] = str(source.total_examples)
    classes = source.classes_of("label")
    if classes:
      digest = _digest("\n".join(classes.known).encode())
      found[f"classes of {name}"] = f"{classes.num} (hash {digest})"
  return found


def own_modules() -> dict[str, str]:
  """Hashes the imported modules that are neither this package nor installed.

  Returns:
    "hash of module <name>" -> hash.
  """
  found = {}
  roots = (_root() + os.sep + "big_vision", sys.prefix, sys.base_prefix)
  for name, module in list(sys.modules.items()):
    path = getattr(module, "__file__", None) or ""
    path = os.path.abspath(path) if path.endswith(".py") else ""
    installed = f"{os.sep}site-packages{os.sep}" in path
    if (
      not path or installed or path.startswith(tuple(r + os.sep for r in roots))
    ):
      continue
    if os.path.exists(path):
      found[f"{_MODULE}{name}"] = _digest_of(path)
  return found


def version(package: str) -> str:
  """Returns the version of an installed package, or "none"."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return "none"


def sources() -> dict[str, str]:
  """Hashes the code of this package.

  Returns:
    Path from the folder of the package, such as "big_vision/losses.py" -> hash.
  """
  root = _root()
  found = {}
  for folder, inner, names in os.walk(os.path.join(root, "big_vision")):
    inner[:] = [name for name in inner if name not in _NO_CODE]
    for name in names:
      if name.endswith(".py"):
        path = os.path.join(folder, name)
        found[os.path.relpath(path, root)] = _digest_of(path)
  return found


def _root() -> str:
  """Returns the folder that the package is in."""
  return os.path.dirname(os.path.abspath(next(iter(big_vision.__path__))))


def _digest_of(path: str) -> str:
  with open(path, "rb") as f:
    return _digest(f.read())


def _digest(content: bytes) -> str:
  return hashlib.blake2b(content, digest_size=4).hexdigest()


def differences(
  first: Mapping[str, Any], mine: Mapping[str, Any]
) -> dict[str, tuple[str, str]]:
  """Compares two results of `facts`.

  Args:
    first: of process 0.
    mine: of this process.

  Returns:
    What differs -> (there, here); "none" where one lacks it.
  """
  pairs = {
    key: (first.get(key, "none"), mine.get(key, "none"))
    for key in dict.fromkeys([*first, *mine])
  }
  return {key: (a, b) for key, (a, b) in pairs.items() if a != b}


def describe(found: Mapping[str, tuple[str, str]]) -> str:
  """Formats differences.

  Args:
    found: result of `differences`.

  Returns:
    For example "config.lr = 0.1 (process 0: 0.01), version of jax = …".
  """
  cut = lambda text: (
    text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}…"
  )
  parts = [
    f"{k} = {cut(b)} (process 0: {cut(a)})" for k, (a, b) in found.items()
  ]
  more = len(parts) - _MAX_FACTS
  return ", ".join(parts[:_MAX_FACTS]) + (
    f" and {more} more" if more > 0 else ""
  )


def verdict(answers: list[str]) -> str:
  """Composes the error for all processes.

  Args:
    answers: sentences of the processes that differ.

  Returns:
    The text; empty if none differs.
  """
  if not answers:
    return ""
  more = len(answers) - _MAX_HOSTS
  also = f" So have {more} other processes." if more > 0 else ""
  return (
    f"The processes of this run differ. {'; '.join(answers[:_MAX_HOSTS])}."
    f"{also} Give all the same command, code, packages and data."
  )
