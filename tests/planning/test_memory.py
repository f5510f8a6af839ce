"""Temporary memory against counts by hand."""

import jax
import jax.numpy as jnp
from jax import lax

from big_vision.planning import memory
from plans import F32, nbytes, trace


def test_memory_of_a_chain():
  """Of products one after the other two are there at a time."""
  n = 64
  fn = lambda x, *ws: x @ ws[0] @ ws[1] @ ws[2] @ ws[3]
  g = trace(fn, *[(n, n)] * 5)
  peak, traffic = memory.peak(g, nbytes)
  assert peak.total() == 2 * n * n * F32
  assert traffic == 4 * 3 * n * n * F32


def test_memory_of_a_gradient():
  """The backward pass reads the activations, which are kept until then."""
  n, layers = 64, 5

  def fn(x, *ws):
    for w in ws:
      x = x @ w
    return x.sum()

  g = trace(
    jax.grad(fn, argnums=range(1, layers + 1)), *[(n, n)] * (layers + 1)
  )
  peak, _ = memory.peak(g, nbytes)
  each = n * n * F32
  # The activations but the last one, or the gradients that take their place,
  # and the one or two buffers that are computed from them.
  assert layers * each <= peak.total() <= (layers + 2) * each


def test_donated_arguments_take_no_memory():
  g = trace(lambda x, y: (x * 2 + y.sum(), y), (1000,), (1000,))
  assert memory.peak(g, nbytes)[0].total() >= 1000 * F32
  peak, _ = memory.peak(g, nbytes, donated=[(0, 0), (1, 1)])
  assert peak.total() <= 4  # The sum.


def test_a_loop_updates_in_place():
  n = 1000

  def fn(x):
    step = lambda c, _: (c * 2 + lax.cumsum(c), None)
    return lax.scan(step, x + 1, length=5)[0].sum()

  peak, traffic = memory.peak(trace(fn, (n,)), nbytes)
  # The carry and the cumulative sum; never a carry for each iteration.
  assert 2 * n * F32 <= peak.total() <= 3 * n * F32 + 100
  # Each iteration reads the carry twice, writes it, and the sum both ways.
  assert 5 * 3 * n * F32 <= traffic <= 5 * 6 * n * F32 + 5 * n * F32


def test_a_loop_stacks_its_results():
  n, length = 1000, 7
  fn = lambda x: lax.scan(lambda c, _: (c * 2, c + 1), x, length=length)[1]
  peak, _ = memory.peak(trace(fn, (n,)), nbytes)
  assert length * n * F32 <= peak.total() <= (length + 2) * n * F32 + 100


def test_a_conditional_needs_its_largest_branch():
  n = 64
  big = lambda x: (x @ x @ x).sum()
  small = lambda x: x.sum()
  one = memory.peak(trace(lambda x: big(x), (n, n)), nbytes)[0].total()
  fn = lambda x: lax.cond(x[0, 0] > 0, big, small, x)
  both = memory.peak(trace(fn, (n, n)), nbytes)[0].total()
  assert one <= both <= one + 100


def test_products_read_what_they_are_fused_with():
  """The exponential is stored on GPUs only; a TPU computes it in the product."""
  n = 64
  g = trace(lambda x, w: jnp.exp(x) @ w, (n, n), (n, n))
  gpu, gpu_traffic = memory.peak(g, nbytes)
  tpu, tpu_traffic = memory.peak(g, nbytes, fused_products=True)
  assert gpu.total() == 2 * n * n * F32 and tpu.total() == n * n * F32
  assert gpu_traffic - tpu_traffic == 2 * n * n * F32
