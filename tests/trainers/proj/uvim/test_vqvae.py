"""Stage I of UViM: one step by hand, devices, parts of batches, resuming."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toy
from big_vision import checkpoints
from big_vision.models.proj.uvim import vit
from big_vision.trainers.proj.uvim import colorization_task, vqvae
from big_vision.training import loop
from big_vision.training import state as state_lib

pytestmark = pytest.mark.usefixtures("quick_compilation")
SIZE = 16

MODEL = dict(
  input_size=(SIZE, SIZE),
  patch_size=(8, 8),
  code_len=4,
  width=16,
  mlp_dim=16,
  num_heads=2,
  enc_depth=1,
  dec_depth=1,
  dict_size=16,
  codeword_dim=4,
  # So that codes are replaced within few steps.
  dict_momentum=0.6,
  with_decoder_ctx=True,
  bottleneck_resize=True,
  inputs=dict(color=(3, 64)),
  outputs=dict(color=(3, 64)),
)


def config(**kw):
  model = MODEL | kw.pop("model", {})
  new = dict(
    task="proj.uvim.colorization_task",
    model_name="proj.uvim.vit",
    model=model,
    freeze_dict=False,
    w_commitment=0.5,
    total_steps=6,
    lr=0.01,
    schedule=dict(decay_type="cosine", warmup_steps=1),
  )
  return toy.config(**new | kw)


def batch(step, size):
  r = np.random.default_rng([3, step])
  color = np.tanh(r.normal(size=(size, SIZE, SIZE, 3))).astype(np.float32)
  grey = np.repeat(color.mean(-1, keepdims=True), 3, axis=-1)
  return {"image": grey, "labels": color}


def make_setup(config, **kw):
  setup = toy.setup(config, batch_fn=batch, **kw)
  shapes = jax.eval_shape(
    lambda: jax.tree.map(jnp.asarray, batch(0, config.input.batch_size))
  )
  return dataclasses.replace(setup, batch_shapes=shapes)


def run(config, **kw):
  setup = make_setup(config, **kw)
  state = loop.run(setup, vqvae.build(setup))
  setup.writer.close()
  return state


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_one_step_by_hand(tmp_path):
  cfg = config(total_steps=1, init_head_bias=0.25)
  setup = make_setup(cfg)
  recipe = vqvae.build(setup)
  start = state_lib.initialize(recipe, setup, state_lib.plan(recipe, setup))
  model = vit.Model(**cfg.model)
  b = batch(0, 16)
  x = colorization_task.input_pp(b, cfg)
  # Keys as documented: of the parameters, of the dictionary.
  rng, _ = state_lib.seed_keys(0)
  rngs = dict(zip(("params", "state"), jax.random.split(rng), strict=True))
  variables = jax.jit(lambda: model.init(rngs, **x))()
  bias = variables["params"]["head_color"]["bias"]
  variables["params"]["head_color"]["bias"] = jnp.full_like(bias, 0.25)
  same(start["params"], variables["params"])
  same(start["state"], variables["state"])

  logits, out = model.apply(variables, **x)
  labels = x["x"]["color"]
  rec = float(np.mean((np.asarray(logits["color"]) - labels) ** 2))
  z, q = np.asarray(out["bottleneck"]), np.asarray(out["bottleneck_q"])
  commitment = float(np.mean((z - q) ** 2))
  code = np.asarray(out["code"])

  state = run(cfg, workdir=tmp_path)
  row = toy.rows(tmp_path)[1]
  for name, want in {
    "loss_rec": rec,
    "loss_color": rec,
    "loss_commitment": commitment,
    "training_loss": rec + 0.5 * commitment,
    "codebook_max_ratio": np.bincount(code.ravel()).max() / code.size,
    "codebook_zeros_ratio": 1 - len(np.unique(code)) / 16,
  }.items():
    assert row[name] == pytest.approx(want, rel=1e-4), name
  counts = 0.6 + np.bincount(code.ravel(), minlength=16)
  np.testing.assert_allclose(state["state"]["counts"], counts, rtol=1e-6)
  sums = 0.6 * np.asarray(variables["state"]["dictionary"])
  np.add.at(sums, code.ravel(), z.reshape(-1, 4))
  np.testing.assert_allclose(state["state"]["dictionary"], sums, atol=1e-4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """(workdir, final state) of six steps with checkpoints, on one device."""
  workdir = tmp_path_factory.mktemp("run")
  cfg = config(ckpt_steps=3, keep_ckpt_steps=3)
  return workdir, run(cfg, workdir=workdir)


def test_unused_codes_are_replaced(trained):
  counts = np.asarray(trained[1]["state"]["counts"])
  assert counts.min() >= 0.1
  # Codes that nobody uses would be at 0.6 ** 6 < 0.05.
  assert {"params", "opt", "state"} == trained[1].keys()


def test_the_dictionary_is_in_checkpoints(trained):
  workdir, state = trained
  saved = checkpoints.load_checkpoint_ts(f"{workdir}/checkpoint.bv")
  same(saved["state"], state["state"])
  params, dictionary = vit.load(None, f"{workdir}/checkpoint.bv")
  same(params, state["params"])
  same(dictionary, state["state"])


def test_resuming_gives_the_same_bits(trained, tmp_path):
  workdir, whole = trained
  cfg = config(resume=f"{workdir}/checkpoint.bv-000000003", ckpt_steps=3)
  resumed = run(cfg, workdir=tmp_path)
  for key in ("params", "state", "opt"):
    same(resumed[key], whole[key])


def test_model_init_loads_both(trained):
  workdir, state = trained
  cfg = config(model_init=f"{workdir}/checkpoint.bv")
  setup = make_setup(cfg)
  recipe = vqvae.build(setup)
  start = state_lib.initialize(recipe, setup, state_lib.plan(recipe, setup))
  same(start["params"], state["params"])
  same(start["state"], state["state"])


@pytest.mark.parametrize(
  "devices, kw", [(8, {}), (1, dict(grad_accum_steps=4)), (2, dict(grad_accum_steps=2))]
)  # fmt: skip
def test_devices_and_parts_of_batches(trained, tmp_path, devices, kw):
  """Curves, parameters and codebook are those of one device."""
  workdir, whole = trained
  state = run(config(**kw), devices=jax.devices()[:devices], workdir=tmp_path)
  rows, want = toy.rows(tmp_path), toy.rows(workdir)
  names = ("training_loss", "loss_rec", "codebook_zeros_ratio",
           "codebook_max_ratio", "l2_params")  # fmt: skip
  for step in range(1, 7):
    for name in names:
      assert rows[step][name] == pytest.approx(want[step][name], rel=1e-4)
  # Of the parameters, biases of keys follow rounding errors.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    state["state"],
    whole["state"],
  )


def test_frozen_dictionary():
  state = run(config(total_steps=2, freeze_dict=True))
  rng, _ = state_lib.seed_keys(0)
  assert np.all(np.asarray(state["state"]["counts"]) == 1)


def test_rounding_needs_no_dictionary(tmp_path):
  model = dict(quantizer="fsq", fsq_levels=(4, 4))
  state = run(config(model=model, total_steps=2), workdir=tmp_path)
  assert not state["state"]
  assert np.isfinite(toy.rows(tmp_path)[2]["training_loss"])
  assert 0 <= toy.rows(tmp_path)[2]["codebook_zeros_ratio"] < 1


def test_predict_functions(trained):
  cfg = config()
  recipe = vqvae.build(make_setup(cfg))
  b = batch(9, 3)
  state = jax.tree.map(jnp.asarray, dict(trained[1]))
  losses = recipe.predict_fns["validation"](state, b)
  assert losses.keys() == {"loss_color", "loss_commitment"}
  predicted = recipe.predict_fns["predict"](state, b)["color"]
  assert predicted.shape == (3, SIZE, SIZE, 3)
  model = vit.Model(**cfg.model)
  logits, out = model.apply(
    {"params": state["params"], "state": state["state"]},
    **colorization_task.input_pp(b, cfg),
  )
  want = colorization_task.loss_fn(logits, b, cfg)[0]
  np.testing.assert_allclose(
    losses["loss_color"], np.mean(want, axis=(1, 2, 3)), rtol=1e-5
  )
  z = np.asarray(out["bottleneck"]) - out["bottleneck_q"]
  np.testing.assert_allclose(
    losses["loss_commitment"], (z**2).mean((1, 2)), rtol=1e-5
  )
