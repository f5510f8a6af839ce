"""Losses in a ring against the formulas on the matrix of all pairs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import contrastive, losses

B, D = 48, 12

pytestmark = [
  pytest.mark.multidevice,
  pytest.mark.usefixtures("quick_compilation"),
]


def embeddings(seed=0, batch=B):
  r = np.random.default_rng(seed)
  z = r.normal(size=(2, batch, D)).astype(np.float32)
  z[1] += 2 * z[0]  # Texts resemble their images.
  return z / np.linalg.norm(z, axis=-1, keepdims=True)


def plain_sigmoid(x, y, t, b):
  logits = t * jnp.dot(x, y.T, precision="highest") + b
  signs = 2 * jnp.eye(len(x)) - 1
  return -jnp.sum(jax.nn.log_sigmoid(signs * logits)) / len(x)


def plain_softmax(x, y, t, b):
  del b
  return losses.bidirectional_contrastive_loss(x, y, t, reduction=True)[0]


PLAIN = {"sigmoid": plain_sigmoid, "softmax": plain_softmax}
MESHES = {
  "1": {"data": 1},
  "2": {"data": 2},
  "8": {"data": 8},
  "2x4": {"replica": 2, "fsdp": 4},
  "4, model 2": {"data": 4, "model": 2},
}


def make_ring(name, chunk):
  axes = MESHES[name]
  num = int(np.prod(list(axes.values())))
  devices = np.asarray(jax.devices()[:num]).reshape(*axes.values())
  mesh = Mesh(devices, tuple(axes))
  split = tuple(a for a in axes if a != "model")
  return contrastive.Ring(mesh, split, chunk)


@functools.cache
def expected(kind):
  """Value and gradients of the plain formula."""
  fn = jax.jit(jax.value_and_grad(PLAIN[kind], argnums=(0, 1, 2, 3)))
  return fn(*embeddings(), jnp.float32([7.0])[0], jnp.float32(-2.5))


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("mesh, chunk", [
  ("1", 48), ("1", 7), ("2", 24), ("2", 10), ("8", 256), ("8", 4), ("2x4", 5),
  ("4, model 2", 12),
])  # fmt: skip
def test_value_and_gradients(kind, mesh, chunk):
  ring = make_ring(mesh, chunk)
  where = NamedSharding(ring.mesh, PartitionSpec(ring.axes))
  x, y = (jax.device_put(z, where) for z in embeddings())
  fn = lambda *args: getattr(contrastive, kind)(*args, ring)[0]
  with jax.set_mesh(ring.mesh):
    loss, grads = jax.jit(jax.value_and_grad(fn, argnums=(0, 1, 2, 3)))(
      x, y, jnp.float32([7.0]), jnp.float32([-2.5])
    )
  want, want_grads = expected(kind)
  np.testing.assert_allclose(loss, want, rtol=2e-6)
  for got, want in zip(grads, want_grads, strict=True):
    scale = np.abs(want).max() + 1e-6
    np.testing.assert_allclose(
      np.reshape(got, np.shape(want)), want, atol=2e-6 * scale
    )
  assert grads[0].sharding.is_equivalent_to(where, 2)


def test_scaled_gradient_and_bfloat16():
  x, y = embeddings()
  fn = lambda kind: (
    lambda x: 3.0 * getattr(contrastive, kind)(x, y, 5.0, -1.0)[0]
  )
  plain = lambda kind: lambda x: 3.0 * PLAIN[kind](x, y, 5.0, -1.0)
  for kind in PLAIN:
    got, want = jax.grad(fn(kind))(x), jax.grad(plain(kind))(x)
    np.testing.assert_allclose(got, want, atol=2e-6)
    half = jax.grad(fn(kind))(jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), want, atol=0.02)


def test_statistics_of_logits():
  ring, n = make_ring("2", 10), B // 2
  x, y = embeddings()
  with jax.set_mesh(ring.mesh):
    _, got = jax.jit(lambda *a: contrastive.sigmoid(*a, ring))(x, y, 7.0, -2.5)
  logits = 7.0 * x @ y.T - 2.5
  eye, own = np.eye(B, dtype=bool), np.kron(np.eye(2), np.ones((n, n))) > 0
  masks = {"pos": eye, "neg": ~eye, "local_neg": ~eye & own}
  for kind, mask in masks.items():
    each = [
      logits[i : i + n][mask[i : i + n]]
      for i in (0, n)  # Of each device.
    ]
    for name in ("min", "max", "mean"):
      want = np.mean([getattr(np, name)(v) for v in each])
      key = f"{kind}_{name.replace('mean', 'avg')}_logit"
      np.testing.assert_allclose(got[key], want, rtol=1e-5)


def test_accuracies():
  ring = make_ring("8", 4)
  x, y = embeddings(3)
  with jax.set_mesh(ring.mesh):
    _, got = jax.jit(lambda *a: contrastive.softmax(*a, ring=ring))(x, y, 7.0)
  dots = x @ y.T
  hits = lambda axis: np.mean(dots.argmax(axis) == np.arange(B))
  assert 0 < hits(1) < 1
  assert got["i2t_acc"] == pytest.approx(hits(1))
  assert got["t2i_acc"] == pytest.approx(hits(0))
  # All alike: nobody is right.
  same = np.ones((8, D), np.float32)
  loss, got = contrastive.softmax(same, same, 1.0)
  assert (got["i2t_acc"], got["t2i_acc"]) == (0, 0)
  assert loss == pytest.approx(np.log(8))


@pytest.mark.parametrize("kind", PLAIN)
def test_memory_is_linear_in_the_examples_of_a_device(kind):
  """Twice the batch on twice the devices takes as much on each of them."""
  dim, n = 8, 512

  def temporary(devices, fn):
    mesh = Mesh(np.asarray(jax.devices()[:devices]), ("data",))
    where = NamedSharding(mesh, PartitionSpec("data"))
    z = jax.ShapeDtypeStruct((n * devices, dim), np.float32, sharding=where)
    grad = jax.jit(jax.grad(lambda x, y: fn(x, y, 5.0, -1.0, mesh)))
    with jax.set_mesh(mesh):
      compiled = grad.lower(z, z).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  ring = lambda mesh: contrastive.Ring(mesh, ("data",), 64)
  fn = lambda x, y, t, b, mesh: getattr(contrastive, kind)(
    x, y, t, b, ring(mesh)
  )[0]
  plain = lambda x, y, t, b, mesh: PLAIN[kind](x, y, t, b)
  small, large = temporary(2, fn), temporary(8, fn)
  assert large < 1.3 * small
  # A few blocks of logits, not the rows of all pairs.
  assert large < 10 * n * 64 * 4
  assert temporary(8, plain) > n * (8 * n) * 4 > 5 * large
