"""Contrastive losses over all pairs of a batch, without the matrix of all pairs.

Logits are computed block by block, see `ring.Ring.blocks`, so memory is linear
in the examples of a device. Gradients are computed in the same way, from their
formulas. Differentiating the loops would keep every block.

References:
  Radford et al. 2021, CLIP, https://arxiv.org/abs/2103.00020
  Zhai et al. 2023, SigLIP, https://arxiv.org/abs/2303.15343

Shapes: `B` batch, `n = B / devices` examples of a device, `D` embedding.
"""

import functools

import jax
import jax.numpy as jnp

from big_vision.ring import Ring
from big_vision.types import Array, ArrayLike, Measurements

_ONE_DEVICE = Ring()
_KINDS = ("pos", "neg", "local_neg")


def sigmoid(
  zimg: Array,
  ztxt: Array,
  t: ArrayLike,
  b: ArrayLike,
  ring: Ring = _ONE_DEVICE,
) -> tuple[Array, Measurements]:
  """Sigmoid loss: each pair of image and text is a binary classification.

  1/B Σ_ij -log σ(y_ij (t <zimg_i, ztxt_j> + b)), y_ij = 1 if i = j and -1 else.

  Args:
    zimg: [B, D] embeddings of images.
    ztxt: [B, D] embeddings of the matching texts.
    t: [] or [1], factor of the logits.
    b: [] or [1], is added to them.
    ring: the devices that split the batch; their number divides B.

  Returns:
    (loss [], dict of statistics of the logits: `{pos,neg}_{min,max,avg}_logit`,
    and `local_neg_...` of the pairs on one device). All are float32 and means
    over devices. Statistics have no gradient.
  """
  return _sigmoid(zimg, ztxt, jnp.reshape(t, ()), jnp.reshape(b, ()), ring)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _sigmoid(x, y, t, b, ring):
  return _sigmoid_forward(x, y, t, b, ring)[0]


def _sigmoid_forward(x, y, t, b, ring):
  batch = x.shape[0]
  f32 = jnp.float32

  def block(here, columns, x, is_pair, exists, is_own):
    y = columns["y"]
    dots = jnp.dot(x, y.T, preferred_element_type=f32)
    logits = t.astype(f32) * dots + b.astype(f32)
    terms = jax.nn.softplus(jnp.where(is_pair, -logits, logits))
    g = jax.nn.sigmoid(logits) - is_pair
    g = jnp.where(exists[None, :], g, 0.0) / batch
    here = dict(
      loss=here["loss"]
      + jnp.sum(jnp.where(exists[None, :], terms, 0.0)) / batch,
      dt=here["dt"] + jnp.sum(g * dots),
      db=here["db"] + jnp.sum(g),
      dx=here["dx"] + t * jnp.dot(g.astype(y.dtype), y),
      stats=_add_statistics(
        here["stats"], logits, is_pair, exists[None, :], is_own
      ),
    )
    columns["dy"] += t * jnp.dot(g.T.astype(x.dtype), x)
    return here, columns

  def local(x, y, t, b):
    del t, b  # Of the outer function.
    here = dict(
      loss=f32(0), dt=f32(0), db=f32(0), dx=jnp.zeros(x.shape, f32),
      stats=_no_statistics(),
    )  # fmt: skip
    moving = {"y": y, "dy": jnp.zeros(y.shape, f32)}
    here, moving = ring.blocks(block, here, moving, x)
    n = x.shape[0]
    counts = {
      "pos": n, "neg": n * (batch - 1), "local_neg": n * (n - 1)
    }  # fmt: skip
    stats = ring.mean(_finish_statistics(here["stats"], counts))
    loss, dt, db = ring.sum((here["loss"], here["dt"], here["db"]))
    return (loss, stats), (here["dx"], moving["dy"], dt, db)

  names = [
    f"{kind}_{x}_logit" for kind in _KINDS for x in ("min", "max", "avg")
  ]
  outputs = (
    (False, dict.fromkeys(names, False)), (True, True, False, False)
  )  # fmt: skip
  result, grads = ring.run(local, (x, y), (t, b), outputs)
  like = lambda g, old: g.astype(old.dtype)
  return result, tuple(map(like, grads, (x, y, t, b)))


def _sigmoid_backward(ring, grads, cotangent):
  del ring
  return tuple((cotangent[0] * g).astype(g.dtype) for g in grads)


_sigmoid.defvjp(_sigmoid_forward, _sigmoid_backward)


def _no_statistics():
  """Returns (minimum, maximum, sum) of no logits for each kind of pair."""
  return {
    k: (jnp.float32(jnp.inf), jnp.float32(-jnp.inf), jnp.float32(0))
    for k in _KINDS
  }


def _add_statistics(stats, logits, is_pair, exists, is_own):
  """Updates the statistics with more logits."""
  masks = {"pos": is_pair, "neg": exists & ~is_pair}
  masks["local_neg"] = masks["neg"] & is_own
  new = {}
  for kind, (low, high, total) in stats.items():
    where = masks[kind]
    new[kind] = (
      jnp.minimum(low, jnp.min(logits, where=where, initial=jnp.inf)),
      jnp.maximum(high, jnp.max(logits, where=where, initial=-jnp.inf)),
      total + jnp.sum(logits, where=where),
    )
  return new


def _finish_statistics(stats, counts):
  """Turns statistics into measurements; means of nothing are 0."""
  out = {}
  for kind, (low, high, total) in stats.items():
    out[f"{kind}_min_logit"], out[f"{kind}_max_logit"] = low, high
    out[f"{kind}_avg_logit"] = total / max(counts[kind], 1)
  return out


def softmax(
  zimg: Array,
  ztxt: Array,
  t: ArrayLike,
  b: ArrayLike | None = None,
  ring: Ring = _ONE_DEVICE,
) -> tuple[Array, Measurements]:
  """Softmax loss: the mean of choosing the text of an image and the reverse.

  Args:
    zimg: [B, D] embeddings of images.
    ztxt: [B, D] embeddings of the matching texts.
    t: [] or [1], factor of the logits.
    b: not used, since softmax does not depend on it.
    ring: the devices that split the batch; their number divides B.

  Returns:
    (loss [], dict with `i2t_loss`, `t2i_loss` and the accuracies `i2t_acc`,
    `t2i_acc`, the fraction whose own logit is larger than all others). All are
    float32; only the loss has a gradient.
  """
  del b
  return _softmax(zimg, ztxt, jnp.reshape(t, ()), ring)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _softmax(x, y, t, ring):
  return _softmax_forward(x, y, t, ring)[0]


def _more_lse(lse, logits, axis):
  """Extends a running log-sum-exp by an axis of more logits."""
  return jnp.logaddexp(lse, jax.nn.logsumexp(logits, axis=axis))


def _masked_logits(x, columns, t, exists):
  dots = jnp.dot(x, columns["y"].T, preferred_element_type=jnp.float32)
  return dots, jnp.where(
    exists[None, :], t.astype(jnp.float32) * dots, -jnp.inf
  )


def _softmax_forward(x, y, t, ring):
  f32 = jnp.float32

  def block(here, columns, x, is_pair, exists, is_own):
    del is_own
    _, logits = _masked_logits(x, columns, t, exists)
    others = jnp.where(is_pair, -jnp.inf, logits)
    here = dict(
      lse=_more_lse(here["lse"], logits, 1),
      best=jnp.maximum(here["best"], jnp.max(others, axis=1)),
      own=here["own"] + jnp.sum(logits, axis=1, where=is_pair),
    )
    columns = dict(
      columns,
      lse=_more_lse(columns["lse"], logits, 0),
      best=jnp.maximum(columns["best"], jnp.max(others, axis=0)),
    )
    return here, columns

  def local(x, y, t):
    del t  # Of the outer function.
    n = x.shape[0]
    nothing = jnp.full(n, -jnp.inf, f32)
    here = dict(lse=nothing, best=nothing, own=jnp.zeros(n, f32))
    moving = {"y": y, "lse": nothing, "best": nothing}
    here, moving = ring.blocks(block, here, moving, x)
    own = here["own"]
    extras = {
      "i2t_loss": jnp.mean(here["lse"] - own),
      "t2i_loss": jnp.mean(moving["lse"] - own),
      "i2t_acc": jnp.mean(own > here["best"], dtype=f32),
      "t2i_acc": jnp.mean(own > moving["best"], dtype=f32),
    }
    extras = ring.mean(extras)
    loss = 0.5 * (extras["i2t_loss"] + extras["t2i_loss"])
    return (loss, extras), here["lse"], moving["lse"]

  names = ("i2t_loss", "t2i_loss", "i2t_acc", "t2i_acc")
  outputs = ((False, dict.fromkeys(names, False)), True, True)
  result, rows, columns = ring.run(local, (x, y), (t,), outputs)
  return result, (x, y, t, rows, columns)


def _softmax_backward(ring, residuals, cotangent):
  x, y, t, rows, columns = residuals
  batch, f32 = x.shape[0], jnp.float32

  def local(x, y, rows, columns, t):
    def block(here, columns, x, is_pair, exists, is_own):
      del is_own
      dots, logits = _masked_logits(x, columns, t, exists)
      g = jnp.exp(logits - rows[:, None])
      g = g + jnp.exp(logits - columns["lse"][None, :]) - 2.0 * is_pair
      g = jnp.where(exists[None, :], 0.5 / batch * g, 0.0)
      here = dict(
        dt=here["dt"] + jnp.sum(g * dots),
        dx=here["dx"] + t * jnp.dot(g.astype(x.dtype), columns["y"]),
      )
      columns["dy"] += t * jnp.dot(g.T.astype(x.dtype), x)
      return here, columns

    here = dict(dt=f32(0), dx=jnp.zeros(x.shape, f32))
    moving = {"y": y, "dy": jnp.zeros(y.shape, f32), "lse": columns}
    here, moving = ring.blocks(block, here, moving, x)
    return here["dx"], moving["dy"], ring.sum(here["dt"])

  grads = ring.run(local, (x, y, rows, columns), (t,), (True, True, False))
  return tuple(
    (cotangent[0] * g).astype(old.dtype)
    for g, old in zip(grads, (x, y, t), strict=True)
  )


_softmax.defvjp(_softmax_forward, _softmax_backward)
