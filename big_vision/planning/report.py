"""Plans a run: the figures of `tools/plan.py`, and their text."""

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import ml_collections as mlc

from big_vision.planning import advice, chips, trace
from big_vision.planning import costs as costs_lib
from big_vision.planning.trace import Build

MIB, GIB = 2**20, 2**30


def plan(
  build: Build,
  config: mlc.ConfigDict,
  mesh: dict[str, int],
  size: tuple[int, int],
  names: Iterable[str] = (),
) -> tuple[costs_lib.Costs, dict[str, Any]]:
  """Plans a run.

  Args:
    build: `Setup -> Recipe` of a trainer.
    config: ConfigDict of the run.
    mesh: dict of axis name -> size.
    size: (height, width) of images in pixels.
    names: names of chips; empty for the usual ones.

  Returns:
    (Costs, dict of figures as `--json` writes them); bytes and FLOPs are per
    device unless their name says otherwise.

  Raises:
    ValueError: an unknown chip, or what `trace.trace` raises.
  """
  wanted = chips.get(names)
  start = time.perf_counter()
  costs = costs_lib.estimate(build, config, mesh, size)
  program = costs.program
  whole = sum(x[2] for x in trace.leaves(program, "params"))
  figures = {
    "mesh": program.mesh,
    "devices": program.num_devices,
    "batch_size": program.batch_size,
    "examples_per_device": program.batch_size / program.num_devices,
    "micro_batches": program.accum_steps,
    "image_size": list(size),
    "num_params": sum(
      math.prod(shape) for _, shape, *_ in trace.leaves(program, "params")
    ),
    "param_bytes_of_the_model": whole,
    "bytes": dict(costs.arguments),
    "gradient_bytes": costs.gradients,
    "temporary_bytes": {
      kind: dict(costs.temporary(kind)) for kind in ("TPU", "GPU")
    },
    "peak_bytes": {kind: costs.bytes(kind) for kind in ("TPU", "GPU")},
    "not_split": _not_split(program),
    "flops": costs.flops,
    "product_flops": costs.product_flops,
    "flops_of_all_devices": costs.flops * program.num_devices,
    "collectives": costs_lib.by_kind(costs.collectives),
    "chips": {c.name: _on_chip(costs, c) for c in wanted},
    "assumed_elementwise": costs.assumed,
  }
  figures["seconds_to_plan"] = time.perf_counter() - start
  return costs, figures


def advise(
  build: Build,
  config: mlc.ConfigDict,
  costs: costs_lib.Costs,
  figures: dict[str, Any],
) -> None:
  """Adds `would_fit` to the chips of `figures` that are too small.

  Args:
    build: `Setup -> Recipe` of a trainer.
    config: ConfigDict of the run.
    costs: Costs of the run as it is.
    figures: dict, from `plan`; is changed.
  """
  small = chips.get([n for n, c in figures["chips"].items() if not c["fits"]])
  found = advice.find(
    build, config, figures["mesh"], figures["image_size"], small, costs
  )
  for name, changes in found.items():
    figures["chips"][name]["would_fit"] = [
      {"change": text, "peak_bytes": n} for text, n in changes
    ]


def _not_split(program, most=3):
  """Parameters that are whole on every device although others are split."""
  rows = trace.leaves(program, "params")
  if all(local == whole for *_, whole, local in rows):
    return {"bytes": 0, "largest": []}
  left = [(name, shape, n) for name, shape, n, local in rows if local == n]
  left.sort(key=lambda row: -row[2])
  return {
    "bytes": sum(n for *_, n in left),
    "largest": [
      {"name": name, "shape": list(shape), "bytes": n}
      for name, shape, n in left[:most]
    ],
  }


def _on_chip(costs, chip):
  """Figures of one chip."""
  seconds = costs.seconds(chip)
  parts = {**costs.arguments, **costs.temporary(chip.kind)}
  beyond = (
    chip.kind == "TPU" and costs.program.num_devices > chip.group * chip.devices
  )
  return {
    "memory_bytes": chip.bytes,
    "peak_bytes": costs.bytes(chip.kind),
    "fits": costs.fits(chip),
    "largest_part": max(parts, key=parts.get),
    "seconds": seconds,
    "bound": max(seconds, key=seconds.get),
    "images_per_second": costs.images_per_second(chip),
    "chips": costs.program.num_devices / chip.devices,
    "more_than_a_pod": beyond,
  }


def table(rows: Iterable[Sequence[str]], header: Sequence[str]) -> str:
  """Writes lines with aligned columns, the first one to the left.

  Args:
    rows: cells of each row.
    header: cells of the first row.

  Returns:
    Text.
  """
  rows = [header, *rows]
  widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
  return "\n".join(
    "  ".join(
      cell.rjust(w) if i else cell.ljust(w)
      for i, (cell, w) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  )


def show(figures: dict[str, Any]) -> str:
  """Writes the figures as text.

  Args:
    figures: dict, from `plan`.

  Returns:
    str of several tables.
  """
  f = figures
  mib = lambda n: f"{n / MIB:,.1f}"
  mesh = ", ".join(f"{a}={n}" for a, n in f["mesh"].items())
  height, width = f["image_size"]
  text = [
    f"{f['num_params']:,} parameters, batch {f['batch_size']:,} of "
    f"{height}x{width} images on {f['devices']:,} devices ({mesh}): "
    f"{f['examples_per_device']:g} per device, {f['micro_batches']} "
    "micro-batch(es).",
    f"{f['flops_of_all_devices']:.4g} FLOPs per step, {f['flops']:.4g} per "
    f"device, {f['product_flops'] / f['flops']:.1%} of them in products.",
  ]

  args = f["bytes"]
  rows = [(name, mib(n), mib(n)) for name, n in args.items()]
  tpu, gpu = f["temporary_bytes"]["TPU"], f["temporary_bytes"]["GPU"]
  for part in sorted({*tpu, *gpu}, key=lambda p: -tpu.get(p, 0)):
    rows.append(
      (f"{part} at the peak", mib(tpu.get(part, 0)), mib(gpu.get(part, 0)))
    )
  peak = f["peak_bytes"]
  rows.append(("sum", mib(peak["TPU"]), mib(peak["GPU"])))
  rows.append(("all gradients", *[mib(f["gradient_bytes"])] * 2))
  text.append(table(rows, ("MiB per device", "TPU", "GPU")))
  if f["not_split"]["bytes"]:
    names = ", ".join(
      f"{r['name']} {tuple(r['shape'])}" for r in f["not_split"]["largest"]
    )
    text.append(
      f"{mib(f['not_split']['bytes'])} MiB of the parameters are whole on every "
      f"device: no dimension is a multiple of the axis, or they are small. The "
      f"largest: {names}."
    )

  if f["assumed_elementwise"]:
    names = ", ".join(
      f"{name} ({n} times)" for name, n in f["assumed_elementwise"].items()
    )
    text.append(
      "The planner does not know these operations of this version of JAX. All "
      "figures assume that they are elementwise, with one FLOP per element: "
      f"{names}."
    )

  rows = [
    (c["kind"], str(c["devices"]), str(c["count"]), mib(c["payload"]),
     mib(c["sent"]))
    for c in f["collectives"]
  ]  # fmt: skip
  header = ("collective", "devices", "per step", "MiB of tensors", "MiB sent")
  text.append(table(rows, header) if rows else "No collectives.")

  rows = []
  for name, c in f["chips"].items():
    s = c["seconds"]
    rows.append((
      name, f"{c['chips']:,g}", f"{c['peak_bytes'] / GIB:.2f}",
      f"{c['memory_bytes'] / GIB:g}", "yes" if c["fits"] else "NO",
      *(f"{1e3 * s[k]:.4g}" for k in ("compute", "memory", "network")),
      c["bound"], f"{c['images_per_second']:,.0f}",
    ))  # fmt: skip
  header = (
    "chip", "chips", "GiB needed", "GiB", "fits", "ms compute", "ms memory",
    "ms network", "bound by", "images/s at most",
  )  # fmt: skip
  text.append(table(rows, header))
  for name, c in f["chips"].items():
    if c["more_than_a_pod"]:
      text.append(
        f"{name}: more devices than a pod has. The network between pods is not "
        "counted."
      )
    if not c["fits"]:
      text.append(_does_not_fit(name, c))
  text.append(f"Planned in {f['seconds_to_plan']:.1f} s.")
  return "\n\n".join(text)


def _does_not_fit(name, c):
  """That and why a run does not fit."""
  return (
    f"{name}: does not fit in {c['memory_bytes'] / GIB:g} GiB less "
    f"{costs_lib.RESERVE:.0%}. The largest part: {c['largest_part']}."
  )


def show_advice(figures: dict[str, Any]) -> str:
  """Writes what would help where a run does not fit.

  Args:
    figures: dict, from `plan` and `advise`.

  Returns:
    Text, one change a line.
  """
  lines = []
  for name, c in figures["chips"].items():
    if c["fits"]:
      continue
    lines.append(f"It would fit on {name} with any of")
    for row in c["would_fit"]:
      lines.append(f"  {row['change']}: {row['peak_bytes'] / GIB:.2f} GiB")
    if not c["would_fit"]:
      lines[-1] = f"No single change that was tried makes it fit on {name}."
  return "\n".join(lines)
