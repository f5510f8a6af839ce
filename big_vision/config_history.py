"""Keeps and compares the configs of a run that was continued.

`config.json` is the config of the latest part of a run, `config-<step>.json` the one
that held until the step. Needs neither jax nor TensorFlow.
"""

import json
import re
from typing import Any

from big_vision import fs, untrusted

CURRENT = "config.json"
_OLD = re.compile(r"config-(\d+)\.json")


def keep(workdir: str, text: str, step: int) -> None:
  """Keeps the config of a workdir under another name, if it is to be replaced.

  Args:
    workdir: folder of the run.
    text: the new config as JSON.
    step: where the run continues; 0 for a new run, whose folder may hold the
      config of a start that came to nothing.
  """
  old, path = _read(workdir, CURRENT), fs.join(workdir, f"config-{step}.json")
  # What is kept already held until here; later ones came to nothing.
  if not step or old is None or fs.exists(path) or old == _parse(text):
    return
  with fs.open(fs.join(workdir, CURRENT)) as f:
    content = f.read()
  with fs.open(path, "w") as f:
    f.write(content)


def changes(workdir: str) -> dict[int, list[str]]:
  """Lists what has changed on the way.

  Args:
    workdir: folder of the run.

  Returns:
    Step -> lines such as "lr: 0.1 -> 0.01", ascending. A key that one of both
    configs does not have is "(none)" there.
  """
  if not fs.isdir(workdir):
    return {}
  found = {
    int(match[1]): _read(workdir, name)
    for name in fs.listdir(workdir)
    if (match := _OLD.fullmatch(name))
  }
  steps = [s for s in sorted(found) if found[s] is not None]
  later = [found[s] for s in steps[1:]] + [_read(workdir, CURRENT)]
  return {
    s: _differences(flatten(found[s]), flatten(new))
    for s, new in zip(steps, later[: len(steps)], strict=True)
    if new is not None
  }


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
  """Flattens nested dicts to one dict with keys like "input.batch_size".

  Args:
    tree: nested dicts.
    prefix: beginning of all keys.

  Returns:
    Dict of key -> value.
  """
  if not isinstance(tree, dict) or not tree:
    return {prefix[:-1]: tree}
  flat = {}
  for key, value in tree.items():
    flat.update(flatten(value, f"{prefix}{key}."))
  return flat


def _differences(old, new):
  """Returns a line for each key whose value differs."""
  show = lambda config, key: (
    json.dumps(config[key]) if key in config else "(none)"
  )
  keys = dict.fromkeys([*old, *new])
  return [
    f"{key}: {show(old, key)} -> {show(new, key)}"
    for key in keys
    if show(old, key) != show(new, key)
  ]


def _read(workdir, name):
  path = fs.join(workdir, name)
  if not fs.exists(path):
    return None
  with fs.open(path) as f:
    return _parse(f.read())


def _parse(text):
  """Parses a config; None if it is none."""
  try:
    return untrusted.json_value(text)
  except ValueError:  # Written by hand, or torn.
    return None
