"""Trains a normalizing flow on images, by maximum likelihood.

  python -m big_vision.trainers.proj.jet.train \\
    --config big_vision/configs/proj/jet/imagenet64.py --workdir DIR

Kolesnikov et al. 2024, Jet: A Modern Transformer-Based Normalizing Flow,
https://arxiv.org/abs/2412.15129. Keys of the config besides those of every trainer:

  model_name, model, model_init: proj.jet.jet. Its permutations are parameters that
    `schedule` has to freeze.
  condition_drop_prob: probability that a flow that learns from labels does not see
    that of an example, default 0.1.

Images are 256 levels in [-1, 1], and noise makes them continuous. The loss is the
number of bits of a color of a pixel. The predict function `loss` gives that of each
example, always the same: there, noise follows from the image.
"""

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from big_vision import lookup
from big_vision import optax as bv_optax
from big_vision.models.proj.jet import jet
from big_vision.training import cli
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup
from big_vision.types import Array, ConfigLike, Key

LEVELS = 127.5  # Per unit of images in [-1, 1].
_ONEHOT = re.compile(r"\bonehot\((?:depth=)?(\d+)")


def build(setup: Setup) -> Recipe:
  """Makes the recipe of a flow.

  Args:
    setup: batches have `image` [B, h, w, c] and, if the flow is conditional,
      `label` [B, N], one-hot.

  Returns:
    The Recipe.

  Raises:
    ConfigError: permutations would be trained, or labels are numbers.
  """
  config = setup.config
  check_frozen(config)
  conditional = _check_label(setup.batch_shapes.get("label"))
  drop_prob = config.get("condition_drop_prob", 0.1)
  model, load = setup.make_model()

  def context(batch):
    if not conditional:
      return None
    if "label" not in batch:
      text = "config.evals: pp_fn must keep `label`, as config.input.pp does."
      raise lookup.ConfigError(text)
    return batch["label"][:, None]

  def init(rng, batch):
    return model.init(rng, batch["image"], context(batch))["params"]

  def augment(batch, rng):
    rng_input, rng, rng_drop = jax.random.split(rng, 3)
    batch = {**batch, "image": dequantize(batch["image"], rng_input)}
    if conditional:  # All 0 is no class.
      label = batch["label"]
      kept = jax.random.uniform(rng_drop, label.shape[:1]) >= drop_prob
      batch["label"] = label * kept[:, None]
    return batch, rng

  def values(params, batch):
    out = model.apply({"params": params}, batch["image"], context(batch))
    return bits_per_dim(*out)

  def loss_fn(params, batch, rng, state):
    del rng, state  # There is no dropout.
    means = jax.tree.map(jnp.mean, values(params, batch))
    return means["bits"], means

  def loss(state, batch):
    key = jax.random.PRNGKey(config.get("seed", 0))
    image = _with_own_noise(batch["image"], key)
    return values(state["params"], {**batch, "image": image})

  return Recipe(
    init=init,
    load=load,
    loss_fn=loss_fn,
    augment=augment,
    predict_fns={"loss": loss},
  )


def dequantize(image: Array, rng: Key) -> Array:
  """Adds noise as wide as a level.

  Args:
    image: float [B, h, w, c], of 256 levels in [-1, 1].
    rng: random key.

  Returns:
    [B, h, w, c], in [-1, 1 + 1 / 127.5).
  """
  return image + jax.random.uniform(rng, image.shape, maxval=1 / LEVELS)


def bits_per_dim(z: Array, logdet: Array) -> dict[str, Array]:
  """Computes the negative log-likelihood of images of 256 levels.

  Args:
    z: [B, h, w, c], what the flow makes of images with noise.
    logdet: [B], the log-determinant of its Jacobian.

  Returns:
    Dict of [B], in bits of a color of a pixel: `nll`, of `z` under the normal
    distribution; `logdet`; `bits`, their difference.
  """
  log_p = jax.scipy.stats.norm.logpdf(z) - math.log(LEVELS)
  nll = -jnp.sum(log_p.reshape(len(z), -1), axis=1)
  unit = math.log(2) * math.prod(z.shape[1:])
  values = dict(bits=nll - logdet, nll=nll, logdet=logdet)
  return {k: v / unit for k, v in values.items()}


def check_frozen(config: ConfigLike, prefix: str = "") -> None:
  """Checks that the permutations of a flow are not trained.

  Args:
    config: reads `schedule`.
    prefix: what the names of the parameters of the flow start with.

  Raises:
    ConfigError: they are.
  """
  masks = {prefix + name: True for name in jet.MASKS}
  trained = bv_optax.replace_frozen(config.get("schedule"), masks, False)
  if any(trained.values()):
    raise lookup.ConfigError(
      "config.schedule trains the permutations of the flow. Freeze them first: "
      "config.schedule = [('.*FREEZE_ME.*', None), ('.*', {...})]."
    )


def batch_shapes(
  config: ConfigLike, num: int, image_size: tuple[int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a training batch, to plan runs without data.

  Args:
    config: reads `input.pp`, which says how many classes labels have.
    num: number of examples.
    image_size: (height, width), pixels.

  Returns:
    Dict of `image` [num, H, W, 3] and, if there are labels, `label` [num, N].
  """
  floats = lambda *shape: jax.ShapeDtypeStruct((num, *shape), np.float32)
  shapes = {"image": floats(*image_size, 3)}
  if classes := _ONEHOT.search(str(config.input.get("pp"))):
    shapes["label"] = floats(int(classes[1]))
  return shapes


def _check_label(label):
  """Tells whether there are labels; refuses those that are not one-hot."""
  if label is None:
    return False
  if len(label.shape) != 2 or not jnp.issubdtype(label.dtype, jnp.floating):
    raise lookup.ConfigError(
      f"config.input.pp: `label` {label.dtype}{list(label.shape)} should be one-hot, "
      'float [B, N]. Add onehot(N, key="label"), or do not keep it.'
    )
  return True


def _with_own_noise(image, key):
  """Adds noise that depends on the image alone, not on its batch or place."""
  words = jnp.float32(image).view(jnp.uint32).reshape(len(image), -1)
  odd = 2 * jnp.arange(words.shape[1], dtype=jnp.uint32) + 1
  digests = jnp.sum(words * odd[None], axis=1, dtype=jnp.uint32)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, digests)
  return jax.vmap(dequantize)(image, keys)


main = cli.main_for(build)

if __name__ == "__main__":
  app.run(main)
