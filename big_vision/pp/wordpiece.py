"""Word pieces as in BERT (https://arxiv.org/abs/1810.04805), in Python.

A text is cleaned and folded, then split into words, and each word into the
longest pieces of the vocabulary, from left to right; pieces after the first
have "##" in front in the vocabulary. There are two dialects of the first steps:

- "tf_text" is that of `tensorflow_text.BertTokenizer`, which the published LiT
  models were trained with: Unicode's NFKC_Casefold ("ß" becomes "ss", "™"
  becomes "tm"), control characters become spaces.
- "bert" is that of the original BERT code and of Hugging Face: lower case,
  control characters are dropped.

They agree on everyday text. Both drop accents.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence

_ASCII_SYMBOLS = r"!-/:-@\[-`{-~"
_ASCII_WORDS = re.compile(f"[{_ASCII_SYMBOLS}]|[^ {_ASCII_SYMBOLS}]+")
_ASCII_SYMBOL = re.compile(f"[{_ASCII_SYMBOLS}]")

# Chinese characters, each of which is a word.
_CJK = (
  (0x4E00, 0x9FFF),
  (0x3400, 0x4DBF),
  (0x20000, 0x2A6DF),
  (0x2A700, 0x2B73F),
  (0x2B740, 0x2B81F),
  (0x2B820, 0x2CEAF),
  (0xF900, 0xFAFF),
  (0x2F800, 0x2FA1F),
)

# NFKC_Casefold removes these: Default_Ignorable_Code_Point of Unicode 12.
_IGNORABLE = re.compile(
  "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f"
  "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
  "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


class WordPiece:
  """Splits texts into ids of word pieces."""

  def __init__(self, pieces: Sequence[str], dialect: str = "tf_text") -> None:
    """Prepares the vocabulary.

    Args:
      pieces: list of str; the id of a piece is its index, the last one if it
        occurs again.
      dialect: "tf_text" or "bert", see the top of this file.

    Raises:
      ValueError: the piece "[UNK]" is missing, or the dialect is unknown.
    """
    self.ids = {piece: i for i, piece in enumerate(pieces)}
    if "[UNK]" not in self.ids:
      raise ValueError("a vocabulary of word pieces must have a line [UNK]")
    if dialect not in _FOLD:
      raise ValueError(f"dialect={dialect!r} is none of {sorted(_FOLD)}")
    self._fold = _FOLD[dialect]
    self._too_long = _TOO_LONG[dialect]
    self._max_len = max(map(len, pieces))
    # Most words of a text are among a few thousand.
    self._word_ids = functools.lru_cache(maxsize=1 << 16)(self._split_word)

  def __call__(self, text: str | bytes) -> list[int]:
    """Encodes a text.

    Args:
      text: str, or bytes of UTF-8.

    Returns:
      List of int.
    """
    if isinstance(text, bytes):
      text = text.decode(errors="replace")
    ids = []
    for word in split_words(self._fold(text)):
      ids += self._word_ids(word)
    return ids

  def _split_word(self, word):
    """Encodes a word; only [UNK] if some part is not in the vocabulary."""
    unknown = (self.ids["[UNK]"],)
    if self._too_long(word):
      return unknown
    ids, start, prefix = [], 0, ""
    while start < len(word):
      for end in range(min(len(word), start + self._max_len), start, -1):
        i = self.ids.get(prefix + word[start:end])
        if i is not None:
          break
      else:
        return unknown
      ids.append(i)
      start, prefix = end, "##"
    return tuple(ids)


def split_words(text: str) -> list[str]:
  """Splits a folded text at spaces, punctuation, and Chinese characters.

  Args:
    text: str.

  Returns:
    List of str.
  """
  if text.isascii():
    return _ASCII_WORDS.findall(text)
  words, word = [], []
  for c in text:
    alone = _is_alone(c)
    if alone or c == " ":
      if word:
        words.append("".join(word))
        word = []
      if alone:
        words.append(c)
    else:
      word.append(c)
  return [*words, "".join(word)] if word else words


@functools.lru_cache(maxsize=1 << 14)
def _is_alone(c):
  """Tells whether a character is a word: punctuation, ASCII symbol, Chinese."""
  if c.isascii():
    return bool(_ASCII_SYMBOL.match(c))
  if any(low <= ord(c) <= high for low, high in _CJK):
    return True
  return unicodedata.category(c).startswith("P")


def _fold_tf_text(text):
  """Applies NFKC_Casefold; drops accents, makes control characters spaces."""
  text = _IGNORABLE.sub("", unicodedata.normalize("NFD", text))
  for _ in range(2):  # The result of one step may need another.
    text = unicodedata.normalize("NFKC", text.casefold())
  text = _IGNORABLE.sub("", unicodedata.normalize("NFD", text))
  return _map_categories(text, {"Mn": "", "Cc": " ", "Cf": " "})


def _fold_bert(text):
  """Makes lower case; drops accents and control characters."""
  text = re.sub("[\0\ufffd]", "", re.sub(r"[\t\n\r]", " ", text))
  text = _map_categories(text, {"Cc": "", "Cf": "", "Zs": " "})
  # The original code splits here, with `str.split`, and folds the words.
  text = " ".join(text.split()).lower()
  text = unicodedata.normalize("NFD", text)
  return _map_categories(text, {"Mn": ""})


def _map_categories(text, replace):
  category = unicodedata.category
  return "".join(replace.get(category(c), c) for c in text)


_FOLD = {"tf_text": _fold_tf_text, "bert": _fold_bert}
# Longer words count as unknown; in bytes of UTF-8, and in characters.
_TOO_LONG = {
  "tf_text": lambda word: len(word.encode()) > 100,
  "bert": lambda word: len(word) > 200,
}
