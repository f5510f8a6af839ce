"""Training with SAM and GSAM, https://arxiv.org/abs/2203.08065.

  python -m big_vision.trainers.proj.gsam.train \
      --config big_vision/configs/proj/gsam/vit_i1k_gsam_no_aug.py --workdir DIR

Differs from `big_vision.train`: the gradient is that of algorithm 1, from two
passes over the batch. `config.gsam` has the arguments of `gsam.gsam_gradient`
without the learning rate, which is that of the step, and

  per_device: whether each device perturbs the parameters by the gradient of its
    own examples, as the paper did ("m-sharpness"). Results then depend on the
    number of devices. By default all use that of the whole batch.
"""

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

import dataclasses

import jax
from absl import app
from jax.sharding import PartitionSpec

from big_vision import optax as bv_optax
from big_vision import sharding, train
from big_vision.trainers.proj.gsam import gsam
from big_vision.training import cli
from big_vision.training.recipe import Recipe, value_and_grad
from big_vision.training.setup import Setup

_RADIUS = ("rho_max", "rho_min", "lr_max", "lr_min")


def build(setup: Setup) -> Recipe:
  """Makes the recipe of `big_vision.train` with the gradient of GSAM.

  Args:
    setup: reads `gsam` of its config besides the keys of that trainer.

  Returns:
    The Recipe; it also measures the radius and the surrogate gap, the difference
    of the perturbed loss and the loss.

  Raises:
    ValueError: the config accumulates gradients, has several schedules, or asks
      for sums in a fixed order and for a perturbation of each device.
  """
  config = setup.config
  if config.get("grad_accum_steps"):
    raise ValueError(
      "config.grad_accum_steps: parts of a batch would each have a perturbation "
      "of their own. Remove it."
    )
  kw = config.gsam.to_dict()
  radius_kw = {name: kw.pop(name) for name in _RADIUS}
  per_device = kw.pop("per_device", False)
  if per_device and config.get("deterministic_reductions"):
    raise ValueError(
      "config.gsam.per_device sums over devices in no fixed order. Remove it, or "
      "config.deterministic_reductions."
    )
  schedule = _schedule(setup)

  def grad_fn(loss_fn, params, batch, rng, state, *static):
    # That of the step as it is counted in the log, from 1 on.
    step = bv_optax.get_count(state["opt"], jittable=True) + 1
    rho = gsam.radius(schedule(step) * config.lr, **radius_kw)

    def gradient(params, batch):
      at = lambda p: value_and_grad(loss_fn, p, batch, rng, state, *static)
      (loss, measurements), grads, (perturbed, _) = gsam.two_gradients(
        at, params, rho, **kw
      )
      measured = {**measurements, "gsam_rho": rho, "gsam_gap": perturbed - loss}
      return (loss, measured), grads

    if not per_device:
      return gradient(params, batch)
    axes = sharding.example_axes(config, setup.mesh)
    of_device = lambda p, b: jax.lax.pmean(gradient(p, b), axes)
    replicated, split = PartitionSpec(), PartitionSpec(axes)
    return jax.shard_map(
      of_device,
      mesh=setup.mesh,
      in_specs=(replicated, split),
      out_specs=replicated,
      axis_names=set(axes),
      check_vma=False,
    )(params, batch)

  return dataclasses.replace(train.build(setup), grad_fn=grad_fn)


def _schedule(setup):
  """Returns the one schedule of the learning rate: step -> multiplier."""
  fns = bv_optax.schedule_fns(setup.config, setup.sched_kw)
  if len(fns) != 1:
    raise ValueError(
      f"config.schedule: GSAM needs one global learning rate, not {len(fns)}."
    )
  return fns[0]


main = cli.main_for(build)

if __name__ == "__main__":
  app.run(main)
