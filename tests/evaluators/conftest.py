"""Evaluators on arrays in memory: no TensorFlow, the worst possible padding."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import devices as bv_devices
from big_vision.pipeline import evaluation


def padding(x, n):
  """What no metric may look at: NaN, or a large number."""
  bad = np.nan if np.issubdtype(x.dtype, np.floating) else 7
  return np.full((n, *x.shape[1:]), bad, x.dtype)


@pytest.fixture
def arrays(monkeypatch):
  """Replaces `eval_input_pipeline`: `data` is a dict of arrays."""

  def pipeline(data, pp_fn, batch_size, devices, **kw):
    del pp_fn, kw
    bv_devices.check_batch_size(batch_size, devices)
    mesh = Mesh(np.asarray(devices), ("devices",))
    split = NamedSharding(mesh, PartitionSpec("devices"))
    n = len(next(iter(data.values())))
    steps = -(-n // batch_size)
    pad = steps * batch_size - n
    full = {
      k: np.concatenate([x, padding(x, pad)]) for k, x in data.items()
    } | {"_mask": np.arange(n + pad) < n}
    batches = [
      {k: x[i * batch_size : (i + 1) * batch_size] for k, x in full.items()}
      for i in range(steps)
    ]
    return lambda: (jax.device_put(b, split) for b in batches), steps

  monkeypatch.setattr(evaluation, "eval_input_pipeline", pipeline)


@pytest.fixture
def state():
  """A replicated state on a mesh that is not the one of the batches."""
  mesh = Mesh(np.asarray(jax.devices()), ("data",))
  w = np.random.RandomState(5).randn(6, 4).astype(np.float32)
  with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
    yield jax.device_put(
      {"params": {"w": w}}, NamedSharding(mesh, PartitionSpec())
    )


@pytest.fixture
def ops():
  """Registers the ops that preprocessing strings of the tests use."""
  pytest.importorskip("tensorflow")
  from big_vision.pp import ops_general, ops_image  # noqa: F401  (Registers.)
