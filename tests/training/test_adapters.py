"""Training adapters with `config.lora`: what is trained, stored, and read again."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toy
from big_vision import checkpoints, lookup, models, train, trees
from big_vision import optax as bv_optax
from big_vision.models import vit
from big_vision.training import adapters, loop
from big_vision.training import recipe as recipe_lib

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODEL = dict(width=8, depth=2, mlp_dim=16, num_heads=2, patch_size=(4, 4))
SIZE = 8


def batch_fn(step, size=16):
  r = np.random.default_rng([3, step])
  image = r.normal(size=(size, SIZE, SIZE, 3)).astype(np.float32)
  labels = np.eye(3, dtype=np.float32)[r.integers(3, size=size)]
  return {"image": image, "labels": labels}


def make_setup(workdir, init, **kw):
  default = dict(
    num_classes=3, loss="softmax_xent", model_name="vit",
    model=dict(MODEL, scan=True), model_init=str(init),
    model_load=dict(dont_load=["head/.*"]), schedule={},
    lora=dict(rank=2, alpha=4), total_steps=4, ckpt_steps=2, keep_ckpt_steps=2,
    ema_decay=0.5,
  )  # fmt: skip
  os.makedirs(workdir, exist_ok=True)
  out = toy.setup(toy.config(**default | kw), workdir, batch_fn=batch_fn)
  return dataclasses.replace(
    out, batch_shapes=jax.eval_shape(lambda: batch_fn(0))
  )


def run(workdir, init, **kw):
  setup = make_setup(workdir, init, **kw)
  state = loop.run(setup, train.build(setup))
  setup.writer.close()
  return jax.device_get(state)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """Parameters, and the file that has them; of 16 other classes."""
  model = vit.Model(16, **MODEL, scan=True, head_zeroinit=False)
  init = jax.jit(model.init)(jax.random.PRNGKey(5), batch_fn(0)["image"])
  path = str(tmp_path_factory.mktemp("base") / "base.npz")
  checkpoints.save_checkpoint(init["params"], path)
  return jax.device_get(init["params"]), path


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
  """Workdir and final state of a run."""
  workdir = tmp_path_factory.mktemp("runs") / "w"
  return workdir, run(workdir, base[1])


def names(tree):
  return [n for n, _ in trees.tree_flatten_with_names(tree)[0]]


def unmerged(state, base):
  """The parameters in NumPy."""
  every = dict(trees.tree_flatten_with_names(base)[0])
  own = dict(trees.tree_flatten_with_names(state["params"])[0])
  for name, x in own.items():
    if name.endswith("lora_a"):
      kernel = name.replace("lora_a", "kernel")
      product = 2 * (x @ own[name.replace("lora_a", "lora_b")])
      every[kernel] = every[kernel] + product.reshape(every[kernel].shape)
    elif "lora" not in name:
      every[name] = x
  return every


def test_only_adapters_and_the_head_are_trained_and_stored(finished):
  workdir, state = finished
  params = names(state["params"])
  assert sum(n.endswith("lora_a") for n in params) == 6
  rest = [n for n in params if "/lora_" not in n]
  assert sorted(rest) == ["head/bias", "head/kernel"]
  (adam,) = bv_optax.find_states(state["opt"], optax.ScaleByAdamState)
  assert len(jax.tree.leaves(adam.mu)) == len(params)
  folder = f"{workdir}/checkpoint.bv-000000004"
  stored = checkpoints.leaf_names(folder)
  assert [n for n in stored if n.startswith("params/")] == sorted(
    f"params/{n}" for n in params
  )
  assert not [n for n in stored if "kernel" in n and "head" not in n]


def test_the_run_starts_as_the_base(base, finished):
  """Loss of step 1, by the base and a head of zeros: ln 3."""
  np.testing.assert_allclose(
    toy.rows(finished[0])[1]["training_loss"], np.log(3), rtol=1e-5
  )
  b = finished[1]["params"]["Transformer"]["encoderblock"]
  attention = b["MultiHeadDotProductAttention_0"]
  assert np.abs(attention["value"]["lora_b"]).max() > 1e-3  # Trained.


def test_dtype_of_the_base(base, tmp_path):
  kw = dict(lora=dict(rank=2, alpha=4, dtype="bfloat16"), total_steps=2)
  setup = make_setup(tmp_path / "a", base[1], **kw)
  recipe = adapters.adapt(train.build(setup), setup)
  kept = dict(trees.tree_flatten_with_names(recipe.frozen["base"])[0])
  stored = dict(trees.tree_flatten_with_names(base[0])[0])
  assert len(kept) > 10
  for name, x in kept.items():
    assert x.dtype == jnp.bfloat16
    np.testing.assert_array_equal(x, stored[name].astype(jnp.bfloat16))
  # What is loaded is what was trained: rounded before the product is added.
  state = run(tmp_path / "w", base[1], **kw)
  got = models.load_params(f"{tmp_path}/w/checkpoint.bv")
  rounded = {n: np.float32(x) for n, x in {**stored, **kept}.items()}
  want = unmerged(state, trees.tree_unflatten(rounded.items()))
  for name, x in trees.tree_flatten_with_names(got)[0]:
    np.testing.assert_allclose(np.float32(x), want[name], rtol=4e-3, atol=1e-6)
  name = "Transformer/encoder_norm/scale"
  np.testing.assert_array_equal(trees.tree_get(got, name), kept[name])


def test_resumes_bit_for_bit(base, finished, tmp_path):
  half = run(
    tmp_path / "w", base[1], total_steps=4,
    resume=f"{finished[0]}/checkpoint.bv-000000002",
  )  # fmt: skip
  jax.tree.map(np.testing.assert_array_equal, half, finished[1])


def test_refuses_to_resume_with_another_base(base, finished, tmp_path):
  other = jax.tree.map(lambda x: x + 0.01, base[0])
  checkpoints.save_checkpoint(other, str(tmp_path / "other.npz"))
  resume = f"{finished[0]}/checkpoint.bv-000000002"
  with pytest.raises(lookup.ConfigError, match="config.model_init is not what"):
    run(tmp_path / "w", tmp_path / "other.npz", resume=resume)


def test_checkpoints_are_read_with_their_base(base, finished):
  workdir, state = finished
  got = models.load_params(f"{workdir}/checkpoint.bv")
  want = unmerged(state, base[0])
  assert sorted(names(got)) == sorted(want)
  for name, x in trees.tree_flatten_with_names(got)[0]:
    np.testing.assert_allclose(x, want[name], rtol=1e-5, atol=1e-6)
  part = models.load_params(f"{workdir}/checkpoint.bv:head")
  np.testing.assert_array_equal(part["bias"], state["params"]["head"]["bias"])


def test_averages_are_of_the_adapters(base, finished):
  workdir, state = finished
  average = state["params_ema"]
  assert names(average) == names(state["params"])
  got = models.load_params(f"{workdir}/checkpoint.bv:params_ema")
  want = unmerged({"params": average}, base[0])
  for name, x in trees.tree_flatten_with_names(got)[0]:
    np.testing.assert_allclose(x, want[name], rtol=1e-5, atol=1e-6)
  kernel = models.load_params(f"{workdir}/checkpoint.bv:params_ema:head/kernel")
  np.testing.assert_array_equal(kernel, average["head"]["kernel"])


def test_predictions_of_evaluators_and_of_what_is_loaded(base, finished):
  """Evaluators, `model_init`, also unstacked, and plain parameters agree."""
  workdir, state = finished
  setup = make_setup(workdir, base[1])
  recipe = adapters.adapt(train.build(setup), setup)
  image = batch_fn(9)["image"]
  frozen = {**recipe.frozen}
  got = jax.jit(recipe.predict_fns["predict"])(
    {**state, "frozen": frozen}, {"image": image}
  )[0]
  init = f"{workdir}/checkpoint.bv"
  config = dict(model_name="vit", model=MODEL, model_init=init)
  model, load = models.build(config, num_classes=3)
  shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), image)["params"]
  loaded = model.apply({"params": load(shapes)}, image)[0]
  np.testing.assert_allclose(got, loaded, rtol=1e-5, atol=1e-5)
  params = trees.tree_unflatten(unmerged(state, base[0]).items())
  model = vit.Model(3, **MODEL, scan=True)
  plain = model.apply({"params": params}, image)[0]
  np.testing.assert_allclose(got, plain, rtol=1e-5, atol=1e-5)
  assert np.abs(plain).max() > 1e-3


def test_a_lost_base_is_named(finished, tmp_path, base):
  moved = tmp_path / "moved.npz"
  os.rename(base[1], moved)
  try:
    with pytest.raises(lookup.ConfigError, match="adapters only.*base.npz"):
      models.load_params(f"{finished[0]}/checkpoint.bv")
  finally:
    os.rename(moved, base[1])


@pytest.mark.parametrize(
  "kw, message",
  [
    (dict(model_init=""), "config.lora adapts a trained model.*model_init"),
    (dict(lora=dict(rank=2, train=["heat/.*"])), "config.lora.train.*'heat/"),
    (dict(lora=dict(rank=2, targets=["conv"])), "config.lora.targets: 'conv'"),
  ],
)
def test_bad_configs(base, tmp_path, kw, message):
  setup = make_setup(tmp_path, base[1], **kw)
  with pytest.raises(lookup.ConfigError, match=message) as e:
    adapters.adapt(train.build(setup), setup)
  assert "\n" not in str(e.value)


def test_gradient_is_that_of_the_product():
  """dL/dA = scale dL/dW B^T, dL/dB = scale A^T dL/dW; methods that accumulate, too."""
  r = np.random.default_rng(0)
  w, a, b, x = (
    r.normal(0, 0.3, s).astype(np.float32)
    for s in [(4, 3), (4, 2), (2, 3), (5, 4)]
  )
  loss = lambda params, batch, rng, state: (
    jnp.sum(jnp.tanh(batch @ params["query"]["kernel"])),
    {
      "same": jnp.max(
        abs(params["query"]["kernel"] - state["params"]["query"]["kernel"])
      )
    },
  )

  def accumulate(params, batch, rng, state, steps, constrain):
    grads = jax.value_and_grad(loss, has_aux=True)
    out, g = grads(params, batch, rng, state)
    return out, constrain(g)

  trained = {"query": {"lora_a": a, "lora_b": b}}
  state = {"params": trained, "frozen": {"base": {"query": {"kernel": w}}}}
  grad = 1 - np.tanh(x @ (w + 3 * a @ b)) ** 2
  grad = x.T @ grad  # Of W.
  merged = adapters._merged_loss(loss, 3.0)
  whole = recipe_lib.value_and_grad(merged, trained, x, None, state)
  parts = adapters._accumulate(accumulate, 3.0)(
    trained, x, None, state, steps=2, constrain=None
  )
  for (value, measured), grads in (whole, parts):
    assert measured["same"] == 0
    np.testing.assert_allclose(
      value, np.sum(np.tanh(x @ (w + 3 * a @ b))), rtol=1e-5
    )
    got = grads["query"]
    np.testing.assert_allclose(
      got["lora_a"], 3 * grad @ b.T, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
      got["lora_b"], 3 * a.T @ grad, rtol=1e-4, atol=1e-6
    )


def test_without_the_key_the_recipe_stays(base, tmp_path):
  setup = make_setup(tmp_path, base[1], lora=None)
  recipe = train.build(setup)
  assert adapters.adapt(recipe, setup) is recipe
