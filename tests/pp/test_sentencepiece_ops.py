"""Sentencepiece as TensorFlow ops, against numbers of tensorflow_text."""

import json
import pathlib

import numpy as np
import pytest

from big_vision.pp import sentencepiece_model
from big_vision.pp.sentencepiece_ops import SentencepieceOps
from big_vision.tf import tf

pytestmark = pytest.mark.tf

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "text_ids.json"


@pytest.fixture(scope="module")
def golden():
  """Texts (bytes) and what tensorflow_text 2.21 makes of them."""
  data = json.loads(GOLDEN.read_text())
  texts = [t.encode() for t in data["texts"]]
  texts += [bytes.fromhex(b) for b in data["bytes"]]
  return texts, data["shapes_bos_eos"]


@pytest.fixture(scope="module")
def model():
  return sentencepiece_model.read("shapes")


@pytest.mark.parametrize("bos, eos", [(True, True), (False, True), (0, 0)])
def test_ids_of_tensorflow_text(golden, model, bos, eos):
  texts, want = golden
  want = [row[0 if bos else 1 : None if eos else -1] for row in want]
  ops = SentencepieceOps(model, add_eos=eos, add_bos=bos)
  got = ops.tokenize(texts)
  assert got.to_list() == want
  assert got.dtype == tf.int32
  assert ops.tokenize(texts[-1]).numpy().tolist() == want[-1]


def test_ids_where_tensorflow_text_is_installed(golden, model):
  tf_text = pytest.importorskip("tensorflow_text")
  theirs = tf_text.SentencepieceTokenizer(model, add_eos=True)
  ours = SentencepieceOps(model, add_eos=True)
  ids = theirs.tokenize(golden[0])
  assert ours.tokenize(golden[0]).to_list() == ids.to_list()
  want = theirs.detokenize(ids).numpy()
  np.testing.assert_array_equal(ours.detokenize(ids), want)


def test_other_methods(model):
  ops = SentencepieceOps(model)
  size = ops.vocab_size()
  assert size.dtype == tf.int32 and size.numpy() == 512
  pieces = ops.id_to_string(tf.range(512))
  assert pieces.numpy()[:4].tolist() == [b"<pad>", b"</s>", b"<unk>", b"<s>"]
  np.testing.assert_array_equal(ops.string_to_id(pieces), np.arange(512))
  some = [["▁red", "nonsense"], ["", "</s>"]]
  red = pieces.numpy().tolist().index("▁red".encode())
  assert ops.string_to_id(some).numpy().tolist() == [[red, 2], [2, 1]]
  assert ops.string_to_id("▁red").numpy() == ops.piece_to_id("▁red") == red
  assert ops.id_to_string(red).numpy().decode() == "▁red"
  assert ops.detokenize([red, red]).numpy() == b"red red"
  ids = ops.tokenize([["a red ring", ""]])
  assert ops.detokenize(ids).to_list() == [[b"a red ring", b""]]


def test_lower(model):
  text = ["A RED Ring", "Ä"]
  got = SentencepieceOps(model, lower=True).tokenize(text).to_list()
  want = SentencepieceOps(model).tokenize(tf.strings.lower(text)).to_list()
  assert got == want
