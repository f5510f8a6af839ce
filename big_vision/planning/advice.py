"""Finds what would make a run fit, by planning it with one thing changed."""

import math
from collections.abc import Iterator, Sequence

import ml_collections as mlc

from big_vision import precision
from big_vision.planning import costs as costs_lib
from big_vision.planning import trace
from big_vision.planning.chips import Chip

_FACTORS = (2, 4, 8, 16, 32, 64, 128, 256)


def changes(
  config: mlc.ConfigDict, mesh: dict[str, int], batch_axes: Sequence[str]
) -> Iterator[tuple[str, int, mlc.ConfigDict, dict[str, int]]]:
  """Yields ways to save memory that a config does not use yet.

  Args:
    config: ConfigDict of a run.
    mesh: dict of axis name -> size.
    batch_axes: axes that split the batch.

  Yields:
    (description, factor, changed config, changed mesh); the factor is that by
    which there are fewer examples at a time on a device, 1 for other changes.
  """

  def changed(**kw):
    return mlc.ConfigDict(config.copy_and_resolve_references().to_dict() | kw)

  axis = batch_axes[0]
  strategy = config.get("sharding_strategy") or ()
  if not any("fsdp" in tactic for _, tactic in strategy) and mesh[axis] > 1:
    rule = [(".*", f'fsdp(axis="{axis}")')]
    text = f"config.sharding_strategy = {rule}"
    yield text, 1, changed(sharding_strategy=rule), mesh
  model = (config.get("model") or mlc.ConfigDict()).to_dict()
  for key, value, models in (
    ("scan", True, ("vit",)),
    ("dtype_mm", "bfloat16", ("vit", "mlp_mixer")),
  ):
    value_now = precision.with_dtype(config, model).get(key)
    if config.model_name in models and value_now != value:
      text = f"config.model.{key} = {value!r}"
      yield text, 1, changed(model={**model, key: value}), mesh
  accum = config.get("grad_accum_steps") or 1
  unit = math.prod(mesh.values()) * accum
  factors = [f for f in _FACTORS if config.input.batch_size % (unit * f) == 0]
  for f in factors:
    text = f"config.grad_accum_steps = {accum * f}"
    yield text, f, changed(grad_accum_steps=accum * f), mesh
  for f in factors:
    larger = {**mesh, axis: mesh[axis] * f}
    text = ",".join(f"{name}={size}" for name, size in larger.items())
    yield f"--mesh {text}", f, config, larger


def find(
  build: trace.Build,
  config: mlc.ConfigDict,
  mesh: dict[str, int],
  image_size: tuple[int, int],
  chips: Sequence[Chip],
  costs: costs_lib.Costs,
) -> dict[str, list[tuple[str, int]]]:
  """Finds single changes after which a run fits on chips where it does not.

  Args:
    build: `Setup -> Recipe`.
    config: ConfigDict of the run.
    mesh: dict of axis name -> size.
    image_size: (height, width) in pixels.
    chips: list of Chip that are too small.
    costs: Costs of the run as it is.

  Returns:
    dict of chip name -> list of (description, bytes on a device then). Of more
    micro-batches or devices the least that suffice.
  """
  found = {chip.name: [] for chip in chips}
  settled = set()  # (chip, kind of change) for which the least is known.
  axes = costs.program.batch_axes
  fixed = _not_split(costs)
  for text, factor, new, larger in changes(config, mesh, axes):
    kind = text.partition("=")[0]
    left = [
      chip
      for chip in chips
      if (chip.name, kind) not in settled
      and costs_lib.fits_in(
        _at_least(costs, chip, factor, fixed, more=larger != mesh), chip
      )
    ]
    if not left:
      continue
    then = costs_lib.estimate(build, new, larger, image_size)
    for chip in left:
      if then.fits(chip):
        found[chip.name].append((text, then.bytes(chip.kind)))
        settled.add((chip.name, kind))
  return found


def _not_split(costs):
  """Bytes of the state that every device has whole, however many there are."""
  program = costs.program
  rows = [row for part in program.state for row in trace.leaves(program, part)]
  return sum(local for *_, whole, local in rows if local == whole)


def _at_least(costs, chip, factor, fixed, more):
  """Bytes below which a change cannot get: not worth planning if too many.

  Args:
    costs: Costs without the change.
    chip: Chip.
    factor: int, by which there are fewer examples at a time.
    fixed: bytes of the state that stays whole.
    more: bool, whether there are more devices, over which the rest of the state
      may be split, too; otherwise only activations become less.
  """
  now = costs.bytes(chip.kind)
  if more:
    return fixed + (now - fixed) / factor
  if factor == 1:
    return 0
  activations = costs.temporary(chip.kind)["activations"]
  return now - activations + activations / factor
