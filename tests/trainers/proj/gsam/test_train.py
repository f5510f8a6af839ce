"""The trainer of GSAM: its gradient is that of the algorithm."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toy
from big_vision import devices, losses, sharding
from big_vision import optax as bv_optax
from big_vision.trainers.proj.gsam import gsam, train

pytestmark = pytest.mark.usefixtures("quick_compilation")

GSAM = dict(rho_max=0.5, rho_min=0.1, alpha=0.4, lr_max=0.02, lr_min=0.002)
BATCH = {
  "image": np.random.default_rng(0).normal(size=(16, 8, 8, 1)),
  "labels": np.eye(3)[np.random.default_rng(1).integers(3, size=16)],
}
BATCH = {k: v.astype(np.float32) for k, v in BATCH.items()}


def make(on=None, **kw):
  """(recipe, params, state) of a tiny ViT after 3 of 8 steps."""
  return make_setup(on, **kw)[1:]


def make_setup(on=None, **kw):
  """What `make` returns, after its setup."""
  default = dict(
    lr=0.02,
    loss="softmax_xent",
    num_classes=3,
    model_name="vit",
    model=dict(
      patch_size=(4, 4), width=8, depth=1, num_heads=2, head_zeroinit=False
    ),
    schedule=dict(decay_type="linear", warmup_steps=2),
    gsam=GSAM,
  )
  config = toy.config(**default | kw)
  setup = toy.setup(config, devices=on)
  setup = dataclasses.replace(setup, batch_shapes=jax.eval_shape(lambda: BATCH))
  if "mesh" in config:
    setup = dataclasses.replace(setup, mesh=devices.mesh_of(config))
  recipe = train.build(setup)
  params = jax.jit(recipe.init)(jax.random.key(0), BATCH)
  sched_kw = dict(total_steps=8, batch_size=16, data_size=64)
  tx, _ = bv_optax.make(config, params, sched_kw=sched_kw)
  opt = tx.init(params)
  for _ in range(3):
    _, opt = tx.update(jax.tree.map(jnp.zeros_like, params), opt, params)
  return setup, recipe, params, {"params": params, "opt": opt}


def gradient(recipe, params, state, batch=BATCH):
  fn = lambda params, batch: recipe.grad_fn(
    recipe.loss_fn, params, batch, jax.random.key(1), state
  )
  return jax.jit(fn)(params, batch)


@pytest.fixture(scope="module")
def made():
  return make()


def expected(recipe, params, batch, **kw):
  """The algorithm itself; the fourth of 8 steps is a third of the way down."""
  loss = lambda p, image, labels: recipe.loss_fn(
    p, {"image": image, "labels": labels}, jax.random.key(1), None
  )[0]
  fn = lambda p, b: gsam.gsam_gradient(
    loss, p, b["image"], b["labels"], lr=0.02 * 4 / 6, **{**GSAM, **kw}
  )
  return jax.jit(fn)(params, batch)


def assert_close(a, b):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-5), a, b
  )


def test_gradient_of_the_whole_batch(made):
  (loss, measured), grads = gradient(*made)
  want_loss, want = expected(*made[:2], BATCH)
  assert_close(grads, want)
  assert loss == pytest.approx(float(want_loss), rel=1e-5)
  rho = 0.1 + 0.4 * (0.02 * 4 / 6 - 0.002) / 0.018
  assert measured["gsam_rho"] == pytest.approx(rho, rel=1e-5)
  assert measured["gsam_gap"] > 0.01
  logits_loss = losses.softmax_xent(
    logits=made[0].predict_fns["predict"](made[2], BATCH)[0],
    labels=BATCH["labels"],
  )
  assert loss == pytest.approx(float(logits_loss), rel=1e-4)


@pytest.mark.slow
@pytest.mark.multidevice
def test_devices_perturb_together_or_each_for_itself(made):
  recipe, params, _ = made
  four = jax.devices()[:4]
  _, together = gradient(*make(four))
  assert_close(together, expected(recipe, params, BATCH)[1])
  (loss, measured), alone = gradient(
    *make(four, gsam={**GSAM, "per_device": True})
  )
  parts = [
    expected(recipe, params, {k: v[i : i + 4] for k, v in BATCH.items()})
    for i in range(0, 16, 4)
  ]
  mean = lambda *xs: sum(xs) / len(xs)
  assert_close(alone, jax.tree.map(mean, *(g for _, g in parts)))
  assert loss == pytest.approx(float(mean(*(x for x, _ in parts))), rel=1e-4)
  assert measured["gsam_gap"] > 0
  difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), alone, together)
  assert max(jax.tree.leaves(difference)) > 1e-3


@pytest.mark.slow
@pytest.mark.multidevice
def test_devices_that_work_on_the_same_examples_perturb_together():
  """And the hints of the model are left out where examples are split already."""
  per_device = {**GSAM, "per_device": True}
  (loss, _), want = gradient(*make(jax.devices()[:4], gsam=per_device))
  strategy = [("params/.*", "tensor_parallel('model')")]
  mesh = [("data", 4), ("model", 2)]
  config = dict(gsam=per_device, mesh=mesh, sharding_strategy=strategy)
  setup, recipe, params, state = make_setup(**config)
  where = sharding.infer_sharding({"params": params}, strategy, setup.mesh)
  params = devices.reshard({"params": params}, where)["params"]
  with setup.context():
    (got_loss, _), got = gradient(recipe, params, {**state, "params": params})
  assert_close(got, want)
  assert got_loss == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.slow
def test_other_arguments_reach_the_algorithm(made):
  kw = dict(adaptive_perturbation=True, minimize_fp=False)
  _, grads = gradient(*make(gsam={**GSAM, **kw}))
  assert_close(grads, expected(*made[:2], BATCH, **kw)[1])


def test_radius_follows_the_schedule_as_the_optimizer_does(made):
  """Its `mult`, and parameters that are frozen."""
  schedule = dict(decay_type="linear", warmup_steps=2, mult=0.5)
  (_, measured), _ = gradient(
    *make(schedule=[("head/.*", None), (".*", schedule)])
  )
  rho = 0.1 + 0.4 * (0.5 * 0.02 * 4 / 6 - 0.002) / 0.018
  assert measured["gsam_rho"] == pytest.approx(rho, rel=1e-5)


def test_what_can_not_be():
  with pytest.raises(ValueError, match="config.grad_accum_steps.*Remove"):
    make(grad_accum_steps=2)
  with pytest.raises(ValueError, match="one global learning rate, not 2"):
    make(schedule=[("head/.*", dict()), (".*", dict(decay_type="cosine"))])
