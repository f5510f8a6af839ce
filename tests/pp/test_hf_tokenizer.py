"""tokenizer.json: same ids as the library, and as sentencepiece for its models."""

import io
import json
import random
import sys

import numpy as np
import pytest
import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2 as pb2
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
  trainers,
)

import fake_hub
from big_vision import lookup
from big_vision.pp import hf_tokenizer, ops_text, tokenizer
from big_vision.pp.builder import get_preprocess_fn
from big_vision.tf import tf

pytestmark = pytest.mark.tf
TEXTS = [
  "a red circle left of two blue squares",
  "A Photo of a café, n° 7!",
  "  spaces   everywhere ",
  "",
  "日本語 ☃ and 🤗",
]


@pytest.fixture(scope="module")
def corpus():
  rng = random.Random(0)
  words = "a the red blue small circle square left two photo, dog.".split()
  parts = ["ka", "lo", "min", "ter", "sha", "pu", "ed", "ing", "ou", "wr"]
  words += ["".join(rng.choices(parts, k=3)) for _ in range(60)]
  return [" ".join(rng.choices(words, k=8)) for _ in range(300)]


def save(tok, tmp_path, name="tokenizer.json"):
  tok.save(str(tmp_path / name))
  return str(tmp_path / name)


def word_pieces(corpus):
  """As BERT's."""
  tok = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
  tok.normalizer = normalizers.BertNormalizer(lowercase=True)
  tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tok.decoder = decoders.WordPiece()
  special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
  tok.train_from_iterator(
    corpus, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special)
  )
  tok.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
  return tok


def byte_pairs(corpus):
  """As CLIP's: bytes, other names of special tokens, padding with the last."""
  tok = tokenizers.Tokenizer(models.BPE())
  tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tok.decoder = decoders.ByteLevel()
  special = ["<start>", "<end>"]
  trainer = trainers.BpeTrainer(
    vocab_size=350,
    special_tokens=special,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
  )
  tok.train_from_iterator(corpus, trainer)
  tok.post_processor = processors.TemplateProcessing(
    single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
  )
  tok.enable_padding(pad_id=1, pad_token="<end>", length=16)
  tok.enable_truncation(12)
  return tok


@pytest.mark.parametrize(
  "make, pad, bos, eos", [(word_pieces, 0, 2, 3), (byte_pairs, 1, 0, 1)]
)
def test_same_as_the_library(corpus, tmp_path, make, pad, bos, eos):
  want = make(corpus)
  tok = tokenizer.get_tokenizer(f"hf({save(want, tmp_path)!r})")
  want.no_padding()
  want.no_truncation()
  assert (tok.pad_token, tok.bos_token, tok.eos_token) == (pad, bos, eos)
  assert tok.vocab_size == want.get_vocab_size()
  for text in [*TEXTS, corpus[0]]:
    plain = want.encode(text, add_special_tokens=False).ids
    assert tok.to_int(text) == tok.to_int(text.encode()) == plain
    ids = tok.to_int(text, bos=True, eos=True)
    assert ids == want.encode(text).ids
    assert tok.to_str(ids, stop_at_eos=False) == want.decode(ids)
  ids = tok.to_int_tf_op(tf.constant(TEXTS), eos=True)
  assert ids.to_list() == [[*want.encode(t).ids[1:]] for t in TEXTS]
  assert tok.to_str_tf_op(ids).numpy().tolist() == [
    want.decode(want.encode(t).ids).encode() for t in TEXTS
  ]
  with pytest.raises(IndexError, match=f"{tok.vocab_size} is not in"):
    tok.to_str([tok.vocab_size])
  assert tok.to_piece(eos) == want.id_to_token(eos)


def test_bytes_that_are_no_text(corpus, tmp_path):
  tok = hf_tokenizer.HuggingFaceTokenizer(save(byte_pairs(corpus), tmp_path))
  assert tok.to_int(b"a\xff") == tok.to_int("a\ufffd")


def train_sentencepiece(corpus, **kw):
  out = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(corpus), model_writer=out, minloglevel=2,
    pad_id=0, eos_id=1, num_threads=1, **kw,
  )  # fmt: skip
  return out.getvalue()


def like_t5(model):
  """The tokenizer.json of a Unigram model, as T5 and SigLIP have it."""
  proto = pb2.ModelProto.FromString(model)
  unk = next(i for i, p in enumerate(proto.pieces) if p.type == 2)
  tok = tokenizers.Tokenizer(
    models.Unigram([(p.piece, p.score) for p in proto.pieces], unk_id=unk)
  )
  spaces = normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
  charsmap = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
  tok.normalizer = normalizers.Sequence([charsmap, normalizers.Strip(), spaces])
  tok.pre_tokenizer = pre_tokenizers.Metaspace()
  tok.decoder = decoders.Metaspace()
  tok.add_special_tokens(["<pad>", "</s>", "<unk>"])
  tok.post_processor = processors.TemplateProcessing(
    single="$A </s>", special_tokens=[("</s>", tok.token_to_id("</s>"))]
  )
  return tok


def like_gemma(model):
  """The tokenizer.json of a BPE model with bytes, as Gemma and SigLIP 2 have it."""
  proto = pb2.ModelProto.FromString(model)
  ids = {p.piece: i for i, p in enumerate(proto.pieces)}
  merges = [
    (ids[piece], piece[:i], piece[i:])
    for piece in ids
    for i in range(1, len(piece))
    if piece[:i] in ids and piece[i:] in ids
  ]
  merges = [(a, b) for _, a, b in sorted(merges, key=lambda m: m[0])]
  tok = tokenizers.Tokenizer(
    models.BPE(
      ids, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"
    )
  )
  tok.normalizer = normalizers.Replace(" ", "\u2581")
  tok.decoder = decoders.Sequence(
    [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
  )
  tok.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
  tok.post_processor = processors.TemplateProcessing(
    single="<bos> $A", special_tokens=[("<bos>", ids["<bos>"])]
  )
  return tok


@pytest.fixture(scope="module", params=["t5", "gemma"])
def pair(request, corpus, tmp_path_factory):
  """(path of a sentencepiece model, path of the same as tokenizer.json)."""
  if request.param == "t5":
    model = train_sentencepiece(corpus, vocab_size=80, unk_id=2, bos_id=-1)
    tok = like_t5(model)
  else:
    model = train_sentencepiece(
      corpus, vocab_size=340, model_type="bpe", byte_fallback=True,
      unk_id=3, bos_id=2, eos_piece="<eos>", bos_piece="<bos>",
      normalization_rule_name="identity", add_dummy_prefix=False,
      remove_extra_whitespaces=False,
    )  # fmt: skip
    tok = like_gemma(model)
  folder = tmp_path_factory.mktemp(request.param)
  (folder / "x.model").write_bytes(model)
  return str(folder / "x.model"), save(tok, folder)


def test_same_as_sentencepiece(pair, corpus):
  sp, hf = (
    tokenizer.get_tokenizer(f"{kind}({path!r})")
    for kind, path in zip(("sp", "hf"), pair, strict=True)
  )
  for name in ("pad_token", "eos_token", "bos_token", "vocab_size"):
    assert getattr(hf, name) == getattr(sp, name), name
  for text in [*corpus[:50], *TEXTS]:
    ids = sp.to_int(text, eos=True)
    assert hf.to_int(text, eos=True) == ids, text
    if sp.to_str(ids) == text:
      assert hf.to_str(ids) == text


@pytest.mark.parametrize("eos", ["none", "yes", "sticky"])
@pytest.mark.parametrize("lower", [True, False])
def test_op_is_the_same_as_with_sentencepiece(pair, eos, lower):
  outs = []
  for path in pair:
    pp = f'tokenize(max_len=6, eos="{eos}", model="{path}", lower={lower}, '
    fn = get_preprocess_fn(pp + 'inkey="text")', log_data=False)
    data = tf.data.Dataset.from_tensor_slices({"text": TEXTS}).map(fn)
    outs.append([e["labels"] for e in data.as_numpy_iterator()])
  np.testing.assert_array_equal(*outs)
  assert np.shape(outs[0]) == (len(TEXTS), 6)


def test_ops_of_create_tokenizer(pair):
  sp, hf = (ops_text.create_tokenizer(path) for path in pair)
  ids = hf.tokenize(tf.constant(TEXTS))
  assert ids.to_list() == sp.tokenize(tf.constant(TEXTS)).to_list()
  assert hf.vocab_size() == sp.vocab_size()
  pieces = ["\u2581red", "a", "<pad>"]
  assert hf.string_to_id(pieces).numpy().tolist() == (
    sp.string_to_id(pieces).numpy().tolist()
  )
  assert hf.id_to_string([5, 6]).numpy().tolist() == (
    sp.id_to_string([5, 6]).numpy().tolist()
  )


def test_extra_tokens(corpus, tmp_path):
  path = save(word_pieces(corpus), tmp_path)
  tok = tokenizer.get_tokenizer(f"hf({path!r}, tokensets=['loc(4)'])")
  plain = tokenizer.get_tokenizer(f"hf({path!r})")
  size = plain.vocab_size
  assert tok.vocab_size == size + 4
  ids = tok.to_int("red <loc0001><loc0003> dog")
  assert ids == [*plain.to_int("red"), size + 1, size + 3, *plain.to_int("dog")]
  assert "<loc0001>" in tok.to_str(ids)
  assert size + 1 not in plain.to_int("<loc0001>")  # It is another object.


def test_named_tokens(corpus, tmp_path):
  path = save(byte_pairs(corpus), tmp_path)
  make = hf_tokenizer.HuggingFaceTokenizer
  tok = make(path, pad="<start>", bos="<end>")
  assert (tok.pad_token, tok.bos_token, tok.eos_token) == (0, 1, 1)
  with pytest.raises(ValueError, match=r"unknown token.*'<strat>'.*'<start>'"):
    make(path, pad="<strat>")
  bare = byte_pairs(corpus)
  bare.post_processor = processors.ByteLevel()
  bare.no_padding()
  tok = make(save(bare, tmp_path, "bare.json"))
  assert (tok.pad_token, tok.bos_token, tok.eos_token) == (-1, -1, -1)
  with pytest.raises(ValueError, match="eos=True.*no eos token"):
    tok.to_int("a", eos=True)
  with pytest.raises(ValueError, match="no eos token"):
    ops_text.get_pp_tokenize(4, "yes", str(tmp_path / "bare.json"), inkey="x")
  with pytest.raises(ValueError, match="'<pad>'. For padding, set pad_value"):
    ops_text.get_pp_tokenize(4, "none", str(tmp_path / "bare.json"), inkey="x")


def test_file_of_the_hub(corpus, tmp_path, monkeypatch):
  with fake_hub.serve(tmp_path, monkeypatch) as hub:
    folder = hub.folder / "org" / "repo" / "v1"
    folder.mkdir(parents=True)
    want = word_pieces(corpus)
    save(want, folder)
    uri = "hf://org/repo@v1/tokenizer.json"
    tok = tokenizer.get_tokenizer(f"hf({uri!r})")
    assert tok.to_int("a red dog") == want.encode("a red dog").ids[1:-1]
    pp = f'tokenize(5, "sticky", "{uri}", inkey="text")|keep("labels")'
    out = get_preprocess_fn(pp, log_data=False)({"text": tf.constant("A red")})
    assert out["labels"].numpy().tolist() == [
      *tok.to_int("a red", eos=True), 0, 0
    ]  # fmt: skip


def test_text_that_a_file_cannot_encode(tmp_path):
  """The library raises bare Exceptions."""
  model = models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]")
  data = json.loads(tokenizers.Tokenizer(model).to_str())
  data["model"]["vocab"] = {"a": 0}
  path = tmp_path / "tokenizer.json"
  path.write_text(json.dumps(data))
  tok = hf_tokenizer.HuggingFaceTokenizer(str(path))
  assert tok.encode("a") == [0]
  with pytest.raises(
    lookup.ConfigError, match=r"tokenizer.json cannot encode 'é'.*UNK"
  ):
    tok.encode("é")


def test_errors(tmp_path, monkeypatch):
  path = tmp_path / "tokenizer.json"
  path.write_text('{"a": 1}')
  with pytest.raises(lookup.ConfigError, match="tokenizer.json is not a token"):
    hf_tokenizer.HuggingFaceTokenizer(str(path))
  with pytest.raises(lookup.ConfigError, match=r"write the tokenizer hf\('"):
    tokenizer.get_tokenizer(f"sp({str(path)!r})")
  with pytest.raises(ValueError, match="There is no file '.*nope.json'"):
    ops_text.create_tokenizer(str(tmp_path / "nope.json"))
  path.write_text("{}")  # Another file: it is not in the cache.
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(ImportError, match=r"pip install 'big_vision\[hub\]'"):
    hf_tokenizer.HuggingFaceTokenizer(str(path))
