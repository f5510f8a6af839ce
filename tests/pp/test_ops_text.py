import types

import numpy as np
import pytest

from big_vision.pp import builder, ops_text, rng, sentencepiece_model
from big_vision.tf import tf

pytestmark = pytest.mark.tf


def run(pp, **data):
  """Result in eager mode, after a check that graphs give the same."""
  fn = builder.get_preprocess_fn(pp, log_data=False)
  data = tf.nest.map_structure(tf.convert_to_tensor, data)
  eager = fn(dict(data))
  ds = tf.data.Dataset.from_tensors(data).map(fn)
  graph = next(ds.as_numpy_iterator())
  tf.nest.map_structure(
    lambda e, g: np.testing.assert_array_equal(np.asarray(e), g), eager, graph
  )
  return eager


def test_lower_changes_ascii_only():
  got = run("lower", text=tf.constant("AbC ÄÉ 1"))["text"]
  assert got.numpy().decode() == "abc ÄÉ 1"
  got = run("lower(inkey='t', outkey='u')", t=tf.constant(["A", "bC"]))
  assert got["u"].numpy().tolist() == [b"a", b"bc"]
  assert got["t"].numpy().tolist() == [b"A", b"bC"]


def test_lower_of_all_alphabets():
  got = run("lower(encoding='utf-8')", text=tf.constant("AbC ÄÉ ПРИВЕТ ΟΔΟΣ 1"))
  assert got["text"].numpy().decode() == "abc äé привет οδος 1"
  with pytest.raises(ValueError, match="encoding='latin1'"):
    run("lower(encoding='latin1')", text=tf.constant("A"))


def test_coco_captions():
  texts = tf.constant(["a", "b"])
  features = {"id": tf.constant([1, 2]), "text": texts}
  got = run("coco_captions('c')", captions=features)
  assert got["c"].numpy().tolist() == [b"a", b"b"]
  assert set(got) == {"captions", "c"}
  got = run("coco_captions", captions=features)
  assert got["captions"].numpy().tolist() == [b"a", b"b"]


@pytest.mark.parametrize(
  "template, want",
  [
    ("", ""),
    ("plain", "plain"),
    ("{s}", "txt"),
    ("<{s}|{i}>{s}", "<txt|42>txt"),
    ("{{{i}}} {{}}", "{42} {}"),
    ("{a/b c}", "7"),
    ("{f} {neg}", "1.5 -3"),
    ("{v}", "[0 1 2]"),
    ("{m}", "[[0 1]\n [2 3]]"),
    ("{t}{n}", "10"),
    ("x{}y", "xy"),
    ("{u}", "ü"),
  ],
)
def test_strfmt(template, want):
  data = {
    "s": "txt",
    "i": tf.constant(42),
    "a/b c": tf.constant(7, tf.int64),
    "f": tf.constant(1.5),
    "neg": tf.constant(-3),
    "v": tf.range(3),
    "m": tf.reshape(tf.range(4), (2, 2)),
    "t": tf.constant(True),
    "n": tf.constant(False),
    "u": "ü",
  }
  got = run(f"strfmt({template!r}, outkey='out')", **data)
  assert got["out"].numpy().decode() == want
  assert got["out"].shape == ()


def test_strfmt_of_long_vectors_and_python_numbers():
  got = ops_text.get_strfmt("{v}")({"v": tf.range(2000)})["text"]
  want = "[" + " ".join(map(str, range(2000))) + "]"
  assert got.numpy().decode() == want
  got = ops_text.get_strfmt("{x} {y} {z}")({"x": 0.25, "y": 3, "z": b"b"})
  assert got["text"].numpy() == b"0.25 3 b"


@pytest.mark.parametrize("template", ["{x:.2f}", "{x!r}", "a{x:{w}}"])
def test_strfmt_knows_no_formats(template):
  op = ops_text.get_strfmt(template)
  with pytest.raises(AssertionError, match="neither formats nor conversions"):
    op({"x": tf.constant(1.0)})


def test_strfmt_of_unknown_entry():
  with pytest.raises(KeyError, match="nope"):
    ops_text.get_strfmt("{nope}")({"x": 1})


# Pieces of the model that comes with the package: 0 <pad>, 1 </s>, 2 <unk>,
# 3 <s>.
TEXT = "a red ring"  # Three pieces.


def ids(text):
  model = sentencepiece_model.read("shapes")
  return sentencepiece_model.processor(model).encode(text)


def tokenized(args, text):
  pp = f"tokenize({args}, model='shapes', inkey='text')"
  return run(pp, text=tf.constant(text))["labels"]


@pytest.mark.parametrize(
  "args, want",
  [
    ("5, eos='none'", [0, 1, 2, "<pad>", "<pad>"]),
    ("5, eos='yes'", [0, 1, 2, "</s>", "<pad>"]),
    ("5, 'sticky', pad_value='</s>'", [0, 1, 2, "</s>", "</s>"]),
    ("5, 'sticky', pad_value='none'", [0, 1, 2, "</s>", "<unk>"]),
    ("5, 'sticky', pad_value=-7", [0, 1, 2, "</s>", -7]),
    ("4, 'sticky'", [0, 1, 2, "</s>"]),
    ("3, 'none'", [0, 1, 2]),
    ("3, 'yes'", [0, 1, 2]),
    ("3, 'sticky'", [0, 1, "</s>"]),
    ("1, 'sticky'", ["</s>"]),
    ("5, 'sticky', add_bos=True", ["<s>", 0, 1, 2, "</s>"]),
    ("4, 'sticky', add_bos=True", ["<s>", 0, 1, "</s>"]),
    ("4, 'none', add_bos=True", ["<s>", 0, 1, 2]),
  ],
)
def test_tokenize(args, want):
  pieces, special = ids(TEXT), ["<pad>", "</s>", "<unk>", "<s>"]
  assert len(pieces) == 3
  want = [
    special.index(w) if isinstance(w, str) else pieces[w] if w >= 0 else w
    for w in want
  ]
  got = tokenized(args, TEXT)
  assert got.dtype == tf.int32 and got.numpy().tolist() == want
  # The same among other texts, short and long.
  texts = [TEXT, "", f"{TEXT} and a blue star"]
  many = tokenized(f"{args}, sample_if_multi=False", texts).numpy()
  assert many[0].tolist() == want
  grid = [texts, texts[::-1]]
  got = tokenized(f"{args}, sample_if_multi=False", grid).numpy()
  np.testing.assert_array_equal(got, [many, many[::-1]])
  # And with a tokenizer of tensorflow_text, which has no `encode`.
  kw = dict(pad_value=-7, force_eos="sticky" in args, multi_text=True)
  ours = ops_text.create_tokenizer("shapes", add_eos="none" not in args)
  theirs = types.SimpleNamespace(tokenize=ours.tokenize)
  length = int(args[0])
  np.testing.assert_array_equal(
    ops_text.tokenize(grid, theirs, length, **kw),
    ops_text.tokenize(grid, ours, length, **kw),
  )


def test_long_texts_keep_eos_among_longer_ones():
  """The reference pads all texts to the longest before it cuts them."""
  texts = [TEXT, f"{TEXT} and a blue star", TEXT + " and"]
  got = tokenized("3, 'sticky', sample_if_multi=False", texts).numpy()
  assert got[:, -1].tolist() == [1, 1, 1]


def test_tokenize_foreign_tokenizer_of_one_text():
  ours = ops_text.create_tokenizer("shapes")
  theirs = types.SimpleNamespace(tokenize=ours.tokenize)
  for length in (2, 4, 9):
    for text in (TEXT, ""):
      for force_eos in (True, False):
        kw = dict(pad_value=5, force_eos=force_eos)
        np.testing.assert_array_equal(
          ops_text.tokenize(tf.constant(text), theirs, length, **kw),
          ops_text.tokenize(tf.constant(text), ours, length, **kw),
        )


def test_tokenize_lower():
  want = [*ids("a red ring"), *ids("É")]
  got = tokenized("9, 'none'", "A Red riNG É").numpy().tolist()
  assert got[: len(want)] == want
  got = tokenized("9, 'none', lower=False", "A Red riNG").numpy().tolist()
  assert got == (ids("A Red riNG") + [0] * 9)[:9]
  assert got[:3] != want[:3]


def test_tokenize_static_shapes():
  op = ops_text.get_pp_tokenize(4, "yes", "shapes", key="t")
  multi = ops_text.get_pp_tokenize(
    4, "yes", "shapes", key="t", sample_if_multi=False
  )

  def spec(op, *shape):
    ds = tf.data.Dataset.from_tensors(tf.zeros([2, 3], tf.string))
    take = lambda x: x if shape else x[0, 0]
    return ds.map(lambda x: op({"t": take(x)})).element_spec["t"]

  assert spec(op) == tf.TensorSpec([4], tf.int32)
  assert spec(multi, 2, 3) == tf.TensorSpec([2, 3, 4], tf.int32)


def test_tokenize_samples():
  op = ops_text.get_pp_tokenize(2, "none", "shapes", key="t")
  texts = ["red", "blue", "green"]
  want = {(*ids(t), 0) for t in texts}
  seen = set()
  for i in range(40):
    with rng.example_seed([0, i]), rng.op_scope(0):
      first = op({"t": tf.constant(texts)})["t"].numpy().tolist()
    with rng.example_seed([0, i]), rng.op_scope(0):
      assert op({"t": tf.constant(texts)})["t"].numpy().tolist() == first
    seen.add(tuple(first))
  assert seen == want
  empty = op({"t": tf.zeros([0], tf.string)})["t"]
  assert empty.numpy().tolist() == [0, 0]
  ragged = op({"t": tf.ragged.constant([[], ["red"]])})["t"]
  assert ragged.numpy().tolist() == [*ids("red"), 0]


def test_tokenize_ragged():
  op = ops_text.get_pp_tokenize(
    2, "none", "shapes", key="t", sample_if_multi=False
  )
  got = op({"t": tf.ragged.constant([["red", "blue"], []])})["t"]
  assert got.to_list() == [[[*ids("red"), 0], [*ids("blue"), 0]], []]


@pytest.mark.parametrize(
  "args, match",
  [
    ("4, eos='stick'", "unknown eos='stick'. Did you mean 'sticky'"),
    ("0, eos='yes'", "max_len=0"),
    ("4, eos='yes', model='shape'", "'shape'.*Did you mean 'shapes'"),
  ],
)
def test_tokenize_errors(args, match):
  with pytest.raises(ValueError, match=match):
    builder.get_preprocess_fn(f"tokenize({args}, inkey='t')")


def test_create_tokenizer():
  assert set(ops_text.KNOWN_TOKENIZERS) >= {
    "mc4",
    "mt5",
    "cc_all",
    "c4_en",
    "t5",
  }
  tokenizer = ops_text.create_tokenizer("shapes")
  assert tokenizer.tokenize(TEXT).numpy().tolist() == [*ids(TEXT), 1]
  tokenizer = ops_text.create_tokenizer("shapes", add_eos=False, add_bos=True)
  assert tokenizer.tokenize([TEXT]).to_list() == [[3, *ids(TEXT)]]
  assert ops_text.SentencepieceTokenizer("shapes").to_int(TEXT) == ids(TEXT)


def test_label_names():
  got = run("clip_i1k_label_names", label=tf.constant([[0, 999], [207, 1]]))
  assert got["labels"].numpy().tolist() == [
    [b"tench", b"toilet paper"],
    [b"Golden Retriever", b"goldfish"],
  ]
  got = run("i21k_label_names(outkey='n')", label=tf.constant(21842))
  assert got["n"].numpy() == b"knothole"
  with pytest.raises(tf.errors.InvalidArgumentError):
    ops_text.get_pp_clip_i1k_label_names()({"label": tf.constant(1000)})
