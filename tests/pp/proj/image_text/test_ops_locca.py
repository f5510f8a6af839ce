"""Sequences of captioning and dense captioning."""

import numpy as np
import pytest

from big_vision.datasets import shapes
from big_vision.pp import builder, ops_general, ops_text, rng, tokenizer
from big_vision.pp.proj.image_text import ops_locca
from big_vision.tf import tf

pytestmark = pytest.mark.tf

BYTES = tokenizer.get_tokenizer("byte")
BOXES = [[0.0, 0.5, 0.25, 1.0], [0.1, 0.2, 0.3, 0.4]]


def data():
  return {
    "text": tf.constant("Ein Größeres BILD"),
    "boxes": {
      "bbox": tf.constant(BOXES),
      "expression": tf.constant(["the RED star", "a ring"]),
    },
  }


def run(args="", seed=0, max_len=64, tok="byte", **entries):
  op = builder.get_preprocess_fn(
    f"locca({max_len}, {tok!r}{args and ', '}{args})", log_data=False
  )
  with rng.example_seed([seed, 1]):
    out = op(data() | entries)
  return {k: out[k].numpy() for k in ("cap_tokens", "cap_mask", "cap_task")}


def parts(out, tok=BYTES):
  """(what is given, what is predicted, what follows) as text and ids."""
  tokens, mask = out["cap_tokens"], out["cap_mask"]
  first = int(np.argmax(mask)) if mask.any() else len(mask)
  end = first + int(mask.sum())
  assert mask[first:end].all() and not mask[end:].any()
  return (
    tok.to_str(tokens[:first]),
    tok.to_str(tokens[first:end], stop_at_eos=False),
    tokens[end:].tolist(),
  )


def test_three_tasks():
  out = run("p=(1, 0, 0)")
  assert out["cap_task"] == 0
  assert out["cap_tokens"].dtype == out["cap_mask"].dtype == np.int32
  given, predicted, rest = parts(out)
  assert (given, predicted) == ("cap:", "ein größeres bild")
  assert not any(rest) and len(out["cap_tokens"]) == 64
  last = out["cap_mask"].sum() + len("cap:") - 1
  assert out["cap_tokens"][last] == BYTES.eos_token

  out = run("p=(0, 1, 0)")
  assert out["cap_task"] == 1
  want = {
    ("aref: the red star :", "0 250 125 499"),
    ("aref: a ring :", "50 100 150 200"),
  }
  assert {parts(run("p=(0, 1, 0)", seed))[:2] for seed in range(10)} == want

  out = run("p=(0, 0, 1)")
  assert out["cap_task"] == 2
  want = {
    ("gcap: 0 250 125 499 :", "the red star"),
    ("gcap: 50 100 150 200 :", "a ring"),
  }
  assert {parts(run("p=(0, 0, 1)", seed))[:2] for seed in range(10)} == want


def test_one_of_several_captions():
  texts = tf.constant(["one", "two", "three"])
  seen = {parts(run("p=(1, 0, 0)", i, text=texts))[1] for i in range(20)}
  assert seen == {"one", "two", "three"}
  none = run("p=(1, 0, 0)", text=tf.constant([], tf.string))
  assert parts(none)[1] == ""


def test_arguments():
  kw = "p=(0, 1, 0), bins=10, prefixes=('', 'box of', ''), lower=False"
  want = {("box of the RED star :", "0 5 2 9"), ("box of a ring :", "1 2 3 4")}
  assert {parts(run(kw, seed))[:2] for seed in range(10)} == want
  out = run(
    "p=(1, 0, 0), caption='t', prefixes=('', '', '')", t=tf.constant("A")
  )
  assert parts(out)[:2] == ("", "a")


def test_location_tokens():
  name = 'byte(tokensets=("loc(500)",))'
  tok = tokenizer.get_tokenizer(name)
  out = run("p=(0, 0, 1), location='loc'", tok=name)
  given, predicted, _ = parts(out, tok)
  assert given.startswith("gcap: <loc0") and predicted in (
    "the red star", "a ring"
  )  # fmt: skip
  # Four tokens instead of many.
  assert out["cap_mask"].argmax() == len("gcap:  :") + 4
  # With a vocabulary of pieces.
  out = run(
    "p=(0, 1, 0), location='loc'", tok='sp("shapes", tokensets=("loc",))'
  )
  assert out["cap_mask"].sum() in (5, 6)
  with pytest.raises(ValueError, match=r"<loc0499>.*tokensets=\('loc\(500\)'"):
    run("location='loc'")


def test_tasks_are_drawn_by_their_probabilities_and_the_seed():
  op = ops_locca.get_locca(8, "byte", p=(2, 1, 1))

  @tf.function
  def draw(seed):
    with rng.example_seed(tf.stack([seed, 7])):
      return op(data())["cap_task"]

  got = [int(draw(tf.constant(i))) for i in range(400)]
  share = np.bincount(got, minlength=3) / 400
  np.testing.assert_allclose(share, [0.5, 0.25, 0.25], atol=0.07)
  assert got[:20] == [int(draw(tf.constant(i))) for i in range(20)]


def test_without_regions_the_task_is_to_caption():
  none = {"bbox": tf.zeros([0, 4]), "expression": tf.zeros([0], tf.string)}
  out = run("p=(1, 50, 50)", boxes=none)
  assert out["cap_task"] == 0 and parts(out)[1] == "ein größeres bild"
  out = run("p=(0, 1, 1)", boxes=none)
  assert not out["cap_mask"].any()


def test_what_is_too_long_is_cut_and_leaves_room_for_the_rest():
  eos = BYTES.eos_token
  long = {"bbox": tf.constant(BOXES[:1]), "expression": tf.constant(["x" * 99])}
  out = run("p=(0, 1, 0)", max_len=30, boxes=long)
  given, predicted, rest = parts(out)
  assert predicted == "0 250 125 499" and not rest
  assert given == "aref: " + "x" * (30 - 6 - len(predicted) - 1)
  assert out["cap_tokens"][-1] == eos
  out = run("p=(0, 0, 1)", max_len=30, boxes=long)
  given, predicted, rest = parts(out)
  assert given == "gcap: 0 250 125" and predicted == "x" * 15 and not rest


def test_errors():
  for args, message in {
    "location='pixels'": "unknown location='pixels'",
    "p=(1, 1)": r"p=\(1, 1\) must be three",
    "p=(0, 0, 0)": "must be three probabilities",
    "prefixes=('a',)": "prefixes",
    "caption='txt'": "no entry 'txt'.*'text'",
    "boxes='objects/bbox'": "no entry 'objects/bbox'",
  }.items():
    with pytest.raises(ValueError, match=message):
      run(args)
  with pytest.raises(ValueError, match="max_len=0"):
    run(max_len=0)


def test_parse_box():
  box = np.array(ops_locca.parse_box("0 250 125 499"))
  np.testing.assert_allclose(box, BOXES[0], atol=1 / 500)
  assert ops_locca.parse_box("<loc0000><loc0005><loc0002><loc0009>", 10) == (
    0.05, 0.55, 0.25, 0.95
  )  # fmt: skip
  assert ops_locca.parse_box("0 250 125") is None


def test_with_the_dataset_shapes(tmp_path):
  """The pipeline of docs/siglip2.md."""
  assert ops_general and ops_text  # Importing them registers their ops.
  ds = shapes.prepare(str(tmp_path), "tiny").as_dataset(split="train")
  fn = builder.get_preprocess_fn(
    'choice(inkey="captions", outkey="text")'
    "|locca(max_len=32, tokenizer='sp(\"shapes\")')"
    '|lower(key="text", encoding="utf-8")'
    '|tokenize(16, "sticky", "shapes", inkey="text", outkey="labels")'
    '|keep("image", "labels", "cap_tokens", "cap_mask", "cap_task")',
    log_data=False,
  )

  def one(i, example):
    with rng.example_seed(tf.stack([i, 3])):
      return fn(example)

  ds = ds.enumerate().map(one).batch(64)
  batch = next(ds.as_numpy_iterator())
  assert set(batch["cap_task"]) == {0, 1, 2}
  assert batch["cap_tokens"].shape == batch["cap_mask"].shape == (64, 32)
  tok = tokenizer.get_tokenizer('sp("shapes")')
  for tokens, mask, task in zip(
    batch["cap_tokens"], batch["cap_mask"], batch["cap_task"], strict=True
  ):
    text = tok.to_str(tokens[mask > 0])
    box = ops_locca.parse_box(text)
    assert (box is not None) == (task == 1), text
