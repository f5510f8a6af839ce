"""Costs of one config on one mesh, for any chip."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections as mlc

from big_vision.planning import (
  chips,
  flops,
  graph,
  memory,
  partition,
  passes,
  primitives,
  trace,
)

# Part of the memory that XLA cannot give to a program: its own buffers,
# fragmentation, and what the model of memory does not see.
RESERVE = 0.1


@dataclasses.dataclass(frozen=True)
class Costs:
  """Holds the costs of a training step.

  Attributes:
    program: the traced Program, with its values split over the mesh.
    arguments: dict of part ("params", "opt", ..., "batch") -> bytes that are on
      each device all the time.
    gradients: bytes of all gradients on one device, split like the parameters.
    flops: of one device.
    product_flops: those in matrix products and convolutions.
    collectives: list of partition.Collective.
    bytes_of: `Value -> int`, bytes on one device.
    assumed: name of an operation that the planner does not know -> how many
      there are; they count as elementwise.
  """

  program: trace.Program
  arguments: dict[str, int]
  gradients: int
  flops: int
  product_flops: int
  collectives: list[partition.Collective]
  bytes_of: Callable[[graph.Value], int]
  assumed: dict[str, int]
  _simulated: dict[str, tuple[memory.Peak, int]] = dataclasses.field(
    default_factory=dict
  )

  def temporary(self, kind: str) -> memory.Peak:
    """Returns the peak of temporary memory on a "TPU" or "GPU"."""
    return self._simulate(kind)[0]

  def traffic(self, kind: str) -> int:
    """Returns the bytes that a device reads and writes in its memory per step."""
    return self._simulate(kind)[1]

  def _simulate(self, kind):
    if kind not in self._simulated:
      # The state that goes in is replaced by the one that comes out.
      pairs = [(i, i) for i in range(len(jax.tree.leaves(self.program.state)))]
      self._simulated[kind] = memory.peak(
        self.program.graph, self.bytes_of, pairs, fused_products=kind == "TPU"
      )
    return self._simulated[kind]

  def bytes(self, kind: str) -> int:
    """Returns the bytes that a device needs: arguments and temporary memory."""
    return sum(self.arguments.values()) + self.temporary(kind).total()

  def fits(self, chip: chips.Chip) -> bool:
    """Tells whether it runs on a chip, with a reserve."""
    return fits_in(self.bytes(chip.kind), chip)

  def seconds(self, chip: chips.Chip) -> dict[str, float]:
    """Returns lower bounds of the time of a step: what binds -> seconds."""
    return {
      "compute": chip.compute_seconds(self.flops),
      "memory": chip.memory_seconds(self.traffic(chip.kind)),
      "network": sum(
        chip.network_seconds(c.sent, c.devices) for c in self.collectives
      ),
    }

  def images_per_second(self, chip: chips.Chip) -> float:
    """Returns an upper bound for all devices together."""
    return self.program.batch_size / max(self.seconds(chip).values())


def fits_in(nbytes: float, chip: chips.Chip) -> bool:
  """Tells whether a device of a chip has room for so many bytes.

  Args:
    nbytes: bytes that a program needs.
    chip: Chip.

  Returns:
    Whether they fit beside the reserve.
  """
  return nbytes <= chip.bytes * (1 - RESERVE)


def estimate(
  build: trace.Build,
  config: mlc.ConfigDict,
  mesh: dict[str, int],
  image_size: tuple[int, int],
  traces: trace.Traces | None = None,
) -> Costs:
  """Traces a step and counts its costs.

  Args:
    build: `Setup -> Recipe`, of a trainer.
    config: of a run.
    mesh: axis name -> size.
    image_size: (height, width) in pixels.
    traces: see `trace.trace`.

  Returns:
    Costs.

  Raises:
    ValueError: as `trace.trace`; or the planner does not know an operation of
      the step and cannot assume that it is elementwise.
  """
  program = trace.trace(build, config, mesh, image_size, traces=traces)
  assumed = primitives.assumed(program.graph)
  parts = partition.Partition(program.mesh, program.batch_axes)
  parts.run(program.graph)
  passes.combine_sums(program.graph, parts.bytes)
  total, products = flops.count(program.graph, parts.share)
  return Costs(
    program=program,
    arguments=trace.argument_bytes(program),
    gradients=sum(x[-1] for x in trace.leaves(program, "params")),
    flops=total,
    product_flops=products,
    collectives=parts.collectives,
    bytes_of=functools.cache(parts.bytes),
    assumed=assumed,
  )


def by_kind(
  collectives: Sequence[partition.Collective],
) -> list[dict[str, Any]]:
  """Sums over collectives of one kind and number of devices.

  Args:
    collectives: list of partition.Collective.

  Returns:
    List of dicts with `kind`, `devices`, `count` (per step), `payload` and
    `sent` (bytes per device and step), the largest first.
  """
  groups = {}
  for c in collectives:
    row = groups.setdefault(
      (c.kind, c.devices),
      dict(kind=c.kind, devices=c.devices, count=0, payload=0, sent=0),
    )
    row["count"] += c.times
    row["payload"] += c.payload
    row["sent"] += math.ceil(c.sent)
  return sorted(groups.values(), key=lambda row: -row["sent"])
