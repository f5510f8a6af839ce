"""FLOPs against counts by hand."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from big_vision.planning import flops
from plans import trace


@pytest.mark.parametrize(
  "fn, shapes, want",
  [
    (lambda a, b: a @ b, [(3, 4), (4, 5)], 2 * 3 * 4 * 5),
    (
      lambda a, b: jnp.einsum("bij,bjk->bik", a, b),
      [(7, 3, 4), (7, 4, 5)],
      7 * 2 * 3 * 4 * 5,
    ),
    (lambda a: a + a * 3, [(10,)], 20),
    (lambda a: a.sum(), [(10, 3)], 30),
    (lambda a: a**4, [(10,)], 30),
    (lambda a: jnp.exp(a), [(10,)], 0),  # XLA lists these apart.
    (
      lambda a: lax.scan(lambda c, _: (c * 2, None), a, length=6)[0],
      [(10,)],
      60,
    ),
    (
      lambda a: lax.cond(a[0] > 0, lambda x: x * 2 + 1, lambda x: x, a),
      [(10,)],
      20 + 1,
    ),
  ],
)
def test_flops(fn, shapes, want):
  assert flops.count(trace(fn, *shapes))[0] == want


@pytest.mark.parametrize(
  "stride, padding", [(1, "SAME"), (2, "SAME"), (3, "VALID")]
)
@pytest.mark.parametrize("dilation", [1, 2])
def test_flops_of_convolutions(stride, padding, dilation):
  """Pairs of numbers that are multiplied, counted with ones."""
  args = dict(
    window_strides=(stride, stride),
    padding=padding,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  conv = lambda x, k: lax.conv_general_dilated(x, k, **args)
  shapes = (2, 9, 8, 3), (3, 2, 3, 5)
  pairs = conv(*map(jnp.ones, shapes)).sum()
  total, products = flops.count(trace(conv, *shapes))
  assert total == products == 2 * pairs


@pytest.mark.parametrize(
  "fn, want",
  [
    (lambda x: lax.cumsum(x), 12),
    (lambda x: jnp.argmax(x, 1), 12),
    (lambda x: x**-3, 3 * 12),  # Two by squaring, and a division.
    (lambda x: x / (x + 1), 2 * 12),
    (lambda x: jnp.sort(x), 0),
    (lambda x: x.reshape(4, 3).T, 0),
    (
      lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2), (1, 2), "VALID"),
      3 * 2 * 2,
    ),
    # The branch that takes longer; one iteration of a loop of unknown length.
    (lambda x: lax.cond(x[0, 0] > 0, lambda x: x + x, lambda x: x @ x.T @ x, x),
     1 + 2 * (3 * 4 * 3 + 3 * 3 * 4)),
    (lambda x: lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x * x, x), 12),
  ],
)  # fmt: skip
def test_flops_of_other_operations(fn, want):
  assert flops.count(trace(fn, (3, 4)))[0] == want


def test_products_are_counted_apart():
  total, products = flops.count(trace(lambda a, b: a @ b + 1, (3, 4), (4, 5)))
  assert (total, products) == (2 * 60 + 15, 2 * 60)


def test_shares():
  g = trace(lambda a, b: a @ b + 1, (3, 4), (4, 5))
  share = lambda op: 2 if op.name == "dot_general" else 1
  assert flops.count(g, share) == (60 + 15, 60)


def test_of_function():
  """What a training asks: of a function of trees, by shapes alone."""
  x = jax.ShapeDtypeStruct((7, 4), np.float32)
  params = {"w": jax.ShapeDtypeStruct((4, 5), np.float32)}
  loss = lambda params, x: (x @ params["w"]).sum()
  forward = 2 * 7 * 4 * 5
  assert flops.of_function(loss, params, x) == forward + 7 * 5
  # The gradient by the weights is one more product; the sum is not needed.
  assert flops.of_function(jax.grad(loss), params, x) == forward


def test_counting_needs_nothing_of_a_training():
  """So a training can use it."""
  code = """
import sys
from big_vision.planning import flops
assert not [m for m in sys.modules if m.startswith("big_vision.training")]
"""
  subprocess.run([sys.executable, "-c", code], check=True)


def test_derivatives_cost_the_same_on_all_versions():
  """JAX 0.11 made one operation of `1 - y²`."""
  n = 100
  got = flops.count(trace(jax.grad(lambda x: jnp.tanh(x).sum()), (n,)))[0]
  assert 2 * n <= got <= 4 * n
