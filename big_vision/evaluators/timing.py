"""Measures how fast a predict function is, on random inputs.

It reads no data; it times the model alone, compiled as evaluators run it.
"""

import collections
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from big_vision import devices as bv_devices
from big_vision.types import Devices, PredictFn, TrainState

API = "jit"

INPUTS = ("image", "labels")  # Names of the inputs, in the order of the shapes.


class Evaluator:
  """Yields the speed of one predict function.

  `img_per_sec` and `secs_per_batch` are medians over rounds, `img/sec/core` is
  per device. `secs_to_first_batch` includes the compilation, without a cache of
  programs all of it. `gflops_per_img` is the floating-point operations that XLA
  counts, a multiplication with an addition being two, over 10^9.
  """

  def __init__(
    self,
    predict_fn: PredictFn,
    *,
    input_shapes: Sequence[Sequence[int]],
    batch_size: int,
    devices: Devices,
    input_types: Sequence[str] | None = None,
    timing: bool = True,
    rounds: int = 5,
    secs_per_round: float = 1.0,
  ) -> None:
    """Makes the inputs.

    Args:
      predict_fn: `(train_state, batch) -> anything`, of which all is computed.
      input_shapes: shapes of one example of `image` and, if there are two, of
        `labels`.
      batch_size: global batch size.
      devices: flat array of devices in the order of the mesh.
      input_types: dtypes of the inputs, by default all float32.
      timing: False only counts operations, without running anything.
      rounds: number of measurements, of which the medians are taken.
      secs_per_round: for about so many seconds batches follow each other, at
        least one of them, before the host waits for the devices.

    Raises:
      ValueError: inputs without names or types, or a batch that does not fit the
        devices.
    """
    bv_devices.check_batch_size(batch_size, devices)
    types = input_types or ["float32"] * len(input_shapes)
    if len(types) != len(input_shapes) or len(types) > len(INPUTS):
      raise ValueError(
        f"input_shapes={input_shapes} should have an entry for each of "
        f"input_types={types}, at most {len(INPUTS)}: {', '.join(INPUTS)}."
      )
    self.predict_fn = jax.jit(predict_fn)
    self.batch_size, self.num_devices = batch_size, len(devices)
    self.timing, self.rounds, self.secs_per_round = (
      timing, rounds, secs_per_round,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    self.batch = {
      name: rng.normal(size=(batch_size, *shape)).astype(dtype)
      for name, shape, dtype in zip(INPUTS, input_shapes, types, strict=False)
    }
    where = bv_devices.batch_sharding(devices)
    self.batch = bv_devices.reshard(self.batch, where)

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Measures the predict function.

    Args:
      train_state: first argument of the predict function.

    Yields:
      (name, float).
    """
    args = train_state, self.batch
    cost: Any = self.predict_fn.lower(*args).cost_analysis()
    yield "gflops_per_img", cost["flops"] / self.batch_size / 1e9
    if not self.timing:
      return
    yield "secs_to_first_batch", self._seconds(args, 1)
    batches = max(1, round(self.secs_per_round / self._seconds(args, 1)))
    secs = statistics.median(
      self._seconds(args, batches) / batches for _ in range(self.rounds)
    )
    yield "secs_per_batch", secs
    yield "img_per_sec", self.batch_size / secs
    yield "img/sec/core", self.batch_size / secs / self.num_devices

  def _seconds(self, args: tuple[Any, ...], batches: int) -> float:
    """Measures the seconds of wall time for so many batches."""
    start = time.perf_counter()
    running = collections.deque()
    for _ in range(batches):
      running.append(self.predict_fn(*args))
      # One waits while one runs: devices are busy, and results do not pile up.
      if len(running) > 1:
        jax.block_until_ready(running.popleft())
    jax.block_until_ready(running)
    return time.perf_counter() - start
