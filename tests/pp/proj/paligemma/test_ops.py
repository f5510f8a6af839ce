"""Sequences of PaliGemma, by tokenizers that come with the package."""

import numpy as np
import pytest
import tokenizers
from tokenizers import models

from big_vision import lookup
from big_vision.models.proj.paligemma import locations
from big_vision.pp import builder, ops_general, ops_text, registry, tokenizer
from big_vision.pp.proj.paligemma import ops
from big_vision.tf import tf

pytestmark = pytest.mark.tf

assert ops_general and ops_text  # Importing them registers their ops.
PAD, EOS, UNK, BOS, SIZE = 0, 1, 2, 3, 512  # Of the vocabulary `shapes`.
SHAPES = "sp('shapes')"


def run(pp, **data):
  """Result in eager mode, after a check that graphs give the same."""
  fn = builder.get_preprocess_fn(pp, log_data=False)
  data = tf.nest.map_structure(tf.convert_to_tensor, data)
  eager = tf.nest.map_structure(np.asarray, fn(dict(data)))
  ds = tf.data.Dataset.from_tensors(data).map(fn)
  graph = next(ds.as_numpy_iterator())
  tf.nest.map_structure(np.testing.assert_array_equal, eager, graph)
  return eager


def static(pp, **data):
  """Static shapes in a graph of examples of unknown sizes."""

  def unknown(x):
    y = tf.numpy_function(lambda x: x, [x], x.dtype)
    return tf.ensure_shape(y, [None] * x.shape.rank)

  fn = builder.get_preprocess_fn(pp, log_data=False)
  ds = tf.data.Dataset.from_tensors(data).map(
    lambda data: fn({k: unknown(v) for k, v in data.items()})
  )
  return {k: v.shape.as_list() for k, v in ds.element_spec.items()}


def ids_of(text, **kw):
  return tokenizer.get_tokenizer(SHAPES).to_int(text, **kw)


def vector(*values):
  return np.array(values, np.int32)


# ---- Tokenizers.


def test_gemma_of_sentencepiece():
  tok = tokenizer.get_tokenizer(
    "gemma(model='shapes', tokensets=('loc', 'seg'))"
  )
  plain = tokenizer.get_tokenizer("gemma(model='shapes')")
  assert plain.vocab_size == SIZE and tok.vocab_size == SIZE + 1024 + 128
  text = "<loc0000><loc1023><seg000><seg127>"
  ids = [SIZE, SIZE + 1023, SIZE + 1024, SIZE + 1151]
  assert tok.to_int(text)[-4:] == ids
  assert tok.to_str(ids) == text
  assert registry.homes("tokenizers")["gemma"] == "proj.paligemma.ops"


def json_file(path, names):
  """A tokenizer.json in which each character is a piece."""
  pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *names, *"abcdefgh <>loc0123"]
  vocab = {p: i for i, p in enumerate(dict.fromkeys(pieces))}
  tok = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
  tok.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
  tok.save(str(path))
  return vocab


def test_gemma_of_hugging_face(tmp_path):
  path = tmp_path / "tokenizer.json"
  vocab = json_file(path, ["<loc0000>", "<loc0002>"])
  name = f"gemma(model={str(path)!r}, tokensets=('loc(4)',))"
  tok = tokenizer.get_tokenizer(name)
  assert (tok.pad_token, tok.eos_token, tok.bos_token) == (0, 1, 2)
  # Those that the vocabulary has keep their ids.
  end = len(vocab)
  want = [4, end, 5, end + 1, vocab["c"]]
  text = "<loc0000><loc0001><loc0002><loc0003>c"
  assert tok.to_int(text) == want and tok.vocab_size == end + 2
  assert tok.to_int(text, bos=True, eos=True) == [2, *want, 1]


def test_sentencepiece_keeps_ids_of_pieces_it_has(monkeypatch):
  monkeypatch.setattr(
    registry.Registry, "_REGISTRY", dict(registry.Registry.global_registry())
  )
  red = tokenizer.get_tokenizer(SHAPES)._check_known("▁red")
  names = lambda: [" red", "<loc0000>"]
  registry.Registry.register("tokensets.mine")(names)
  tok = ops.get_tokenizer_gemma(("mine",), "shapes")
  assert tok.extras == {red: " red", SIZE: "<loc0000>"}


def test_gemma_without_its_file():
  with pytest.raises(ValueError, match="there.model': no such file"):
    tokenizer.get_tokenizer("gemma(model='not/there.model')")
  with pytest.raises(ValueError, match="no file 'not/there.json'"):
    tokenizer.get_tokenizer("gemma(model='not/there.json')")


# ---- Tokens.

TEXT = "a red circle left of a blue square"


@pytest.mark.parametrize("bos", ["no", "yes"])
@pytest.mark.parametrize("eos", ["no", "yes", "sticky"])
def test_tok_of_texts_and_of_entries_agree(bos, eos):
  every = ids_of(TEXT, bos=bos == "yes", eos=eos != "no")
  args = f"model={SHAPES!r}, bos={bos!r}, eos={eos!r}"
  for length in (None, 1, 3, len(every), len(every) + 4):
    want = every
    if length is not None:
      want = [*every, *[PAD] * 4][:length]
      if eos == "sticky" and length < len(every):
        want[-1] = EOS
    got = run(
      f"tok({args}, length={length}, text={TEXT!r}, outkey='c')"
      f"|tok({args}, length={length}, inkey='s', outkey='e')"
      f"|tok({args}, length={length}, key='s')",
      s=TEXT,
    )
    for key in ("c", "e", "s"):
      assert got[key].dtype == np.int32 and got[key].tolist() == want
    constant = ops.tokenize_constant(SHAPES, TEXT, bos, eos, length)
    assert constant == want and isinstance(constant, list)


def test_length_0():
  pp = f"tok({SHAPES!r}, 0, eos='sticky', %s)"
  assert run(pp % "text='a', key='t'", t="")["t"].shape == (0,)
  assert run(pp % "key='t'", t="red")["t"].tolist() == ids_of("red", eos=True)
  assert ops.tokenize_constant(SHAPES, "a red", length=0) == []


def test_static_shapes_of_tok():
  pp = f"tok({SHAPES!r}, key='s')|tok({SHAPES!r}, 5, inkey='t', outkey='u')"
  got = static(f"{pp}|tok({SHAPES!r}, text='red', outkey='c')", s="a", t="b")
  assert got == {"s": [None], "t": [], "u": [5], "c": [len(ids_of("red"))]}


def test_newline_as_config_writes_it():
  got = run("tok('byte', text='\\n', key='sep')", sep="")["sep"]
  assert got.tolist() == [ord("\n") + 3]


def test_constant_texts_are_encoded_once():
  first = ops.tokenize_constant(SHAPES, TEXT)
  assert ops.tokenize_constant(SHAPES, TEXT) is first


@pytest.mark.parametrize(
  "args, message",
  [
    ("bos='sticky', key='s'", "unknown bos='sticky'"),
    ("eos='maybe', key='s'", "unknown eos='maybe'"),
    ("eos=True, text='a', key='s'", "unknown eos=True"),
    ("text='a', inkey='s', outkey='t'", "nothing is read from inkey='s'"),
    ("text=''", "set key or outkey"),
    ("inkey='s'", "set key or outkey"),
    ("outkey='s'", "set key, inkey or text"),
  ],
)
def test_bad_arguments_of_tok(args, message):
  with pytest.raises(lookup.ConfigError, match=message):
    builder.get_preprocess_fn(f"tok({SHAPES!r}, {args})")


def test_tok_without_special_tokens(tmp_path):
  path = tmp_path / "tokenizer.json"
  vocab = {"a": 0, "b": 1}
  tokenizers.Tokenizer(models.BPE(vocab, [])).save(str(path))
  name = f"gemma(model={str(path)!r})"
  for source in ("text='ab', outkey='t'", "key='t'"):
    with pytest.raises(lookup.ConfigError, match="no token for padding"):
      builder.get_preprocess_fn(f"tok({name!r}, 9, {source})")
    with pytest.raises(ValueError, match="no eos token"):
      builder.get_preprocess_fn(f"tok({name!r}, eos='yes', {source})")
  assert ops.tokenize_constant(name, "ab", length=2) == [0, 1]
  assert run(f"tok({name!r}, key='t')", t="ba")["t"].tolist() == [1, 0]


@pytest.mark.parametrize("value", [["a", "b"], 3])
def test_tok_of_what_is_not_one_string(value):
  op = ops.get_tokenize(SHAPES, key="s")
  with pytest.raises(lookup.ConfigError, match="'s' must be one string"):
    op({"s": tf.constant(value)})


# ---- tolen.


def test_tolen():
  x = vector(11, 12, 13, 14)
  cases = {
    "tolen(6, pad_value=9, key='x')": [11, 12, 13, 14, 9, 9],
    "tolen(4, pad_value=9, key='x')": [11, 12, 13, 14],
    "tolen(2, pad_value=9, key='x')": [11, 12],
    "tolen(3, sticky_end=True, pad_value=0, key='x')": [11, 12, 14],
    "tolen(4, sticky_end=True, pad_value=0, key='x')": [11, 12, 13, 14],
    "tolen(5, sticky_end=True, pad_value=0, key='x')": [11, 12, 13, 14, 0],
    "tolen(1, sticky_end=True, pad_value=0, key='x')": [14],
    "tolen(6, pad_key='p', key='x')": [11, 12, 13, 14, 5, 5],
    "tolen(5, pad_value=1, pad_key='q', key='x')": [11, 12, 13, 14, 7],
    "tolen(0, key='x')": [11, 12, 13, 14],
    "tolen(None, key='x')": [11, 12, 13, 14],
  }
  for pp, want in cases.items():
    got = run(pp, x=x, p=vector(5, 6), q=np.int64(7))["x"]
    assert got.dtype == np.int32 and got.tolist() == want, pp
  got = run("tolen(2, sticky_end=True, pad_value=8, key='x')", x=x[:0])
  assert got["x"].tolist() == [8, 8]
  got = run("tolen(3, pad_value=0, inkey='x', outkey='y')", x=np.float32([1.5]))
  assert got["y"].dtype == np.float32 and got["y"].tolist() == [1.5, 0, 0]
  got = run("tolen(3, pad_value='-', key='x')", x=np.array([b"a"], object))
  assert got["x"].tolist() == [b"a", b"-", b"-"]
  assert static("tolen(3, pad_value=0, key='x')", x=x) == {"x": [3]}
  assert static("tolen(None, key='x')", x=x) == {"x": [None]}


def test_bad_arguments_of_tolen():
  with pytest.raises(AssertionError, match="set pad_value, or pad_key"):
    builder.get_preprocess_fn("tolen(2, key='x')")
  op = ops.get_tolen(2, pad_value=0, key="x")
  with pytest.raises(ValueError, match=r"vector, not of shape \(3, 2\)"):
    op({"x": tf.zeros([3, 2])})


# ---- Other ops.


def test_masked_concat():
  pp = "masked_concat(['a', 'b', 'a'], outkey='a', m=[0, 0, 1], b=[.5, 6, 7])"
  got = run(pp, a=vector(1, 2), b=vector(3))
  assert got["a"].tolist() == [1, 2, 3, 1, 2]
  assert got["m"].tolist() == [0, 0, 0, 1, 1] and got["m"].dtype == np.int32
  assert got["b"].tolist() == [0.5, 0.5, 6, 7, 7]
  assert got["b"].dtype == np.float32
  got = run("masked_concat(['a', 'b'], m=[1, 2])", a=vector(), b=vector(3))
  assert got["text"].tolist() == [3] and got["m"].tolist() == [2]
  got = run("masked_concat(['a'], m=[4])", a=np.ones([2, 3], np.float32))
  assert got["m"].tolist() == [[4] * 3] * 2
  shapes = static(
    "masked_concat(['a', 'b'], m=[1, 2])", a=vector(1), b=vector()
  )
  assert shapes["text"] == shapes["m"] == [None]


def test_bad_arguments_of_masked_concat():
  with pytest.raises(AssertionError, match=r"m=\[1\] must have .* 2 keys"):
    builder.get_preprocess_fn("masked_concat(['a', 'b'], m=[1])")
  with pytest.raises(ValueError, match="at least one entry"):
    builder.get_preprocess_fn("masked_concat([])")


def test_strjoin():
  names = np.array([["a", "b"], ["c", "ü"]])
  data = {"s": names, "image": names[:, 0]}
  got = run("strjoin('; ')|strjoin(' ', key='s')", **data)
  assert got["image"] == b"a; c"
  assert got["s"].item().decode() == "a b c ü"
  got = run("strjoin('', axis=0, inkey='s', outkey='t')", s=names[:, :1])
  assert got["t"].tolist() == [b"ac"]
  got = run("strjoin('-', axis=1, key='s')", s=names[:1])
  assert got["s"].tolist() == [b"a-b"]
  assert run("strjoin('-', key='s')", s=names[:0])["s"] == b""
  assert static("strjoin('-', key='s')", s=names)["s"] == []


def test_majority():
  for x, want in (
    ([3, 1, 3, 2, 1, 1], 1),
    ([5, 7, 7, 5], 5),
    ([1.5], 1.5),
    (["b", "a", "c", "a", "c"], b"a"),
  ):
    x = np.array(x)
    got = run("majority", image=x)["image"]
    assert got == want and got.shape == ()
    if x.dtype.kind != "U":
      assert got.dtype == x.dtype
  many = np.random.RandomState(0).randint(0, 50, 1000)
  numbers, counts = np.unique(many, return_counts=True)
  best = numbers[counts == counts.max()]
  want = next(n for n in many if n in best)
  assert run("majority(key='v')", v=many)["v"] == want
  assert static("majority(key='v')", v=many) == {"v": []}
  error = tf.errors.InvalidArgumentError
  with pytest.raises(error, match="majority: there are no elements"):
    run("majority", image=many[:0])
  fn = builder.get_preprocess_fn("majority(key='v')", log_data=False)
  with pytest.raises(error, match="majority: there are no elements"):
    list(tf.data.Dataset.from_tensors({"v": many[:0]}).map(fn))


def test_getidx():
  data = {"v": vector(5, 6, 7), "w": np.array(["a", "b", "c"])}
  for index in (np.int64(1), np.int32(1), -2):
    got = run("getidx('v', 'i')|getidx('w', 'i', outkey='z')", **data, i=index)
    assert got["v"] == 6 and got["z"] == b"b"
    assert got["w"].tolist() == [b"a", b"b", b"c"]
  got = run("getidx(inkey='x', index_key='i')", x=np.eye(3), i=2)
  assert got["x"].tolist() == [0, 0, 1]
  ragged = tf.ragged.constant([[1], [2, 3]])
  op = ops.getidx("x", "i")
  assert op({"x": ragged, "i": 1})["x"].numpy().tolist() == [2, 3]
  for index in (3, -4):
    with pytest.raises(tf.errors.InvalidArgumentError, match="out of bounds"):
      op({"x": tf.range(3), "i": tf.constant(index)})
    ds = tf.data.Dataset.from_tensors({"x": np.arange(3), "i": index}).map(op)
    with pytest.raises(tf.errors.InvalidArgumentError):
      list(ds)


# ---- Boxes.

BOXES = np.float32([[0.1, 0, 1, 0.4888], [-0.1, 0.5 / 1023, 1.5, 1.5 / 1023]])


def test_boxes2str():
  labels = np.array(["cat", "größerer Hund"])
  got = run("boxes2str", boxes=BOXES, labels=labels)["suffix"].item().decode()
  assert got == (
    "<loc0102><loc0000><loc1023><loc0500> cat ; "
    "<loc0000><loc0000><loc1023><loc0002> größerer Hund"
  )
  assert [x.label for x in locations.parse(got)] == labels.tolist()
  many = np.random.RandomState(0).uniform(-0.1, 1.1, (50, 4)).astype(np.float32)
  got = run(
    "boxes2str('b', 'c', outkey='t', glue='')", b=many, c=np.array(["|"] * 50)
  )["t"]
  got = got.item().decode().replace(" ", "").split("|")[:-1]
  assert got == [locations.format_box(box) for box in many]
  none = run("boxes2str", boxes=np.zeros([0, 4], np.float32), labels=labels[:0])
  assert none["suffix"] == b""
  shapes = static("boxes2str", boxes=BOXES, labels=labels)
  assert shapes["suffix"] == []


@pytest.mark.parametrize(
  "boxes, labels, message",
  [
    (BOXES, [1, 2], "'labels' must have names"),
    (BOXES, ["a"], r"float \[N, 4\]"),
    (BOXES[:, :3], ["a", "b"], r"float \[N, 4\]"),
    (BOXES[0], ["a", "b"], r"float \[N, 4\]"),
    (BOXES[:1], "a", r"float \[N, 4\]"),
    (np.arange(4)[None], ["a"], r"float \[N, 4\].*not int64"),
    (BOXES * 224, ["a", "b"], "relative to the image"),
  ],
)
def test_bad_boxes(boxes, labels, message):
  op = builder.get_preprocess_fn("boxes2str", log_data=False)
  error = (ValueError, tf.errors.InvalidArgumentError)
  data = {"boxes": boxes, "labels": np.array(labels)}
  with pytest.raises(error, match=message):
    op(dict(data))
  with pytest.raises(error, match=message):
    list(tf.data.Dataset.from_tensors(data).map(op))


# ---- All of them.


def test_training_sequence():
  m = "gemma(model='shapes', tokensets=('loc', 'seg'))"
  pp = (
    f"boxes2str|strfmt('detect', outkey='prefix')"
    f"|tok(key='prefix', bos='yes', model={m!r})"
    f"|tok(key='suffix', eos='yes', model={m!r})"
    f"|tok(key='septok', text='\\n', model={m!r})"
    "|masked_concat(['prefix', 'septok', 'suffix'], outkey='text', "
    "mask_ar=[0, 0, 1], mask_loss=[0, 0, 1])"
    "|tolen(25, pad_value=0, key='text')|tolen(25, pad_value=1, key='mask_ar')"
    "|tolen(25, pad_value=0, key='mask_loss')"
    "|keep('text', 'mask_ar', 'mask_loss')"
  )
  tok = tokenizer.get_tokenizer(m)
  got = run(pp, boxes=BOXES[:1], labels=np.array(["red circle"]))
  box = "<loc0102><loc0000><loc1023><loc0500>"
  given = [*tok.to_int("detect", bos=True), *tok.to_int("\n")]
  answer = tok.to_int(f"{box} red circle", eos=True)
  n, end = len(given), len(given) + len(answer)
  assert got["text"][:end].tolist() == given + answer
  assert not got["text"][end:].any() and len(got["text"]) == 25
  assert SIZE + 102 in answer
  assert got["mask_ar"].tolist() == [0] * n + [1] * (25 - n)
  assert got["mask_loss"].tolist() == (
    [0] * n + [1] * len(answer) + [0] * (25 - end)
  )
