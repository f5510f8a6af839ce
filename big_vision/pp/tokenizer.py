"""Tokenizers by name: `get_tokenizer("sp('file.model', tokensets=('loc',))")`.

A tokenizer is registered as `tokenizers.<name>`, a set of extra tokens as
`tokensets.<name>`, a function without required arguments that lists strings.
The package has the tokenizers

  sp(model, tokensets)        sentencepiece, `sentencepiece_tokenizer.py`
  byte(tokensets)             bytes of UTF-8, `byte_tokenizer.py`
  bert(vocab, …)              word pieces, `proj/flaxformer/bert_ops.py`
"""

import functools
from typing import Protocol

import numpy as np
from absl import logging

from big_vision import lookup
from big_vision.chrono import chrono
from big_vision.pp import registry, string_ops
from big_vision.pp.registry import Registry, parse_name
from big_vision.tf import tf


class Tokenizer(Protocol):
  """What all tokenizers offer."""

  def to_int(self, text, *, bos=False, eos=False):
    """Token ids of a text: list of int; of each text of a list or tuple."""

  def to_int_tf_op(self, text, *, bos=False, eos=False):
    """The same of string tensors: int32 [T], or ragged with a row per text."""

  def to_str(self, tokens, *, stop_at_eos=True):
    """The text of token ids; a list of texts for a batch."""

  def to_str_tf_op(self, tokens, *, stop_at_eos=True):
    """The same of integer tensors [..., T]: string tensor [...]."""

  @property
  def pad_token(self):
    """Id of the padding, -1 if there is none."""

  @property
  def eos_token(self):
    """Id of the end of text, -1 if there is none."""

  @property
  def bos_token(self):
    """Id of the beginning of text, -1 if there is none."""

  @property
  def vocab_size(self):
    """Number of token ids, the special ones included."""


class Base:
  """The methods of a `Tokenizer`, for classes that offer

  - `encode(text)`: str or bytes (UTF-8) -> list of int, without bos and eos.
  - `decode(ids)`: list of int -> str. Drops ids that stand for no text; raises
    IndexError for ids that do not exist.
  - `pad_token`, `eos_token`, `bos_token`, `vocab_size`, see `Tokenizer`.

  Both methods must allow calls from several threads.
  """

  def to_int(self, text, *, bos=False, eos=False):
    """See `Tokenizer`. A text is str or bytes; lists may be nested.

    Raises:
      ValueError: the tokenizer has no such token as `bos` or `eos` asks for.
    """
    encode = self._encoder(bos, eos)

    def to_int(text):
      if isinstance(text, (str, bytes)):
        return encode(text)
      if isinstance(text, np.ndarray):
        return to_int(text.tolist())
      return type(text)(to_int(t) for t in text)

    return to_int(text)

  def to_int_tf_op(self, text, *, bos=False, eos=False):
    """See `Tokenizer`."""
    return string_ops.encode_strings(self._encoder(bos, eos), text)

  def to_str(self, tokens, *, stop_at_eos=True):
    """See `Tokenizer`.

    A batch is a ragged tensor, an array with two or more dimensions, or a list
    or tuple of sequences. Ids are integers of any kind, also as floats.
    """
    if isinstance(tokens, tf.RaggedTensor):
      tokens = tokens.to_list()
    is_batch = np.ndim(tokens if hasattr(tokens, "ndim") else tokens[:1]) > 1
    if is_batch:
      return [self.to_str(row, stop_at_eos=stop_at_eos) for row in tokens]
    return self._decoder(stop_at_eos)([int(t) for t in tokens])

  def to_str_tf_op(self, tokens, *, stop_at_eos=True):
    """See `Tokenizer`."""
    return string_ops.decode_ids(self._decoder(stop_at_eos), tokens)

  def _encoder(self, bos, eos):
    before = [self._special("bos", self.bos_token)] if bos else []
    after = [self._special("eos", self.eos_token)] if eos else []
    return lambda text: [*before, *self.encode(text), *after]

  def _decoder(self, stop_at_eos):
    eos = self.eos_token

    def decode(ids):
      if stop_at_eos and eos in ids:
        ids = ids[: ids.index(eos)]
      return self.decode(ids)

    return decode

  def _special(self, kind, token):
    if token < 0:
      raise ValueError(
        f"{kind}=True: the vocabulary of this {type(self).__name__} has no "
        f"{kind} token. Use {kind}=False, or another tokenizer."
      )
    return token


@functools.cache
def get_tokenizer(name):
  """The tokenizer of this name; the same object for the same string.

  Args:
    name: str, for example "byte" or "sp('/path/to.model', tokensets=['loc'])".
      The module of big_vision.pp that registers it is imported if necessary; a
      module that is called as the tokenizer may be a user's own.

  Returns:
    A `Tokenizer`.

  Raises:
    ValueError: no such tokenizer, or the string cannot be parsed.
  """
  with chrono.log_timing(f"z/secs/tokenizer/{name}"):
    full_name = f"tokenizers.{name}"
    try:
      known = Registry.knows(full_name)
    except SyntaxError as e:
      raise ValueError(f"Syntax error in the tokenizer {name!r}") from e
    if not known:
      _import_home(parse_name(name)[0])
    if not Registry.knows(full_name):
      raise lookup.unknown("tokenizer", name, _known(), "tokenizer")
    return Registry.lookup(full_name)()


def get_extra_tokens(tokensets):
  """The tokens of several sets, which extend a vocabulary.

  Args:
    tokensets: names of sets, for example ("loc", "seg(64)").

  Returns:
    List of str, without duplicates, sorted: published models have their ids in
    this order.

  Raises:
    ValueError: no such set.
  """
  tokens = set()
  for name in tokensets:
    full_name = f"tokensets.{name}"
    if not Registry.knows(full_name):
      prefix = "tokensets."
      names = [n for n in Registry.global_registry() if n.startswith(prefix)]
      names = [n.removeprefix(prefix) for n in names]
      raise lookup.unknown("set of tokens", name, names, "tokensets")
    tokens.update(Registry.lookup(full_name)())
  return sorted(map(str, tokens))


@Registry.register("tokensets.loc")
def get_loc_tokens(n=1024):
  """`n` tokens for coordinates: <loc0000>, <loc0001>, …"""
  return [f"<loc{i:04d}>" for i in range(n)]


@Registry.register("tokensets.seg")
def get_seg_tokens(n=128):
  """`n` tokens for codewords of masks: <seg000>, <seg001>, …"""
  return [f"<seg{i:03d}>" for i in range(n)]


def _import_home(name):
  """Imports the module that registers a tokenizer, if there is one."""
  home = registry.homes("tokenizers").get(name, name)
  module = f"big_vision.pp.{home}"
  for path in (module, name):
    logging.info("Importing %s for the tokenizer %r", path, name)
    if lookup.import_if_exists(path):
      return


def _known():
  prefix = "tokenizers."
  names = [n for n in Registry.global_registry() if n.startswith(prefix)]
  return {
    *(n.removeprefix(prefix) for n in names),
    *registry.homes("tokenizers"),
  }
