"""Stage II of UViM on random labels, with a stage I that is not trained."""

import dataclasses
import functools
import json
import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from ml_collections import ConfigDict

import toy
import uvim_runs
from big_vision import checkpoints, devices, lookup, models, trees
from big_vision.models import vit
from big_vision.models.proj.uvim import decode, vtt
from big_vision.trainers.proj.uvim import train, vqvae
from big_vision.training import loop

pytestmark = pytest.mark.usefixtures("quick_compilation")
SIZE, N, B = uvim_runs.SIZE, uvim_runs.NUM_CODES, 8
MODEL = dict(
  patches=dict(size=(8, 8)),
  num_heads=2,
  num_layers=1,
  mlp_dim=16,
  emb_dim=16,
  vocab_size=uvim_runs.NUM_WORDS + 1,
  seq_len=N,
  input_size=(SIZE, SIZE),
  posemb_type="learn",
)


def batch_fn(step, size=B):
  r = np.random.default_rng([3, step])
  image = r.normal(size=(size, SIZE, SIZE, 3)).astype(np.float32)
  labels = np.stack([image[..., 0] > 0, image[..., 1] > 0.5], axis=-1)
  return {
    "image": image,
    "image_ctx": image[:, ::-1].copy(),
    "labels": labels.astype(np.int32),
  }


def make_setup(cfg, workdir=None, on=None):
  out = toy.setup(toy.config(**cfg), workdir, on, batch_fn=batch_fn)
  return dataclasses.replace(
    out, batch_shapes=jax.eval_shape(lambda: batch_fn(0))
  )


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory):
  """The workdir of a run of stage I."""
  folder = tmp_path_factory.mktemp("stage_one") / "w"
  return uvim_runs.stage_one(folder, "panoptic")


def config(stage_one, oracle=None, **kw):
  two = uvim_runs.stage_two_config("panoptic", stage_one)
  two["oracle"] |= oracle or {}
  return dict(
    {k: two[k] for k in ("oracle", "model_name")},
    model=MODEL,
    input=dict(batch_size=B),
    lr=0.01,
    **kw,
  )


@functools.cache
def made(stage_one):
  """(recipe, state with frozen trees) with parameters that are not neutral."""
  recipe = train.build(make_setup(config(stage_one)))
  shapes = jax.eval_shape(recipe.init, jax.random.key(0), batch_fn(0))
  rng = np.random.default_rng(0)
  draw = lambda x: 0.5 * rng.normal(size=x.shape).astype(np.float32)
  params = jax.tree.map(draw, shapes)
  return recipe, {"params": params, "frozen": dict(recipe.frozen)}


def stored(stage_one):
  """(model, variables) of stage I, read from its workdir."""
  cfg = ConfigDict(json.loads((stage_one / "config.json").read_text()))
  path = f"{stage_one}/checkpoint.bv"
  tree = checkpoints.load_checkpoint_ts(path, regex="(params|state)/")
  return models.build(cfg)[0], {k: tree[k] for k in ("params", "state")}


def patches(x):
  """[B, H, W] -> [B, N, P], written differently."""
  p, out = uvim_runs.PATCH, []
  for i in range(0, SIZE, p):
    for j in range(0, SIZE, p):
      out.append(x[:, i : i + p, j : j + p].reshape(len(x), -1))
  return np.stack(out, axis=1)


def codes(stage_one, batch):
  """Those of stage I, from 1 on."""
  model, variables = stored(stage_one)
  x = {}
  for i, (name, (classes, _)) in enumerate(
    uvim_runs.INPUTS["panoptic"].items()
  ):
    hot = np.eye(classes, dtype=np.float32)[patches(batch["labels"][..., i])]
    x[name] = np.moveaxis(hot, -1, -2)
  fn = jax.jit(functools.partial(model.apply, method="encode"))
  return np.asarray(fn(variables, x, ctx=batch["image_ctx"])[1]["code"]) + 1


def test_loss(stage_one):
  recipe, state = made(stage_one)
  batch = batch_fn(0)
  want = codes(stage_one, batch)
  assert want.min() >= 1 and len(np.unique(want)) > 1
  logits = jax.jit(vtt.Model(**MODEL).apply)(
    {"params": state["params"]}, batch["image"], want
  )
  logp = scipy.special.log_softmax(np.asarray(logits, np.float64), axis=-1)
  nll = -np.take_along_axis(logp, want[:, :, None], axis=2)[:, :, 0]
  each = recipe.predict_fns["validation"](state, batch)
  assert set(each) == {"loss"}
  np.testing.assert_allclose(each["loss"], nll.mean(axis=1), rtol=1e-5)
  loss, measured = jax.jit(recipe.loss_fn)(
    state["params"], batch, jax.random.key(1), state
  )
  assert not measured
  assert loss == pytest.approx(nll.mean(), rel=1e-5)


def test_predict(stage_one):
  """Codes of a greedy loop over the whole model, through stage I's decoder."""
  recipe, state = made(stage_one)
  batch = {k: v for k, v in batch_fn(5).items() if k != "labels"}
  forward = jax.jit(vtt.Model(**MODEL).apply)
  code = np.zeros([B, N], np.int32)
  for i in range(N):
    logits = np.array(
      forward({"params": state["params"]}, batch["image"], code)
    )
    logits[..., 0] = -np.inf
    code[:, i] = logits[:, i].argmax(axis=-1)
  model, variables = stored(stage_one)
  logits, _ = jax.jit(
    functools.partial(model.apply, discrete_input=True, method="decode")
  )(variables, code - 1, ctx=batch["image_ctx"])
  instances = np.asarray(logits["instances"]).argmax(axis=2)  # [B, N, P]
  got = np.asarray(jax.jit(recipe.predict_fns["predict"])(state, batch))
  assert got.shape == (B, SIZE, SIZE, 2) and got.dtype == np.int32
  np.testing.assert_array_equal(patches(got[..., 1]), instances)
  few = recipe.predict_fns["predict"](state, batch, min_fraction=0.6)
  assert (np.asarray(few)[..., 1] != got[..., 1]).any()


def test_what_is_sampled_depends_on_the_image_alone(stage_one):
  recipe, state = made(stage_one)
  fn = jax.jit(
    functools.partial(recipe.predict_fns["predict"], temperature=2.0)
  )
  batch = {k: v for k, v in batch_fn(5).items() if k != "labels"}
  whole = np.asarray(fn(state, batch))
  some = np.array([6, 1, 3])
  pick = lambda tree: {k: v[some] for k, v in tree.items()}
  np.testing.assert_array_equal(fn(state, pick(batch)), whole[some])
  padding = [(0, B - len(some))] + 3 * [(0, 0)]
  padded = {k: np.pad(v, padding) for k, v in pick(batch).items()}
  np.testing.assert_array_equal(fn(state, padded)[: len(some)], whole[some])


def test_keys():
  image = batch_fn(0)["image"]
  keys = np.asarray(train.keys(0, {"image": image}))
  assert len({tuple(k) for k in keys}) == B
  other = image.copy()
  other[0, 3, 3, 0], other[0, 3, 3, 1] = image[0, 3, 3, 1], image[0, 3, 3, 0]
  again = np.asarray(train.keys(0, {"image": other}))
  assert (again[0] != keys[0]).any()  # The sum is the same.
  np.testing.assert_array_equal(again[1:], keys[1:])
  assert (np.asarray(train.keys(1, {"image": image})) != keys).any(axis=1).all()
  by_id = train.keys(0, {"image": image, "image/id": jnp.arange(B)})
  want = [jax.random.fold_in(jax.random.PRNGKey(0), i) for i in range(B)]
  np.testing.assert_array_equal(by_id, np.stack(want))


@pytest.mark.multidevice
def test_keys_of_batches_of_evaluators():
  """They lie on a mesh of their own."""
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("data",))
  where = devices.batch_sharding(jax.devices())
  image = batch_fn(0)["image"]
  logits = np.zeros([B, 5], np.float32)
  fn = jax.jit(
    lambda batch: jax.vmap(jax.random.categorical)(
      train.keys(0, batch), logits + jnp.sum(batch["image"]) * 0
    )
  )
  want = fn({"image": image})
  with jax.set_mesh(mesh):
    got = fn({"image": jax.device_put(image, where)})
  np.testing.assert_array_equal(got, want)


def test_evaluation_compiles_once(stage_one, monkeypatch):
  traced = []
  orig = vtt.Model.encode
  monkeypatch.setattr(
    vtt.Model, "encode", lambda *a, **k: (traced.append(1), orig(*a, **k))[1]
  )
  recipe, state = made(stage_one)
  fn = jax.jit(recipe.predict_fns["predict"])
  for step in range(3):
    fn(state, batch_fn(step))
  assert len(traced) <= 1  # 0 if another test did it.
  assert decode._generate._cache_size() < 10


def run(stage_one, workdir=None, on=None, fail_at=None, **kw):
  cfg = config(stage_one, total_steps=6, schedule={}, ckpt_steps=2) | kw
  s = make_setup(cfg, workdir, on)
  recipe = train.build(s)
  if fail_at:
    batches = s.batches

    def until(first_step):
      for step, batch in enumerate(batches(first_step), first_step):
        if step == fail_at:
          raise RuntimeError("crash")
        yield batch

    s = dataclasses.replace(s, batches=until)
  return loop.run(s, recipe)


@pytest.fixture(scope="module")
def trained(stage_one, tmp_path_factory):
  """(workdir, state) of a run of stage II."""
  workdir = tmp_path_factory.mktemp("stage_two") / "w"
  return workdir, run(stage_one, workdir)


def test_trains_and_stores_the_model_of_codes_only(stage_one, trained):
  workdir, state = trained
  rows = toy.rows(workdir)
  assert rows[6]["training_loss"] < rows[1]["training_loss"]
  assert rows[1]["training_loss"] == pytest.approx(np.log(9), rel=1e-5)
  first = toy.rows(workdir, "big_vision_initial_metrics.txt")[0]
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  assert first["num_params"] == size(state["params"])
  assert first["num_params_oracle"] == size(stored(stage_one)[1])
  assert set(state) == {"params", "opt"}
  names = os.listdir(f"{workdir}/checkpoint.bv-000000006")
  assert not [n for n in names if "oracle" in n or "frozen" in n]
  # The checkpoint is one of the model.
  loaded = vtt.load(
    jax.eval_shape(lambda: state["params"]), f"{workdir}/checkpoint.bv"
  )
  jax.tree.map(np.testing.assert_array_equal, loaded, state["params"])


@pytest.mark.slow
def test_resumed_runs_have_the_same_bits(stage_one, trained, tmp_path):
  workdir, want = trained
  with pytest.raises(RuntimeError, match="crash"):
    run(stage_one, tmp_path / "w", fail_at=3)
  got = run(stage_one, tmp_path / "w")
  jax.tree.map(np.testing.assert_array_equal, want, got)
  assert toy.numbers(workdir) == toy.numbers(tmp_path / "w")


@pytest.mark.slow
@pytest.mark.multidevice
def test_eight_devices_give_the_curves_of_one(stage_one, trained, tmp_path):
  state = run(stage_one, tmp_path / "w", jax.devices())
  one, many = toy.numbers(trained[0]), toy.numbers(tmp_path / "w")
  for step in one:
    np.testing.assert_allclose(one[step], many[step], rtol=2e-5)
  recipe, _ = made(stage_one)
  kw = dict(temperature=2.0)
  fn = jax.jit(functools.partial(recipe.predict_fns["predict"], **kw))
  batch = batch_fn(7)
  alone = {"params": jax.device_get(state["params"]), "frozen": recipe.frozen}
  sharding = jax.sharding.NamedSharding(
    jax.tree.leaves(state["params"])[0].sharding.mesh,
    jax.sharding.PartitionSpec("data"),
  )
  np.testing.assert_array_equal(
    fn({**alone, "params": state["params"]}, jax.device_put(batch, sharding)),
    fn(alone, batch),
  )


@pytest.mark.slow
def test_follows_a_run_of_stage_one(tmp_path):
  cfg = uvim_runs.stage_one_config("panoptic") | dict(
    evals={}, total_steps=2, schedule={}, input=dict(batch_size=B), lr=0.01
  )
  s = make_setup(cfg, tmp_path / "one")
  want = loop.run(s, vqvae.build(s))
  recipe = train.build(make_setup(config(tmp_path / "one")))
  for part in ("params", "state"):
    jax.tree.map(
      np.testing.assert_array_equal, recipe.frozen["oracle"][part], want[part]
    )
  run(tmp_path / "one", tmp_path / "two")


def test_starts_from_a_vit(stage_one, tmp_path):
  model = vit.Model(
    5, width=16, depth=1, mlp_dim=16, num_heads=2, patch_size=(8, 8)
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0), batch_fn(0)["image"])
  params = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), shapes)
  flat = dict(trees.tree_flatten_with_names(params)[0])
  np.savez(tmp_path / "vit.npz", **flat)
  cfg = config(stage_one, model_init={"encoder": str(tmp_path / "vit.npz")})
  recipe = train.build(make_setup(cfg))
  init = jax.eval_shape(recipe.init, jax.random.key(0), batch_fn(0))
  loaded = recipe.load(init)
  for name in ("encoder", "EmbedPatches", "pos_embedding_encoder"):
    for x in jax.tree.leaves(loaded[name]):
      assert isinstance(x, np.ndarray) and (x == 0.5).all()
  assert loaded["decoder"] == init["decoder"]


@pytest.mark.parametrize("kind", ["workdir", "last", "step", "npz"])
def test_where_stage_one_may_be(stage_one, tmp_path, kind):
  model, want = stored(stage_one)
  del model
  path = {
    "workdir": str(stage_one),
    "last": f"{stage_one}/checkpoint.bv",
    "step": checkpoints.latest(f"{stage_one}/checkpoint.bv"),
    "npz": f"{tmp_path}/one.npz",
  }[kind]
  np.savez(tmp_path / "one.npz", **dict(trees.tree_flatten_with_names(want)[0]))
  recipe = train.build(make_setup(config(stage_one, {"model_init": path})))
  assert set(recipe.frozen) == {"oracle"}
  jax.tree.map(np.testing.assert_array_equal, recipe.frozen["oracle"], want)


def test_random_stage_one(stage_one, caplog):
  with caplog.at_level(logging.WARNING, logger="absl"):
    recipe = train.build(make_setup(config(stage_one, {"model_init": ""})))
  assert "model_init is empty" in caplog.text
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(recipe.frozen["oracle"]) == shapes(stored(stage_one)[1])


@pytest.mark.parametrize(
  ("change", "text"),
  [
    ({"oracle": None}, "config.oracle is required"),
    ({"oracle.model_init": None}, "oracle.model_init is required.*vqvae"),
    ({"oracle.model_init": "/nowhere/w"}, "oracle.model_init: /nowhere/w"),
    ({"oracle.task": None}, "config.oracle.task is required"),
    ({"oracle.task": "proj.uvim.depth_task"}, "task is 'proj.uvim.depth_task'"),
    (
      {
        "oracle.model.code_len": 9,
        "oracle.model.enc_depth": 2,
        "model.seq_len": 9,
      },
      r"model.code_len is 9, not 4; model.enc_depth is 2, not 1.*Copy",
    ),
    ({"oracle.model.widht": 3}, "config.oracle.model does not fit"),
    ({"oracle.model_name": "proj.uvim.vi"}, "config.oracle.model_name"),
    ({"model.vocab_size": 8}, "vocab_size=8 is too small.*Write 9"),
    ({"model.seq_len": 3}, "seq_len=3 is too small.*code_len=4"),
  ],
)
def test_mistakes(stage_one, change, text):
  cfg = ConfigDict(config(stage_one))
  with cfg.unlocked():
    cfg.update_from_flattened_dict(change)
  with pytest.raises(ValueError, match=text) as e:
    train.build(make_setup(cfg.to_dict()))
  assert "\n" not in str(e.value)


def test_file_that_does_not_fit(stage_one, tmp_path):
  _, tree = stored(stage_one)
  del tree["params"]["encoder_head"]
  np.savez(tmp_path / "one.npz", **dict(trees.tree_flatten_with_names(tree)[0]))
  cfg = config(stage_one, {"model_init": f"{tmp_path}/one.npz"})
  with pytest.raises(lookup.ConfigError, match="lacks params/encoder_head"):
    train.build(make_setup(cfg))


def test_settings_of_training_may_differ(stage_one):
  model = uvim_runs.stage_one_config("panoptic")["model"]
  other = {**model, "code_dropout": "none", "dict_momentum": 0.9}
  train.build(make_setup(config(stage_one, {"model": other})))
