"""Draws from a seed what goes wrong, when, and with how many hosts a run goes on.

A schedule is a sequence of lives. A life is one start of all processes; it ends by
its last fault, or with the run. Then the storage may be damaged, and the next life
begins, perhaps with other hosts.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision import lookup

# How a life ends.
KILL_ONE, KILL_ALL, TERM, HANG, DISK = (
  "kill_one",
  "kill_all",
  "term",
  "hang",
  "disk",
)
# What it has to survive.
PAUSE, LATE = "pause", "late"
# Between two lives.
DAMAGE, HOSTS = "damage", "hosts"
ENDINGS = {
  KILL_ONE: "SIGKILL of one process",
  KILL_ALL: "SIGKILL of all processes",
  TERM: "SIGTERM of one process",
  HANG: "SIGSTOP of one of several processes, for ever",
  DISK: "no file can grow: a full disk, a quota",
}
KINDS = ENDINGS | {
  PAUSE: "SIGSTOP of one process, SIGCONT seconds later",
  LATE: "a process that begins seconds after the others",
  DAMAGE: "a file of the newest checkpoint changed, cut off or missing",
  HOSTS: "another number of processes",
}
# When: while processes start, while evaluators run before the first step, while the
# step is compiled, after a step, while a checkpoint is written, after the last step.
START, EVALUATION, COMPILE, STEP, SAVE, FINAL = (
  "start", "evaluation", "compile", "step", "save", "final"
)  # fmt: skip
MOMENTS = (START, EVALUATION, COMPILE, STEP, SAVE, FINAL)
DAMAGES = ("flip", "truncate", "remove")
LAYOUTS = ("same", "processes", "devices")


@dataclasses.dataclass(frozen=True)
class Fault:
  """Something that goes wrong during a life.

  Attributes:
    kind: of `KINDS`.
    moment: of `MOMENTS`.
    step: the earliest step, for the moments `step` and `save`.
    delay: part of the time span of the moment that passes before, in [0, 1).
    host: number of the process that it hits.
    seconds: how long a pause lasts.
  """

  kind: str
  moment: str
  step: int = 0
  delay: float = 0.0
  host: int = 0
  seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Damage:
  """A change of a file of the newest checkpoint.

  Attributes:
    kind: of `DAMAGES`.
    place: which file, and where in it, as parts in [0, 1).
  """

  kind: str
  place: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Life:
  """One start of all processes.

  Attributes:
    hosts: number of processes.
    devices: number of devices of each.
    faults: in the order in which they are waited for.
    damage: done after the life; None does nothing.
  """

  hosts: int
  devices: int
  faults: tuple[Fault, ...] = ()
  damage: Damage | None = None


@dataclasses.dataclass(frozen=True)
class Schedule:
  """All lives of a run.

  Attributes:
    seed: it was drawn from.
    lives: in their order. The last one has no fault that ends it.
  """

  seed: int
  lives: tuple[Life, ...]

  @property
  def layout(self) -> str:
    """Tells what lives have in common, of `LAYOUTS`.

    `same`: processes and devices; `processes`: the number of devices in all;
    `devices`: nothing.
    """
    if len({(x.hosts, x.devices) for x in self.lives}) == 1:
      return "same"
    return "processes" if len(self.num_devices) == 1 else "devices"

  @property
  def num_devices(self) -> tuple[int, ...]:
    """Numbers of devices in all that lives have, sorted."""
    return tuple(sorted({x.hosts * x.devices for x in self.lives}))


def draw(
  seed: int,
  *,
  total_steps: int,
  kinds: Sequence[str] = tuple(KINDS),
  max_hosts: int = 4,
  num_devices: int = 2,
  max_endings: int = 3,
) -> Schedule:
  """Draws a schedule.

  Args:
    seed: the same one gives the same schedule.
    total_steps: length of the run.
    kinds: what may happen, of `KINDS`.
    max_hosts: largest number of processes.
    num_devices: devices of each process; where only the number of processes
      changes, they share as many devices as before.
    max_endings: largest number of lives that end by a fault.

  Returns:
    The Schedule.

  Raises:
    lookup.ConfigError: an unknown kind, or none that ends a life.
  """
  for kind in kinds:
    if kind not in KINDS:
      near = lookup.did_you_mean(kind, KINDS)
      raise lookup.ConfigError(f"--kinds: there is no kind {kind!r}{near}")
  if not set(kinds) & set(ENDINGS):
    raise lookup.ConfigError(f"--kinds needs one of {', '.join(ENDINGS)}.")
  rng = np.random.default_rng([seed, total_steps])
  layouts = LAYOUTS if HOSTS in kinds and max_hosts > 1 else LAYOUTS[:1]
  layout = layouts[rng.integers(len(layouts))]
  count = 1 + int(rng.integers(max_endings))
  hosts = 1 + int(rng.integers(max_hosts))
  first = hosts * num_devices
  lives = []
  for i in range(count + 1):
    devices = num_devices
    if i and layout == "devices":
      hosts = 1 + int(rng.integers(max_hosts))
    elif i and layout == "processes":
      options = [n for n in range(1, max_hosts + 1) if first % n == 0]
      hosts = options[rng.integers(len(options))]
    if layout == "processes":
      devices = first // hosts
    lives.append(_life(rng, hosts, devices, kinds, total_steps, i < count))
  return Schedule(seed, tuple(lives))


def _life(
  rng: Any,
  hosts: int,
  devices: int,
  kinds: Sequence[str],
  total_steps: int,
  ends: bool,
) -> Life:
  """Draws one life, which has to end by a fault or not."""
  faults = []
  if PAUSE in kinds and rng.random() < 0.3:
    faults.append(_fault(rng, PAUSE, hosts, total_steps))
  elif LATE in kinds and hosts > 1 and rng.random() < 0.3:
    host, seconds = int(rng.integers(hosts)), float(rng.uniform(1, 8))
    faults.append(Fault(LATE, START, host=host, seconds=seconds))
  if not ends:
    return Life(hosts, devices, tuple(faults))
  endings = [k for k in ENDINGS if k in kinds and (k != HANG or hosts > 1)]
  endings = endings or [KILL_ALL]  # Where only a hanging host was allowed.
  kind = endings[rng.integers(len(endings))]
  faults.append(_fault(rng, kind, hosts, total_steps))
  damage = None
  if DAMAGE in kinds and rng.random() < 0.3:
    which = DAMAGES[rng.integers(len(DAMAGES))]
    damage = Damage(which, (float(rng.random()), float(rng.random())))
  # A pause must not wait for what comes after the end.
  faults.sort(key=lambda f: (MOMENTS.index(f.moment), f.step))
  faults = faults[: [f.kind for f in faults].index(kind) + 1]
  return Life(hosts, devices, tuple(faults), damage)


def _fault(rng: Any, kind: str, hosts: int, total_steps: int) -> Fault:
  """Draws the moment of a fault and whom it hits."""
  # As many within the training as in all other moments together.
  weights = np.array([1, 1, 1, 3, 2, 1]) / 9
  moment = MOMENTS[rng.choice(len(MOMENTS), p=weights)]
  return Fault(
    kind,
    moment,
    step=int(rng.integers(1, total_steps)),
    delay=float(rng.random()),
    host=int(rng.integers(hosts)),
    seconds=float(rng.uniform(0.5, 5)),
  )
