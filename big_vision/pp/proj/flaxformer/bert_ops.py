"""Word pieces for BERT text towers: `bert_tokenize` and `tokenizers.bert`."""

from __future__ import annotations

from collections.abc import Sequence

from big_vision import download
from big_vision.pp import batched, rng, string_ops, tokenizer, wordpiece
from big_vision.pp.registry import Registry
from big_vision.pp.types import TensorFn
from big_vision.pp.utils import InKeyOutKey
from big_vision.tf import tf


def read_vocab(path: str) -> list[str]:
  """Reads the word pieces of a vocabulary file, one per line; index = id.

  Args:
    path: str, path or URL of the file, see `download.py`.

  Returns:
    List of str.

  Raises:
    ValueError: the file does not exist, or is not UTF-8.
  """
  try:
    with open(download.fetch(path), encoding="utf-8", newline="\n") as f:
      lines = f.read().split("\n")
  except UnicodeDecodeError as e:
    raise ValueError(f"The vocabulary {path} is not UTF-8: {e}.") from e
  if lines[-1] == "":  # After the end of the last line.
    lines.pop()
  return [line.removesuffix("\r") for line in lines]


@Registry.register("preprocess_ops.bert_tokenize")
@InKeyOutKey(indefault=None, outdefault="labels")
def get_pp_bert_tokenize(
  vocab_path: str, max_len: int, sample_if_multi: bool = True
) -> TensorFn:
  """Turns text into a fixed number of ids. `inkey` must be given.

  The ids are those of [CLS] and of the word pieces, lower-cased, cut or padded
  with 0. They do not include [SEP], which the published LiT models do not use.

  Args:
    vocab_path: str, vocabulary file: path or URL, see `download.py`.
    max_len: int > 0, number of ids.
    sample_if_multi: bool, whether to choose one at random if there are several
      texts; False takes the first. Both turn no texts into the empty text.

  Returns:
    `text -> int32 [max_len]`; text is a string tensor of any shape.

  Raises:
    ValueError: `max_len` is not positive, the file does not exist, or it lacks
      [CLS] or [UNK].
  """
  if not (isinstance(max_len, int) and max_len > 0):
    raise ValueError(
      f"bert_tokenize: max_len={max_len!r} must be an integer > 0."
    )
  bert = BertTokenizer(vocab_path)
  encode = lambda text: [bert.bos_token, *bert.encode(text)]

  def choose(text):
    if isinstance(text, tf.RaggedTensor):
      text = text.flat_values
    texts = tf.reshape(tf.convert_to_tensor(text, tf.string), [-1])
    index = 0
    if sample_if_multi:
      num_texts = tf.maximum(tf.size(texts), 1)
      index = tf.random.stateless_uniform(
        [], rng.next_seed(), maxval=num_texts, dtype=tf.int32
      )
    return tf.concat([texts, [""]], 0)[index]

  return batched.TwoSteps(
    choose,
    lambda text: string_ops.encode_padded(encode, text, max_len, pad_value=0),
  )


@Registry.register("tokenizers.bert")
class BertTokenizer(tokenizer.Base):
  """Word pieces of BERT, see `tokenizer.Tokenizer` for the methods.

  The beginning is [CLS], the end [SEP]; decoding leaves them and [PAD] out, and
  puts a space before each piece that begins a word.
  """

  def __init__(self, vocab_path: str, dialect: str = "tf_text") -> None:
    """Reads the vocabulary.

    Args:
      vocab_path: str, vocabulary file: path or URL, see `download.py`.
      dialect: "tf_text" or "bert", see `wordpiece.py`.

    Raises:
      ValueError: unknown file or dialect, or the file lacks [CLS] or [UNK].
    """
    self._pieces = read_vocab(vocab_path)
    try:
      self.encode = wordpiece.WordPiece(self._pieces, dialect)
    except ValueError as e:
      raise ValueError(f"{vocab_path}: {e}") from e
    ids = self.encode.ids
    if "[CLS]" not in ids:
      raise ValueError(f"{vocab_path}: a vocabulary must have a line [CLS]")
    self.bos_token = ids["[CLS]"]
    self.eos_token = ids.get("[SEP]", -1)
    self.pad_token = ids.get("[PAD]", -1)
    self.vocab_size = len(self._pieces)

  def decode(self, ids: Sequence[int]) -> str:
    """Decodes ids, see `tokenizer.Base`.

    Args:
      ids: sequence of int.

    Returns:
      str.

    Raises:
      IndexError: an id does not exist.
    """
    silent = (self.bos_token, self.eos_token, self.pad_token)
    words = []
    for i in ids:
      if not 0 <= i < self.vocab_size:
        raise IndexError(f"Token id {i} is not in [0, {self.vocab_size}).")
      if i in silent:
        continue
      piece = self._pieces[i]
      if piece.startswith("##") and words:
        words[-1] += piece.removeprefix("##")
      else:
        words.append(piece)
    return " ".join(words)
