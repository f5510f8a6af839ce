"""Word pieces as a preprocessing op and as a tokenizer."""

import numpy as np
import pytest

from big_vision.pp import builder, rng, tokenizer
from big_vision.pp.proj.flaxformer import bert_ops
from big_vision.tf import tf

pytestmark = pytest.mark.tf

PIECES = [
  "[PAD]",
  "[UNK]",
  "[CLS]",
  "[SEP]",
  "un",
  "##want",
  "##ed",
  "fox",
  "!",
]


@pytest.fixture
def vocab(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join(PIECES) + "\n")
  return str(path)


def run(pp, text):
  fn = builder.get_preprocess_fn(pp, log_data=False)
  text = tf.constant(text)
  eager = fn({"text": text})["labels"]
  ds = tf.data.Dataset.from_tensors({"text": text}).map(fn)
  (graph,) = ds
  assert ds.element_spec["labels"] == tf.TensorSpec(eager.shape, tf.int32)
  assert graph["labels"].numpy().tolist() == eager.numpy().tolist()
  return [PIECES[i] for i in eager.numpy()]


@pytest.mark.parametrize(
  "text, max_len, want",
  [
    ("Unwanted FOX!", 7, "[CLS] un ##want ##ed fox ! [PAD]"),
    ("Unwanted FOX!", 4, "[CLS] un ##want ##ed"),
    ("Unwanted FOX!", 1, "[CLS]"),
    ("zz ünwant", 4, "[CLS] [UNK] un ##want"),
    ("", 3, "[CLS] [PAD] [PAD]"),
    (["fox", "un"], 2, "[CLS] fox"),
    ([["fox"], ["un"]], 2, "[CLS] fox"),
    (np.zeros([0], "S1"), 2, "[CLS] [PAD]"),
  ],
)
def test_first_text(vocab, text, max_len, want):
  pp = f"bert_tokenize({vocab!r}, {max_len}, False, inkey='text')"
  assert run(pp, text) == want.split()


def test_samples(vocab):
  op = bert_ops.get_pp_bert_tokenize(vocab, 2, key="t")
  seen = set()
  for i in range(40):
    with rng.example_seed([0, i]), rng.op_scope(0):
      ids = op({"t": tf.constant([["fox", "un"], ["!", "fox"]])})["t"]
    seen.add(PIECES[ids[1]])
  assert seen == {"fox", "un", "!"}
  for none in (
    tf.zeros([0], tf.string),
    tf.ragged.constant([[], []], tf.string),
  ):
    assert op({"t": none})["t"].numpy().tolist() == [2, 0]
  assert op({"t": tf.constant("fox")})["t"].numpy().tolist() == [2, 7]


def test_tokenizer(vocab):
  tok = tokenizer.get_tokenizer(f"bert({vocab!r})")
  assert (tok.pad_token, tok.bos_token, tok.eos_token) == (0, 2, 3)
  assert tok.vocab_size == len(PIECES)
  ids = tok.to_int("Unwanted fox!", bos=True, eos=True)
  assert ids == [2, 4, 5, 6, 7, 8, 3]
  assert tok.to_str([*ids, 7]) == "unwanted fox !"
  assert tok.to_str([*ids, 7, 0], stop_at_eos=False) == "unwanted fox ! fox"
  assert tok.to_str([5, 1]) == "##want [UNK]"
  assert tok.to_int_tf_op(tf.constant(["fox", ""])).to_list() == [[7], []]
  with pytest.raises(IndexError, match="9 is not in"):
    tok.to_str([9])


@pytest.mark.parametrize("missing", ["[UNK]", "[CLS]"])
def test_incomplete_vocabulary(tmp_path, missing):
  path = tmp_path / "v.txt"
  path.write_text("\n".join(p for p in PIECES if p != missing))
  with pytest.raises(ValueError, match=rf"v.txt: .* line \{missing[:-1]}\]"):
    bert_ops.BertTokenizer(str(path))


def test_errors(vocab):
  with pytest.raises(ValueError, match="max_len=0"):
    bert_ops.get_pp_bert_tokenize(vocab, 0)
  with pytest.raises(ValueError, match="no file '.*nope'"):
    bert_ops.get_pp_bert_tokenize(f"{vocab}nope", 2)
  with pytest.raises(ValueError, match="dialect='x'"):
    bert_ops.BertTokenizer(vocab, "x")


def test_windows_line_ends(tmp_path):
  path = tmp_path / "v.txt"
  path.write_bytes("\r\n".join(PIECES).encode())
  assert bert_ops.read_vocab(str(path)) == PIECES
