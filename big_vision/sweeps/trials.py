"""Lists what the runs of a sweep change: grids and random values."""

import dataclasses
import hashlib
import itertools
import math
import random
import re
from collections.abc import Callable, Iterable, Sequence

from big_vision import lookup

Values = dict[
  str, str
]  # Config key -> text of its value, as on a command line.

_MAX_NAME = 120
_DRAW: dict[str, Callable[..., float]] = {
  "uniform": lambda r, low, high: r.uniform(low, high),
  "log": lambda r, low, high: math.exp(
    r.uniform(math.log(low), math.log(high))
  ),
  "int": lambda r, low, high: r.randint(math.ceil(low), math.floor(high)),
}


@dataclasses.dataclass(frozen=True)
class Random:
  """Draws values of a key.

  Attributes:
    kind: "uniform", "log", "int" or "choice".
    args: the bounds as numbers, both included; the texts to choose from.
  """

  kind: str
  args: tuple

  def draw(self, seed: str) -> str:
    """Draws the value that belongs to a seed.

    Args:
      seed: any text.

    Returns:
      The text of the value; floats with 3 digits.
    """
    r = random.Random(seed)
    if self.kind == "choice":
      return r.choice(self.args)
    value = _DRAW[self.kind](r, *self.args)
    return str(value) if self.kind == "int" else f"{value:.3g}"


def split(text: str) -> list[str]:
  """Splits at commas that are not inside of brackets or quotes.

  Args:
    text: for example "(4,4),(8,8)".

  Returns:
    List of parts, without spaces around them.
  """
  parts, depth, quote = [""], 0, None
  for char in text:
    if quote or char in "\"'":
      quote = None if char == quote else quote or char
    elif char in "([{":
      depth += 1
    elif char in ")]}":
      depth -= 1
    if char == "," and not depth and not quote:
      parts.append("")
    else:
      parts[-1] += char
  return [part.strip() for part in parts]


def read_grid(specs: Iterable[str]) -> dict[str, list[str]]:
  """Reads the values of `--grid`.

  Args:
    specs: for example "lr=1e-3,3e-4".

  Returns:
    Key -> list of values.

  Raises:
    lookup.ConfigError: it cannot be read, or says something twice.
  """
  found = {}
  for spec in specs:
    key, text = _pair(spec, "--grid", "lr=1e-3,3e-4")
    values = split(text)
    if key in found:
      raise lookup.ConfigError(
        f"--grid {spec}: {key} has a grid already; give all of its values at "
        "once."
      )
    if "" in values or len(set(values)) < len(values):
      raise lookup.ConfigError(
        f"--grid {spec}: give different values, separated by commas, for "
        f"example --grid {key}=1,2."
      )
    found[key] = values
  return found


def read_random(specs: Iterable[str]) -> dict[str, Random]:
  """Reads the values of `--random`.

  Args:
    specs: for example "lr=log(1e-4,1e-2)", "model.depth=int(2,4)",
      "wd=uniform(0,0.1)", "optax_name=choice(scale_by_adam,big_vision.muon)".

  Returns:
    Key -> Random.

  Raises:
    lookup.ConfigError: it cannot be read, or says something twice.
  """
  found = {}
  for spec in specs:
    key, text = _pair(spec, "--random", "lr=log(1e-4,1e-2)")
    match = re.fullmatch(r"(\w+)\((.*)\)", text, re.DOTALL)
    kinds = (*_DRAW, "choice")
    if not match or match[1] not in kinds:
      raise lookup.ConfigError(
        f"--random {spec}: {text!r} should be one of uniform(LOW,HIGH), "
        "log(LOW,HIGH), int(LOW,HIGH), choice(A,B,C)."
      )
    if key in found:
      raise lookup.ConfigError(f"--random {spec}: {key} is given twice.")
    found[key] = _random(spec, match[1], split(match[2]))
  return found


def _random(spec: str, kind: str, args: Sequence[str]) -> Random:
  """Makes a Random from its text."""
  if kind == "choice":
    return Random(kind, tuple(args))
  try:
    low, high = map(float, args)
  except ValueError:
    low, high = math.nan, math.nan
  if not low <= high or (kind == "log" and low <= 0) or math.isinf(high - low):
    above = " above 0" if kind == "log" else ""
    raise lookup.ConfigError(
      f"--random {spec}: {kind} needs two numbers{above}, the lower one first."
    )
  if kind == "int" and math.ceil(low) > math.floor(high):
    raise lookup.ConfigError(f"--random {spec}: there is no int between them.")
  return Random(kind, (low, high))


def _pair(spec: str, flag: str, example: str) -> tuple[str, str]:
  """Reads key=value; the key may begin with "config."."""
  key, equals, text = spec.partition("=")
  key = key.strip().removeprefix("--").removeprefix("config.")
  if not (key and equals and text.strip()):
    raise lookup.ConfigError(
      f"{flag} {spec}: should be KEY=VALUES, for example {flag} {example}."
    )
  return key, text.strip()


def make(
  grid: dict[str, list[str]],
  randoms: dict[str, Random],
  num_trials: int,
  seed: int,
) -> list[Values]:
  """Lists the runs: each random draw with each point of the grid.

  Args:
    grid: see `read_grid`; the last key changes fastest.
    randoms: see `read_random`. A draw depends on the seed, the number of the
      trial and the key: more trials leave the first ones as they are.
    num_trials: number of random draws.
    seed: of the random draws.

  Returns:
    List of key -> value, without repetitions.

  Raises:
    lookup.ConfigError: a key is in both.
  """
  for key in randoms:
    if key in grid:
      raise lookup.ConfigError(
        f"--random {key}: there is a --grid for it, too."
      )
  points = [
    dict(zip(grid, values, strict=True))
    for values in itertools.product(*grid.values())
  ]
  draws = [
    {key: r.draw(f"{seed}/{trial}/{key}") for key, r in randoms.items()}
    for trial in range(num_trials if randoms else 1)
  ]
  runs = [{**draw, **point} for draw in draws for point in points]
  return list({tuple(run.items()): run for run in runs}.values())


def name(values: Values) -> str:
  """Makes the name of the folder of a run.

  Args:
    values: key -> value.

  Returns:
    For example "lr=1e-3,seed=0"; with a hash if some characters of the values
    do not belong into names of files.
  """
  exact = ",".join(f"{k}={v}" for k, v in values.items())
  safe = re.sub(r"[^\w.,=+()-]+", "_", exact)
  if safe == exact and len(exact) <= _MAX_NAME:
    return exact
  digest = hashlib.sha256(exact.encode()).hexdigest()[:8]
  return f"{safe[:_MAX_NAME]}-{digest}"
