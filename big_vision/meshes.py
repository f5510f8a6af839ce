"""Lays devices out in a mesh, near each other where they talk most.

Devices of a TPU slice, or of a machine with several GPUs, have a fast network
between them (`ici`); between slices it is that of the data center (`dcn`).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.experimental import mesh_utils

from big_vision import lookup


def parse(
  config_mesh: Sequence[tuple[str, int]], num_devices: int
) -> tuple[list[str], list[int]]:
  """Reads `config.mesh`.

  Args:
    config_mesh: sequence of (axis name, size); one size may be -1, which is then
      all the remaining devices.
    num_devices: number of devices.

  Returns:
    (names, sizes) of the axes, with -1 resolved.

  Raises:
    ValueError: the sizes do not fit the number of devices, or the axes are not
      pairs with distinct names.
  """
  hint = 'it is a list of (name, size), for example [("data", -1)].'
  try:
    axes = [(name, int(size)) for name, size in config_mesh]
  except (TypeError, ValueError):
    raise ValueError(f"config.mesh = {config_mesh!r}: {hint}") from None
  names, sizes = [n for n, _ in axes], [s for _, s in axes]
  if not axes or len(set(names)) < len(names):
    raise ValueError(
      f"config.mesh = {config_mesh!r} needs distinct names: {hint}"
    )
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise ValueError(
      f"config.mesh = {config_mesh!r}: sizes are positive, one can be -1; "
      f"{hint}"
    )
  known = math.prod(s for s in sizes if s != -1)
  fits = num_devices % known == 0 if -1 in sizes else num_devices == known
  if not fits:
    raise ValueError(
      f"config.mesh = {config_mesh!r} does not fit the {num_devices} devices: "
      "their number must be the product of the sizes, or a multiple if one of "
      "them is -1."
    )
  return names, [num_devices // known if s == -1 else s for s in sizes]


def arrange(
  devices: Sequence[Any],
  names: Sequence[str],
  sizes: Sequence[int],
  dcn: Sequence[tuple[str, int]] | None = None,
  allow_split_physical_axes: bool = False,
) -> np.ndarray:
  """Puts devices into the shape of a mesh.

  Args:
    devices: all devices. Those with the same `slice_index` are a slice; without
      several of them, those of the same process.
    names: of the axes.
    sizes: of the axes, in devices.
    dcn: sequence of (axis name, number), `config.mesh_dcn`: how many slices an
      axis spans. Slices come first along an axis, then the devices within each.
      None: several TPU slices are all on the first axis, and processes do not
      count.
    allow_split_physical_axes: whether a physical axis of the network may
      be divided among several mesh axes.

  Returns:
    [*sizes] array of devices.

  Raises:
    ValueError: `dcn` does not fit the axes or the number of slices.
  """
  slices = {getattr(d, "slice_index", None) for d in devices}
  if dcn is None and len(slices) > 1:
    dcn = [(names[0], len(slices))]
  if dcn is None:
    return mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=allow_split_physical_axes
    )
  by_process = len(slices) == 1
  if by_process:
    slices = {d.process_index for d in devices}
  outer = _slices(dcn, dict(zip(names, sizes, strict=True)))
  if math.prod(outer) != len(slices):
    kind = "processes" if by_process else "slices"
    raise ValueError(
      f"config.mesh_dcn = {dcn!r} does not fit the {len(slices)} {kind} of these "
      "devices: their number must be the product of its numbers."
    )
  return mesh_utils.create_hybrid_device_mesh(
    [n // m for n, m in zip(sizes, outer, strict=True)],
    outer,
    devices,
    process_is_granule=by_process,
    allow_split_physical_axes=allow_split_physical_axes,
  )


def _slices(dcn, mesh):
  """Returns the number of slices along each axis of the mesh."""
  try:
    numbers = {name: int(number) for name, number in dcn}
  except (TypeError, ValueError):
    raise ValueError(
      f"config.mesh_dcn = {dcn!r}: it is a list of (name of an axis, number of "
      'slices), for example [("data", 2)].'
    ) from None
  for name, number in numbers.items():
    if name not in mesh:
      raise ValueError(
        f"config.mesh_dcn = {dcn!r}: config.mesh has no axis {name!r}"
        f"{lookup.did_you_mean(name, mesh)}"
      )
    if number < 1 or mesh[name] % number:
      raise ValueError(
        f"config.mesh_dcn = {dcn!r}: the {mesh[name]} devices of the axis "
        f"{name!r} of config.mesh do not divide into {number} parts."
      )
  return [numbers.get(name, 1) for name in mesh]
