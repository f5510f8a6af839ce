"""Word pieces, against tensorflow_text and the tokenizers of Hugging Face."""

import json
import pathlib

import pytest

from big_vision.pp import wordpiece

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "text_ids.json"
VOCAB = ["[UNK]", "un", "##want", "##wanted", "##ed", "a", "##a", "aa", "中"]


@pytest.fixture(scope="module")
def golden():
  return json.loads(GOLDEN.read_text())


def test_ids_of_tensorflow_text(golden):
  split = wordpiece.WordPiece(golden["pieces"])
  texts = golden["texts"] + [bytes.fromhex(b) for b in golden["bytes"]]
  assert len(texts) > 100
  for text, want in zip(texts, golden["bert_tf_text"], strict=True):
    assert split(text) == want, text


def test_ids_of_hugging_face(golden):
  """Without what they treat in a way of their own: None in the file."""
  split = wordpiece.WordPiece(golden["pieces"], dialect="bert")
  pairs = zip(golden["texts"], golden["bert_tokenizers"], strict=True)
  pairs = [(text, want) for text, want in pairs if want is not None]
  assert len(pairs) > 90
  for text, want in pairs:
    assert split(text) == want, text


def words(text, dialect):
  return wordpiece.split_words(wordpiece._FOLD[dialect](text))


@pytest.mark.parametrize("dialect", ["tf_text", "bert"])
@pytest.mark.parametrize(
  "text, want",
  [
    ("", []),
    ("  ", []),
    ("Hello,  World!", ["hello", ",", "world", "!"]),
    ("a-b_c$d", ["a", "-", "b", "_", "c", "$", "d"]),
    ("Ünï\tcödé\n", ["uni", "code"]),
    ("x中国y", ["x", "中", "国", "y"]),
    ("«a»", ["«", "a", "»"]),
    ("a\u00a0b\u3000c", ["a", "b", "c"]),
  ],
)
def test_words(dialect, text, want):
  assert words(text, dialect) == want


@pytest.mark.parametrize(
  "text, tf_text, bert",
  [
    ("Straße", ["strasse"], ["straße"]),
    ("™", ["tm"], ["™"]),
    ("a\0b\x07c", ["a", "b", "c"], ["abc"]),
    ("a\u200bb", ["ab"], ["ab"]),
    ("ΑΣ", ["ασ"], ["ας"]),  # The sigma of the end of a word.
    ("\ufffda", ["\ufffda"], ["a"]),
    ("a\u2028b", ["a\u2028b"], ["a", "b"]),
  ],
)
def test_dialects(text, tf_text, bert):
  assert words(text, "tf_text") == tf_text
  assert words(text, "bert") == bert


@pytest.mark.parametrize(
  "text, want",
  [
    ("unwanted", ["un", "##wanted"]),
    ("UNWANT", ["un", "##want"]),
    ("wanted", ["[UNK]"]),  # No piece begins a word like this.
    ("unx un", ["[UNK]", "un"]),
    ("aaa", ["aa", "##a"]),
    ("中a", ["中", "a"]),
    ("a" * 100, ["aa", *["##a"] * 98]),
  ],
)
def test_longest_pieces_first(text, want):
  for dialect in ("tf_text", "bert"):
    got = wordpiece.WordPiece(VOCAB, dialect)(text)
    assert [VOCAB[i] for i in got] == want


def test_long_words_are_unknown():
  assert wordpiece.WordPiece(VOCAB)("a" * 101) == [0]
  assert len(wordpiece.WordPiece(VOCAB, "bert")("a" * 200)) == 199
  assert wordpiece.WordPiece(VOCAB, "bert")("a" * 201) == [0]


def test_errors():
  with pytest.raises(ValueError, match=r"line \[UNK\]"):
    wordpiece.WordPiece(["a"])
  with pytest.raises(ValueError, match="dialect='x'.*bert.*tf_text"):
    wordpiece.WordPiece(VOCAB, "x")
