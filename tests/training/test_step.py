"""The update step: accumulation, and what kinds of methods fit a recipe."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toy
from big_vision.training import loop
from big_vision.training import recipe as recipe_lib
from big_vision.training import step as step_lib

pytestmark = pytest.mark.usefixtures("quick_compilation")


def run(workdir, recipe, devices=None, **kw):
  os.makedirs(workdir, exist_ok=True)
  setup = toy.setup(toy.config(**kw), workdir, devices)
  state = loop.run(setup, recipe)
  setup.writer.close()
  return state


def test_l2():
  tree = {"a": jnp.array([3.0]), "b": {"c": jnp.array([[4.0]], jnp.bfloat16)}}
  assert step_lib.l2(tree) == 5.0
  assert step_lib.l2({}) == 0.0


@pytest.mark.parametrize("accum", [2, 4, 16])
def test_accumulated_gradient_is_the_gradient(accum):
  batch = jax.tree.map(jnp.asarray, toy.batch(0, 16))
  params = toy.init(jax.random.PRNGKey(0), batch)
  rng = jax.random.PRNGKey(1)
  get = lambda n: step_lib.loss_and_grad(
    toy.make(), params, batch, rng, {}, (), n
  )
  want, got = get(1), jax.jit(get, static_argnums=0)(accum)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    want, got,
  )  # fmt: skip


@pytest.mark.multidevice
def test_accumulation_gives_the_curve_of_the_large_batch(tmp_path):
  run(tmp_path / "a", toy.make())
  run(tmp_path / "b", toy.make(), grad_accum_steps=4)
  run(tmp_path / "c", toy.make(), jax.devices(), grad_accum_steps=2)
  a, b, c = (toy.numbers(tmp_path / w) for w in "abc")
  for step in range(1, 9):
    np.testing.assert_allclose(a[step], b[step], rtol=1e-5)
    np.testing.assert_allclose(a[step], c[step], rtol=1e-5)


def test_key_of_a_step_is_a_function_of_seed_and_step(tmp_path):
  """fold_in of the counter, one split for the model: nothing else."""
  seen = {}

  def loss_fn(params, batch, rng, state):
    loss, _ = toy.loss_fn(params, batch, rng, state)
    return loss, {"draw": jax.random.uniform(rng)}

  run(tmp_path / "a", toy.make(loss_fn=loss_fn), total_steps=3, seed=5)
  seen = {s: r["draw"] for s, r in toy.rows(tmp_path / "a").items()}
  k1, _ = jax.random.split(jax.random.PRNGKey(5))
  loop_key = jax.random.split(k1)[1]
  for step in (1, 2, 3):
    key = jax.random.split(jax.random.fold_in(loop_key, step - 1))[1]
    np.testing.assert_allclose(seen[step], jax.random.uniform(key), rtol=1e-6)


# What later methods need, each as a toy.


def test_distillation_with_a_frozen_teacher(tmp_path):
  teacher = toy.init(jax.random.PRNGKey(9), toy.batch(0, 1))

  def loss_fn(params, batch, rng, state):
    del rng
    target = toy.forward(state["frozen"]["teacher"], batch["image"])
    error = toy.forward(params, batch["image"]) - target
    return jnp.square(error).mean(), {"top": jnp.abs(error).max()}

  recipe = toy.make(loss_fn=loss_fn, frozen={"teacher": teacher})
  kw = dict(total_steps=60, ckpt_steps=60, log_training_steps=59)
  state = run(tmp_path / "w", recipe, **kw)
  rows = toy.rows(tmp_path / "w")
  assert rows[60]["training_loss"] < 0.2 * rows[1]["training_loss"]
  assert set(state) == {"params", "opt"}
  saved = os.listdir(tmp_path / "w/checkpoint.bv-000000060")
  assert not [n for n in saved if "teacher" in n or "frozen" in n]


def test_two_pass_gradient(tmp_path):
  """Sharpness-aware: the gradient at the worst point nearby."""
  rho = 0.1

  def grad_fn(loss_fn, params, batch, rng, state, *static):
    args = (batch, rng, state, *static)
    _, g = recipe_lib.value_and_grad(loss_fn, params, *args)
    norm = step_lib.l2(g)
    worst = jax.tree.map(lambda p, d: p + rho * d / norm, params, g)
    return recipe_lib.value_and_grad(loss_fn, worst, *args)

  run(tmp_path / "w", toy.make(grad_fn=grad_fn), total_steps=1)
  from big_vision.training import state as state_lib

  batch = toy.batch(0, 16)
  params = toy.init(state_lib.seed_keys(0)[0], batch)
  f = jax.value_and_grad(lambda p: toy.loss_fn(p, batch, None, None)[0])
  _, g = f(params)
  norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(g)))
  loss, _ = f(jax.tree.map(lambda p, d: p + rho * d / norm, params, g))
  row = toy.rows(tmp_path / "w")[1]
  np.testing.assert_allclose(row["training_loss"], loss, rtol=1e-5)


def test_mutable_collections(tmp_path):
  """A running mean of the inputs, carried and stored like batch norm's."""

  def loss_fn(params, batch, rng, state):
    loss, measured = toy.loss_fn(params, batch, rng, state)
    mean = state["collections"]["stats"]["mean"]
    new = 0.9 * mean + 0.1 * batch["image"].mean(axis=0)
    return loss, {**measured, "collections": {"stats": {"mean": new}}}

  zeros = lambda params: {
    "collections": {"stats": {"mean": jnp.zeros(toy.D_IN)}}
  }
  recipe = toy.make(loss_fn=loss_fn, extra_state=zeros)
  for accum in (1, 2):
    w = tmp_path / str(accum)
    state = run(w, recipe, ckpt_steps=8, grad_accum_steps=accum)
    want = np.zeros(toy.D_IN)
    for step in range(8):
      want = 0.9 * want + 0.1 * toy.batch(step, 16)["image"].mean(axis=0)
    got = state["collections"]["stats"]["mean"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    assert "collections" not in toy.rows(w)[8]
    assert "collections~stats~mean" in os.listdir(w / "checkpoint.bv-000000008")


def test_average_of_the_parameters(tmp_path):
  """An exponential moving average, resumed exactly."""

  def post_update(old, new):
    mix = lambda e, p: 0.5 * e + 0.5 * p
    return {**new, "ema": jax.tree.map(mix, old["ema"], new["params"])}

  recipe = toy.make(
    extra_state=lambda params: {"ema": params}, post_update=post_update
  )
  want = run(tmp_path / "a", recipe, keep_ckpt_steps=4)
  resume = f"{tmp_path}/a/checkpoint.bv-000000004"
  got = run(tmp_path / "b", recipe, resume=resume)
  jax.tree.map(np.testing.assert_array_equal, want["ema"], got["ema"])
  # By hand, from the parameters after every step.
  every = run(tmp_path / "c", recipe, keep_ckpt_steps=1)
  from big_vision import checkpoints
  from big_vision.training import state as state_lib

  ema = toy.init(state_lib.seed_keys(0)[0], toy.batch(0, 16))["head"]["bias"]
  for step in range(1, 9):
    path = f"{tmp_path}/c/checkpoint.bv-{step:09d}:head/bias"
    ema = 0.5 * ema + 0.5 * np.asarray(checkpoints.load_params(path))
  np.testing.assert_allclose(every["ema"]["head"]["bias"], ema, rtol=1e-6)


def test_static_arguments_compile_once_each(tmp_path):
  traced = []

  def loss_fn(params, batch, rng, state, scale):
    traced.append(scale)
    loss, measured = toy.loss_fn(params, batch, rng, state)
    return scale * loss, measured

  static = lambda step: (2 - step % 2,)  # 1 at odd steps, 2 at even ones.
  run(tmp_path / "w", toy.make(loss_fn=loss_fn, static_args=static))
  assert sorted(set(traced)) == [1, 2] and len(traced) == 2
  plain = run(tmp_path / "p", toy.make(), total_steps=1)
  assert plain
  want = toy.rows(tmp_path / "p")[1]["training_loss"]
  assert toy.rows(tmp_path / "w")[1]["training_loss"] == want


def test_augment_comes_first_and_advances_the_key(tmp_path):
  def augment(batch, rng):
    rng, r = jax.random.split(rng)
    return {**batch, "image": batch["image"] * jax.random.uniform(r)}, rng

  def loss_fn(params, batch, rng, state):
    loss, _ = toy.loss_fn(params, batch, rng, state)
    return loss, {"draw": jax.random.uniform(rng), "x": batch["image"].sum()}

  run(tmp_path / "w", toy.make(loss_fn=loss_fn, augment=augment), total_steps=1)
  k1, _ = jax.random.split(jax.random.PRNGKey(0))
  r = jax.random.fold_in(jax.random.split(k1)[1], 0)
  r, r_aug = jax.random.split(r)
  row = toy.rows(tmp_path / "w")[1]
  draw = jax.random.uniform(jax.random.split(r)[1])
  np.testing.assert_allclose(row["draw"], draw, rtol=1e-6)
  x = toy.batch(0, 16)["image"].sum() * jax.random.uniform(r_aug)
  np.testing.assert_allclose(row["x"], x, rtol=1e-5)
