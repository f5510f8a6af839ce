"""How fast a run is, for its metrics and its progress line."""

from typing import Any

import jax
from absl import logging

from big_vision.planning import chips, flops
from big_vision.training.setup import Setup
from big_vision.types import Measurements


def of_step(
  setup: Setup, measured: Measurements, per_image: float | None
) -> dict[str, float]:
  """Computes for the progress line: loss, rates, time to go.

  Writes the metrics `img/sec` of all devices and, where the chip is known, `mfu`:
  the part of the peak of dense bfloat16 products that the step's FLOPs are; and of
  each dataset of a mixture `examples_seen_<key>` and `epoch_<key>`.

  Args:
    setup: the Setup.
    measured: results of a step.
    per_image: result of `utilization`.

  Returns:
    What `console.Progress.update` takes.
  """
  writer, chrono = setup.writer, setup.chrono
  seen = (chrono.prev_step or 0) * setup.batch_size
  parts = getattr(setup.num_examples, "parts", {})
  for key, (share, size) in parts.items():
    writer.measure(f"examples_seen_{key}", seen * share)
    writer.measure(f"epoch_{key}", seen * share / size)
  shown = {"training_loss": float(measured["training_loss"])}
  mult = writer.latest.get("global_schedule")
  if isinstance(mult, float):
    shown["lr"] = setup.config.lr * mult
  per_core = writer.latest.get("img/sec/core")
  if per_core:
    shown["img/sec"] = per_core * jax.device_count()
    left = setup.total_steps - (chrono.prev_step or 0)
    shown["eta"] = left * setup.batch_size / shown["img/sec"]
    if per_image:
      shown["mfu"] = per_image * per_core
    for name in ("img/sec", "mfu"):
      if name in shown:
        writer.measure(name, shown[name])
  return shown


def utilization(setup: Setup, update: Any, *args: Any) -> float | None:
  """Computes which part of a chip's peak one image per second would use.

  Args:
    setup: the Setup.
    update: the train step.
    *args: its arguments.

  Returns:
    The fraction; None where the chip or an operation is not known.
  """
  chip = chips.of_device(jax.devices()[0].device_kind)
  if chip is None:
    return None
  try:
    return flops.of_function(update, *args) / setup.batch_size / chip.flops
  except ValueError as e:
    logging.warning("MFU is not shown: %s", e)
    return None
