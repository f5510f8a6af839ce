"""Sentencepiece in TensorFlow graphs, without tensorflow_text.

`SentencepieceOps` has those methods of `tensorflow_text.SentencepieceTokenizer`
that this package and its users call, and gives the same ids. It also replaces
an installed tensorflow_text, which requires the full TensorFlow next to
tensorflow-cpu, in a matching version.
"""

from __future__ import annotations

from big_vision.pp import sentencepiece_model, string_ops
from big_vision.tf import tf


class SentencepieceOps:
  """A sentencepiece model as TensorFlow ops, eager and in graphs."""

  def __init__(
    self,
    model: bytes,
    add_eos: bool = False,
    add_bos: bool = False,
    lower: bool = False,
  ) -> None:
    """Makes the ops.

    Args:
      model: bytes of the model.
      add_eos: bool, whether `tokenize` ends texts with the "</s>" of the model.
      add_bos: bool, whether it begins them with "<s>".
      lower: bool, whether to make the letters A-Z lower case before, as
        `tf.strings.lower` does, but without an op of its own.

    Raises:
      ValueError: the model does not have such a token.
    """
    self._use(sentencepiece_model.processor(model), add_eos, add_bos, lower)

  def _use(self, sp, add_eos, add_bos, lower):
    self._model = sp
    for name, wanted, i in [
      ("eos", add_eos, sp.eos_id()),
      ("bos", add_bos, sp.bos_id()),
    ]:
      if wanted and i < 0:
        raise ValueError(
          f"add_{name}=True, but the vocabulary has no {name} token."
        )
    before = [sp.bos_id()] if add_bos else []
    after = [sp.eos_id()] if add_eos else []
    self._around = before, after
    self._lower = lower

  def encode(self, text: bytes) -> list[int]:
    """Encodes one text, in Python.

    Args:
      text: bytes.

    Returns:
      List of int.
    """
    if self._lower:
      text = text.lower()  # ASCII only, as it is bytes.
    before, after = self._around
    return [*before, *self._model.EncodeAsIds(text), *after]

  def tokenize(
    self, input: tf.Tensor | tf.RaggedTensor
  ) -> tf.Tensor | tf.RaggedTensor:  # The name of tensorflow_text.
    """Encodes texts.

    Args:
      input: string tensor, a scalar or of any shape. (tensorflow_text has this
        name.)

    Returns:
      int32 [T] for a scalar, else ragged with rows of ids.
    """
    return string_ops.encode_strings(self.encode, input)

  def detokenize(
    self, input: tf.Tensor | tf.RaggedTensor
  ) -> tf.Tensor | tf.RaggedTensor:
    """Decodes ids.

    Args:
      input: integer tensor [..., T], ragged or not.

    Returns:
      Strings [...].
    """
    return string_ops.decode_ids(self._model.DecodeIds, input)

  def vocab_size(self, name: str | None = None) -> tf.Tensor:
    """Returns the number of pieces.

    Args:
      name: str, of the op.

    Returns:
      int32 scalar.
    """
    return tf.constant(self._model.GetPieceSize(), tf.int32, name=name)

  def string_to_id(self, input: tf.Tensor) -> tf.Tensor:
    """Looks up the ids of pieces.

    Args:
      input: string tensor; see `piece_to_id` for unknown pieces.

    Returns:
      int32, in the shape of `input`.
    """
    input = tf.convert_to_tensor(input, tf.string)
    one_id = lambda piece: [self.piece_to_id(piece.decode(errors="replace"))]
    rows = string_ops.encode_strings(one_id, tf.reshape(input, [-1]))
    return tf.reshape(rows.values, tf.shape(input))

  def id_to_string(self, input: tf.Tensor) -> tf.Tensor:
    """Looks up the pieces with given ids.

    Args:
      input: integer tensor.

    Returns:
      Strings in the shape of `input`.
    """
    return string_ops.decode_ids(
      lambda ids: self._model.IdToPiece(ids[0]), tf.expand_dims(input, -1)
    )

  def piece_to_id(self, piece: str) -> int:
    """Looks up the id of one piece, in Python.

    Args:
      piece: str.

    Returns:
      int, the id of the unknown piece if the model does not have the piece.
    """
    return self._model.PieceToId(piece)
