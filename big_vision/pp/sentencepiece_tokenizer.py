"""Tokenizer `tokenizers.sp`: sentencepiece with extra tokens, in Python and tf.

`sentencepiece_ops.py` has the interface of tensorflow_text instead.
"""

from collections.abc import Iterable, Sequence

from absl import logging

from big_vision.pp import sentencepiece_model, tokenizer
from big_vision.pp.registry import Registry


@Registry.register("tokenizers.sp")
class SentencepieceTokenizer(tokenizer.Base):
  """A sentencepiece model, see `tokenizer.Tokenizer` for its methods.

  Attributes:
    extras: dict, id -> extra token.
  """

  def __init__(self, model: str, tokensets: Iterable[str] = ()) -> None:
    """Loads the model.

    Args:
      model: str, see `sentencepiece_model.read`.
      tokensets: names of sets of extra tokens, see
        `tokenizer.get_extra_tokens`. They become pieces of the model, see
        `sentencepiece_model.add_pieces`.
    """
    data = sentencepiece_model.read(model)
    plain = sentencepiece_model.processor(data)
    self._specials = {
      "pad": plain.pad_id(),
      "eos": plain.eos_id(),
      "bos": plain.bos_id(),
    }
    extra = tokenizer.get_extra_tokens(tokensets)
    data, ids = sentencepiece_model.add_pieces(data, extra)
    try:
      self._model = sentencepiece_model.processor(data)
    except RuntimeError as e:
      raise ValueError(
        f"{model} cannot have the tokens of {', '.join(tokensets)} beside its own: "
        f"{e}"
      ) from e
    self.extras = dict(zip(ids, extra, strict=True))
    # A control token that becomes an extra token is no longer special to the
    # model, but its id still is the one to append, or to stop at.
    names = {"<pad>": "pad", "</s>": "eos", "<s>": "bos"}
    for i, token in self.extras.items():
      kind = names.get(token)
      if kind and self._specials[kind] < 0:
        self._specials[kind] = i

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
    return self._model.GetPieceSize()

  def encode(self, text: str | bytes) -> list[int]:
    """Encodes a text, see `tokenizer.Base`.

    Args:
      text: str or bytes.

    Returns:
      List of int.
    """
    return self._model.EncodeAsIds(text)

  def decode(self, ids: Sequence[int]) -> str:
    """Decodes ids, see `tokenizer.Base`. The unknown id becomes " ⁇ ".

    Args:
      ids: sequence of int.

    Returns:
      str.
    """
    return self._model.DecodeIds(ids)

  def to_piece(self, idx: int) -> str:
    """Looks up the piece with this id; "▁" in it stands for a space.

    Args:
      idx: int.

    Returns:
      str.
    """
    return self._model.IdToPiece(int(idx))

  def _check_known(self, piece):
    """Looks up the id of a piece; logs an error if the model lacks it."""
    idx = self._model.PieceToId(piece)
    if idx == self._model.unk_id():
      logging.error("The tokenizer has no piece %r", piece)
    return idx
