r"""Plans a run before it has any device: what it needs, how fast it can be.

  python -m big_vision.tools.plan \
    --config big_vision/configs/vit_i1k.py:variant=B/16 --mesh data=64

From the config alone, in seconds on a laptop: bytes on each device of
parameters, optimizer, gradients and activations; FLOPs per step; bytes that
each kind of collective moves; upper bounds of images per second on TPUs and
GPUs; on which of them the run does not fit, why, and what would help. Nothing
is allocated and no data is read.

  --mesh data=256,model=8   instead of config.mesh, which may say -1 only with
  --devices 2048            the number of devices
  --chip v5e,h100           instead of the usual chips
  --image_size 224          if the preprocessing does not tell
  --trainer MODULE          with `build`; default is big_vision.train
  --noadvice                does not look for what would make it fit, which takes
                            several times as long as the rest
  --json FILE               the figures, also to a file

Parts of the config change as everywhere: --config.input.batch_size 1024.
docs/plan.md says how figures are made and how far they agree with XLA's own.
"""

import ast
import importlib
import json
import math
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

import ml_collections as mlc
from absl import app, flags, logging

from big_vision.planning import advice, chips, trace
from big_vision.planning import costs as costs_lib
from big_vision.planning.trace import Build
from big_vision.training import cli, flat_config

assert cli, "Defines --config."

flags.DEFINE_string("mesh", None, "Axes and sizes: data=256,model=8.")
flags.DEFINE_integer(
  "devices", None, "Number of devices, for -1 in config.mesh."
)
flags.DEFINE_list(
  "chip", [], f"Of {', '.join(chips.CHIPS)}; default: {', '.join(chips.USUAL)}."
)
flags.DEFINE_integer("image_size", None, "Side of the images in pixels.")
flags.DEFINE_string("trainer", "big_vision.train", "Module with `build`.")
flags.DEFINE_bool("advice", True, "Look for what would make it fit.")
flags.DEFINE_string("json", None, "File for the figures.")

# Ops of preprocessing that fix the size of images, and the name of the size.
_SIZES = {
  "resize": "size",
  "inception_crop": "size",
  "decode_jpeg_and_inception_crop": "size",
  "random_crop": "crop_size",
  "central_crop": "crop_size",
}
_OP = re.compile(rf"\b({'|'.join(_SIZES)})\s*(\((?:[^()]|\([^()]*\))*\))")
MIB, GIB = 2**20, 2**30


def parse_mesh(
  text: str | None,
  config_mesh: Sequence[tuple[str, int]] | None = None,
  devices: int | None = None,
) -> dict[str, int]:
  """Reads the mesh to plan for.

  Args:
    text: str such as "data=256,model=8"; None takes `config_mesh`.
    config_mesh: sequence of (name, size), one of which may be -1.
    devices: int, number of devices, for -1; or None.

  Returns:
    dict of axis name -> size.

  Raises:
    ValueError: it cannot be read, or does not tell the number of devices.
  """
  if text is None:
    axes = [(name, int(size)) for name, size in config_mesh or [("data", -1)]]
  else:
    axes = re.findall(r"(\w+)=(\d+)", text)
    axes = [(name, int(size)) for name, size in axes]
    read_back = ",".join(f"{name}={size}" for name, size in axes)
    names = {name for name, _ in axes}
    if (
      read_back != text
      or len(names) < len(axes)
      or not all(dict(axes).values())
    ):
      raise ValueError(
        f"--mesh={text!r} is a comma-separated list of distinct axes with "
        "their sizes, for example --mesh data=2048 or --mesh data=256,model=8."
      )
  mesh = dict(axes)
  known = math.prod(size for size in mesh.values() if size > 0)
  free = [name for name, size in mesh.items() if size < 0]
  if free and not devices:
    raise ValueError(
      f"config.mesh = {axes} has {free[0]!r} take all devices there are: say "
      f"how many with --devices, or use --mesh, for example --mesh {free[0]}=8."
    )
  if devices and (devices % known or (not free and devices != known)):
    raise ValueError(
      f"--devices={devices} does not fit the mesh {axes}: it must be "
      f"{'a multiple of ' if free else ''}{known}."
    )
  return {name: size if size > 0 else devices // known for name, size in axes}


def image_size(
  config: mlc.ConfigDict, side: int | None = None
) -> tuple[int, int]:
  """Finds the size of training images.

  Args:
    config: ConfigDict; reads `input.pp`, without building it.
    side: int, value of --image_size, or None.

  Returns:
    (height, width) in pixels.

  Raises:
    ValueError: the preprocessing does not tell.
  """
  if side:
    return side, side
  pp = config.input.get("pp")
  size = None
  for op, arguments in _OP.findall(pp if isinstance(pp, str) else ""):
    call = ast.parse(op + arguments, mode="eval").body
    named = {k.arg: k.value for k in call.keywords}
    node = call.args[0] if call.args else named.get(_SIZES[op])
    if node is not None:
      size = ast.literal_eval(node)
  if not size:
    raise ValueError(
      f"config.input.pp = {pp!r} does not tell the size of images, by one of "
      f"{', '.join(_SIZES)}. Use --image_size."
    )
  return (size, size) if isinstance(size, int) else tuple(size)[:2]


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


def main(argv: Sequence[str]) -> None:
  """Plans what the flags ask for."""
  del argv
  args = flags.FLAGS
  if args.config is None:
    raise SystemExit("--config is required: the config of a training.")
  logging.set_verbosity(logging.WARNING)
  config = flat_config.modern(args.config)
  if "input" not in config:
    raise SystemExit("config.input is required: --config is of no training.")
  try:
    mesh = parse_mesh(args.mesh, config.get("mesh"), args.devices)
    size = image_size(config, args.image_size)
    build = importlib.import_module(args.trainer).build
    costs, figures = plan(build, config, mesh, size, args.chip)
    print(show(figures), flush=True)
    if args.advice and not all(c["fits"] for c in figures["chips"].values()):
      print("\nLooking for what would help …\n", flush=True)
      advise(build, config, costs, figures)
      print(show_advice(figures))
  except ValueError as e:
    raise SystemExit(str(e)) from e
  if args.json:
    with open(args.json, "w", encoding="utf-8") as f:
      json.dump(figures, f, indent=2)


if __name__ == "__main__":
  app.run(main)
