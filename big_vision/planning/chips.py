"""Accelerators: memory, speed and network, from the vendors' pages.

TPUs: the pages "TPU v3", "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of the
Google Cloud TPU documentation (per chip: peak bf16 compute, HBM capacity and
bandwidth, inter-chip interconnect bandwidth), and for the links of v3 table 1
of "A Domain-Specific Supercomputer for Training Deep Neural Networks" (Jouppi
et al. 2020). GPUs: the data sheets "NVIDIA A100 Tensor Core GPU", "NVIDIA H100
Tensor Core GPU" and "NVIDIA H200 Tensor Core GPU" (SXM, dense, without
sparsity), and "NVIDIA DGX A100" and "NVIDIA DGX H100/H200" for the network.
"""

import dataclasses

from big_vision import lookup


@dataclasses.dataclass(frozen=True)
class Chip:
  """What one chip has.

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

  @property
  def bytes(self):
    """Memory of a JAX device."""
    return self.hbm * 2**30 / self.devices

  def compute_seconds(self, flops):
    """Seconds that a device needs at least for so many FLOPs."""
    return flops / (self.tflops * 1e12 / self.devices)

  def memory_seconds(self, nbytes):
    """Seconds in which a device can read or write so many bytes."""
    return nbytes / (self.hbm_speed * 1e9 / self.devices)

  def network_seconds(self, nbytes, num_devices):
    """Seconds in which each of some devices can send so many bytes.

    A ring through several groups is as fast as its slowest link; each device of
    a group has a ring, and they share what leaves the group.
    """
    speed = self.link_speed / self.devices
    if num_devices > self.group * self.devices and self.group_speed:
      speed = min(speed, self.group_speed)
    return nbytes / (speed * 1e9)


_ALL = (
  # A v3 chip is two JAX devices ("cores"); since v4 a chip is one.
  Chip("v3", "TPU", 32, 123, 900, 328, group=1024, devices=2),
  Chip("v4", "TPU", 32, 275, 1228, 300, group=4096),
  Chip("v5e", "TPU", 16, 197, 819, 200, group=256),
  Chip("v5p", "TPU", 95, 459, 2765, 600, group=8960),
  Chip("v6e", "TPU", 32, 918, 1640, 448, group=256),
  Chip("a100-40", "GPU", 40, 312, 1555, 300, group=8, group_speed=200),
  Chip("a100-80", "GPU", 80, 312, 2039, 300, group=8, group_speed=200),
  Chip("h100", "GPU", 80, 989, 3350, 450, group=8, group_speed=400),
  Chip("h200", "GPU", 140, 989, 4800, 450, group=8, group_speed=400),
)
CHIPS = {chip.name: chip for chip in _ALL}


def get(names):
  """Chips by name.

  Args:
    names: iterable of str; empty for all.

  Returns:
    List of Chip.

  Raises:
    ValueError: unknown name.
  """
  for name in names:
    if name not in CHIPS:
      raise ValueError(
        f"--chip: unknown chip {name!r}{lookup.did_you_mean(name, CHIPS)}"
      )
  return [CHIPS[name] for name in names] or list(CHIPS.values())
