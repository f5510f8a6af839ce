"""Accelerators: memory, speed and network, from the vendors' pages.

TPUs: the pages "TPU v2", "TPU v3", "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" and
"TPU7x (Ironwood)" of the Google Cloud TPU documentation (per chip: peak bf16
compute, HBM capacity and bandwidth, inter-chip interconnect bandwidth), and for
the links of v2 and v3 table 1 of "A Domain-Specific Supercomputer for Training
Deep Neural Networks" (Jouppi et al. 2020). GPUs: the data sheets of NVIDIA for
each (dense, without sparsity; SXM unless the name says otherwise; half precision
where there is no bfloat16), and "NVIDIA DGX-1", "NVIDIA DGX A100", "NVIDIA DGX
H100/H200" and "NVIDIA DGX B200" for the network. A card without NVLink sends
over PCIe.
"""

import dataclasses
from collections.abc import Iterable

from big_vision import lookup


@dataclasses.dataclass(frozen=True)
class Chip:
  """Describes one chip.

  Attributes:
    name: as in `--chip`.
    kind: "TPU" or "GPU".
    hbm: memory in GiB.
    tflops: peak of dense bfloat16 products, 10¹² FLOP/s.
    hbm_speed: GB/s (10⁹ bytes) to and from that memory.
    link_speed: GB/s that it sends over all its links together.
    group: number of chips that these links join: a pod, a machine with NVLink.
    group_speed: GB/s that such a group sends to others; None if the vendor
      gives no such figure.
    devices: how many JAX devices it is, that share all this equally.
    kinds: how `jax.Device.device_kind` of such a device begins.
  """

  name: str
  kind: str
  hbm: float
  tflops: float
  hbm_speed: float
  link_speed: float
  group: int
  group_speed: float | None = None
  devices: int = 1
  kinds: tuple[str, ...] = ()

  @property
  def bytes(self) -> float:
    """Memory of a JAX device in bytes."""
    return self.hbm * 2**30 / self.devices

  @property
  def flops(self) -> float:
    """Peak of a JAX device in FLOP/s, of dense bfloat16 products."""
    return self.tflops * 1e12 / self.devices

  def compute_seconds(self, flops: float) -> float:
    """Returns the seconds that a device needs at least for so many FLOPs."""
    return flops / self.flops

  def memory_seconds(self, nbytes: float) -> float:
    """Returns the seconds in which a device can read or write so many bytes."""
    return nbytes / (self.hbm_speed * 1e9 / self.devices)

  def network_seconds(self, nbytes: float, num_devices: int) -> float:
    """Returns the seconds in which each of some devices can send so many bytes.

    A ring through several groups is as fast as its slowest link; each device of
    a group has a ring, and they share what leaves the group.

    Args:
      nbytes: that each device sends.
      num_devices: JAX devices in the ring.

    Returns:
      Seconds.
    """
    speed = self.link_speed / self.devices
    if num_devices > self.group * self.devices and self.group_speed:
      speed = min(speed, self.group_speed)
    return nbytes / (speed * 1e9)


_ALL = (
  # A chip of v2, v3 and TPU7x is two JAX devices; of the others it is one.
  Chip("v2", "TPU", 16, 45, 700, 248, group=256, devices=2, kinds=("TPU v2",)),
  Chip("v3", "TPU", 32, 123, 900, 328, group=1024, devices=2, kinds=("TPU v3",)),
  Chip("v4", "TPU", 32, 275, 1228, 300, group=4096, kinds=("TPU v4",)),
  Chip(
    "v5e", "TPU", 16, 197, 819, 200, group=256,
    kinds=("TPU v5e", "TPU v5 lite"),
  ),
  Chip("v5p", "TPU", 95, 459, 2765, 600, group=8960, kinds=("TPU v5",)),
  Chip("v6e", "TPU", 32, 918, 1640, 448, group=256, kinds=("TPU v6",)),
  Chip(
    "7x", "TPU", 192, 2307, 7380, 1200, group=9216, devices=2,
    kinds=("TPU7x",),
  ),
  Chip("t4", "GPU", 16, 65, 320, 16, group=1, kinds=("Tesla T4",)),
  Chip(
    "v100", "GPU", 32, 125, 900, 150, group=8, group_speed=50,
    kinds=("Tesla V100",),
  ),
  Chip("a10", "GPU", 24, 125, 600, 32, group=1, kinds=("NVIDIA A10",)),
  Chip("l4", "GPU", 24, 121, 300, 32, group=1, kinds=("NVIDIA L4",)),
  Chip(
    "a100-40", "GPU", 40, 312, 1555, 300, group=8, group_speed=200,
    kinds=("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
  ),
  Chip(
    "a100-80", "GPU", 80, 312, 2039, 300, group=8, group_speed=200,
    kinds=("NVIDIA A100",),
  ),
  Chip(
    "h100", "GPU", 80, 989, 3350, 450, group=8, group_speed=400,
    kinds=("NVIDIA H100",),
  ),
  Chip(
    "h100-pcie", "GPU", 80, 756, 2000, 300, group=2,
    kinds=("NVIDIA H100 PCIe",),
  ),
  Chip(
    "h200", "GPU", 140, 989, 4800, 450, group=8, group_speed=400,
    kinds=("NVIDIA H200",),
  ),
  Chip(
    "b200", "GPU", 180, 2250, 8000, 900, group=8, group_speed=400,
    kinds=("NVIDIA B200",),
  ),
)  # fmt: skip
CHIPS = {chip.name: chip for chip in _ALL}
# Those of large trainings; a plan has the others if it is asked for them.
USUAL = ("v3", "v4", "v5e", "v5p", "v6e", "a100-40", "a100-80", "h100", "h200")


def get(names: Iterable[str]) -> list[Chip]:
  """Looks up chips by name.

  Args:
    names: as in `--chip`; none for the usual ones.

  Returns:
    List of Chip.

  Raises:
    ValueError: unknown name.
  """
  names = list(names)
  for name in names:
    if name not in CHIPS:
      raise ValueError(
        f"--chip: unknown chip {name!r}{lookup.did_you_mean(name, CHIPS)}"
      )
  return [CHIPS[name] for name in names or USUAL]


def of_device(device_kind: str) -> Chip | None:
  """Finds the chip of a JAX device.

  Args:
    device_kind: `jax.Device.device_kind`.

  Returns:
    The Chip, or None if it is not in the table.
  """
  matches = [
    (len(start), chip)
    for chip in _ALL
    for start in chip.kinds
    if device_kind.startswith(start)
  ]
  return max(matches, key=lambda match: match[0])[1] if matches else None
