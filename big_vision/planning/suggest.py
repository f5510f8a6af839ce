"""Looks for the layout, recomputation and micro-batches with the fastest step."""

import dataclasses
import functools
import math
import re
import time
from collections.abc import Sequence
from typing import Any

import ml_collections as mlc

from big_vision import lookup
from big_vision.planning import candidates, chips, trace
from big_vision.planning import costs as costs_lib
from big_vision.planning.candidates import Candidate, Layout, Remat
from big_vision.planning.chips import Chip

# Bounds that differ by less are not different; the simpler candidate is better.
SAME = 0.02
# Beyond so many times the chips nobody has what is looked for.
_MOST_CHIPS = 1024


@dataclasses.dataclass(frozen=True)
class Option:
  """A candidate with its costs on one device of a chip.

  Attributes:
    candidate: Candidate.
    bytes: that a device needs.
    activations: those of activations at the peak.
    room: bytes that a device has, less the reserve.
    seconds: lower bounds of the time of a step, as `Costs.seconds`.
  """

  candidate: Candidate
  bytes: int
  activations: int
  room: float
  seconds: dict[str, float]

  @property
  def fits(self) -> bool:
    """Whether it has room."""
    return self.bytes <= self.room

  @property
  def time(self) -> float:
    """The lower bound of a step's time in seconds."""
    return max(self.seconds.values())

  @property
  def bound(self) -> str:
    """The part of the machine that this time is spent on."""
    return max(self.seconds, key=lambda k: self.seconds[k])


@dataclasses.dataclass
class Suggestion:
  """The result of a search.

  Attributes:
    options: those that fit: the best one, then the others, the fastest first.
    smallest: the option that needs least memory of all that were tried.
    product_flops: FLOPs per step and device of products, none computed twice.
    num_params: of the model.
    chips_needed: number of chips on which it would fit, if it does not; None if
      no number that divides the batch suffices.
    refused: kind of candidate -> why the trainer does not take it.
  """

  options: list[Option]
  smallest: Option
  product_flops: int
  num_params: int
  chips_needed: int | None = None
  refused: dict[str, str] = dataclasses.field(default_factory=dict)


def parse_chips(text: str | None) -> tuple[Chip, int]:
  """Reads the value of `--chips`.

  Args:
    text: a chip and how many there are, "v5p=256".

  Returns:
    (Chip, number of chips).

  Raises:
    ValueError: it cannot be read, or there is no such chip.
  """
  match = re.fullmatch(r"([\w-]+)=([1-9]\d*)", text or "")
  if not match:
    raise ValueError(
      f"--chips={text or ''} is a kind of chip and their number, for example "
      f"--chips v5p=256. Chips: {', '.join(chips.CHIPS)}."
    )
  name, count = match.groups()
  if name.lower() == "cpu":
    raise ValueError(
      f"--chips={text}: there are no figures of CPUs. Chips: "
      f"{', '.join(chips.CHIPS)}."
    )
  if name not in chips.CHIPS:
    raise lookup.unknown("chip", name, chips.CHIPS, "--chips")
  return chips.CHIPS[name], int(count)


def check_batch(config: mlc.ConfigDict, chip: Chip, count: int) -> None:
  """Checks that each device has whole examples.

  Args:
    config: ConfigDict of the run.
    chip: Chip.
    count: number of chips.

  Raises:
    ValueError: it has not; says which batches and numbers of chips would do.
  """
  batch, n = config.input.batch_size, count * chip.devices
  if batch % n == 0:
    return
  sizes = [k for k in (batch // n * n, -(-batch // n) * n) if k]
  fewer = max(
    (k for k in range(1, count) if batch % (k * chip.devices) == 0), default=0
  )
  raise ValueError(
    f"config.input.batch_size={batch} is not divisible by the {n} devices of "
    f"--chips={chip.name}={count}. Use for example "
    + " or ".join(f"--config.input.batch_size={k}" for k in sizes)
    + (f", or --chips={chip.name}={fewer}." if fewer else ".")
  )


class _Search:
  """Candidates of one config on one kind of chip, each evaluated once."""

  def __init__(self, build, config, image_size, chip):
    self.config, self.chip = config, chip
    self._build, self._image_size = build, image_size
    self._traces: trace.Traces = {}
    self.refused: dict[str, str] = {}
    self.tried: list[Option] = []

  def estimate(self, candidate: Candidate) -> costs_lib.Costs:
    """Counts the costs of a candidate."""
    config = candidates.apply(self.config, candidate)
    return costs_lib.estimate(
      self._build, config, candidate.mesh, self._image_size, self._traces
    )

  @functools.cache  # noqa: B019 - a search ends with its function.
  def option(self, candidate: Candidate) -> Option | None:
    """Evaluates a candidate; None if the trainer or the model refuses it."""
    try:
      costs = self.estimate(candidate)
    except ValueError as e:
      if not self.tried:  # Not the candidate, but the config.
        raise
      many = candidate.accum > 1
      self.refused["micro-batches" if many else candidate.layout.name] = str(e)
      return None
    kind = self.chip.kind
    found = Option(
      candidate,
      bytes=costs.bytes(kind),
      activations=costs.temporary(kind)["activations"],
      room=self.chip.bytes * (1 - costs_lib.RESERVE),
      seconds=costs.seconds(self.chip),
    )
    self.tried.append(found)
    return found

  def least(
    self, layout: Layout, remat: Remat, accums: Sequence[int]
  ) -> Option | None:
    """Finds the fewest micro-batches that fit; more would not be faster."""
    at_least = 1.0
    for accum in accums:
      if accum < at_least:
        continue
      option = self.option(Candidate(layout, remat, accum))
      if option is None or option.fits:
        return option
      # What else there is at the time of the peak does not become less.
      left = option.room - (option.bytes - option.activations)
      if left <= 0:
        return None
      at_least = accum * option.activations / left
    return None

  def best_of(self, layout: Layout, accums: Sequence[int]) -> list[Option]:
    """Finds the options of a layout that fit, one of each recomputation.

    Of a model with three layers or more, that which computes more again takes
    less memory. It is tried first: it is also traced much faster.
    """
    found = []
    for remat in reversed(candidates.remats(self.config)):
      option = self.least(layout, remat, accums)
      if option is None:
        break  # Kinds that keep more do not fit either.
      found.append(option)
      accums = [k for k in accums if k >= option.candidate.accum]
    return found

  def rank(self, options: Sequence[Option]) -> list[Option]:
    """Sorts by time; the simplest of those that are as good as the best first."""
    remats = candidates.remats(self.config)
    order = list(dict.fromkeys(o.candidate.layout for o in self.tried))
    simple = lambda o: (
      order.index(o.candidate.layout),
      remats.index(o.candidate.remat),
    )
    ranked = sorted(options, key=lambda o: (o.time, simple(o)))
    if not ranked:
      return []
    best = min(
      (o for o in ranked if o.time <= ranked[0].time * (1 + SAME)), key=simple
    )
    return [best, *(o for o in ranked if o is not best)]


def search(
  build: trace.Build,
  config: mlc.ConfigDict,
  image_size: tuple[int, int],
  chip: Chip,
  count: int,
) -> Suggestion:
  """Looks for the best way to run a config on some chips.

  For each layout and kind of recomputation the fewest micro-batches that fit are
  compared. Layouts in which devices share examples are tried if the best of the
  others is bound by the network or does without some of its activations.

  Args:
    build: `Setup -> Recipe` of a trainer.
    config: ConfigDict of the run.
    image_size: (height, width) in pixels.
    chip: Chip.
    count: number of chips.

  Returns:
    The Suggestion.

  Raises:
    ValueError: the batch cannot be split over the devices, or the config cannot
      be planned.
  """
  check_batch(config, chip, count)
  n = count * chip.devices
  found = _Search(build, config, image_size, chip)
  accums = candidates.accums(config, n)
  first, *_ = candidates.layouts(config, n, chip, candidates.SIMPLE)
  once = found.estimate(Candidate(first, candidates.without_remat(config), 1))
  options = []
  for kinds in (candidates.SIMPLE, candidates.SPLIT):
    for layout in candidates.layouts(config, n, chip, kinds):
      options += found.best_of(layout, accums)
    options = found.rank(options)
    if options and not _wants_more(options[0], found.config):
      break
  smallest = min(found.tried, key=lambda o: o.bytes)
  return Suggestion(
    options=options,
    smallest=smallest,
    product_flops=once.product_flops,
    num_params=sum(
      math.prod(shape) for _, shape, *_ in trace.leaves(once.program, "params")
    ),
    chips_needed=None if options else _chips_needed(found, count),
    refused=found.refused,
  )


def _wants_more(option, config):
  """Whether it would gain by less communication of parameters, or more room."""
  c = option.candidate
  return (
    option.bound == "network"
    or c.accum > 1
    or c.remat != candidates.remats(config)[0]
  )


def _chips_needed(found, count):
  """The least number of chips, doubled again and again, on which it fits."""
  batch, chip = found.config.input.batch_size, found.chip
  remat = candidates.remats(found.config)[-1]
  larger = 2 * count
  while larger <= _MOST_CHIPS * count:
    n = larger * chip.devices
    if batch % n:
      return None
    accums = candidates.accums(found.config, n)
    for layout in candidates.layouts(found.config, n, chip):
      if found.least(layout, remat, accums):
        return larger
    larger *= 2
  return None


def figures(
  build: trace.Build,
  config: mlc.ConfigDict,
  image_size: tuple[int, int],
  chip: Chip,
  count: int,
) -> dict[str, Any]:
  """Suggests how to run a config.

  Args:
    build: as for `search`, which says what it raises; so are the others.
    config: ConfigDict of the run.
    image_size: (height, width) in pixels.
    chip: Chip.
    count: number of chips.

  Returns:
    dict as `--json` writes it: bytes are per device.
  """
  start = time.process_time()
  s = search(build, config, image_size, chip, count)
  n = count * chip.devices
  out = {
    "chip": chip.name,
    "chips": count,
    "devices": n,
    "more_than_a_pod": chip.kind == "TPU" and count > chip.group,
    "num_params": s.num_params,
    "batch_size": config.input.batch_size,
    "image_size": list(image_size),
    "memory_bytes": chip.bytes,
    "room_bytes": s.smallest.room,
    "options": [_figures_of(o, s, config, n, chip) for o in s.options],
    "smallest": _figures_of(s.smallest, s, config, n, chip),
    "chips_needed": s.chips_needed,
    "refused": s.refused,
    "flags": None,
  }
  if s.options:
    out["flags"] = candidates.flags(config, s.options[0].candidate)
  out["cpu_seconds"] = time.process_time() - start
  return out


def _figures_of(option, suggestion, config, n, chip):
  """Figures of an option."""
  c = option.candidate
  batch = config.input.batch_size
  return {
    "layout": c.layout.name,
    "mesh": c.mesh,
    "sharding_strategy": [list(rule) for rule in c.layout.strategy],
    "computed_again": c.remat.name,
    "micro_batches": c.accum,
    "examples_per_device": batch / n / c.accum,
    "peak_bytes": option.bytes,
    "activation_bytes": option.activations,
    "seconds": option.seconds,
    "step_seconds": option.time,
    "bound": option.bound,
    "images_per_second": batch / option.time,
    "mfu": suggestion.product_flops / chip.flops / option.time,
  }
