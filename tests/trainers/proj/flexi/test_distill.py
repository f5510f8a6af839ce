"""FlexiViT's trainer from a teacher: tiny models, images of their own."""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.special

import toy
from big_vision import trees
from big_vision.models import vit
from big_vision.models.proj.flexi import vit as flexivit
from big_vision.trainers.proj.flexi import common, distill
from big_vision.training import loop

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZES = (2, 4)
SMALL = dict(depth=1, num_heads=2, head_zeroinit=False)
STUDENT = dict(SMALL, patch_size=(4, 4), posemb_size=(3, 3), width=16)
TEACHER = dict(SMALL, patch_size=(2, 2), width=8)

apply_student = jax.jit(
  flexivit.Model(2, **STUDENT).apply, static_argnames="seqhw"
)
apply_teacher = jax.jit(vit.Model(2, **TEACHER).apply)


def batch_fn(step, size=16):
  """Brighter left or right; the teacher sees each image at half the size."""
  r = np.random.default_rng([3, step])
  labels = r.integers(2, size=size)
  image = r.normal(size=(size, 12, 12, 1)).astype(np.float32)
  image[..., :6, :] += np.where(labels, 1.0, -1.0)[:, None, None, None]
  small = image.reshape(size, 6, 2, 6, 2, 1).mean(axis=(2, 4))
  return {
    "image": image,
    "prof": small,
    "labels": np.eye(2, dtype=np.float32)[labels],
  }


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
  """(path of its checkpoint, its parameters), random ones."""
  model = vit.Model(2, **TEACHER)
  params = jax.jit(model.init)(jax.random.key(1), batch_fn(0)["prof"])["params"]
  path = tmp_path_factory.mktemp("teacher") / "prof.npz"
  flat = {k: np.asarray(v) for k, v in trees.tree_flatten_with_names(params)[0]}
  np.savez(path, **flat)
  return str(path), params


def make_setup(teacher, workdir=None, **kw):
  default = dict(
    num_classes=2,
    student_name="proj.flexi.vit",
    student=STUDENT,
    teachers=["prof"],
    prof_name="vit",
    prof=TEACHER,
    prof_init=teacher[0],
    distance_kw=dict(t=1.0),
    flexi=dict(seqhw=dict(v=SIZES, p=None)),
    lr=0.01,
    log_training_steps=1,
  )
  config = toy.config(**default | kw)
  del config.model_name
  out = toy.setup(config, workdir, batch_fn=batch_fn)
  return dataclasses.replace(
    out, batch_shapes=jax.eval_shape(lambda: batch_fn(0))
  )


def log_probs(logits):
  return scipy.special.log_softmax(np.asarray(logits, np.float64), axis=-1)


def kl(params, seqhw, teacher, batch):
  """Mean divergence of the student at a size from the teacher."""
  s = apply_student({"params": params}, batch["image"], seqhw=seqhw)[0]
  z = apply_teacher({"params": teacher[1]}, batch["prof"])[0]
  z, s = log_probs(z), log_probs(s)
  return np.mean(np.sum(np.exp(z) * (z - s), axis=-1))


@pytest.mark.slow
def test_the_first_step_has_the_drawn_size(teacher, tmp_path):
  s = make_setup(teacher, tmp_path / "w", total_steps=1, schedule={})
  recipe = distill.build(s)
  params = jax.jit(recipe.init)(jax.random.key(0), batch_fn(0))
  loop.run(s, recipe)
  (size,) = common.static_args(s.config.flexi)(1)
  losses = {n: kl(params, n, teacher, batch_fn(0)) for n in SIZES}
  got = toy.rows(tmp_path / "w")[1]["training_loss"]
  assert got == pytest.approx(losses[size], rel=1e-3)
  others = [x for n, x in losses.items() if n != size]
  assert min(abs(got / x - 1) for x in others) > 5e-3


@pytest.mark.slow
def test_learns_from_the_teacher_at_all_sizes(teacher, tmp_path):
  s = make_setup(teacher, tmp_path / "w", total_steps=60, mixup=dict(p=1.0))
  recipe = distill.build(s)
  before = jax.jit(recipe.init)(jax.random.key(0), batch_fn(0))
  state = loop.run(s, recipe)
  test = batch_fn(10**6, 200)
  for n in SIZES:
    at_first = kl(before, n, teacher, test)
    assert kl(state["params"], n, teacher, test) < 0.5 * at_first
  # What evaluators may ask for.
  students = {f"student_seqhw={n}" for n in SIZES}
  pairs = {f"student_seqhw={n}_prof" for n in SIZES}
  assert set(recipe.predict_fns) == {"prof"} | students | pairs
  state = {**state, "frozen": recipe.frozen}
  predict = lambda name: jax.jit(recipe.predict_fns[name])(state, test)
  want, _ = predict("prof")
  for n in SIZES:
    (got, out), (prof, _) = predict(f"student_seqhw={n}_prof")
    assert out["stem"].shape == (200, n, n, 16)
    alone, _ = predict(f"student_seqhw={n}")
    np.testing.assert_allclose(got, alone, atol=1e-5)
    np.testing.assert_allclose(prof, want, atol=1e-5)
