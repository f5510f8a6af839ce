"""Tokenizer `tokenizers.hf`: a `tokenizer.json`, read by Hugging Face's library.

The file has normalization, vocabulary and merges of any kind (BPE, Unigram, word
pieces), which the library `tokenizers` applies, so ids are those that models of
the hub were trained with. What the file says about truncation and padding of
batches is not applied: ops have arguments for that.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Sequence
from typing import Any

from big_vision import download, fs, lookup
from big_vision.pp import sentencepiece_ops, tokenizer
from big_vision.pp.registry import Registry

# Where neither the file says what a token is for, nor the config.
_NAMES = {
  "pad": ("<pad>", "[PAD]", "<|pad|>"),
  "eos": ("</s>", "<eos>", "[SEP]", "<|endoftext|>", "<|end_of_text|>"),
  "bos": ("<s>", "<bos>", "[CLS]", "<|startoftext|>", "<|begin_of_text|>"),
}
_UNKNOWN = ("<unk>", "[UNK]", "<|unk|>")
_PROBES = ("a", "0", ".")


def is_file(model: str) -> bool:
  """Tells whether the name of a vocabulary is that of such a file.

  Args:
    model: as in a config, possibly with `#sha256=…`.

  Returns:
    Whether it ends in `.json`.
  """
  return model.partition("#")[0].lower().endswith(".json")


@Registry.register("tokenizers.hf")
class HuggingFaceTokenizer(tokenizer.Base):
  """A tokenizer.json, see the top of this file and `tokenizer.Tokenizer`."""

  def __init__(
    self,
    file: str,
    tokensets: Iterable[str] = (),
    *,
    pad: str | None = None,
    eos: str | None = None,
    bos: str | None = None,
  ) -> None:
    """Loads the file.

    Args:
      file: path or URL, see `download.py`; for example
        "hf://google/gemma-2b/tokenizer.json".
      tokensets: names of sets of extra tokens, see
        `tokenizer.get_extra_tokens`. Those that the vocabulary has keep their
        ids, others follow at its end.
      pad, eos, bos: the tokens for padding, end and beginning of text. By default
        what the file puts around texts and pads with, else tokens with the usual
        names ("</s>", "[SEP]", …), else none.

    Raises:
      ValueError: the file does not exist or is of another kind, or lacks a token
        that is named here.
      ImportError: the library is missing.
    """
    path = self._file = download.fetch(file)
    self._model, padding = _load(path, fs.stamp(path))
    extra = tokenizer.get_extra_tokens(tokensets)
    if extra:
      self._model = _with_tokens(self._model, extra)
    found = {"pad": padding, **_around(self._model)}
    for kind, name in {"pad": pad, "eos": eos, "bos": bos}.items():
      if name is not None:
        found[kind] = self._model.token_to_id(name)
        if found[kind] is None:
          raise lookup.unknown(
            f"token in {file}:", name, self._model.get_vocab(), f"hf({kind}=…)"
          )
      elif found[kind] is None:
        found[kind] = _first(self._model, _NAMES[kind])
    self._specials = {k: -1 if i is None else i for k, i in found.items()}
    self._vocab_size = 1 + max(self._model.get_vocab().values())

  @property
  def pad_token(self) -> int:
    return self._specials["pad"]

  @property
  def eos_token(self) -> int:
    return self._specials["eos"]

  @property
  def bos_token(self) -> int:
    return self._specials["bos"]

  @property
  def vocab_size(self) -> int:
    return self._vocab_size

  def encode(self, text: str | bytes) -> list[int]:
    """Encodes a text, see `tokenizer.Base`.

    Args:
      text: str or bytes. Special tokens that are written in it count as such.

    Returns:
      List of int.

    Raises:
      ConfigError: the file has no way to encode it.
    """
    if isinstance(text, bytes):
      text = text.decode(errors="replace")
    with self._named(f"encode {text[:40]!r}"):
      return self._model.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Sequence[int]) -> str:
    """Decodes ids, see `tokenizer.Base`.

    Args:
      ids: sequence of int.

    Returns:
      str, without special tokens.
    """
    for i in ids:
      if not 0 <= i < self._vocab_size:
        raise IndexError(f"Token id {i} is not in [0, {self._vocab_size}).")
    with self._named("decode"):
      return self._model.decode(ids)

  @contextlib.contextmanager
  def _named(self, what):
    """Names the file in errors: the library's are bare Exceptions."""
    try:
      yield
    except Exception as e:
      raise lookup.ConfigError(
        f"{self._file} cannot {what}: {e}. Is it damaged, or its `model` without "
        "the token that stands for what is unknown?"
      ) from e

  def to_piece(self, idx: int) -> str:
    """Looks up the token with this id.

    Args:
      idx: int.

    Returns:
      str, as in the vocabulary.

    Raises:
      IndexError: there is none.
    """
    piece = self._model.id_to_token(int(idx))
    if piece is None:
      raise IndexError(f"There is no token with the id {idx}.")
    return piece

  def to_id(self, piece: str) -> int:
    """Looks up the id of a token.

    Args:
      piece: str, as in the vocabulary; "<pad>" stands for the padding.

    Returns:
      int; the unknown token's, if the vocabulary does not have it.

    Raises:
      ValueError: there is neither.
    """
    i = self._model.token_to_id(piece)
    if i is None and piece == "<pad>" and self.pad_token >= 0:
      i = self.pad_token
    if i is None:
      i = _first(self._model, _UNKNOWN)
    if i is None:
      raise ValueError(
        f"The vocabulary has no token {piece!r}. For padding, set pad_value to "
        "the number of a token."
      )
    return i


class HuggingFaceOps(sentencepiece_ops.SentencepieceOps):
  """A tokenizer.json as TensorFlow ops, with the methods of its base class."""

  def __init__(
    self,
    file: str,
    add_eos: bool = False,
    add_bos: bool = False,
    lower: bool = False,
  ) -> None:
    """Loads the file.

    Args:
      file: path or URL.
      add_eos: bool, whether `tokenize` ends texts with the token for that.
      add_bos: bool, whether it begins them with one.
      lower: bool, whether to make the letters A-Z lower case before.

    Raises:
      ValueError: as `HuggingFaceTokenizer`, or it has no such token.
    """
    self._use(_Processor(HuggingFaceTokenizer(file)), add_eos, add_bos, lower)


class _Processor:
  """Those methods of a sentencepiece processor that the ops call."""

  def __init__(self, tok):
    self.EncodeAsIds, self.DecodeIds = tok.encode, tok.decode
    self.PieceToId, self.IdToPiece = tok.to_id, tok.to_piece
    self.GetPieceSize = lambda: tok.vocab_size
    self.eos_id, self.bos_id = lambda: tok.eos_token, lambda: tok.bos_token


@functools.lru_cache(maxsize=8)
def _load(path, stamp):
  """Returns (tokenizer of the library, id of the padding or None)."""
  del stamp  # Tells versions of a file apart.
  try:
    import tokenizers
  except ImportError as e:
    raise ImportError(
      f"{path} is read by the package tokenizers, which is not installed: pip "
      "install 'big_vision[hub]'."
    ) from e
  try:
    model = tokenizers.Tokenizer.from_file(path)
  except BaseException as e:  # It raises Exceptions, and panics beside them.
    if isinstance(e, KeyboardInterrupt | SystemExit):
      raise
    raise lookup.ConfigError(
      f"{path} is not a tokenizer.json, or one for another release of the package "
      f"tokenizers than {tokenizers.__version__}: {e}"
    ) from e
  padding = (model.padding or {}).get("pad_id")
  model.no_padding()
  model.no_truncation()
  return model, padding


def _with_tokens(model: Any, names: Sequence[str]) -> Any:
  """Returns a copy in which certain strings are tokens of their own."""
  import tokenizers

  model = tokenizers.Tokenizer.from_str(model.to_str())
  model.add_tokens(
    [tokenizers.AddedToken(name, normalized=False) for name in names]
  )
  return model


def _around(model):
  """Ids that the file puts before and after a text, None for none."""
  for text in _PROBES:
    found = model.encode(text)
    inside = [i for i, s in enumerate(found.sequence_ids) if s is not None]
    if inside:
      before, after = found.ids[: inside[0]], found.ids[inside[-1] + 1 :]
      only = lambda ids: ids[0] if len(ids) == 1 else None
      return {"bos": only(before), "eos": only(after)}
  return {"bos": None, "eos": None}


def _first(model, names):
  ids = (model.token_to_id(name) for name in names)
  return next((i for i in ids if i is not None), None)
