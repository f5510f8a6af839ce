"""Compares the speed of the training step and of the input with recorded ratios.

Each is measured beside something plain in the same process: the step beside a plain
flax step, the input pipeline beside decoding the same JPEGs alone. Both take turns,
and what counts is the CPU time of the process, which other load on the machine
does not enter. `ratios.json` has the ratios that are right today.
"""

import argparse
import json
import pathlib
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from big_vision.benchmarks import measure

FILE = pathlib.Path(__file__).with_name("ratios.json")
LIMIT = 1.15  # Times the recorded ratio.
MEASUREMENTS = 5
PAIRS = 3  # Of each measurement.

Run = Callable[[], object]

# Small, but large enough for what is computed to count rather than what starts it.
_STEP = argparse.Namespace(
  model="vit", variant="Ti/16", model_kw='{"depth": 4}', res=96, batch=16,
  classes=1000, dtype="float32", devices=1,
)  # fmt: skip
_STEPS = 4  # Of each turn.
_SIZE, _BOXES = 224, 8  # Batches of boxes, which repeat.


def ratios(
  run: Run,
  plain: Run,
  measurements: int = MEASUREMENTS,
  pairs: int = PAIRS,
  seconds: Callable[[Run], float] = measure.cpu_seconds,
) -> list[float]:
  """Measures how much longer one function takes than the other, in turns.

  Args:
    run: what is measured.
    plain: what it is compared with.
    measurements: how many.
    pairs: turns of both in each measurement, whose median it is.
    seconds: measures a function.

  Returns:
    The ratios.
  """
  run(), plain()  # Fills buffers.
  return [
    statistics.median(seconds(run) / seconds(plain) for _ in range(pairs))
    for _ in range(measurements)
  ]


def step_runs() -> tuple[Run, Run]:
  """Makes the trainer's step and a plain flax step of the same ViT."""
  from big_vision.benchmarks import steps

  trainer, model = steps.make_trainer(_STEP)
  trainer.first_step()
  reference, _ = steps.make_reference(model, trainer.batch)
  return lambda: trainer.run(_STEPS), lambda: reference(_STEPS)


def input_runs() -> tuple[Run, Run]:
  """Makes the input pipeline and the decoding of its crops alone."""
  from big_vision.benchmarks import inputs, loaders

  inputs.import_ops()
  jpegs = inputs.make_jpegs(loaders.BATCH)
  batches = loaders.pipeline(jpegs, loaders.PP.format(res=_SIZE))
  decoded = loaders.decoding_alone(jpegs, _BOXES)
  return lambda: batches(1), lambda: decoded(1)


_RUNS = {"step": step_runs, "input": input_runs}


def verdict(measured: float, recorded: float) -> str:
  """Says whether a ratio is as recorded.

  Args:
    measured: the ratio.
    recorded: what it should be.

  Returns:
    "ok", "slower" or "faster", by more than `LIMIT`.
  """
  if measured > LIMIT * recorded:
    return "slower"
  return "faster" if measured < recorded / LIMIT else "ok"


def check(
  runs: Mapping[str, Callable[[], tuple[Run, Run]]] | None = None,
  path: pathlib.Path | None = None,
  say: Callable[[str], Any] = print,
) -> bool:
  """Measures all ratios; what is slower is measured once more.

  Args:
    runs: name of a ratio -> function that makes both sides; None: all.
    path: file with the recorded ratios, JSON: name -> ratio; None: `FILE`.
    say: receives lines of text.

  Returns:
    Whether none is slower than recorded, by more than `LIMIT`.
  """
  path = path or FILE
  recorded = json.loads(path.read_text(encoding="utf-8"))
  slower = []
  for name, make in (runs or _RUNS).items():
    pair = make()
    for again in (False, True):
      found = ratios(*pair)
      middle = statistics.median(found)
      what = verdict(middle, recorded[name])
      each = ", ".join(f"{x:.3f}" for x in found)
      say(
        f"{name}: {middle:.3f} of the CPU time of the plain one, {recorded[name]:g} "
        f"recorded: {what} ({each})"
      )
      if what != "slower":
        break
      if again:
        slower.append(name)
  if slower:
    say(
      f"{', '.join(slower)}: more than {LIMIT - 1:.0%} slower than recorded, twice. "
      f"If that is meant to be, write the new ratio into {path.name}."
    )
  return not slower
