"""Compares a config with that of the run whose workdir it is to continue.

`<workdir>/config.json` says what a run was started with. What decides the numbers
of a run must not change on the way, unless `--config_changed=continue` says so:
model, optimizer, seed, data, batch size, and what else trainers of this package
read. Other keys, of forks and notes of sweeps, are said and may change.
"""

import fnmatch
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections as mlc
from absl import logging

from big_vision import checkpoints, fs, lookup, metrics
from big_vision.training import config_keys, console, flat_config, hosts
from big_vision.types import ConfigLike

# Keys that may change: how long, what is measured and written, step sizes, and
# how the work is done.
FREE = (
  "total_*", "log_*", "ckpt_*", "keep_ckpt_*", "keep_best", "ema_*", "evals", "evals.*",
  "lr", "wd",
  "batch_size_eval", "resume", "pp_modules",
  "mesh", "mesh_*", "sharding_*", "prefetch_to_device",
  "grad_accum_steps", "*.remat_policy",
  "input.*cache_raw", "input.*num_parallel_calls", "input.*skip_errors",
  "input.prefetch", "input.thread_pool_size",
)  # fmt: skip
# The same as if the key were not there.
_DEFAULTS = {
  "seed": 0,
  "grad_accum_steps": 1,
  "prefetch_to_device": 1,
  "precision": "float32",
  "weight_decay_decouple": True,
}
_MAX_SHOWN = 12
_MAX_LENGTH = 60


def check(
  config: ConfigLike, workdir: str | None, if_changed: str = "refuse"
) -> None:
  """Compares the config with the one that the workdir was started with.

  Changes are logged on process 0. Nothing is written.

  Args:
    config: ConfigDict of the run, in today's layout.
    workdir: its folder, which may not exist; None has nothing to continue.
    if_changed: "refuse", or "continue" to go on whatever has changed.

  Raises:
    lookup.ConfigError: the workdir has a checkpoint, and what decides the numbers
      of a run has changed; lists the keys.
  """
  if not workdir:
    return
  prefix = f"{workdir}/checkpoint.bv"
  found = hosts.from_first(
    lambda: json.dumps([_read(workdir), checkpoints.latest(prefix)])
  )
  stored, checkpoint = json.loads(found)
  if checkpoint is None and (other := config.get("resume")):
    folder = fs.dirname(str(other)) or "."
    stored = json.loads(hosts.from_first(lambda: json.dumps(_read(folder))))
    _tell(f"The run of config.resume={other} had", differences(stored, config))
    return
  changes = differences(stored, config)
  if checkpoint is None:
    _tell(
      f"Workdir {workdir!r} holds a run of another config, without a checkpoint. "
      "This run begins at step 0 and adds its metrics to those. That one had",
      changes,
    )
    return
  if stored is None:
    console.note(f"Workdir {workdir!r} has no config.json to compare with.")
    return
  known = set().union(
    *(config_keys.keys_of(c, []) or () for c in (stored, config))
  )
  refused = {
    k: v
    for k, v in changes.items()
    if not is_free(k) and k.split(".")[0] in known
  }
  if refused and if_changed != "continue":
    raise lookup.ConfigError(
      f"Workdir {workdir!r} holds a run of another config, which had "
      f"{describe(refused)}. Choose another --workdir, take those values, or "
      "continue that run with the changes by --config_changed=continue."
    )
  _tell(f"The run in {workdir!r} goes on with another config. It had", changes)


def differences(
  stored: Mapping[str, Any] | None, config: ConfigLike
) -> dict[str, tuple[Any, Any]]:
  """Lists what has changed.

  Args:
    stored: content of `config.json`; None for an unknown one.
    config: ConfigDict.

  Returns:
    Dotted key -> (value before, value now), None where there is none. Values are
    those of JSON: a tuple is the same as a list.
  """
  if stored is None:
    return {}
  old: Any = stored
  if "input" not in old and "dataset" in old:
    old = flat_config.modern(mlc.ConfigDict(old))
    old = json.loads(metrics.to_json(old))
  before = dict(_leaves(old))
  now = dict(_leaves(json.loads(metrics.to_json(config))))
  before, now = ({**_DEFAULTS, **leaves} for leaves in (before, now))
  return {
    k: (before.get(k), now.get(k))
    for k in sorted({*before, *now})
    if not _same(before.get(k), now.get(k))
  }


def is_free(key: str) -> bool:
  """Tells whether a run may go on with another value of a key.

  Args:
    key: dotted key, without "config.".

  Returns:
    bool.
  """
  return any(fnmatch.fnmatchcase(key, pattern) for pattern in FREE)


def describe(changes: Mapping[str, tuple[Any, Any]]) -> str:
  """Formats changes as one line.

  Args:
    changes: result of `differences`.

  Returns:
    For example "config.seed = 0 (now 1), config.model.depth = 2 (now 3)".
  """
  parts = [_describe(k, *v) for k, v in changes.items()]
  more = len(parts) - _MAX_SHOWN
  shown = ", ".join(parts[:_MAX_SHOWN])
  return f"{shown} and {more} more" if more > 0 else shown


def batch_size_note(
  config: ConfigLike, workdir: str | None, num_examples: int
) -> str | None:
  """Says what `epoch` means after a change of the batch size.

  Args:
    config: ConfigDict of the run that goes on.
    workdir: its folder.
    num_examples: examples per epoch.

  Returns:
    The text; None if the run has had the same batch size all the time.
  """
  folder = workdir
  if not folder or checkpoints.latest(f"{folder}/checkpoint.bv") is None:
    folder = fs.dirname(str(config.get("resume") or ""))
  stored = _read(folder) if folder else None
  change = differences(stored, config).get("input.batch_size")
  if not change or None in change:
    return None
  before, now = change
  return (
    f"config.input.batch_size was {before}, now it is {now}: from here on `epoch` "
    f"is the number of steps / {num_examples / now:.6g}, the steps of an epoch "
    f"with {now}, and data go on where a run with {now} from the start would "
    "be. `examples_seen` goes on counting."
  )


def _read(workdir: str) -> dict[str, Any] | None:
  """Reads the config of the run in a folder; None if it has none."""
  path = fs.join(workdir, "config.json")
  try:
    if not fs.exists(path):
      return None
    with fs.open(path) as f:
      content = json.loads(f.read())
  except (OSError, ValueError) as e:
    logging.warning("%s cannot be read, so nothing is compared: %s", path, e)
    return None
  return content if isinstance(content, dict) else None


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[Any]:
  """Yields (dotted key, value) of all that is not the same as left out."""
  for key, value in tree.items():
    name = f"{path}{key}"
    if isinstance(value, Mapping):
      yield from _leaves(value, f"{name}.")
    elif value is not None and value != _DEFAULTS.get(name):
      yield name, value


def _same(a: Any, b: Any) -> bool:
  """Compares values of JSON; objects that it lacks by what they look like."""
  text = [json.dumps(x, sort_keys=True) for x in (a, b)]
  text = [re.sub(r" at 0x[0-9a-f]+", "", t) for t in text]
  return a == b or text[0] == text[1]


def _describe(key: str, before: Any, now: Any) -> str:
  """Formats one change; of long texts the part that differs."""
  a, b = (json.dumps(x) if x is not None else "none" for x in (before, now))
  if len(a) + len(b) > 2 * _MAX_LENGTH:
    start = next(
      (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
      min(len(a), len(b)),
    )
    start = max(start - 10, 0)
    a, b = (_cut(x, start) for x in (a, b))
  return f"config.{key} = {a} (now {b})"


def _cut(text: str, start: int) -> str:
  """Shows a part of a text."""
  end = start + _MAX_LENGTH
  left, right = "…" if start else "", "…" if end < len(text) else ""
  return f"{left}{text[start:end]}{right}"


def _tell(what: str, changes: Mapping[str, tuple[Any, Any]]) -> None:
  """Logs changes if there are any."""
  if changes:
    console.note(f"{what} {describe(changes)}.")
