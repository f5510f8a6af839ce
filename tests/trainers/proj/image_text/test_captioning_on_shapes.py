"""Captions and boxes of the dataset `shapes`, with a tiny model."""

import dataclasses

import jax
import numpy as np
import pytest

import toy
from big_vision.trainers.proj.image_text import siglip
from big_vision.training import loop

pytestmark = [pytest.mark.slow, pytest.mark.tf]

SIZE, NUM, LENGTH = 32, 2000, 24
TOKENIZER = 'sp("shapes", tokensets=("loc(32)",))'


def examples(split, num, tasks):
  """Images [num, S, S, 3] in [-1, 1], texts, and a sequence for each draw.

  Args:
    split: str.
    num: int.
    tasks: list of probabilities of the tasks, one for each draw.

  Returns:
    dict of arrays; those of sequences are [num, draws, ...].
  """
  import tensorflow as tf

  from big_vision.datasets.shapes import render, text
  from big_vision.datasets.shapes import scene as ss
  from big_vision.pp import builder, ops_text, rng
  from big_vision.pp.proj.image_text import ops_locca

  assert ops_text and ops_locca  # Importing them registers their ops.
  pp = (
    'locca({}, \'{}\', {}, location="loc", bins=32, boxes="boxes",'
    ' phrases="said")|tokenize(8, "sticky", "shapes", inkey="text",'
    ' outkey="labels")'
  )
  ops = [
    builder.get_preprocess_fn(pp.format(LENGTH, TOKENIZER, p), log_data=False)
    for p in tasks
  ]

  @tf.function(
    input_signature=[
      {
        "text": tf.TensorSpec([], tf.string),
        "boxes": tf.TensorSpec([None, 4], tf.float32),
        "said": tf.TensorSpec([None], tf.string),
      },
      tf.TensorSpec([2], tf.int64),
    ]
  )
  def sequences(data, seed):
    out = []
    for i, op in enumerate(ops):
      with rng.example_seed(rng.fold_in(seed, i)):
        made = op(dict(data))
      keys = ("cap_tokens", "cap_mask", "cap_task", "labels")
      out.append({k: made[k] for k in keys})
    return tf.nest.map_structure(lambda *x: tf.stack(x), *out)

  rows = []
  for i in range(num):
    scene = ss.sample_scene(ss.generator(0, split, i), 1)
    picture = render.render(scene, SIZE)
    data = {
      "text": f"a {scene.main.kind}",
      "boxes": picture.boxes.astype(np.float32),
      "said": text.expressions(scene),
    }
    data = {k: tf.constant(v) for k, v in data.items()}
    row = sequences(data, tf.constant([i, 1], tf.int64))
    image = picture.image.astype(np.float32) / 127.5 - 1
    rows.append({"image": image, **{k: v.numpy() for k, v in row.items()}})
  return {k: np.stack([r[k] for r in rows]) for k in rows[0]}


def batches(data):
  """`(step, size) -> batch`: examples with replacement, one of their draws."""

  def fn(step, size):
    r = np.random.default_rng([3, step])
    at = r.integers(len(data["image"]), size=size)
    draw = r.integers(data["cap_task"].shape[1], size=size)
    return {k: v[at] if k == "image" else v[at, draw] for k, v in data.items()}

  return fn


def test_captions_and_boxes(tmp_path):
  from big_vision.pp import tokenizer
  from big_vision.pp.proj.image_text import ops_locca

  data = examples("train", NUM, [(1, 1, 1)] * 6)
  test = examples("test", 200, [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
  tok = tokenizer.get_tokenizer(TOKENIZER)
  model = dict(
    image=dict(patch_size=(4, 4), width=64, depth=2, num_heads=4,
               posemb="sincos2d", head_zeroinit=False),
    text=dict(width=32, depth=1, mlp_dim=64, num_heads=2, vocab_size=512),
    out_dim=32, temperature_init=10.0, bias_init=-10.0,
  )  # fmt: skip
  config = toy.config(
    model_name="proj.image_text.two_towers",
    model=model,
    captioning=dict(vocab_size=tok.vocab_size, width=64, depth=2, num_heads=4,
                    parallel=0.25),
    input=dict(batch_size=64),
    total_steps=600,
    lr=0.003,
    schedule=dict(decay_type="cosine", warmup_steps=50),
    log_training_steps=50,
  )  # fmt: skip
  fn = batches(data)
  setup = dataclasses.replace(
    toy.setup(config, tmp_path, batch_fn=fn),
    batch_shapes=jax.eval_shape(lambda: fn(0, 64)),
  )
  recipe = siglip.build(setup)
  state = loop.run(setup, recipe)
  setup.writer.close()
  rows = toy.rows(tmp_path)
  for task in ("caption", "refer", "ground"):
    name = f"train/caption_loss_{task}"
    first, last = rows[1][name], rows[600][name]
    print(name, first, last)
    assert last < 0.5 * first

  caption = jax.jit(recipe.predict_fns["caption"])
  loss = jax.jit(recipe.predict_fns["caption_loss"])
  texts = {}
  for task in range(3):
    batch = {k: v if k == "image" else v[:, task] for k, v in test.items()}
    tokens = np.asarray(caption(state, batch))
    own = np.mean(loss(state, batch)["loss"])
    other = {**batch, "image": np.roll(batch["image"], 1, axis=0)}
    other = np.mean(loss(state, other)["loss"])
    print(task, "loss", own, "with the wrong image", other)
    assert own < other - 0.3
    told = [m > 0 for m in batch["cap_mask"]]
    after = [np.cumsum(m) > 0 for m in batch["cap_mask"]]
    got = [tok.to_str(t[a]) for t, a in zip(tokens, after, strict=True)]
    want = [
      tok.to_str(t[m]) for t, m in zip(batch["cap_tokens"], told, strict=True)
    ]
    texts[task] = got, want

  def words(got, want, at):
    """How often a word, from the end, is right."""
    word = lambda t: [*"  ", *t.split()][-at]
    return np.mean([word(a) == word(b) for a, b in zip(got, want, strict=True)])

  for task, name in ((0, "caption"), (2, "ground")):
    got, want = texts[task]
    for at, kind in ((1, "shape"), (2, "color")):
      right = words(got, want, at)
      chance = words(np.roll(want, 1), want, at)
      print(name, kind, "right", right, "chance", chance)
      assert right > (0.3 if kind == "color" else 0) + chance
  got, want = ([ops_locca.parse_box(t, 32) for t in x] for x in texts[1])
  assert all(want)
  overlap = np.mean([iou(a, b) for a, b in zip(got, want, strict=True)])
  # Of the box of another picture.
  others = [
    iou(a, b) for a, b in zip(np.roll(want, 1, axis=0), want, strict=True)
  ]
  print("refer", "overlap", overlap, "chance", np.mean(others))
  assert overlap > 1.5 * np.mean(others)


def iou(a, b):
  """Intersection over union of two boxes; 0 for None."""
  if a is None:
    return 0.0
  area = lambda y0, x0, y1, x1: max(y1 - y0, 0) * max(x1 - x0, 0)
  both = area(*np.maximum(a[:2], b[:2]), *np.minimum(a[2:], b[2:]))
  return both / max(area(*a) + area(*b) - both, 1e-9)
