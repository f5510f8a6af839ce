"""A two-layer network on random data: the smallest thing the loop can train."""

import json

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np

from big_vision import chrono, metrics, schedules
from big_vision import devices as bv_devices
from big_vision.training import recipe
from big_vision.training import setup as setup_lib

D_IN, D_HID, D_OUT = 6, 16, 3


def config(**kw):
  """A config of 8 steps of Adam with everything else at its default."""
  default = dict(
    seed=0,
    total_steps=8,
    input=dict(batch_size=16),
    log_training_steps=1,
    model_name="toy",
    optax_name="scale_by_adam",
    lr=0.05,
    wd=1e-3,
    grad_clip_norm=1.0,
    schedule=dict(decay_type="cosine", warmup_steps=2),
  )
  return mlc.ConfigDict(default | kw)


def batch(step, size):
  """The batch of a 0-based step: a fixed nonlinear regression problem."""
  r = np.random.default_rng([7, step])
  x = r.normal(size=(size, D_IN)).astype(np.float32)
  w = np.random.default_rng(1).normal(size=(D_IN, D_OUT)).astype(np.float32)
  return {"image": x, "labels": np.tanh(x @ w)}


def setup(config, workdir=None, devices=None, batch_fn=batch):
  """A Setup whose batches come from `batch_fn(step, size)`."""
  devices = np.asarray(devices if devices is not None else jax.devices()[:1])
  mesh = jax.sharding.Mesh(devices, ("data",))
  size = config.input.batch_size
  total = schedules.steps("total", config, 64, size)
  clock = chrono.Chrono()
  writer = metrics.BigVisionMetricWriter(
    workdir=workdir and str(workdir), config=config
  )
  clock.inform(
    total_steps=total,
    global_bs=size,
    steps_per_epoch=64 / size,
    measure=writer.measure,
    write_note=lambda note: None,
  )

  def batches(first_step):
    for step in range(first_step, total):
      yield {
        k: bv_devices.make_fsarray_from_local_slice(v, devices)
        for k, v in batch_fn(step, size).items()
      }

  return setup_lib.Setup(
    config=config,
    workdir=workdir and str(workdir),
    mesh=mesh,
    writer=writer,
    batch_shapes=jax.eval_shape(
      lambda: jax.tree.map(jnp.asarray, batch(0, size))
    ),
    batches=batches,
    num_examples=64,
    total_steps=total,
    chrono=clock,
  )


def init(rng, batch):
  """Parameters of the network; names as of two linen Dense layers."""
  a, b = jax.random.split(rng)
  shape = batch["image"].shape[-1]
  return {
    "hidden": {
      "kernel": jax.random.normal(a, (shape, D_HID)) / np.sqrt(shape),
      "bias": jnp.zeros(D_HID),
    },
    "head": {
      "kernel": jax.random.normal(b, (D_HID, D_OUT)) / np.sqrt(D_HID),
      "bias": jnp.zeros(D_OUT),
    },
  }


def forward(params, x):
  """[B, D_IN] -> [B, D_OUT]."""
  h = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
  return h @ params["head"]["kernel"] + params["head"]["bias"][None]


def loss_fn(params, batch, rng, state):
  """Mean squared error and one measurement."""
  del rng, state
  error = forward(params, batch["image"]) - batch["labels"]
  loss = jnp.square(error).sum(axis=-1)
  return loss.mean(), {"abs_error": jnp.abs(error).mean()}


def make(**kw):
  """The toy recipe, with any of its fields replaced."""
  return recipe.Recipe(**{"init": init, "loss_fn": loss_fn, **kw})


def rows(workdir, name="big_vision_metrics.txt"):
  """The metrics file as {step: row}; of repeated steps the last wins."""
  with open(f"{workdir}/{name}", encoding="utf-8") as f:
    lines = [json.loads(line) for line in f]
  return {row["step"]: row for row in lines}


def numbers(workdir, names=("training_loss", "l2_params", "l2_grads")):
  """{step: (values of names)} of a run's metrics file."""
  return {
    step: tuple(row[n] for n in names)
    for step, row in rows(workdir).items()
    if names[0] in row
  }
