"""Meshes over one or several slices, of devices that are not there."""

import dataclasses

import jax
import numpy as np
import pytest

from big_vision import devices, meshes


@dataclasses.dataclass(frozen=True)
class Device:
  """What JAX looks at to lay out devices other than TPUs."""

  id: int
  process_index: int = 0
  slice_index: int | None = None
  platform: str = "cpu"
  device_kind: str = "cpu"


def of_slices(num, per_slice):
  """Devices in an order that mixes the slices."""
  found = [Device(i, i // 2, i // per_slice) for i in range(num * per_slice)]
  return found[::2] + found[1::2]


def ids(grid):
  return np.vectorize(lambda d: d.id)(grid).tolist()


def test_slices_are_outside():
  eight = of_slices(2, 4)
  names, sizes = ["data", "model"], [4, 2]
  grid = meshes.arrange(eight, names, sizes, [("data", 2)])
  # The rows of one slice come after those of the other; `model` is within one.
  assert {d.slice_index for d in grid[:2].flat} == {0}
  assert {d.slice_index for d in grid[2:].flat} == {1}
  assert sorted(d.id for d in grid.flat) == list(range(8))
  grid = meshes.arrange(eight, names, sizes, [("model", 2)])
  assert {d.slice_index for d in grid[:, 0]} == {0}
  assert {d.slice_index for d in grid[:, 1]} == {1}


def test_slices_on_two_axes():
  grid = meshes.arrange(
    of_slices(4, 4), ["data", "model"], [4, 4], [("data", 2), ("model", 2)]
  )
  slices = np.vectorize(lambda d: d.slice_index)(grid)
  np.testing.assert_array_equal(
    slices, np.kron(np.arange(4).reshape(2, 2), np.ones((2, 2)))
  )


def test_several_slices_are_on_the_first_axis_by_default():
  eight = of_slices(2, 4)
  names, sizes = ["data", "model"], [4, 2]
  grid = meshes.arrange(eight, names, sizes)
  assert ids(grid) == ids(meshes.arrange(eight, names, sizes, [("data", 2)]))


@pytest.mark.parametrize("slice_index", [None, 0])
def test_processes_are_slices_if_there_is_only_one(slice_index):
  eight = [Device(i, i % 2, slice_index) for i in range(8)]
  names, sizes = ["data", "model"], [4, 2]
  grid = meshes.arrange(eight, names, sizes, [("data", 2)])
  assert {d.process_index for d in grid[:2].flat} == {0}
  assert ids(grid) == [[0, 2], [4, 6], [1, 3], [5, 7]]
  # Without being asked, they do not count.
  assert ids(meshes.arrange(eight, names, sizes)) == [
    [0, 1], [2, 3], [4, 5], [6, 7],
  ]  # fmt: skip


@pytest.mark.parametrize(
  "dcn, message",
  [
    ([("data", 4)], "does not fit the 2 slices"),
    ([], "does not fit the 2 slices"),
    ([("date", 2)], "no axis 'date'. Did you mean 'data'"),
    ([("data", 3)], "4 devices of the axis 'data'.* 3 parts"),
    ([("data", 0)], "0 parts"),
    (["data"], "list of"),
    ([("data", "two")], "list of"),
    (2, "list of"),
  ],
)
def test_slices_that_do_not_fit(dcn, message):
  with pytest.raises(ValueError, match=rf"config\.mesh_dcn = .*{message}"):
    meshes.arrange(of_slices(2, 4), ["data", "model"], [4, 2], dcn)


def test_config_key():
  """Here all devices are those of one process."""
  config = {"mesh": [("data", -1), ("model", 2)], "mesh_dcn": [("data", 1)]}
  mesh = devices.mesh_of(config)
  assert dict(mesh.shape) == {"data": 4, "model": 2}
  assert list(mesh.devices.flat) == jax.devices()
  with pytest.raises(ValueError, match="2.* 1 processes"):
    devices.mesh_of({**config, "mesh_dcn": [("data", 2)]})
  assert dict(devices.mesh_of({}).shape) == {"data": 8}
