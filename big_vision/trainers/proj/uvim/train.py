r"""UViM, stage II: from images to the codes of stage I.

  python -m big_vision.trainers.proj.uvim.train \
      --config big_vision/configs/proj/uvim/train_coco_panoptic_pretrained.py \
      --config.oracle.model_init WORKDIR_OF_STAGE_I --workdir DIR

"UViM: A Unified Modeling Approach for Vision with Learned Guiding Codes",
https://arxiv.org/abs/2205.10337. The model reads images and predicts codes, one
after the other. Stage I, `oracle.py`, makes the codes of labels and turns the
predicted ones into labels; it is not trained. Keys of the config:

  model_init: a checkpoint of the model, or {"encoder": a ViT}.
  oracle: stage I, see `oracle.py`.
"""

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

from typing import Any

import jax
import jax.numpy as jnp
from absl import app
from jax.sharding import NamedSharding, PartitionSpec

from big_vision import compat, lookup, losses
from big_vision.models.proj.uvim import guiding_codes
from big_vision.models.proj.uvim.guiding_codes import TEMPERATURE
from big_vision.trainers.proj.uvim import oracle as oracle_lib
from big_vision.trainers.proj.uvim.common import batch_shapes  # noqa: F401  (To plan runs.)
from big_vision.training import cli
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup
from big_vision.types import Array, Batch, Key


def build(setup: Setup) -> Recipe:
  """Makes the recipe of stage II.

  Args:
    setup: batches have `image` [B, H, W, 3] for the model, `labels` [B, H, W, C],
      and `image_ctx` for stage I, if that sees another image.

  Returns:
    The Recipe. Only the model of codes is trained and stored.

  Raises:
    ConfigError: there is no stage I, or it does not fit the model.
  """
  model, load = setup.make_model()
  oracle = oracle_lib.load(setup)
  _check_codes(model, oracle.model)

  def init(rng, batch):
    codes = jnp.zeros([len(batch["image"]), oracle.model.code_len], jnp.int32)
    return model.init(rng, batch["image"], codes)["params"]

  def loss(params, batch, state, reduction=True, **kw):
    codes = oracle.encode(state["frozen"]["oracle"], batch)
    logits = model.apply({"params": params}, batch["image"], codes, **kw)
    return losses.weighted_softmax_xent(
      logits=logits, labels=codes, reduction=reduction
    )

  def loss_fn(params, batch, rng, state):
    return loss(params, batch, state, train=True, rngs={"dropout": rng}), {}

  def validation(state, batch):
    return {"loss": loss(state["params"], batch, state, reduction=False)}

  def predict(state, batch, seed=0, temperature=TEMPERATURE, **kw):
    codes = guiding_codes.of_images(
      model,
      state["params"],
      batch["image"],
      keys(seed, batch),
      oracle.model,
      temperature,
    )
    logits = oracle.decode(state["frozen"]["oracle"], codes + 1, batch)
    return oracle.task.predict_outputs(logits, **kw)

  return Recipe(
    init=init,
    load=load,
    loss_fn=loss_fn,
    predict_fns={"validation": validation, "predict": predict},
    frozen={"oracle": oracle.variables},
  )


def keys(seed: int | Array, batch: Batch) -> Key:
  """Makes a random key for each example, which depends on nothing else.

  The same image gets the same codes, whatever the batch, its padding and the
  number of hosts are. (The code of the paper folds all examples of a batch into
  one key.)

  Args:
    seed: int.
    batch: `image/id` [B] int tells images apart if it is there, else the pixels
      of `image` [B, ...] do.

  Returns:
    Keys [B].
  """
  ids = batch.get("image/id")
  if ids is None:
    ids = _hash(batch["image"])
  # Random numbers need arrays of one mesh. Evaluators have one of their own.
  mesh = compat.active_mesh()
  if mesh is not None:
    everywhere = NamedSharding(mesh, PartitionSpec())
    ids = jax.lax.with_sharding_constraint(ids, everywhere)
  key = jax.random.PRNGKey(seed)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(ids.astype(jnp.uint32))


def _hash(image):
  """Hashes pixels, [B] uint32; integers add up to the same in any order."""
  bits = jax.lax.bitcast_convert_type(image.astype(jnp.float32), jnp.uint32)
  bits = bits.reshape(len(image), -1)
  place = jnp.arange(bits.shape[1], dtype=jnp.uint32)
  mixed = (bits ^ (bits >> 15)) * jnp.uint32(0x2C1B3C6D)
  factor = place * jnp.uint32(0x9E3779B1) | jnp.uint32(1)
  return jnp.sum(mixed * factor[None, :], axis=1, dtype=jnp.uint32)


def _check_codes(model: Any, oracle: Any) -> None:
  """Refuses a model that cannot write the codes of stage I."""
  least = oracle.dict_size + 1
  if model.vocab_size < least:
    raise lookup.ConfigError(
      f"config.model.vocab_size={model.vocab_size} is too small: stage I has "
      f"config.oracle.model.dict_size={oracle.dict_size} codes, and there is a 0 "
      f"besides. Write {least}."
    )
  if model.seq_len < oracle.code_len:
    raise lookup.ConfigError(
      f"config.model.seq_len={model.seq_len} is too small: stage I makes "
      f"config.oracle.model.code_len={oracle.code_len} codes. Write that."
    )


main = cli.main_for(build)

if __name__ == "__main__":
  app.run(main)
