"""Tokenizers by name: `get_tokenizer("sp('file.model', tokensets=('loc',))")`.

A tokenizer is registered as `tokenizers.<name>`, a set of extra tokens as
`tokensets.<name>`, a function without required arguments that lists strings.
The package has the tokenizers

  sp(model, tokensets)        sentencepiece, `sentencepiece_tokenizer.py`
  hf(file, tokensets)         tokenizer.json of Hugging Face, `hf_tokenizer.py`
  byte(tokensets)             bytes of UTF-8, `byte_tokenizer.py`
  bert(vocab, …)              word pieces, `proj/flaxformer/bert_ops.py`
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from absl import logging

from big_vision import lookup
from big_vision.chrono import chrono
from big_vision.pp import registry, string_ops
from big_vision.pp.registry import Registry, parse_name
from big_vision.tf import tf

_MAX_EXTRA = 1_000_000  # Tokens of a set.


class Tokenizer(Protocol):
  """The methods of all tokenizers."""

  def to_int(self, text: Any, *, bos: bool = False, eos: bool = False) -> Any:
    """Encodes texts.

    Args:
      text: str or bytes (UTF-8), or a list, tuple or array of texts.
      bos: bool, adds the token for the beginning.
      eos: bool, adds the token for the end.

    Returns:
      List of int for a text; of each text for several.
    """

  def to_int_tf_op(
    self,
    text: tf.Tensor | tf.RaggedTensor,
    *,
    bos: bool = False,
    eos: bool = False,
  ) -> tf.Tensor | tf.RaggedTensor:
    """Encodes a tensor of texts, eagerly or in a graph.

    Args:
      text: string tensor, a scalar or of any shape.
      bos: bool, adds the token for the beginning.
      eos: bool, adds the token for the end.

    Returns:
      int32 [T] for a scalar, else ragged with a row per text.
    """

  def to_str(self, tokens: Any, *, stop_at_eos: bool = True) -> Any:
    """Decodes token ids.

    Args:
      tokens: sequence of int, or a batch of them.
      stop_at_eos: bool, ends texts before the first end token.

    Returns:
      str, or a list of texts for a batch.
    """

  def to_str_tf_op(
    self, tokens: tf.Tensor | tf.RaggedTensor, *, stop_at_eos: bool = True
  ) -> tf.Tensor | tf.RaggedTensor:
    """Decodes a tensor of token ids, eagerly or in a graph.

    Args:
      tokens: integer tensor [..., T].
      stop_at_eos: bool, ends texts before the first end token.

    Returns:
      String tensor [...].
    """

  @property
  def pad_token(self) -> int:
    """Id of the padding, -1 if the tokenizer has none."""

  @property
  def eos_token(self) -> int:
    """Id of the end of text, -1 if the tokenizer has none."""

  @property
  def bos_token(self) -> int:
    """Id of the beginning of text, -1 if the tokenizer has none."""

  @property
  def vocab_size(self) -> int:
    """Number of token ids, including the special ones."""


class Base:
  """Implements the methods of `Tokenizer` for classes that define

  - `encode(text)`: str or bytes (UTF-8) -> list of int, without bos and eos.
  - `decode(ids)`: list of int -> str. Drops ids that stand for no text; raises
    IndexError for ids that do not exist.
  - `pad_token`, `eos_token`, `bos_token`, `vocab_size`, see `Tokenizer`.

  `encode` and `decode` must allow calls from several threads.
  """

  def to_int(self, text: Any, *, bos: bool = False, eos: bool = False) -> Any:
    """Encodes texts, see `Tokenizer`.

    Args:
      text: str or bytes (UTF-8), or a list, tuple or array of texts, also
        nested.
      bos: bool, adds the token for the beginning.
      eos: bool, adds the token for the end.

    Returns:
      List of int for a text; of each text for several.

    Raises:
      ValueError: the tokenizer does not have the token of `bos` or `eos`.
    """
    encode = self._encoder(bos, eos)

    def to_int(text):
      if isinstance(text, (str, bytes)):
        return encode(text)
      if isinstance(text, np.ndarray):
        return to_int(text.tolist())
      return type(text)(to_int(t) for t in text)

    return to_int(text)

  def to_int_tf_op(
    self,
    text: tf.Tensor | tf.RaggedTensor,
    *,
    bos: bool = False,
    eos: bool = False,
  ) -> tf.Tensor | tf.RaggedTensor:
    """Encodes a tensor of texts, see `Tokenizer`.

    Args:
      text: string tensor, a scalar or of any shape.
      bos: bool, adds the token for the beginning.
      eos: bool, adds the token for the end.

    Returns:
      int32 [T] for a scalar, else ragged with a row per text.

    Raises:
      ValueError: the tokenizer does not have the token of `bos` or `eos`.
    """
    return string_ops.encode_strings(self._encoder(bos, eos), text)

  def to_str(self, tokens: Any, *, stop_at_eos: bool = True) -> Any:
    """Decodes token ids, see `Tokenizer`.

    Args:
      tokens: sequence of integers of any kind, also as floats; or a batch: a
        ragged tensor, an array with two or more dimensions, a list or tuple of
        sequences.
      stop_at_eos: bool, ends texts before the first end token.

    Returns:
      str, or a list of texts for a batch.
    """
    if isinstance(tokens, tf.RaggedTensor):
      tokens = tokens.to_list()
    is_batch = np.ndim(tokens if hasattr(tokens, "ndim") else tokens[:1]) > 1
    if is_batch:
      return [self.to_str(row, stop_at_eos=stop_at_eos) for row in tokens]
    return self._decoder(stop_at_eos)([int(t) for t in tokens])

  def to_str_tf_op(
    self, tokens: tf.Tensor | tf.RaggedTensor, *, stop_at_eos: bool = True
  ) -> tf.Tensor | tf.RaggedTensor:
    """Decodes a tensor of token ids, see `Tokenizer`.

    Args:
      tokens: integer tensor [..., T].
      stop_at_eos: bool, ends texts before the first end token.

    Returns:
      String tensor [...].
    """
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
def get_tokenizer(name: str) -> Tokenizer:
  """Makes the tokenizer of a name; the same object for the same string.

  Args:
    name: str, for example "byte" or "sp('/path/to.model', tokensets=['loc'])".
      The module of big_vision.pp that registers it is imported if necessary; a
      user's own module may have the name of the tokenizer.

  Returns:
    A `Tokenizer`.

  Raises:
    ValueError: unknown tokenizer, or the string cannot be parsed.
  """
  with chrono.log_timing(f"z/secs/tokenizer/{name}"):
    full_name = f"tokenizers.{name}"
    try:
      known = Registry.knows(full_name)
    except SyntaxError as e:
      raise ValueError(
        f"Syntax error in the tokenizer {name!r:.200}: {e.msg}"
      ) from e
    if not known:
      _import_home(parse_name(name)[0])
    if not Registry.knows(full_name):
      raise lookup.unknown("tokenizer", name, _known(), "tokenizer")
    return Registry.lookup(full_name)()


def get_extra_tokens(tokensets: Iterable[str]) -> list[str]:
  """Lists the tokens of several sets, which extend a vocabulary.

  Args:
    tokensets: names of sets, for example ("loc", "seg(64)").

  Returns:
    List of str, without duplicates, sorted: published models have their ids in
    this order.

  Raises:
    ValueError: unknown set.
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
def get_loc_tokens(n: int = 1024) -> list[str]:
  """Lists tokens for coordinates: <loc0000>, <loc0001>, …

  Args:
    n: int, how many.

  Returns:
    List of str.
  """
  return [f"<loc{i:04d}>" for i in range(_checked("loc", n))]


@Registry.register("tokensets.seg")
def get_seg_tokens(n: int = 128) -> list[str]:
  """Lists tokens for codewords of masks: <seg000>, <seg001>, …

  Args:
    n: int, how many.

  Returns:
    List of str.
  """
  return [f"<seg{i:03d}>" for i in range(_checked("seg", n))]


def _checked(name, n):
  if not isinstance(n, int) or not 0 <= n <= _MAX_EXTRA:
    raise lookup.ConfigError(
      f"{name}({n!r:.40}): the number of tokens should be at most {_MAX_EXTRA:,}."
    )
  return n


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
