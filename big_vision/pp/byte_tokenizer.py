"""Tokenizer `tokenizers.byte`: the bytes of UTF-8, without a vocabulary file.

Ids as in ByT5, https://arxiv.org/abs/2105.13626: 0 pad, 1 end of text, 2
unknown (never made), byte b is 3 + b. Extra tokens follow from 259 on. A token
for the beginning does not exist.
"""

import re
from collections.abc import Iterable, Sequence

from big_vision.pp import tokenizer
from big_vision.pp.registry import Registry

_OFFSET = 3
_FIRST_EXTRA = _OFFSET + 256


@Registry.register("tokenizers.byte")
class ByteTokenizer(tokenizer.Base):
  """Bytes as tokens, see the top of this file and `tokenizer.Tokenizer`."""

  pad_token = 0
  eos_token = 1
  bos_token = -1

  def __init__(self, tokensets: Iterable[str] = ()) -> None:
    """Makes the tokenizer.

    Args:
      tokensets: names of sets of extra tokens, see
        `tokenizer.get_extra_tokens`. Each extra token becomes a single id
        wherever a text contains it.
    """
    extra = [t.encode() for t in tokenizer.get_extra_tokens(tokensets)]
    self._extra = extra
    self._extra_ids = {t: _FIRST_EXTRA + i for i, t in enumerate(extra)}
    # The longest first, since one may begin with another.
    longest_first = sorted(extra, key=len, reverse=True)
    pattern = b"|".join(map(re.escape, longest_first))
    self._split = re.compile(b"(" + pattern + b")").split if extra else None

  @property
  def vocab_size(self) -> int:
    return _FIRST_EXTRA + len(self._extra)

  def encode(self, text: str | bytes) -> list[int]:
    """Encodes a text, see `tokenizer.Base`.

    Args:
      text: str or bytes.

    Returns:
      List of int.
    """
    text = text.encode() if isinstance(text, str) else text
    if not self._split:
      return [b + _OFFSET for b in text]
    ids = []
    for i, part in enumerate(self._split(text)):
      if i % 2:  # A match of the pattern.
        ids.append(self._extra_ids[part])
      else:
        ids += [b + _OFFSET for b in part]
    return ids

  def decode(self, ids: Sequence[int]) -> str:
    """Decodes ids, see `tokenizer.Base`. Bytes that are not UTF-8 are dropped.

    Args:
      ids: sequence of int.

    Returns:
      str.

    Raises:
      IndexError: an id does not exist.
    """
    parts = []
    for i in ids:
      if not 0 <= i < self.vocab_size:
        raise IndexError(f"Token id {i} is not in [0, {self.vocab_size}).")
      if i >= _FIRST_EXTRA:
        parts.append(self._extra[i - _FIRST_EXTRA])
      elif i >= _OFFSET:
        parts.append(bytes([i - _OFFSET]))
    return b"".join(parts).decode(errors="ignore")
