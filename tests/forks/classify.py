"""A trainer as forks of big_vision have them: a loop of its own.

It uses the library by the names of `big_vision.utils`, and disallows implicit
transfers for the whole process when it is imported. The test runs it.
"""

import functools
import importlib
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jax.experimental import multihost_utils
from jax.experimental.array_serialization import serialization
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import config_flags

import big_vision.evaluators.common as eval_common
import big_vision.input_pipeline as input_pipeline
import big_vision.optax as bv_optax
import big_vision.sharding as bv_sharding
import big_vision.utils as u

config_flags.DEFINE_config_file("config", None, "Config.", lock_config=True)
flags.DEFINE_string("workdir", None, "Output folder.")
flags.DEFINE_boolean("cleanup", False, "Remove the output.")
jax.config.parse_flags_with_absl()
jax.config.update("jax_transfer_guard", "disallow")
jax.config.update("jax_threefry_partitionable", True)


def main(argv):
  del argv
  config, workdir = flags.FLAGS.config, flags.FLAGS.workdir
  os.makedirs(workdir, exist_ok=True)
  save_path = os.path.join(workdir, "checkpoint.bv")
  for name in config.pp_modules:
    importlib.import_module(f"big_vision.pp.{name}")

  mw = u.BigVisionMetricWriter(-1, -1, workdir, config)
  u.chrono.inform(measure=mw.measure, write_note=logging.info)
  mesh = u.create_device_mesh(config.mesh, allow_split_physical_axes=False)
  repl = NamedSharding(mesh, PartitionSpec())
  devices = mesh.devices.flatten()
  rules = config.get("sharding_rules", [("act_batch", "data")])

  batch_size = config.input.batch_size
  train_ds, ntrain = input_pipeline.training(config.input)
  total_steps = u.steps("total", config, ntrain, batch_size)
  get_steps = functools.partial(_get_steps, config, ntrain, total_steps)
  u.chrono.inform(
    total_steps=total_steps,
    global_bs=batch_size,
    steps_per_epoch=ntrain / batch_size,
  )
  train_iter = input_pipeline.start_global(train_ds, devices, 1)

  model_mod = importlib.import_module(f"big_vision.models.{config.model_name}")
  model = model_mod.Model(num_classes=config.num_classes, **config.model)

  rng = jax.random.PRNGKey(u.put_cpu(config.seed))
  rng, rng_init = jax.random.split(rng)
  rng_loop, rng_init = u.reshard((rng, rng_init), repl)

  def init(rng):
    spec = train_ds.element_spec["image"]
    return model.init(rng, jnp.zeros(spec.shape, spec.dtype.as_numpy_dtype))[
      "params"
    ]

  params_shape = jax.eval_shape(init, rng_init)
  tx, sched_fns = bv_optax.make(
    config,
    nn.unbox(params_shape),
    sched_kw=dict(
      total_steps=total_steps, batch_size=batch_size, data_size=ntrain
    ),
  )
  sched_fns_cpu = [u.jit_cpu()(fn) for fn in sched_fns]
  opt_shape = jax.eval_shape(tx.init, params_shape)
  with mesh, nn.logical_axis_rules(rules):
    shardings = bv_sharding.infer_sharding(
      {"params": params_shape, "opt": opt_shape},
      strategy=config.sharding_strategy,
      mesh=mesh,
    )
  params = jax.jit(init, out_shardings=shardings["params"])(rng_init)
  opt = jax.jit(tx.init, out_shardings=shardings["opt"])(params)
  state = nn.unbox({"params": params, "opt": opt})
  mw.measure("num_params", sum(p.size for p in jax.tree.leaves(params)))

  resume = None
  if os.path.exists(f"{save_path}-LAST"):
    resume = save_path
  if resume:
    jax.tree.map(lambda x: x.delete(), state)
    tree = {**shardings, "chrono": u.chrono.save()}
    loaded = u.load_checkpoint_ts(
      resume,
      tree=tree,
      shardings={**shardings, "chrono": repl},
    )
    u.chrono.load(jax.device_get(loaded.pop("chrono")))
    state = loaded
  elif config.get("model_init"):
    loaded = model_mod.load(
      params_shape,
      config.model_init,
      config.model,
      **config.get("model_load", {}),
    )
    state["params"] = u.reshard(loaded, shardings["params"])
  first_step = int(jax.device_get(bv_optax.get_count(state["opt"])))
  u.chrono.inform(first_step=first_step)

  @functools.partial(
    jax.jit, donate_argnums=(0,), out_shardings=(shardings, repl)
  )
  def update(state, rng, batch):
    step = bv_optax.get_count(state["opt"], jittable=True)
    rng = jax.random.fold_in(rng, step)
    images, labels = batch["image"], batch["labels"]
    if config.get("mixup"):
      rng, (images, labels), _ = u.mixup(rng, images, labels, **config.mixup)
    _, rng_model = jax.random.split(rng)

    def loss_fn(params, images, labels):
      logits, _ = model.apply(
        {"params": params}, images, train=True, rngs={"dropout": rng_model}
      )
      return getattr(u, config.loss)(logits=logits, labels=labels)

    loss, grads = u.accumulate_gradient(
      jax.value_and_grad(loss_fn),
      state["params"],
      images,
      labels,
      config.get("grad_accum_steps", 1),
    )
    updates, opt = tx.update(grads, state["opt"], state["params"])
    params = jax.tree.map(jnp.add, state["params"], updates)
    grads = bv_optax.replace_frozen(config.schedule, grads, 0.0)
    norm = lambda t: jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(t)))
    measured = {"training_loss": loss, "l2_grads": norm(grads)}
    return {"params": params, "opt": opt}, measured

  def predict(state, batch):
    return model.apply({"params": state["params"]}, batch["image"])

  @functools.cache
  def evaluators():
    return eval_common.from_config(
      config,
      {"predict": predict},
      lambda s: logging.info("Evaluator %s", s),
      lambda key, cfg: get_steps(key, None, cfg),
      devices,
    )

  def evaluate(due):
    for name, evaluator, log_steps, prefix in evaluators():
      if due(log_steps):
        u.chrono.pause(wait_for=state)
        with u.chrono.log_timing(f"z/secs/eval/{name}"):
          with mesh, nn.logical_axis_rules(rules):
            for key, value in evaluator.run(state):
              mw.measure(f"{prefix}{key}", jax.device_get(value))
        u.chrono.resume()

  ckpt_mngr = serialization.GlobalAsyncCheckpointManager()
  prof = None
  mw.step_start(first_step)
  if first_step in (total_steps, 0):
    evaluate(lambda log_steps: True)
  for step, batch in zip(
    range(first_step + 1, total_steps + 1), train_iter, strict=False
  ):
    mw.step_start(step)
    with u.chrono.log_timing("z/secs/update0", noop=step > first_step + 1):
      with mesh, nn.logical_axis_rules(rules):
        state, measured = update(state, rng_loop, batch)
    prof = u.startstop_prof(prof, step, first_step, get_steps("log_training"))
    if u.itstime(step, get_steps("log_training"), total_steps, host=0):
      for i, fn in enumerate(sched_fns_cpu):
        at = u.put_cpu(np.asarray(step - 1))
        mw.measure(f"global_schedule{i or ''}", fn(at))
      for name, value in sorted(jax.device_get(measured).items()):
        mw.measure(name, value)
      u.chrono.tick(step)
      u.log_memory(mw.measure)
    keep = u.itstime(
      step, get_steps("keep_ckpt", None), total_steps, first=False
    )
    if keep or u.itstime(step, get_steps("ckpt", None), total_steps):
      u.chrono.pause(wait_for=state)
      clock = multihost_utils.broadcast_one_to_all(u.chrono.save())
      clock = u.reshard(clock, repl)
      u.save_checkpoint_ts(
        ckpt_mngr, {**state, "chrono": clock}, save_path, step, keep
      )
      u.chrono.resume()
    evaluate(
      lambda n, step=step: u.itstime(
        step, n, total_steps, first=False, last=True
      )
    )
    mw.step_end()
    if step == config.get("stop_after"):  # As if the machine went away.
      break

  u.startstop_prof(prof)
  mw.close()
  ckpt_mngr.wait_until_finished()
  u.sync()
  u.maybe_cleanup_workdir(workdir, flags.FLAGS.cleanup, logging.info)


def _get_steps(config, ntrain, total_steps, name, default=ValueError, cfg=None):
  cfg = config if cfg is None else cfg
  batch_size = config.input.batch_size
  return u.steps(name, cfg, ntrain, batch_size, total_steps, default)


if __name__ == "__main__":
  app.run(main)
