"""What the methods promise, on pictures of the dataset `shapes`."""

import dataclasses

import jax
import numpy as np
import pytest

import toy
from big_vision import train, trees
from big_vision.datasets.shapes import render
from big_vision.datasets.shapes import scene as ss
from big_vision.trainers.proj.distill import distill
from big_vision.trainers.proj.flexi import train as flexi_train
from big_vision.training import loop

pytestmark = pytest.mark.slow

C, SIZE = len(ss.COLORS), 32
VIT = dict(num_heads=2, patch_size=(8, 8), head_zeroinit=False)


def pictures(split, num):
  """Images in [-1, 1] and the colour of the nearest object, one-hot."""
  scenes = [ss.sample_scene(ss.generator(0, split, i), 3) for i in range(num)]
  image = np.stack([render.render(s, SIZE).image for s in scenes])
  label = [list(ss.COLORS).index(s.main.color) for s in scenes]
  return {
    "image": image.astype(np.float32) / 127.5 - 1,
    "labels": np.eye(C, dtype=np.float32)[label],
  }


@pytest.fixture(scope="module")
def data():
  return {"train": pictures("train", 1500), "test": pictures("test", 300)}


def batches(examples):
  """`(step, size) -> batch`: examples with replacement, flipped at random."""

  def fn(step, size):
    r = np.random.default_rng([3, step])
    at = r.integers(len(examples["image"]), size=size)
    image = examples["image"][at]
    flip = r.integers(2, size=size)[:, None, None, None]
    return {
      "image": np.where(flip, image[:, :, ::-1], image),
      "labels": examples["labels"][at],
    }

  return fn


def run(build, examples, steps, **kw):
  """(recipe, final state) of a training."""
  default = dict(
    num_classes=C,
    input=dict(batch_size=64),
    total_steps=steps,
    loss="softmax_xent",
    lr=0.003,
    schedule=dict(decay_type="cosine", warmup_steps=20),
    log_training_steps=100,
  )
  config = toy.config(**default | kw)
  if "student" in config:
    del config.model_name
  fn = batches(examples)
  setup = dataclasses.replace(
    toy.setup(config, batch_fn=fn),
    batch_shapes=jax.eval_shape(lambda: fn(0, 64)),
  )
  recipe = build(setup)
  return recipe, loop.run(setup, recipe)


def accuracy(predict_fn, state, examples):
  logits = jax.jit(predict_fn)(state, {"image": examples["image"]})[0]
  return np.mean(np.argmax(logits, 1) == examples["labels"].argmax(1))


def test_a_student_is_better_with_a_teacher(data, tmp_path):
  """From the same few pictures, in as many steps."""
  big, small = dict(VIT, width=48, depth=2), dict(VIT, width=32, depth=2)
  recipe, state = run(
    train.build, data["train"], 300, model_name="vit", model=big,
    mixup=dict(p=0.2),
  )  # fmt: skip
  teacher = accuracy(recipe.predict_fns["predict"], state, data["test"])
  params = trees.tree_flatten_with_names(state["params"])[0]
  np.savez(tmp_path / "t.npz", **{k: np.asarray(v) for k, v in params})

  few = jax.tree.map(lambda x: x[:150], data["train"])
  alone = {}
  for p in (0.0, 1.0):
    recipe, state = run(
      train.build, few, 300, model_name="vit", model=small, mixup=dict(p=p)
    )
    alone[p] = accuracy(recipe.predict_fns["predict"], state, data["test"])
  recipe, state = run(
    distill.build, few, 300, student_name="vit", student=small,
    teachers=["prof"], prof_name="vit", prof=big, prof_init=f"{tmp_path}/t.npz",
    mixup=dict(p=1.0),
  )  # fmt: skip
  distilled = accuracy(recipe.predict_fns["student_fwd"], state, data["test"])
  print(teacher, alone, distilled)
  assert distilled > max(alone.values()) + 0.05


def test_flexivit_keeps_its_accuracy_and_a_plain_vit_does_not(data):
  sizes = (4, 6, 10)  # Patches of 8, 5 and 3 pixels.
  model = dict(VIT, width=48, depth=2, posemb_size=(4, 4))
  worst = {}
  for name, p in (("flexi", (1, 1, 1)), ("plain", (1, 0, 0))):
    recipe, state = run(
      flexi_train.build, data["train"], 400, model_name="proj.flexi.vit",
      model=model, flexi=dict(seqhw=dict(v=sizes, p=p)),
    )  # fmt: skip
    each = [
      accuracy(recipe.predict_fns[f"predict_seqhw={n}"], state, data["test"])
      for n in sizes
    ]
    print(name, each)
    assert max(each) > 0.7
    worst[name] = min(each) / max(each)
  assert worst["flexi"] > 0.9 > worst["plain"]
