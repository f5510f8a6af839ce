"""Measures the time of a run: throughput, time spent, time left, restarts."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np
from absl import logging

from big_vision.types import PyTree

SAVED = (
  "accum_program_time",
  "accum_train_time",
  "accum_pause_time",
  "accum_examples_seen",
)

# Receives the name and the value of a metric.
Measure: TypeAlias = Callable[[str, Any], Any]
# Receives a text for people.
WriteNote: TypeAlias = Callable[[str], Any]


def hms(s: float) -> str:
  """Formats a duration for people.

  Args:
    s: duration in seconds; it is rounded to full seconds.

  Returns:
    "42s" below a minute, "3m5s" below an hour, "24h58m" below 25 hours (a run
    of about a day reads better in hours), "4d4h0m" above.
  """
  s = round(s)  # Before splitting, else 119.6 s would print as "1m60s".
  if s < 60:
    return f"{s}s"
  m, s = divmod(s, 60)
  if m < 60:
    return f"{m}m{s}s"
  h, m = divmod(m, 60)
  if h < 25:
    return f"{h}h{m}m"
  d, h = divmod(h, 24)
  return f"{d}d{h}h{m}m"


class Chrono:
  """Measures the progress of training.

  The first two ticks are warm-up: they contain compilation, so speed and
  remaining time are counted from the second one. Time between `pause` and
  `resume` (evaluation, checkpoints) does not count as training.

  Attributes:
    note: str, progress to be shown; several lines once warmed up.
    warmup: int, ticks still to come before speed is measured.
    prev_step: int, step of the latest tick; None before `inform(first_step)`.
    accum_examples_seen: int, training examples so far, restarts included.
    accum_train_time, accum_pause_time, accum_program_time: seconds so far,
      restarts included: training, pauses, both.
  """

  def __init__(self) -> None:
    self.program_start_time = time.monotonic()
    # Set by the tick that ends the warm-up.
    self.train_start_time = self.prev_time = 0.0
    self.train_start_step = 0
    self.prev_step = None
    self.pause_start = None
    self.paused_time = 0.0

    self.total_steps = None
    self.global_bs = 0
    self.steps_per_epoch = None
    self.measure = None
    self.write_note = None

    self.warmup = 2
    self.note = "Chrono n/a"
    self._timings = collections.defaultdict(list)
    self._seconds: dict[str, float] = collections.defaultdict(float)  # By name.
    self.load()

  def reset(self) -> None:
    """Starts over, for another run in the same process."""
    self.__init__()

  def inform(
    self,
    *,
    first_step: int | None = None,
    total_steps: int | None = None,
    global_bs: int | None = None,
    steps_per_epoch: float | None = None,
    measure: Measure | None = None,
    write_note: WriteNote | None = None,
  ) -> None:
    """Sets facts about the run; each call may give some of them.

    Args:
      first_step: step after which training continues; 0 is valid.
      total_steps: steps of the whole run.
      global_bs: examples per step over all devices.
      steps_per_epoch: number of steps per epoch.
      measure: `measure(name, value)`, receives the metrics.
      write_note: `write_note(text)`, shows the note.
    """
    if first_step is not None:
      self.prev_step = int(first_step)
    self.total_steps = total_steps or self.total_steps
    self.global_bs = global_bs or self.global_bs
    self.steps_per_epoch = steps_per_epoch or self.steps_per_epoch
    self.measure = measure or self.measure
    self.write_note = write_note or self.write_note
    if self.total_steps and self.prev_step is not None:
      self.note = self._steps_note(self.prev_step)

  def tick(
    self,
    step: int,
    measure: Measure | None = None,
    write_note: WriteNote | None = None,
  ) -> None:
    """Measures the progress since the previous tick.

    Args:
      step: number of finished steps. Nothing happens if it is that of
        the previous tick.
      measure, write_note: used instead of the ones told to `inform`.
    """
    if step == self.prev_step:
      return
    measure = measure or self.measure or (lambda name, value: None)
    write_note = write_note or self.write_note or (lambda note: None)

    now = time.monotonic()
    measure("uptime", now - self.program_start_time)
    self._flush_timings(measure)

    num_steps = step - (self.prev_step or 0)
    self.prev_step = step
    self.accum_examples_seen += int(num_steps * self.global_bs)
    measure("examples_seen", self.accum_examples_seen)
    if self.total_steps:
      measure("progress", step / self.total_steps)
    if self.steps_per_epoch:
      measure("epoch", step / self.steps_per_epoch)

    if self.warmup:
      self.warmup -= 1
      if self.warmup == 0:
        self.train_start_time = self.prev_time = now
        self.train_start_step = step
        self.accum_program_time += now - self.program_start_time
        self.paused_time = 0.0
      self.note = self._steps_note(step)
      write_note(self.note)
      return

    # A clock that has not moved would divide by zero.
    dt = max(now - self.prev_time - self.paused_time, 1e-9)
    num_devices = jax.device_count()
    measure("img/sec/core", self.global_bs * num_steps / dt / num_devices)

    self.accum_train_time += dt
    self.accum_pause_time += self.paused_time
    self.accum_program_time += dt + self.paused_time
    core_hours = self.accum_train_time * num_devices / 3600
    kind = jax.devices()[0].device_kind
    measure(f"core_hours_{kind}", core_hours)
    measure("core_hours", core_hours)

    lines = [
      self._steps_note(step),
      f"Walltime:{hms(self.accum_program_time)} "
      f"({hms(self.accum_pause_time)} eval)",
    ]
    if self.total_steps:
      elapsed = now - self.train_start_time
      per_step = elapsed / (step - self.train_start_step)
      lines.append(f"ETA:{hms(per_step * (self.total_steps - step))}")
      lines.append(f"Total train time:{hms(per_step * self.total_steps)}")
    self.note = "\n".join(lines)
    write_note(self.note)
    self.log_memory(measure)

    self.prev_time = now
    self.paused_time = 0.0

  def _steps_note(self, step: int) -> str:
    if not self.total_steps:
      return f"Steps:{step}"
    percent = step / self.total_steps
    return f"Steps:{step}/{self.total_steps} [{percent:.1%}]"

  def pause(self, wait_for: PyTree = ()) -> None:
    """Stops the clock, after waiting for device work.

    Args:
      wait_for: pytree of arrays; the pause begins when they are ready.

    Raises:
      AssertionError: the clock is stopped already.
    """
    if self.pause_start is not None:
      raise AssertionError("The chrono is paused already.")
    jax.block_until_ready(wait_for)
    self.pause_start = time.monotonic()

  def resume(self) -> None:
    """Ends a pause; raises AssertionError if there was none."""
    if self.pause_start is None:
      raise AssertionError("The chrono is not paused.")
    self.paused_time += time.monotonic() - self.pause_start
    self.pause_start = None

  def save(self) -> dict[str, float | int]:
    """Returns the part of a checkpoint: dict of float (seconds) and int."""
    return {k: getattr(self, k) for k in SAVED}

  def load(self, ckpt: Mapping[str, Any] | None = None) -> None:
    """Restores the result of `save`.

    Args:
      ckpt: dict of numbers, NumPy or JAX scalars; a missing key means 0.
    """
    ckpt = {k: np.asarray(jax.device_get(v)) for k, v in (ckpt or {}).items()}
    for k in SAVED:
      kind = int if k == "accum_examples_seen" else float
      setattr(self, k, kind(ckpt.get(k, 0)))

  @contextlib.contextmanager
  def log_timing(self, name: str, *, noop: bool = False) -> Iterator[None]:
    """Measures the seconds that the body takes, unless it raises.

    Args:
      name: name of the metric.
      noop: whether to do nothing.
    """
    start = time.monotonic()
    yield
    if noop:
      return
    seconds = time.monotonic() - start
    self._seconds[name] += seconds
    if self.measure:
      self.measure(name, seconds)
    logging.info("TIMING[%s]: %s", name, seconds)

  def seconds(self, prefix: str) -> float:
    """Adds up what `log_timing` has measured since the program began.

    Args:
      prefix: of the names, such as "z/secs/eval/".

    Returns:
      Seconds.
    """
    return sum(s for k, s in self._seconds.items() if k.startswith(prefix))

  def share(self, prefix: str) -> str:
    """Tells people what part of the program's time these were.

    Args:
      prefix: see `seconds`.

    Returns:
      For example "12.3% of the run (1m2s of 8m24s)".
    """
    seconds = self.seconds(prefix)
    total = time.monotonic() - self.program_start_time
    part = seconds / max(total, 1e-9)
    return f"{part:.1%} of the run ({hms(seconds)} of {hms(total)})"

  @contextlib.contextmanager
  def log_timing_avg(self, name: str, *, noop: bool = False) -> Iterator[None]:
    """Measures at the next tick the mean seconds of all bodies of this name.

    Args:
      name: name of the metric.
      noop: whether to do nothing.
    """
    start = time.monotonic()
    yield
    if not noop:
      self._timings[name].append(time.monotonic() - start)

  def flush_timings(self) -> None:
    """Measures the means collected by `log_timing_avg`."""
    if self.measure is None:
      raise AssertionError("Call inform(measure=…) first.")
    self._flush_timings(self.measure)

  def _flush_timings(self, measure: Measure) -> None:
    for name, seconds in self._timings.items():
      measure(name, sum(seconds) / len(seconds))
    self._timings.clear()

  def log_memory(self, measure: Measure) -> None:
    """Measures memory, see the function of this name.

    Args:
      measure: `measure(name, value)`, receives the metrics.
    """
    log_memory(measure)


def log_memory(measure: Measure) -> None:
  """Measures the memory of the host and of the first two devices in bytes.

  Args:
    measure: `measure(name, value)`, receives the metrics.
  """
  try:
    import psutil
  except ImportError:
    psutil = None  # Optional: then there are no host metrics.
  if psutil:
    mem = psutil.virtual_memory()
    measure("y/hostmem/total", mem.total)
    measure("y/hostmem/available", mem.available)
    measure("y/hostmem/used", mem.used)
  for i, device in enumerate(jax.local_devices()[:2]):
    for k, v in (device.memory_stats() or {}).items():
      measure(f"y/devmem/dev{i}/{k}", v)


chrono = Chrono()
