"""Measures contrastive losses: in a ring, and with the matrix of all pairs."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import contrastive, losses


def plain_sigmoid(x: jax.Array, y: jax.Array, t: Any, b: Any) -> jax.Array:
  """The sigmoid loss from all logits [B, B]."""
  logits = t * x @ y.T + b
  signs = 2 * jnp.eye(len(x)) - 1
  return -jnp.sum(jax.nn.log_sigmoid(signs * logits)) / len(x)


def plain_softmax(x: jax.Array, y: jax.Array, t: Any, b: Any) -> jax.Array:
  """The softmax loss from all logits [B, B]."""
  del b
  return losses.bidirectional_contrastive_loss(x, y, t, reduction=True)[0]


PLAIN = {"sigmoid": plain_sigmoid, "softmax": plain_softmax}


def measure(
  kind: str, form: str, batch: int, dim: int, chunk: int, max_seconds_batch: int
) -> dict[str, Any]:
  """Measures one row of the table.

  Args:
    kind: "sigmoid" or "softmax".
    form: "plain" or "ring".
    batch: pairs in all.
    dim: of the embeddings.
    chunk: columns at a time in the ring.
    max_seconds_batch: larger batches are only compiled.

  Returns:
    dict of `loss`, `form`, `batch`, `mib` per device and `seconds` (or None).
  """
  mesh = Mesh(np.asarray(jax.devices()), ("data",))
  where = NamedSharding(mesh, PartitionSpec("data"))
  if form == "plain":
    fn = PLAIN[kind]
  else:
    ring = contrastive.Ring(mesh, ("data",), chunk)
    of_pairs = functools.partial(getattr(contrastive, kind), ring=ring)
    fn = lambda *args: of_pairs(*args)[0]
  step = jax.jit(jax.value_and_grad(fn, argnums=(0, 1)))
  spec = jax.ShapeDtypeStruct((batch, dim), np.float32, sharding=where)
  with jax.set_mesh(mesh):
    compiled = step.lower(spec, spec, 10.0, -10.0).compile()
    mib = compiled.memory_analysis().temp_size_in_bytes / 2**20
    seconds = None
    if batch <= max_seconds_batch:
      r = np.random.default_rng(0)
      z = [jax.device_put(_unit(r, batch, dim), where) for _ in range(2)]
      seconds = min(_seconds(compiled, z) for _ in range(3))
  return dict(loss=kind, form=form, batch=batch, mib=mib, seconds=seconds)


def _unit(rng, batch, dim):
  z = rng.normal(size=(batch, dim)).astype(np.float32)
  return z / np.linalg.norm(z, axis=1, keepdims=True)


def _seconds(compiled, z):
  start = time.perf_counter()
  jax.block_until_ready(compiled(*z, 10.0, -10.0))
  return time.perf_counter() - start
