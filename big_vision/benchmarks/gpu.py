"""Measures training steps, forward passes and attention of one accelerator.

Each function measures one row and returns its figures. `tools/benchmark_gpu.py`
says which rows there are, how long they may take, and prints them.

Shapes: `B` batch, `T` tokens, `N` heads, `H` size of a head.
"""

import argparse
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision.benchmarks import steps
from big_vision.models import attention as model_attention
from big_vision.pipeline import prefetch
from big_vision.planning import chips, flops
from big_vision.training import user_errors

# What a round of a measurement takes at least, in seconds, and their number.
ROUND_SECONDS, ROUNDS = 1.0, 3
# The first steps after compilation are slower: buffers and clocks settle.
WARMUP = 5
_HOST_BATCHES = 3  # That are sent in turns, so that none is in a cache.


def describe() -> dict[str, Any]:
  """Returns card, driver and versions."""
  from big_vision import compat
  from big_vision.launching import gpus

  device = jax.devices()[0]
  return {
    "card": device.device_kind,
    "platform": device.platform,
    "devices": jax.device_count(),
    "driver": gpus.driver() or "none",
    "jax": jax.__version__,
    "jaxlib": jax.lib.__version__,
    **compat.cuda_versions(),
  }


def seconds(run: Callable[[int], Any], warmup: int = WARMUP) -> dict[str, Any]:
  """Times a function.

  Args:
    run: `run(n)` does something n times and waits for the end.
    warmup: how often before.

  Returns:
    Seconds of one time: `median` and `best` of the rounds, and `times` in each.
  """
  run(warmup)
  start = time.perf_counter()
  run(1)
  once = max(time.perf_counter() - start, 1e-6)
  num = min(max(math.ceil(ROUND_SECONDS / once), 2), 1000)
  found = []
  for _ in range(ROUNDS):
    start = time.perf_counter()
    run(num)
    found.append((time.perf_counter() - start) / num)
  return {"median": statistics.median(found), "best": min(found), "times": num}


class Size:
  """A ViT in training, with the largest batch that fits.

  Attributes:
    args: of `steps.make_trainer`; `batch` is the batch size that was found.
    trainer: its Trainer.
    model: linen module.
  """

  def __init__(
    self,
    variant: str,
    batch: int,
    *,
    res: int = 224,
    classes: int = 1000,
    dtype: str = "bfloat16",
    model_kw: str = "{}",
    options: dict[str, Any] | None = None,
    time_left: Callable[[], float] = lambda: math.inf,
  ):
    """Compiles the step; halves the batch until it fits into the memory.

    Args:
      variant: as `config.model.variant`.
      batch: images to begin with.
      res: side of the images.
      classes: number of classes.
      dtype: as `config.precision`.
      model_kw: JSON, more fields of the model.
      options: for the compiler, besides those of a run.
      time_left: seconds; no other batch is tried if the last took longer.

    Raises:
      RuntimeError: no batch fits, or the time is over.
    """
    while True:
      self.args = argparse.Namespace(
        model="vit",
        variant=variant,
        model_kw=model_kw,
        res=res,
        batch=batch,
        classes=classes,
        dtype=dtype,
        devices=1,
        uint8=True,
      )
      start = time.perf_counter()
      try:
        self.trainer, self.model = steps.make_trainer(self.args)
        self.trainer.first_step(options)
        break
      except Exception as e:
        if not user_errors.is_out_of_memory(e):
          raise
      self.trainer = None
      gc.collect()  # Of what the error still holds.
      if batch == 1 or time_left() < time.perf_counter() - start:
        raise RuntimeError(f"out of memory with {batch} images")
      batch //= 2
    self.seconds_to_first_step = self.trainer.seconds_to_first_step
    self.flops = self.trainer.planned_flops()

  def step(self) -> dict[str, Any]:
    """Measures the step, with a batch of uint8 that stays on the device."""
    return self._row(seconds(self.trainer.run), self.flops) | {
      "seconds_to_first_step": self.seconds_to_first_step,
      **memory(self.trainer.compiled),
    }

  def fed(self) -> dict[str, Any]:
    """Measures the step, fed with batches of uint8 from the host."""
    with_others = [self.trainer.host_batch]
    for i in range(1, _HOST_BATCHES):
      with_others.append(
        {k: np.roll(x, i, axis=0) for k, x in with_others[0].items()}
      )
    put = lambda batch: jax.device_put(batch, self.trainer.where)
    batches = prefetch.PrefetchIterator(
      map(put, itertools.cycle(with_others)), 2, start=True
    )
    try:
      found = seconds(lambda n: self.trainer.run(n, batches))
    finally:
      batches.close()
    return self._row(found, self.flops)

  def forward(self) -> dict[str, Any]:
    """Measures the forward pass, as an evaluation has it."""

    def fn(params, batch):
      image = steps.scaled(batch)["image"]
      return self.model.apply({"params": params}, image)[0]

    args = self.trainer.state["params"], {"image": self.trainer.batch["image"]}
    counted = flops.of_function(fn, *_shapes(args))
    compiled = jax.jit(fn).lower(*args).compile()
    return self._row(seconds(_repeat(compiled, *args)), counted)

  def _row(self, found, counted):
    """Makes figures of seconds and FLOPs."""
    second = found["median"]
    peak = peak_flops()
    return {
      "batch": self.args.batch,
      "milliseconds": 1e3 * second,
      "milliseconds_best": 1e3 * found["best"],
      "images_per_second": self.args.batch / second,
      "mfu": counted / second / peak if peak else None,
    }


def peak_flops() -> float | None:
  """Returns the peak of the first device in bfloat16; None if it is unknown."""
  chip = chips.of_device(jax.devices()[0].device_kind)
  return chip.flops if chip else None


def memory(compiled: Any) -> dict[str, float]:
  """Returns what a compiled program needs besides its arguments, in GiB."""
  found = compiled.memory_analysis()
  return {"temporary_gib": found.temp_size_in_bytes / 2**30} if found else {}


def _shapes(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _repeat(compiled: Callable[..., Any], *args: Any) -> Callable[[int], None]:
  """Makes a function for `seconds` that calls a compiled one."""

  def run(num):
    out = None
    for _ in range(num):
      out = compiled(*args)
    jax.block_until_ready(out)

  return run


# Attention.


def attention_rows(
  lengths: list[int], head_sizes: list[int]
) -> Iterator[dict[str, Any]]:
  """Lists what is measured of attention.

  Args:
    lengths: of T.
    head_sizes: of H.

  Yields:
    Arguments of `attention`.
  """
  for size, length in itertools.product(head_sizes, lengths):
    row = dict(length=length, head_size=size, padded=length)
    for kind in ("models", "flax", "xla", "cudnn"):
      yield {**row, "kind": kind}
    # Lengths that kernels have been made for, near to those of 14 x 14 patches.
    for padded in (200, 208, 256):
      if length in (196, 197):
        yield {**row, "kind": "cudnn", "padded": padded}


def why_not(kind: str) -> str | None:
  """Says why a kind of attention cannot be measured here; None if it can."""
  device = jax.devices()[0]
  if kind == "cudnn" and device.platform not in ("gpu", "cuda"):
    return f"cudnn needs an NVIDIA GPU, this is {device.platform}"
  return None


def attention(
  kind: str,
  length: int,
  head_size: int,
  padded: int,
  tokens: int = 50_000,
  width: int = 1024,
) -> dict[str, Any]:
  """Measures attention in bfloat16, forward and backward.

  Args:
    kind: "models" is that of `models/attention.py`, "flax"
      `nn.dot_product_attention`; the others are implementations of
      `jax.nn.dot_product_attention`.
    length: T.
    head_size: H.
    padded: T of the arrays; what is beyond `length` is padding.
    tokens: B is about this divided by T.
    width: N is about this divided by H.

  Returns:
    Figures; `tflops` counts 12 B N T² H, without padding.
  """
  batch, heads = max(tokens // length, 1), max(width // head_size, 1)
  rng = np.random.default_rng(0)
  shape = (batch, padded, heads, head_size)
  draw = lambda: jnp.asarray(rng.standard_normal(shape, np.float32), "bfloat16")
  q, k, v, weights = (draw() for _ in range(4))
  kw: dict[str, Any] = {}
  if padded != length:
    same = jnp.full([batch], length, jnp.int32)
    kw = dict(query_seq_lengths=same, key_value_seq_lengths=same)

  def loss(q, k, v):
    if kind == "models":
      x = model_attention.dot_product_attention(q, k, v)
    elif kind == "flax":
      x = nn.dot_product_attention(q, k, v)
    else:
      x = jax.nn.dot_product_attention(q, k, v, implementation=kind, **kw)
    # Rows of padding have no meaning.
    product = x[:, :length] * weights[:, :length]
    return jnp.sum(product, dtype=jnp.float32)

  fn = jax.value_and_grad(loss, argnums=(0, 1, 2))
  compiled = jax.jit(fn).lower(q, k, v).compile()
  second = seconds(_repeat(compiled, q, k, v))["median"]
  counted = 12 * batch * heads * length**2 * head_size
  return {
    "batch": batch,
    "heads": heads,
    "milliseconds": 1e3 * second,
    "microseconds_per_image": 1e6 * second / batch,
    "tflops": counted / second / 1e12,
    **memory(compiled),
  }


# Recomputation.

RECOMPUTATION: Mapping[str, str] = {
  "layers apart": "{}",
  "scan, nothing again": '{"scan": true, "remat_policy": "everything_saveable"}',
  "scan, all but products of weights again": (
    '{"scan": true, "remat_policy": "dots_with_no_batch_dims_saveable"}'
  ),
  "scan, all again": '{"scan": true, "remat_policy": "nothing_saveable"}',
}
