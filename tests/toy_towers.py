"""An image and a text tower that compile quickly; as `config.model_name`.

What `two_towers` promises holds, but there is no attention.
"""

import flax.linen as nn
import jax.numpy as jnp

PATCH, D, E = 4, 8, 6


class ImageTower(nn.Module):
  """Patches with positions, each of which sees the mean of all."""

  @nn.compact
  def __call__(self, image, *, train=False, replace=None):
    p = (PATCH, PATCH)
    x = stem = nn.Conv(D, p, p, padding="VALID", name="embedding")(image)
    if replace is not None:
      x = jnp.where(replace[0][..., None], replace[1][None, None, None], x)
    n, h, w, _ = x.shape
    normal = nn.initializers.normal(0.1)
    posemb = self.param("pos_embedding", normal, (1, h * w, D))
    x = x + posemb.reshape(1, h, w, D)
    x = jnp.tanh(x + 2 * x.mean(axis=(1, 2), keepdims=True))
    out = {
      "stem": stem,
      "encoded": x.reshape(n, h * w, D),
      "pre_logits": x.mean(axis=(1, 2)),
      "pre_logits_2d": x,
    }
    return nn.Dense(E, name="head")(out["pre_logits"]), out


class TextTower(nn.Module):
  """The mean of embedded tokens."""

  @nn.compact
  def __call__(self, text, *, train=False):
    return nn.Embed(16, E)(text).mean(axis=1), {}


class Model(nn.Module):
  """See `two_towers.Model`."""

  @nn.compact
  def __call__(self, image, text=None, **kw):
    out, z = {}, {"img": None, "txt": None}
    for name, tower, x in (
      ("img", ImageTower, image),
      ("txt", TextTower, text),
    ):
      if x is None:
        continue
      y, own = tower(name=name)(x, **kw)
      out |= {f"{name}/{k}": v for k, v in own.items()}
      out[f"{name}/norm"] = jnp.linalg.norm(y, axis=1, keepdims=True)
      z[name] = y / out[f"{name}/norm"]
    t = self.param("t", nn.initializers.constant(2.0), (1,))
    out |= {"t": jnp.exp(t), "t/parameter": t}
    out["b"] = self.param("b", nn.initializers.constant(-5.0), (1,))
    return z["img"], z["txt"], out
