"""Tokenizers by name, their common methods, sentencepiece with extra tokens."""

import concurrent.futures
import io

import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from big_vision.chrono import chrono
from big_vision.pp import (
  byte_tokenizer,
  registry,
  sentencepiece_model,
  tokenizer,
)
from big_vision.pp.registry import Registry
from big_vision.pp.sentencepiece_tokenizer import SentencepieceTokenizer
from big_vision.tf import tf

pytestmark = pytest.mark.tf

# The model that comes with the package has 512 pieces.
PAD, EOS, UNK, BOS, SIZE = 0, 1, 2, 3, 512
TEXT = "a red circle"


@pytest.fixture(scope="module")
def sp():
  return SentencepieceTokenizer("shapes")


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
  """Registrations of a test end with it."""
  copy = dict(Registry.global_registry())
  monkeypatch.setattr(Registry, "_REGISTRY", copy)


def tokens(*names):
  """Registers a set `mine` of extra tokens."""
  Registry.register("tokensets.mine")(lambda: list(names))


def ids_of(sp, *pieces):
  ids = [sp._check_known(p) for p in pieces]
  assert UNK not in ids
  return ids


def test_special_ids(sp):
  assert (sp.pad_token, sp.eos_token, sp.bos_token) == (PAD, EOS, BOS)
  assert sp.vocab_size == SIZE
  assert sp.to_piece(UNK) == "<unk>"
  assert sp._check_known("nonsense") == UNK


def test_to_int(sp):
  ids = ids_of(sp, "▁a", "▁red", "▁circle")
  assert sp.to_int(TEXT) == sp.to_int(TEXT.encode()) == ids
  assert sp.to_int(TEXT, bos=True) == [BOS, *ids]
  assert sp.to_int(TEXT, bos=True, eos=True) == [BOS, *ids, EOS]
  assert sp.to_int("") == [] and sp.to_int([]) == []
  assert sp.to_int([TEXT, ""], eos=True) == [[*ids, EOS], [EOS]]
  assert sp.to_int((TEXT,)) == (ids,)
  assert sp.to_int(np.array([TEXT])) == [ids]


def test_to_str(sp):
  ids = sp.to_int(TEXT)
  assert sp.to_str(ids) == TEXT
  twice = [BOS, *ids, EOS, *ids, EOS, PAD]
  assert sp.to_str(twice) == TEXT
  assert sp.to_str(twice, stop_at_eos=False) == f"{TEXT} {TEXT}"
  assert sp.to_str([UNK]) == " ⁇ "
  with pytest.raises(IndexError):
    sp.to_str([SIZE])


def test_to_str_tells_batches_from_texts(sp):
  ids = sp.to_int(TEXT)
  for one in (
    tuple(ids),
    [np.int32(i) for i in ids],
    [float(i) for i in ids],
    [jnp.int32(i) for i in ids],
    np.array(ids),
    jnp.array(ids),
    tf.constant(ids),
  ):
    assert sp.to_str(one) == TEXT
  for batch in (
    [ids, ids],
    (ids, ids),
    [np.array(ids), np.array(ids)],
    np.array([ids, ids]),
    jnp.array([ids, ids]),
    tf.constant([ids, ids]),
    tf.ragged.constant([ids, ids]),
  ):
    assert sp.to_str(batch) == [TEXT, TEXT]
  assert sp.to_str([ids, ids[:1]]) == [TEXT, "a"]
  assert sp.to_str([]) == "" and sp.to_str([[]]) == [""]
  assert sp.to_str(np.zeros([0, 3], int)) == []


def test_tf_ops(sp):
  ids = sp.to_int(TEXT)

  def fn(text, ids):
    return sp.to_int_tf_op(text, bos=True), sp.to_str_tf_op(ids)

  ds = tf.data.Dataset.from_tensors((TEXT, [*ids, EOS, UNK]))
  got, text = next(iter(ds.map(fn)))
  assert got.dtype == tf.int32 and got.numpy().tolist() == [BOS, *ids]
  assert text.numpy().decode() == TEXT
  ds = tf.data.Dataset.from_tensors(([TEXT, ""], [ids, ids]))
  got, text = next(iter(ds.map(fn)))
  assert got.dtype == tf.int32 and got.to_list() == [[BOS, *ids], [BOS]]
  assert text.numpy().tolist() == [TEXT.encode()] * 2
  ragged = tf.ragged.constant([[*ids, EOS], []], tf.int32)
  kw = dict(stop_at_eos=False)
  assert sp.to_str_tf_op(ragged, **kw).numpy().tolist() == [TEXT.encode(), b""]


def test_threads_share_a_tokenizer(sp):
  texts = [f"a {c} ring, {i}" for i in range(200) for c in ("red", "blue")]
  want = [sp.to_int(t) for t in texts]
  assert len(set(map(tuple, want))) == len(texts)
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(sp.to_int, texts)) == want
  ds = tf.data.Dataset.from_tensor_slices(texts).map(sp.to_int_tf_op, 8)
  assert [row.tolist() for row in ds.as_numpy_iterator()] == want


def test_extra_tokens_are_appended(sp):
  tok = SentencepieceTokenizer("shapes", tokensets=("loc", "seg(4)"))
  assert tok.vocab_size == SIZE + 1024 + 4
  a, red = ids_of(sp, "▁a", "▁red")
  text = "<loc0000><loc1023> a<seg003> red"
  want = [SIZE, SIZE + 1023, a, SIZE + 1024 + 3, red]
  assert tok.to_int(text)[-5:] == want
  assert tok.to_str(want) == "<loc0000><loc1023> a<seg003> red"
  assert tok.extras[SIZE] == "<loc0000>"
  assert tok.extras[SIZE + 1027] == "<seg003>"
  assert len(tok.extras) == 1028
  assert tok.to_int(TEXT) == sp.to_int(TEXT)


def test_control_tokens_become_visible(sp):
  tokens("<pad>", "<s>", "</s>")
  tok = SentencepieceTokenizer("shapes", tokensets=["mine"])
  assert tok.vocab_size == SIZE
  assert tok.extras == {PAD: "<pad>", EOS: "</s>", BOS: "<s>"}
  # They keep their meaning.
  assert (tok.pad_token, tok.eos_token, tok.bos_token) == (PAD, EOS, BOS)
  ids = tok.to_int(TEXT, bos=True, eos=True)
  assert ids == [BOS, *sp.to_int(TEXT), EOS]
  assert tok.to_str(ids) == f"<s> {TEXT}"
  assert tok.to_str([*ids, PAD], stop_at_eos=False) == f"<s> {TEXT}</s><pad>"


def test_unknown_token_as_extra(sp):
  tokens("<unk>")
  tok = SentencepieceTokenizer("shapes", tokensets=["mine"])
  assert tok.vocab_size == SIZE and tok.extras == {UNK: "<unk>"}
  assert tok.to_int(TEXT + " ß") == sp.to_int(TEXT + " ß")
  assert tok.to_str([UNK]) == "<unk>"


def test_extras_with_spaces(sp):
  tokens("left of", " red")
  tok = SentencepieceTokenizer("shapes", tokensets=["mine"])
  (red,) = ids_of(sp, "▁red")
  # "▁red" is a piece already and stays where it is.
  assert tok.extras == {red: " red", SIZE: "left of"}
  assert tok.to_str(tok.to_int("a red ring left of it")) == (
    "a red ring left of it"
  )
  assert SIZE in tok.to_int("left of it")


def test_add_pieces_twice_the_same():
  data = sentencepiece_model.read("shapes")
  new, ids = sentencepiece_model.add_pieces(data, ["x1", "x2", "x1"])
  assert ids == [SIZE, SIZE + 1, SIZE]
  assert sentencepiece_model.add_pieces(new, ["x2"])[1] == [SIZE + 1]
  assert sentencepiece_model.processor(new).GetPieceSize() == SIZE + 2


def train(path, **kw):
  out = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["ab ba", "a b"]),
    model_writer=out,
    vocab_size=10,
    hard_vocab_limit=False,
    minloglevel=2,
    **kw,
  )
  path.write_bytes(out.getvalue())
  return path


def test_missing_special_tokens(tmp_path):
  path = train(tmp_path / "plain.model", bos_id=-1)
  tok = SentencepieceTokenizer(str(path))
  assert tok.bos_token == tok.pad_token == -1
  with pytest.raises(ValueError, match="bos=True: .* has no bos token"):
    tok.to_int("a", bos=True)
  with pytest.raises(ValueError, match="bos=True"):
    tok.to_int_tf_op(tf.constant("a"), bos=True)
  Registry.register("tokensets.more")(lambda: ["<pad>"])
  more = SentencepieceTokenizer(str(path), tokensets=["more"])
  assert more.pad_token == tok.vocab_size == more.vocab_size - 1


def test_wrong_files(tmp_path, monkeypatch):
  # Damaged files are known that lose their unknown token to the new pieces.
  monkeypatch.setattr(
    sentencepiece_model, "add_pieces", lambda *_: (b"junk", [])
  )
  with pytest.raises(
    ValueError, match=r"shapes cannot have the tokens of loc\(4\)"
  ):
    SentencepieceTokenizer("shapes", tokensets=["loc(4)"])
  with pytest.raises(ValueError, match="'shape'.*no such file.*'shapes'"):
    SentencepieceTokenizer("shape")
  (tmp_path / "x.model").write_bytes(b"junk")
  with pytest.raises(ValueError, match="x.model is not a sentencepiece model"):
    SentencepieceTokenizer(str(tmp_path / "x.model"))


def test_extra_tokens_are_sorted():
  got = tokenizer.get_extra_tokens(["seg(2)", "loc(n=2)", "loc(1)"])
  assert got == ["<loc0000>", "<loc0001>", "<seg000>", "<seg001>"]
  assert tokenizer.get_extra_tokens(()) == []
  assert len(tokenizer.get_extra_tokens(["loc", "seg"])) == 1152
  with pytest.raises(ValueError, match="set of tokens 'lok'.*'loc'"):
    tokenizer.get_extra_tokens(["lok"])


def test_get_tokenizer(monkeypatch):
  measured = {}
  monkeypatch.setattr(chrono, "measure", measured.__setitem__)
  tokenizer.get_tokenizer.cache_clear()
  name = 'sp("shapes", tokensets=["loc(7)"])'
  tok = tokenizer.get_tokenizer(name)
  assert tok.vocab_size == SIZE + 7
  assert tokenizer.get_tokenizer(name) is tok
  assert list(measured) == [f"z/secs/tokenizer/{name}"]
  assert tokenizer.get_tokenizer("sp('shapes')") is not tok


def test_get_tokenizer_imports_its_module(tmp_path, monkeypatch):
  tokenizer.get_tokenizer.cache_clear()
  for name in [n for n in Registry.global_registry() if "tokenizers." in n]:
    del Registry.global_registry()[name]
  assert registry.homes("tokenizers")["byte"] == "byte_tokenizer"
  assert registry.homes("tokenizers")["bert"] == "proj.flaxformer.bert_ops"
  (tmp_path / "my_tokenizer.py").write_text(
    "from big_vision.pp.registry import Registry\n"
    "Registry.register('tokenizers.my_tokenizer')(lambda n=1: n)\n"
  )
  monkeypatch.syspath_prepend(str(tmp_path))
  assert tokenizer.get_tokenizer("my_tokenizer(n=3)") == 3


@pytest.mark.parametrize(
  "name, match",
  [
    ("bite", "config.tokenizer: unknown tokenizer 'bite'.*'byte'"),
    ("sp(", "Syntax error in the tokenizer 'sp\\('"),
    ("sp(x)", "Error parsing"),
  ],
)
def test_get_tokenizer_errors(name, match):
  with pytest.raises(ValueError, match=match):
    tokenizer.get_tokenizer(name)


def test_byte():
  tokenizer.get_tokenizer.cache_clear()
  tok = tokenizer.get_tokenizer("byte")
  assert isinstance(tok, byte_tokenizer.ByteTokenizer)
  assert (tok.pad_token, tok.eos_token, tok.bos_token) == (0, 1, -1)
  assert tok.vocab_size == 259
  text = "aß\n中"
  want = [b + 3 for b in text.encode()]
  assert tok.to_int(text, eos=True) == [*want, 1]
  assert tok.to_str([*want, 1, 50]) == text
  assert tok.to_str([0, *want, 2, 0]) == text
  assert tok.to_str([want[1]]) == ""  # Half of a character.
  assert tok.to_int_tf_op(tf.constant(text)).numpy().tolist() == want
  for bad in (-1, 259):
    with pytest.raises(IndexError, match=f"{bad} is not in"):
      tok.to_str([bad])
  with pytest.raises(ValueError, match="bos"):
    tok.to_int("a", bos=True)


def test_byte_with_extra_tokens():
  tokens("<a>", "<a>b", "*")
  tokenizer.get_tokenizer.cache_clear()
  tok = tokenizer.get_tokenizer("byte(tokensets=('mine', 'loc(2)'))")
  assert tok.vocab_size == 259 + 5
  ids = {t: 259 + i for i, t in enumerate(["*", "<a>", "<a>b"])}
  want = [ids["<a>b"], ord("x") + 3, ids["<a>"], ids["*"], 259 + 4]
  text = "<a>bx<a>*<loc0001>"
  assert tok.to_int(text) == want
  assert tok.to_str(want) == text
