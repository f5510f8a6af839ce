"""Runs Python functions on texts as TensorFlow ops, for tokenizers.

They run in the threads of tf.data, one at a time (Python's lock), so these
functions must not keep state between calls.

Shapes: `B` texts, `T` tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from big_vision.tf import tf


def encode_strings(
  encode: Callable[[bytes], Sequence[int]], text: tf.Tensor | tf.RaggedTensor
) -> tf.Tensor | tf.RaggedTensor:
  """Encodes texts to token ids.

  Args:
    encode: `bytes -> list of int`, a function of its argument alone.
    text: string tensor, ragged or of known rank, or a value that becomes one.

  Returns:
    int32 [T] for a scalar, else a ragged int32 tensor with one more dimension
    than `text`.

  Raises:
    ValueError: the rank is not known.
  """
  if isinstance(text, tf.RaggedTensor):
    return text.with_flat_values(encode_strings(encode, text.flat_values))
  text = tf.convert_to_tensor(text, tf.string)
  if text.shape.rank == 0:

    def encode_one(text):
      return np.array(encode(np.asarray(text, object).item()), np.int32)

    ids = _numpy_function(encode_one, [text], tf.int32)
    ids.set_shape([None])
    return ids

  def encode_all(texts):
    rows = [encode(t) for t in texts.tolist()]
    values = [i for row in rows for i in row]
    lengths = [len(row) for row in rows]
    return np.array(values, np.int32), np.array(lengths, np.int64)

  rank = known_rank(text)
  flat = tf.reshape(text, [-1])
  values, lengths = _numpy_function(encode_all, [flat], (tf.int32, tf.int64))
  values.set_shape([None])
  lengths.set_shape(flat.shape)
  rows = tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)
  shape = tf.shape(text, tf.int64)
  for axis in range(rank - 1, 0, -1):
    rows = tf.RaggedTensor.from_uniform_row_length(
      rows, shape[axis], tf.reduce_prod(shape[:axis])
    )
  return rows


def encode_padded(
  encode: Callable[[bytes], Sequence[int]],
  text: tf.Tensor,
  length: int,
  *,
  pad_value: int,
  keep_last: bool = False,
) -> tf.Tensor:
  """Encodes texts to the same number of token ids each.

  Args:
    encode: `bytes -> list of int`, a function of its argument alone.
    text: string tensor, or a value that becomes one.
    length: int > 0, number of ids per text.
    pad_value: int, id of the padding of short texts.
    keep_last: bool, whether the last id of a text that is too long replaces the
      last id that fits.

  Returns:
    int32, of the shape of `text` plus [length].
  """
  text = tf.convert_to_tensor(text, tf.string)

  def encode_all(texts):
    texts = np.asarray(texts, object)
    ids = np.full([texts.size, length], pad_value, np.int32)
    for row, t in zip(ids, texts.ravel().tolist(), strict=True):
      tokens = encode(t)
      if keep_last and len(tokens) > length:
        tokens[length - 1] = tokens[-1]
      row[: len(tokens)] = tokens[:length]
    return ids.reshape(*texts.shape, length)

  ids = _numpy_function(encode_all, [text], tf.int32)
  ids.set_shape(text.shape.concatenate([length]))
  return ids


def decode_ids(
  decode: Callable[[list[int]], str], ids: tf.Tensor | tf.RaggedTensor
) -> tf.Tensor | tf.RaggedTensor:
  """Decodes token ids to texts.

  Args:
    decode: `list of int -> str`, a function of its argument alone.
    ids: integer tensor [..., T], ragged or of known rank.

  Returns:
    String tensor of shape [...]; ragged if `ids` has two ragged dimensions.

  Raises:
    ValueError: the rank is not known.
  """
  if isinstance(ids, tf.RaggedTensor):
    if ids.shape.rank > 2:
      return ids.with_values(decode_ids(decode, ids.values))

    def decode_ragged(values, splits):
      ends = itertools.pairwise(splits)
      return _objects([decode(values[i:j].tolist()) for i, j in ends])

    args = [ids.values, ids.row_splits]
    texts = _numpy_function(decode_ragged, args, tf.string)
    texts.set_shape(ids.shape[:1])
    return texts
  ids = tf.convert_to_tensor(ids)
  known_rank(ids)  # The result needs a static shape.

  def decode_dense(ids):
    rows = ids.reshape([math.prod(ids.shape[:-1]), ids.shape[-1]])
    return _objects([decode(row.tolist()) for row in rows])

  texts = _numpy_function(decode_dense, [ids], tf.string)
  texts = tf.reshape(texts, tf.shape(ids)[:-1])
  texts.set_shape(ids.shape[:-1])
  return texts


def known_rank(x: tf.Tensor) -> int:
  """Returns the number of dimensions of a tensor.

  Args:
    x: tensor.

  Returns:
    int.

  Raises:
    ValueError: a graph does not know it.
  """
  if x.shape.rank is None:
    raise ValueError(
      f"{x}: the number of dimensions must be known; use tf.ensure_shape before."
    )
  return x.shape.rank


def _numpy_function(fn, args, dtypes):
  # Not stateful: the same texts always give the same ids.
  return tf.numpy_function(fn, args, dtypes, stateful=False)


def _objects(texts):
  """Encodes texts as UTF-8, in an array for TensorFlow."""
  if not texts:  # An empty array of objects would become a tensor of numbers.
    return np.zeros([0], "S1")
  # As an array of bytes, texts would lose zeros at their end.
  return np.array([t.encode() for t in texts], object)
