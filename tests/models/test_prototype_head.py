"""DINO's head against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from big_vision.models import prototype_head


def test_head():
  r = np.random.default_rng(0)
  x = r.normal(size=(2, 3, 5)).astype(np.float32)
  head = prototype_head.PrototypeHead(hidden=6, bottleneck=4, prototypes=9)
  p = jax.jit(head.init)(jax.random.key(0), x)["params"]
  got = jax.jit(head.apply)({"params": p}, x)
  gelu = lambda x: np.asarray(jax.nn.gelu(jnp.asarray(x)))
  h = x
  for i in range(3):
    h = (
      h @ p[f"Dense_{i}"]["kernel"]
      + np.asarray(p[f"Dense_{i}"]["bias"])[None, None]
    )
    h = gelu(h) if i < 2 else np.asarray(h)
  w = np.asarray(p["prototypes"])
  cosine = h @ w
  cosine /= np.linalg.norm(h, axis=-1, keepdims=True)
  cosine /= np.linalg.norm(w, axis=0)[None, None]
  np.testing.assert_allclose(got, cosine, atol=1e-5)
