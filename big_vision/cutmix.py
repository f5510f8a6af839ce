"""CutMix: train on images with a box of another image, and on both labels.

Each batch is either cut or mixed up, if `config.mixup` asks for that; see
`mixup.py`.

References:
  Yun et al. 2019, https://arxiv.org/abs/1905.04899
  Touvron et al. 2020 (DeiT, which switches), https://arxiv.org/abs/2012.12877
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from big_vision import guards, lookup, mixup
from big_vision.types import Array, Batch, ConfigLike, Key

_KEYS = "p", "switch_prob"
_UNREAD = "fold_in"  # As in published configs of mixup.


def check(config: Any) -> None:
  """Checks `config.cutmix`.

  Args:
    config: mapping or None.

  Raises:
    lookup.ConfigError: a value is wrong.
    ValueError: unknown key.
  """
  if not config:
    return
  if not hasattr(config, "keys"):
    raise lookup.ConfigError(
      f"config.cutmix = {config!r} must be a dict such as dict(p=1.0), or None."
    )
  lookup.check_keys(config, (*_KEYS, _UNREAD), "cutmix")
  if _UNREAD in config:
    logging.info("config.cutmix.%s has no effect.", _UNREAD)
  p, prob = config.get("p"), config.get("switch_prob")
  is_number = lambda x: isinstance(x, (int, float)) and not isinstance(x, bool)
  if not is_number(p) or not 0 <= p < float("inf"):
    raise lookup.ConfigError(
      f"config.cutmix.p = {p!r} must be a number from 0 (no CutMix) on; 1 draws "
      "the area of the box uniformly."
    )
  if prob is not None and not (is_number(prob) and 0 <= prob <= 1):
    raise lookup.ConfigError(
      f"config.cutmix.switch_prob = {prob!r} must be in [0, 1]: how often CutMix "
      "takes the place of mixup."
    )


def make_augment(
  config: ConfigLike, num_shards: int = 1
) -> Callable[[Batch, Key], tuple[Batch, Key]] | None:
  """Makes what mixes the examples of a batch.

  Args:
    config: ConfigDict of a run; reads `mixup` and `cutmix`.
    num_shards: see `mixup.get_mixup`.

  Returns:
    `Recipe.augment` for batches with `image` [B, H, W, C] and `labels` [B, ...];
    None if the config asks for neither. Without `cutmix` it draws what
    `mixup.get_mixup` does.
  """
  mix, cut = config.get("mixup") or {}, config.get("cutmix") or {}
  check(cut)
  if not mix.get("p") and not cut.get("p"):
    return None
  default = 0.5 if mix.get("p") else 1.0
  prob = default if cut.get("switch_prob") is None else cut["switch_prob"]

  def augment(batch: Batch, rng: Key) -> tuple[Batch, Key]:
    image, labels = batch["image"], batch["labels"]
    out, key = (image, labels), None
    if cut.get("p"):
      rng, key = jax.random.split(rng)
    if mix.get("p"):
      fn = mixup.get_mixup(rng, mix["p"], num_shards, mix.get("n", 2))
      rng, out, _ = fn(image, labels)
    if key is not None:
      key_switch, key = jax.random.split(key)
      # One draw for the batch, so that every device does the same.
      is_cut = jax.random.bernoulli(key_switch, prob)
      boxed = cutmix(key, image, labels, p=cut["p"], num_shards=num_shards)
      out = jax.tree.map(lambda a, b: jnp.where(is_cut, a, b), boxed, out)
    return {**batch, "image": out[0], "labels": out[1]}, rng

  return augment


@guards.transfers
def cutmix(
  rng: Key, image: Array, labels: Array, *, p: float, num_shards: int = 1
) -> tuple[Array, Array]:
  """Puts a box of the example before into each image.

  The box has the proportions of the image and the area 1 - a of it, with a drawn
  from Beta(p, p); its center is uniform in the image, and what sticks out is cut
  off. All images of the batch share it. Labels are mixed by the area that is left
  of it.

  Args:
    rng: random key.
    image: [B, H, W, C].
    labels: [B, ...] float.
    p: positive, both parameters of the Beta distribution.
    num_shards: divides B, see `mixup.get_mixup`.

  Returns:
    (image, labels) of the same shapes. Example i has the box of example i - 1, the
    first one that of the last.

  Raises:
    lookup.ConfigError: the images are not [B, H, W, C].
  """
  if np.ndim(image) != 4:
    raise lookup.ConfigError(
      "config.cutmix is for images [B, H, W, C], not for sequences of patches."
    )
  height, width = image.shape[1:3]
  key_area, key_y, key_x = jax.random.split(rng, 3)
  side = jnp.sqrt(1.0 - jax.random.beta(key_area, p, p))
  rows = _interval(key_y, side, height)
  columns = _interval(key_x, side, width)
  inside = rows[:, None] & columns[None, :]  # [H, W]
  share = jnp.sum(rows) * jnp.sum(columns) / (height * width)

  def before(x):
    shards = x.reshape(num_shards, x.shape[0] // num_shards, *x.shape[1:])
    return jnp.roll(shards, shift=1, axis=1).reshape(x.shape)

  image = jnp.where(inside[None, :, :, None], before(image), image)
  return image, (1 - share) * labels + share * before(labels)


def _interval(rng, side, size):
  """Marks the pixels [size] of a box along an axis."""
  half = jnp.floor(side * size).astype(jnp.int32) // 2
  center = jax.random.randint(rng, (), 0, size)
  at = jnp.arange(size)
  return (at >= center - half) & (at < center + half)
