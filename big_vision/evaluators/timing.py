"""Timing: how fast a predict function is, on random inputs.

No data is read: what is measured is the model, compiled as evaluators run it.
"""

import collections
import statistics
import time

import jax
import numpy as np

from big_vision import devices as bv_devices
from big_vision.evaluators import common

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
    predict_fn,
    *,
    input_shapes,
    batch_size,
    devices,
    input_types=None,
    timing=True,
    rounds=5,
    secs_per_round=1.0,
  ):
    """Makes the inputs.

    Args:
      predict_fn: `(train_state, batch) -> anything`, of which all is computed.
      input_shapes: list of the shapes of one example of `image` and, if there are
        two, `labels`.
      batch_size: int, global batch size.
      devices: flat array of devices in the order of the mesh.
      input_types: list of dtypes, by default all float32.
      timing: bool; False only counts operations, without running anything.
      rounds: int.
      secs_per_round: float, for about so long batches follow each other, at least
        one of them, before the host waits for the devices.

    Raises:
      ValueError: inputs without names or types, or a batch that does not fit the
        devices.
    """
    common.check_batch_size(batch_size, devices)
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

  def run(self, train_state):
    """Measures; yields (name, float)."""
    args = train_state, self.batch
    flops = self.predict_fn.lower(*args).cost_analysis()["flops"]
    yield "gflops_per_img", flops / self.batch_size / 1e9
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

  def _seconds(self, args, batches):
    """Seconds of wall time for so many batches."""
    start = time.perf_counter()
    running = collections.deque()
    for _ in range(batches):
      running.append(self.predict_fn(*args))
      # One waits while one runs: devices are busy, and results do not pile up.
      if len(running) > 1:
        jax.block_until_ready(running.popleft())
    jax.block_until_ready(running)
    return time.perf_counter() - start
