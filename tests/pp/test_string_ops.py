"""Python functions on texts as TensorFlow ops."""

import numpy as np
import pytest

from big_vision.pp import string_ops
from big_vision.tf import tf

pytestmark = pytest.mark.tf

encode = list  # Bytes to their numbers.
decode = lambda ids: bytes(ids).decode("latin1")


def in_graph(fn, x):
  """The op's result in eager mode, checked against that in a graph."""
  eager = fn(x)
  graph = tf.function(fn)(x)
  as_list = lambda t: t.to_list() if hasattr(t, "to_list") else t.numpy()
  np.testing.assert_equal(as_list(graph), as_list(eager))
  assert eager.dtype == graph.dtype
  return eager


def encoded(text):
  return in_graph(lambda t: string_ops.encode_strings(encode, t), text)


def decoded(ids):
  return in_graph(lambda t: string_ops.decode_ids(decode, t), ids)


def test_encode_scalar():
  got = encoded(tf.constant("abä\0"))
  assert got.numpy().tolist() == [97, 98, 195, 164, 0]
  assert got.dtype == tf.int32
  assert encoded(tf.constant("")).shape == (0,)


@pytest.mark.parametrize(
  "text, want",
  [
    (["a", "", "bc"], [[97], [], [98, 99]]),
    ([["a", ""], ["bc", "d"]], [[[97], []], [[98, 99], [100]]]),
    (np.zeros([0], str), []),
    (np.zeros([2, 0], str), [[], []]),
    (np.zeros([0, 2], str), []),
    (np.full([2, 1, 1], "a"), [[[[97]]], [[[97]]]]),
  ],
)
def test_encode_many(text, want):
  got = encoded(tf.constant(text, tf.string))
  assert got.to_list() == want
  assert got.dtype == tf.int32
  assert got.shape.rank == np.ndim(text) + 1


def test_encode_ragged():
  got = encoded(tf.ragged.constant([["a", "b"], [], ["cd"]]))
  assert got.to_list() == [[[97], [98]], [], [[99, 100]]]


@pytest.mark.parametrize(
  "ids, want",
  [
    ([97, 98, 0], b"ab\0"),
    ([[97, 98], [99, 100]], [b"ab", b"cd"]),
    ([[[97], [98]]], [[b"a", b"b"]]),
    (np.zeros([0], int), b""),
    (np.zeros([2, 0], int), [b"", b""]),
    (np.zeros([0, 2], int), []),
  ],
)
def test_decode_dense(ids, want):
  got = decoded(tf.constant(ids, tf.int32))
  assert got.numpy().tolist() == want if np.ndim(ids) > 1 else got == want
  assert got.dtype == tf.string
  assert got.shape.rank == np.ndim(ids) - 1


@pytest.mark.parametrize(
  "ids, want",
  [
    ([[97, 98], [], [99]], [b"ab", b"", b"c"]),
    ([[[97], []], [[98, 99]]], [[b"a", b""], [b"bc"]]),
  ],
)
def test_decode_ragged(ids, want):
  got = decoded(tf.ragged.constant(ids, tf.int32))
  got = got.to_list() if hasattr(got, "to_list") else got.numpy().tolist()
  assert got == want
  none = tf.RaggedTensor.from_row_lengths(
    tf.zeros([0], tf.int32), tf.zeros([0], tf.int64)
  )
  assert decoded(none).shape == (0,)


@pytest.mark.parametrize("keep_last, want", [(False, 3), (True, 5)])
def test_encode_padded(keep_last, want):
  def fn(text):
    return string_ops.encode_padded(
      lambda t: [i - 96 for i in t], text, 3, pad_value=9, keep_last=keep_last
    )

  got = in_graph(fn, tf.constant([["abcde", "abc"], ["a", ""]]))
  assert got.numpy().tolist() == [
    [[1, 2, want], [1, 2, 3]],
    [[1, 9, 9], [9, 9, 9]],
  ]
  assert got.dtype == tf.int32
  assert in_graph(fn, tf.constant("ab")).numpy().tolist() == [1, 2, 9]
  assert in_graph(fn, tf.zeros([0], tf.string)).shape == (0, 3)
  ds = tf.data.Dataset.from_tensors(["a", "b"]).map(fn)
  assert ds.element_spec == tf.TensorSpec([2, 3], tf.int32)


def test_unknown_rank():
  @tf.function(input_signature=[tf.TensorSpec(None, tf.string)])
  def fn(text):
    return string_ops.encode_strings(encode, text)

  with pytest.raises(ValueError, match="tf.ensure_shape"):
    fn.get_concrete_function()
