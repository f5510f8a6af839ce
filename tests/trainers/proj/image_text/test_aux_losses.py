"""Training with all that SigLIP 2 adds, with tiny towers on random examples."""

import dataclasses
import types

import jax
import numpy as np
import pytest
import toy_towers

import toy
from big_vision import checkpoints, trees
from big_vision.trainers.proj.image_text import additions, aux_losses, siglip
from big_vision.training import loop, resuming, step
from big_vision.training import state as state_lib

pytestmark = pytest.mark.usefixtures("quick_compilation")
L, VOCAB, SIZE = 4, 12, 16
TWO_TOWERS = dict(
  image=dict(patch_size=(4, 4), width=16, depth=1, num_heads=2,
             head_zeroinit=False),
  text=dict(width=16, depth=1, mlp_dim=32, num_heads=2, vocab_size=VOCAB),
  out_dim=8,
  temperature_init=10.0,
  bias_init=-10.0,
)  # fmt: skip
CAPTIONING = dict(vocab_size=VOCAB, width=16, depth=1, mlp_dim=32, num_heads=2)
SELF_DISTILL = dict(
  views=2, local_size=8, hidden=16, bottleneck=8, prototypes=32, start=0.5,
  decay=0.75,
)  # fmt: skip
BOTH = dict(captioning=CAPTIONING, self_distill=SELF_DISTILL)


def batch_fn(step, size=16):
  r = np.random.default_rng([3, step])
  mask = np.arange(L)[None] < r.integers(1, L + 1, size=(size, 1))
  return {
    "image": r.uniform(-1, 1, size=(size, SIZE, SIZE, 3)).astype(np.float32),
    "labels": r.integers(VOCAB, size=(size, L)).astype(np.int32),
    "cap_tokens": r.integers(VOCAB, size=(size, L)).astype(np.int32),
    "cap_mask": mask.astype(np.int32),
    "cap_task": r.integers(3, size=size).astype(np.int32),
  }


def make_setup(workdir=None, devices=None, **kw):
  default = dict(model_name="toy_towers", lr=0.01, total_steps=4)
  config = toy.config(**default | kw)
  out = toy.setup(config, workdir, devices, batch_fn=batch_fn)
  return dataclasses.replace(
    out, batch_shapes=jax.eval_shape(lambda: batch_fn(0))
  )


def named(tree):
  return dict(trees.tree_flatten_with_names(tree)[0])


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A training of 4 steps on one device; self-distillation after half of it."""
  workdir = tmp_path_factory.mktemp("run")
  s = make_setup(workdir, keep_ckpt_steps=1, **BOTH)
  recipe = siglip.build(s)
  key = jax.random.split(jax.random.PRNGKey(0))[1]
  init = jax.jit(recipe.init)(key, batch_fn(0))
  state = loop.run(s, recipe)
  s.writer.close()
  after = [
    checkpoints.load_checkpoint_ts(f"{workdir}/checkpoint.bv-{i:09d}")
    for i in (1, 2, 3, 4)
  ]
  return types.SimpleNamespace(
    workdir=workdir, recipe=recipe, init=init, state=state, after=after,
    rows=toy.rows(workdir),
  )  # fmt: skip


def test_towers_start_as_without_aux_losses(run):
  key = jax.random.split(jax.random.PRNGKey(0))[1]
  plain = jax.jit(siglip.build(make_setup()).init)(key, batch_fn(0))
  assert set(run.init) == {*plain, "captioner", "distill"}
  equal({k: run.init[k] for k in plain}, plain)


def test_plain_training_is_as_it_was():
  recipe = siglip.build(make_setup())
  for name in ("augment", "extra_state", "post_update", "static_args"):
    assert getattr(recipe, name) is None
  assert set(recipe.predict_fns) == {"predict"}
  params = jax.jit(recipe.init)(jax.random.key(0), batch_fn(0))
  assert set(params) == {"img", "txt", "t", "b"}
  _, measured = jax.eval_shape(
    recipe.loss_fn, params, batch_fn(0), jax.random.key(0), {}
  )
  assert not [k for k in measured if "caption" in k or "contrastive" in k]


def test_measurements(run):
  for i in (1, 2, 3, 4):
    row = run.rows[i]
    loss = row["train/contrastive_loss"] + row["train/caption_loss"]
    if i > 2:
      loss += row["train/local_loss"] + 0.25 * row["train/masked_loss"]
    else:
      assert "train/local_loss" not in row
    assert row["training_loss"] == pytest.approx(loss, rel=1e-5)
    parts = [
      row[f"train/caption_loss_{x}"] for x in ("caption", "refer", "ground")
    ]
    assert min(parts) < row["train/caption_loss"] < max(parts)
  # Of a uniform guess.
  assert run.rows[1]["train/caption_loss"] == pytest.approx(
    np.log(VOCAB), rel=0.3
  )


def test_before_its_start_self_distillation_changes_nothing(run):
  for after in run.after[:2]:
    equal(after["teacher"]["img"], after["params"]["img"])
    equal(after["teacher"]["distill"], after["params"]["distill"])
    equal(
      after["params"]["distill"], jax.tree.map(np.asarray, run.init["distill"])
    )
    assert not any(np.any(x) for x in jax.tree.leaves(after["collections"]))
  changed = jax.tree.map(
    lambda a, b: not np.array_equal(a, b),
    run.after[2]["params"]["distill"],
    run.after[1]["params"]["distill"],
  )
  assert all(jax.tree.leaves(changed))
  assert all(np.any(x) for x in jax.tree.leaves(run.after[2]["collections"]))


def test_the_teacher_is_the_average_of_the_student(run):
  """Two steps, by hand: decay is 0.75."""
  student = [
    {"img": a["params"]["img"], "distill": a["params"]["distill"]}
    for a in run.after
  ]
  want = jax.tree.map(
    lambda a, b, c: 0.75 * (0.75 * a + 0.25 * b) + 0.25 * c, *student[1:]
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    run.after[3]["teacher"],
    want,
  )


def test_all_of_the_state_is_in_checkpoints(run):
  s = make_setup(**BOTH)
  path = f"{run.workdir}/checkpoint.bv-000000004"
  plan = state_lib.plan(run.recipe, s)
  got = resuming.restore(path, plan.shapes, plan.shardings, s.chrono)
  assert set(got) == {"params", "opt", "teacher", "collections"}
  equal(got, run.state)


@pytest.mark.slow
def test_resumes_bit_exactly(run, tmp_path):
  s = make_setup(
    tmp_path, resume=f"{run.workdir}/checkpoint.bv-000000003", **BOTH
  )
  equal(loop.run(s, siglip.build(s)), run.state)


def same_curve(rows, want, steps, rel):
  """Compares what is measured, but statistics of pairs on the same device."""
  for i in steps:
    names = [k for k in want[i] if k.startswith(("train", "l2_"))]
    names = [k for k in names if "_logit" not in k]
    assert len(names) > 7
    for name in names:
      assert rows[i][name] == pytest.approx(want[i][name], rel=rel), (i, name)


@pytest.mark.slow
@pytest.mark.multidevice
def test_neither_devices_nor_micro_batches_matter(run, tmp_path):
  """Goes on from the second step on all devices, in parts."""
  s = make_setup(
    tmp_path,
    jax.devices(),
    grad_accum_steps=2,
    sharding_strategy=[(".*", "fsdp(axis='data', min_size_to_shard_mb=0)")],
    resume=f"{run.workdir}/checkpoint.bv-000000002",
    **BOTH,
  )
  state = loop.run(s, siglip.build(s))
  s.writer.close()
  same_curve(toy.rows(tmp_path), run.rows, [3], 1e-5)
  same_curve(toy.rows(tmp_path), run.rows, [4], 1e-4)
  for part in ("teacher", "collections"):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
      state[part],
      run.state[part],
    )
  leaves = named({"teacher": state["teacher"], "params": state["params"]})
  for name in ("teacher/img/head/kernel", "params/distill/local/prototypes",
               "params/captioner/logits/kernel"):  # fmt: skip
    assert not leaves[name].sharding.is_fully_replicated, name


@pytest.mark.slow
def test_accumulated_gradient_is_the_gradient(run):
  """Terms are means over all examples, or over all predicted tokens."""
  key = jax.random.key(1)
  state, params = run.after[2], run.after[2]["params"]
  batch, key = run.recipe.augment(batch_fn(0), key)
  static = run.recipe.static_args(3)
  get = lambda n: jax.jit(
    lambda p, b: step.loss_and_grad(run.recipe, p, b, key, state, static, n)
  )(params, batch)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    get(1),
    get(4),
  )


@pytest.mark.slow
@pytest.mark.multidevice
def test_vit_on_many_devices(tmp_path):
  """The whole curve, with the towers that are used in practice."""
  kw = dict(model_name="proj.image_text.two_towers", model=TWO_TOWERS)
  rows = []
  for name, devices, more in (
    ("one", None, {}),
    ("all", jax.devices(), dict(grad_accum_steps=2)),
  ):
    s = make_setup(tmp_path / name, devices, **kw, **BOTH, **more)
    loop.run(s, siglip.build(s))
    s.writer.close()
    rows.append(toy.rows(tmp_path / name))
  same_curve(rows[1], rows[0], [1, 2, 3, 4], 3e-4)


def test_checkpoints_with_and_without_aux_losses(tmp_path):
  """Towers load from either into either."""
  kw = dict(model_name="proj.image_text.two_towers", model=TWO_TOWERS)
  shapes = {}
  for name, more in (("plain", {}), ("all", BOTH)):
    recipe = siglip.build(make_setup(**kw, **more))
    shapes[name] = jax.eval_shape(recipe.init, jax.random.key(0), batch_fn(0))
    filled = jax.tree.map(lambda x: np.full(x.shape, 7.0), shapes[name])
    np.savez(tmp_path / f"{name}.npz", **named(filled))
  for source, name, more in (("all", "plain", {}), ("plain", "all", BOTH)):
    path = f"{tmp_path}/{source}.npz"
    got = siglip.build(make_setup(model_init=path, **kw, **more)).load(
      shapes[name]
    )
    assert set(got) == set(shapes[name])
    for key, x in named(got).items():
      own = key.startswith(("captioner", "distill"))
      assert isinstance(x, jax.ShapeDtypeStruct) == own, key


def test_predict_is_that_of_the_towers(run):
  own = ("img", "txt", "t", "b")
  params = {k: run.after[3]["params"][k] for k in own}
  got = jax.jit(run.recipe.predict_fns["predict"])(run.state, batch_fn(0))
  want = jax.jit(toy_towers.Model().apply)(
    {"params": params}, batch_fn(0)["image"], batch_fn(0)["labels"]
  )
  for i in range(2):
    np.testing.assert_allclose(got[i], want[i], atol=1e-5)


def test_recipes_that_cannot_be_extended():
  with pytest.raises(TypeError, match="EmbeddingLoss"):
    aux_losses.add(toy.make(), [])
  assert additions.Addition is aux_losses.AuxLoss  # Its former name.
