"""UViM, stage I: labels become short sequences of codes, and labels again.

  python -m big_vision.trainers.proj.uvim.vqvae \
      --config big_vision/configs/proj/uvim/vqvae_coco_panoptic.py --workdir DIR

"UViM: A Unified Modeling Approach for Vision with Learned Guiding Codes",
https://arxiv.org/abs/2205.10337. Keys of the config:

  task: what the labels are, a module such as `proj.uvim.panoptic_task`.
  w_commitment: weight of the distance of vectors from their codewords.
  freeze_dict: whether the dictionary stays as it is; True unless given.
"""

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

from typing import Any

import jax
import jax.numpy as jnp
from absl import app
from jax.lax import stop_gradient

from big_vision import devices
from big_vision import optax as bv_optax
from big_vision.models.proj.uvim import quantizers
from big_vision.models.proj.uvim.vit import STATISTICS
from big_vision.trainers.proj.uvim import common
from big_vision.trainers.proj.uvim.common import batch_shapes  # noqa: F401  (To plan runs.)
from big_vision.training import cli, reductions
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup
from big_vision.training.state import seed_keys


def build(setup: Setup) -> Recipe:
  """Makes the recipe of stage I.

  Args:
    setup: batches have `image` [B, H, W, 3] and `labels` [B, H, W, C]; the model
      is one like `models.proj.uvim.vit`.

  Returns:
    The Recipe. Its state has `state`, the dictionary, besides the parameters.
  """
  config = setup.config
  task = common.get_task(config)
  made: Any = setup.make_model()
  model, load = made  # `load` returns the dictionary, too.
  updates = not config.get("freeze_dict", True)
  w_commitment = config.get("w_commitment", 0.25)
  parts = reductions.num_groups(config, setup.mesh)
  parts *= config.get("grad_accum_steps") or 1
  rng_init, rng_loop = seed_keys(config.get("seed", 0))

  def variables(rng, batch):
    rngs = dict(zip(("params", "state"), jax.random.split(rng), strict=True))
    return model.init(rngs, **task.input_pp(batch))

  def init(rng, batch):
    params = variables(rng, batch)["params"]
    for name in config.model.outputs:
      bias = params[f"head_{name}"]["bias"]
      value = config.get("init_head_bias", 0.0)
      params[f"head_{name}"]["bias"] = jnp.full_like(bias, value)
    return params

  def extra_state(params):
    del params
    zeros = lambda x: jnp.zeros(x.shape, x.dtype)
    batch = jax.tree.map(zeros, setup.batch_shapes)
    return {"state": variables(rng_init, batch).get("state", {})}

  read = {}  # The checkpoint's dictionary, from one to the other.

  def load_params(params):
    shapes = jax.eval_shape(extra_state, params)
    params, read["state"] = load({"params": params, **shapes})
    return params

  def load_state(state):
    where = jax.tree.map(lambda x: x.sharding, state["state"])
    return {**state, "state": devices.reshard(read.pop("state"), where)}

  def loss_fn(params, batch, rng, state):
    # The loop updates the dictionary, once for all parts of a batch.
    (logits, out), mutated = model.apply(
      {"params": params, "state": state["state"]},
      **task.input_pp(batch),
      train=True,
      update_dict=False,
      rngs={"dropout": rng},
      mutable=[STATISTICS],
    )
    loss, logs = task.loss_fn(logits, batch)
    loss_rec, logs = jax.tree.map(jnp.mean, (loss, logs))
    distance = out["bottleneck"] - stop_gradient(out["bottleneck_q"])
    loss_commitment = jnp.mean(jnp.square(distance))
    return loss_rec + w_commitment * loss_commitment, {
      "loss_rec": loss_rec,
      "loss_commitment": loss_commitment,
      "collections": mutated[STATISTICS],
      **logs,
    }

  def post_update(old, new):
    statistics = new.pop("collections")  # Averages over the parts of a batch.
    new["measurements"] = quantizers.usage(statistics["counts"])
    if updates and "dictionary" in statistics:
      step = bv_optax.get_count(old["opt"], jittable=True)
      total = jax.tree.map(lambda x: x * parts, statistics)
      rng = jax.random.fold_in(rng_loop, step)
      new["state"] = model.updated(old["state"], total, rng)
    return new

  def apply(state, batch):
    variables = {"params": state["params"], "state": state.get("state", {})}
    return model.apply(variables, **task.input_pp(batch))

  def validation(state, batch):
    logits, out = apply(state, batch)
    losses = dict(task.loss_fn(logits, batch)[1])
    distance = out["bottleneck"] - out["bottleneck_q"]
    losses["loss_commitment"] = jnp.square(distance)
    return {k: v.reshape(len(v), -1).mean(axis=1) for k, v in losses.items()}

  def predict(state, batch, **kw):
    return task.predict_outputs(apply(state, batch)[0], **kw)

  return Recipe(
    init=init,
    load=load and load_params,
    loss_fn=loss_fn,
    predict_fns={"validation": validation, "predict": predict},
    extra_state=extra_state,
    load_extra=load and load_state,
    post_update=post_update,
  )


main = cli.main_for(build)

if __name__ == "__main__":
  app.run(main)
