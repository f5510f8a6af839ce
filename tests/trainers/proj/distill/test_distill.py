"""The trainer of distillation, with tiny ViTs on random images."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import toy
from big_vision import trees
from big_vision.models import vit
from big_vision.trainers.proj.distill import distill, features
from big_vision.training import loop

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = dict(patch_size=(4, 4), depth=1, num_heads=2, head_zeroinit=False)
STUDENT = dict(SMALL, width=8)
TEACHER = dict(SMALL, width=16)
C = 3


def batch_fn(step, size=8):
  r = np.random.default_rng([3, step])
  return {
    "image": r.normal(size=(size, 8, 8, 1)).astype(np.float32),
    "labels": np.eye(C, dtype=np.float32)[r.integers(C, size=size)],
  }


BATCH = batch_fn(0)


def save(path, seed, **kw):
  """Writes a teacher; returns its parameters."""
  model = vit.Model(C, **{**TEACHER, **kw})
  params = jax.jit(model.init)(jax.random.key(seed), BATCH["image"])["params"]
  flat = {k: np.asarray(v) for k, v in trees.tree_flatten_with_names(params)[0]}
  np.savez(path, **flat)
  return params


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
  """(folder, parameters of the teachers `a` and `b`)."""
  folder = tmp_path_factory.mktemp("teachers")
  return folder, {
    t: save(folder / f"{t}.npz", i) for i, t in enumerate("ab", start=1)
  }


def config(folder, names=("a",), **kw):
  default = dict(
    seed=5,
    input=dict(batch_size=8),
    lr=0.01,
    num_classes=C,
    student_name="vit",
    student=STUDENT,
    teachers=list(names),
  )
  for t in names:
    default |= {
      f"{t}_name": "vit", t: TEACHER, f"{t}_init": f"{folder}/{t}.npz",
    }  # fmt: skip
  out = toy.config(**default | kw)
  del out.model_name
  return out


def make_setup(cfg, workdir=None, fn=batch_fn):
  out = toy.setup(cfg, workdir, batch_fn=fn)
  return dataclasses.replace(out, batch_shapes=jax.eval_shape(lambda: fn(0)))


def make(cfg, fn=batch_fn):
  """(recipe, state) at the start."""
  recipe = distill.build(make_setup(cfg, fn=fn))
  params = jax.jit(recipe.init)(jax.random.key(0), fn(0))
  return recipe, {"params": params, "frozen": dict(recipe.frozen)}


def loss_of(recipe, state, batch=BATCH):
  fn = jax.jit(recipe.loss_fn)
  return fn(state["params"], batch, jax.random.key(1), state)


def logits(params, image=BATCH["image"], **kw):
  return vit.Model(C, **kw).apply({"params": params}, image)[0]


def log_softmax(x):
  return scipy.special.log_softmax(np.asarray(x, np.float64), axis=-1)


def kl(z, s, t=1.0):
  z, s = log_softmax(np.asarray(z) / t), log_softmax(np.asarray(s) / t)
  return t**2 * np.mean(np.sum(np.exp(z) * (z - s), axis=-1))


def test_loss_of_two_teachers(teachers):
  folder, params = teachers
  recipe, state = make(config(folder, "ab", distance_kw=dict(t=2.0)))
  loss, measured = loss_of(recipe, state)
  s = logits(state["params"], **STUDENT)
  z = {t: logits(params[t], **TEACHER) for t in "ab"}
  for t in "ab":
    assert measured[f"distill_loss_{t}"] == pytest.approx(
      kl(z[t], s, 2.0), rel=1e-4
    )
  assert loss == measured["distill_loss"]
  assert loss == pytest.approx(
    kl(z["a"], s, 2.0) + kl(z["b"], s, 2.0), rel=1e-4
  )
  for name, x in {"student": s, **z}.items():
    p = log_softmax(x)
    entropy = -np.mean(np.sum(np.exp(p) * p, -1))
    assert measured[f"entropy_{name}"] == pytest.approx(entropy, rel=1e-4)
    task = -np.mean(np.sum(p * BATCH["labels"], -1))
    assert measured[f"task_loss_{name}"] == pytest.approx(task, rel=1e-4)
  _, measured = loss_of(recipe, state, {"image": BATCH["image"]})
  assert not [k for k in measured if "task" in k]


@pytest.mark.slow
def test_student_of_the_seed_of_its_own(teachers):
  recipe, state = make(config(teachers[0], "ab"))
  key = jax.random.split(jax.random.PRNGKey(5), 4)[1]
  want = jax.jit(vit.Model(C, **STUDENT).init)(key, jnp.zeros((8, 8, 8, 1)))[
    "params"
  ]
  jax.tree.map(np.testing.assert_array_equal, state["params"], want)
  _, biased = make(config(teachers[0], init_head_bias=-2.0))
  np.testing.assert_array_equal(biased["params"]["head"]["bias"], -2.0)
  # The teachers are what was loaded.
  jax.tree.map(np.testing.assert_array_equal, state["frozen"], teachers[1])


@pytest.mark.slow
def test_models_may_have_images_of_their_own(teachers):
  def fn(step, size=8):
    out = batch_fn(step, size)
    return {**out, "a": np.flip(out["image"], axis=1).copy()}

  recipe, state = make(config(teachers[0]), fn)
  loss, _ = loss_of(recipe, state, fn(0))
  z = logits(teachers[1]["a"], fn(0)["a"], **TEACHER)
  s = logits(state["params"], **STUDENT)
  assert loss == pytest.approx(kl(z, s), rel=1e-4)


@pytest.mark.slow
def test_mixup_is_the_same_for_all(teachers):
  def fn(step, size=8):
    out = batch_fn(step, size)
    return {**out, "a": 2 * out["image"]}

  cfg = config(teachers[0], mixup=dict(p=1.0))
  recipe, _ = make(cfg, fn)
  mixed, _ = recipe.augment(fn(0), jax.random.key(3))
  np.testing.assert_allclose(mixed["a"], 2 * mixed["image"], rtol=1e-5)
  weight = mixed["labels"].max(axis=-1).min()
  assert 0.5 <= weight < 1
  x = BATCH["image"]
  np.testing.assert_allclose(
    mixed["image"], weight * x + (1 - weight) * np.roll(x, 1, 0), atol=1e-5
  )
  assert make(config(teachers[0]), fn)[0].augment is None


def test_predict_functions(teachers):
  folder, params = teachers
  recipe, state = make(config(folder, "ab"))
  fns = recipe.predict_fns
  assert set(fns) == {
    "student_fwd", "a_fwd", "b_fwd", "student_a_fwd", "student_b_fwd",
    "teacher_ensemble_fwd", "student_teacher_ensemble_fwd",
  }  # fmt: skip
  z = {t: logits(params[t], **TEACHER) for t in "ab"}
  for t in "ab":
    got, out = fns[f"{t}_fwd"](state, BATCH)
    np.testing.assert_allclose(got, z[t], atol=1e-5)
    (s, _), (again, _) = fns[f"student_{t}_fwd"](state, BATCH)
    np.testing.assert_allclose(s, logits(state["params"], **STUDENT), atol=1e-5)
    np.testing.assert_array_equal(again, got)
    assert out["pre_logits"].shape == (8, 16)
  mean = (np.exp(log_softmax(z["a"])) + np.exp(log_softmax(z["b"]))) / 2
  (_, _), (got, _) = fns["student_teacher_ensemble_fwd"](state, BATCH)
  np.testing.assert_allclose(got, mean, atol=1e-5)


def test_trains_and_stores_the_student_only(teachers, tmp_path):
  cfg = config(
    teachers[0], total_steps=60, ckpt_steps=60, log_training_steps=20,
    mixup=dict(p=0.5),
  )  # fmt: skip
  s = make_setup(cfg, tmp_path / "w")
  state = loop.run(s, distill.build(s))
  rows = toy.rows(tmp_path / "w")
  assert rows[60]["training_loss"] < 0.3 * rows[1]["training_loss"]
  assert rows[60]["training_loss"] == rows[60]["distill_loss_a"]
  first = toy.rows(tmp_path / "w", "big_vision_initial_metrics.txt")[0]
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  assert first["num_params_student"] == size(state["params"])
  assert first["num_params_a"] == size(teachers[1]["a"])
  assert "num_params" not in first
  assert set(state) == {"params", "opt"}
  saved = os.listdir(tmp_path / "w/checkpoint.bv-000000060")
  assert not [n for n in saved if "frozen" in n]
  # The checkpoint is one of the model.
  model = vit.Model(C, **STUDENT)
  init = jax.eval_shape(model.init, jax.random.key(0), BATCH["image"])["params"]
  loaded = vit.load(init, f"{tmp_path}/w/checkpoint.bv", None)
  jax.tree.map(np.testing.assert_array_equal, loaded, state["params"])


FEATURES = [
  dict(teacher="a", student_layer="encoded", teacher_layer="encoded"),
  dict(
    teacher="a", student_layer="pre_logits", teacher_layer="pre_logits",
    weight=0.5, distance="euclidean", epsilon=1e-6,
  ),
]  # fmt: skip


def test_features(teachers):
  folder, params = teachers
  recipe, state = make(config(folder, features=FEATURES, distance=None))
  loss, measured = loss_of(recipe, state)
  _, s = recipe.predict_fns["student_fwd"](state, BATCH)
  _, z = recipe.predict_fns["a_fwd"](state, BATCH)
  parts = []
  for i, layer in enumerate(["encoded", "pre_logits"]):
    p = state["params"][features.PROJECTIONS][str(i)]
    x = np.asarray(s[layer]) @ np.asarray(p["kernel"]) + np.asarray(p["bias"])
    parts.append(np.sum((x - np.asarray(z[layer])) ** 2, axis=-1))
  parts = [np.mean(parts[0]), 0.5 * np.mean(np.sqrt(parts[1]))]
  for i in range(2):
    assert measured[f"feature_loss_{i}"] == pytest.approx(parts[i], rel=1e-3)
  assert loss == pytest.approx(sum(parts), rel=1e-3)
  assert "distill_loss_a" not in measured
  both, _ = loss_of(*make(config(folder, features=FEATURES)))
  assert both > loss


@pytest.mark.slow
def test_features_of_a_teacher_without_classes_and_other_patches(tmp_path):
  kw = dict(patch_size=(2, 2), num_classes=None)
  headless = vit.Model(**{**TEACHER, **kw})
  params = headless.init(jax.random.key(0), BATCH["image"])["params"]
  flat = {k: np.asarray(v) for k, v in trees.tree_flatten_with_names(params)[0]}
  np.savez(tmp_path / "a.npz", **flat)
  feature = dict(
    teacher="a", student_layer="pre_logits_2d", teacher_layer="pre_logits_2d"
  )
  cfg = config(
    tmp_path, a=dict(TEACHER, **kw), distance=None, features=[feature],
    total_steps=40, log_training_steps=39,
  )  # fmt: skip
  s = make_setup(cfg, tmp_path / "w")
  loop.run(s, distill.build(s))
  rows = toy.rows(tmp_path / "w")
  assert rows[40]["training_loss"] < 0.6 * rows[1]["training_loss"]
  tokens = dict(feature, student_layer="encoded", teacher_layer="encoded")
  with pytest.raises(ValueError, match="'encoded' of the student is .8, 4, 16"):
    cfg.features = [tokens]
    loss_of(*make(cfg))


@pytest.mark.slow
def test_teacher_in_bfloat16(teachers):
  recipe, state = make(config(teachers[0], a_dtype="bfloat16"))
  for x in jax.tree.leaves(state["frozen"]):
    assert x.dtype == jnp.bfloat16
  want, _ = loss_of(*make(config(teachers[0])))
  assert loss_of(recipe, state)[0] == pytest.approx(float(want), rel=0.1)


@pytest.mark.slow
def test_student_that_is_loaded(teachers, tmp_path):
  save(tmp_path / "s.npz", 7, **STUDENT)
  cfg = config(
    teachers[0], student_init=str(tmp_path / "s.npz"), features=FEATURES
  )
  recipe, state = make(cfg)
  loaded = recipe.load(jax.eval_shape(lambda: state["params"]))
  assert isinstance(loaded["head"]["kernel"], np.ndarray)
  assert features.PROJECTIONS in loaded


def test_mistakes(teachers):
  folder, _ = teachers
  cfg = config(folder)
  del cfg.a_init
  with pytest.raises(ValueError, match="config.a_init is required"):
    make(cfg)
  cfg = config(folder, names=("a", "b"))
  del cfg.b_name
  with pytest.raises(ValueError, match="config.b_name is required"):
    make(cfg)
  with pytest.raises(ValueError, match="config.student does not fit"):
    make(config(folder, student=dict(widht=3)))
  with pytest.raises(ValueError, match="config.a_load.*as a whole"):
    make(config(folder, a_load=dict(dont_load=["head/.*"])))
  # A checkpoint of C classes; the config says 2 more.
  with pytest.raises(
    ValueError, match=r"config.a_init.*head/bias: \(\d+,\) in"
  ):
    make(config(folder, num_classes=C + 2))
  own = config(folder, num_classes=C + 2, a={**TEACHER, "num_classes": C})
  with pytest.raises(
    ValueError, match=f"config.a: the teacher has {C} classes"
  ):
    recipe, state = make(own)
    jax.eval_shape(lambda: loss_of(recipe, state))
  with pytest.raises(ValueError, match="config.a_dtype: unknown dtype.*'bf16'"):
    make(config(folder, a_dtype="bf16"))
  assert distill.getfirst({"b": 2, "c": 3}, "a", "c", "b") == 3
  with pytest.raises(KeyError, match="'a', 'z'.*'b'"):
    distill.getfirst({"b": 2}, "a", "z")
