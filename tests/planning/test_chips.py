"""The table of accelerators, and bounds of their time."""

import pytest

from big_vision.planning import chips
from big_vision.tools import benchmark


def test_seconds():
  h100 = chips.CHIPS["h100"]
  assert h100.compute_seconds(989e12) == 1
  assert h100.memory_seconds(3.35e12) == 1
  # NVLink within a machine of 8, the slower network beyond it.
  assert h100.network_seconds(450e9, 8) == 1
  assert h100.network_seconds(400e9, 16) == 1
  # A TPU v3 chip is two devices, which share it.
  v3 = chips.CHIPS["v3"]
  assert v3.bytes == 16 * 2**30
  assert v3.compute_seconds(61.5e12) == 1
  assert (
    v3.network_seconds(164e9, 4096) == 1
  )  # The vendor tells no other speed.


def test_get():
  names = lambda *wanted: [chip.name for chip in chips.get(wanted)]
  assert names("h100", "v4") == ["h100", "v4"]
  assert names() == list(chips.USUAL)
  assert [c.name for c in chips.get(iter(["t4"]))] == ["t4"]
  with pytest.raises(ValueError, match="--chip: unknown chip 'h10'.*'h100'"):
    chips.get(["v4", "h10"])


@pytest.mark.parametrize(
  "kind, name, flops",
  [
    ("TPU v2", "v2", 22.5e12),
    ("TPU v3", "v3", 61.5e12),
    ("TPU v4", "v4", 275e12),
    ("TPU v5 lite", "v5e", 197e12),
    ("TPU v5e", "v5e", 197e12),
    ("TPU v5p", "v5p", 459e12),
    ("TPU v5", "v5p", 459e12),
    ("TPU v6 lite", "v6e", 918e12),
    ("TPU7x", "7x", 1153.5e12),
    ("Tesla T4", "t4", 65e12),
    ("Tesla V100-SXM2-32GB", "v100", 125e12),
    ("NVIDIA A10", "a10", 125e12),
    ("NVIDIA A10G", "a10", 125e12),
    ("NVIDIA L4", "l4", 121e12),
    ("NVIDIA A100-SXM4-40GB", "a100-40", 312e12),
    ("NVIDIA A100-SXM4-80GB", "a100-80", 312e12),
    ("NVIDIA A100 80GB PCIe", "a100-80", 312e12),
    ("NVIDIA H100 80GB HBM3", "h100", 989e12),
    ("NVIDIA H100 PCIe", "h100-pcie", 756e12),
    ("NVIDIA H200", "h200", 989e12),
    ("NVIDIA B200", "b200", 2250e12),
  ],
)
def test_chip_of_a_device(kind, name, flops):
  assert chips.of_device(kind).name == name
  assert chips.of_device(kind).flops == benchmark.peak_flops(kind) == flops


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA Z1", "TPU", ""])
def test_unknown_device(kind):
  assert chips.of_device(kind) is None and benchmark.peak_flops(kind) is None


def test_kinds_are_of_one_chip():
  kinds = [kind for chip in chips.CHIPS.values() for kind in chip.kinds]
  assert len(set(kinds)) == len(kinds) and all(
    chip.kinds for chip in chips.CHIPS.values()
  )
