"""Packing of short examples into sequences of fixed length."""

import numpy as np
import pytest

from big_vision.pipeline import packing as sp
from big_vision.tf import tf

pytestmark = pytest.mark.tf


def dataset(*examples):
  spec = {
    k: tf.TensorSpec([None, *np.shape(v)[1:]], np.asarray(v).dtype)
    for k, v in examples[0].items()
  }
  return tf.data.Dataset.from_generator(
    lambda: iter(examples), output_signature=spec
  )


def pack(ds, *args, **kw):
  packed = sp.pack_dataset(ds, None, *args, **kw)
  return list(packed.as_numpy_iterator()), packed.element_spec


def tokens(*lengths):
  """Examples of the given lengths with values 1, 2, ... by example."""
  return [{"t": np.full(n, i + 1, np.int32)} for i, n in enumerate(lengths)]


def test_values_segments_positions():
  packs, spec = pack(dataset(*tokens(2, 3, 2, 9, 1)), 6)
  want = {
    "t": [[1, 1, 2, 2, 2, 0], [3, 3, 0, 0, 0, 0], [4] * 6, [5, 0, 0, 0, 0, 0]],
    "t_segment_ids": [
      [1, 1, 2, 2, 2, 0],
      [1, 1, 0, 0, 0, 0],
      [1] * 6,
      [1, 0, 0, 0, 0, 0],
    ],
    "t_positions": [
      [0, 1, 0, 1, 2, 0],
      [0, 1, 0, 0, 0, 0],
      [0, 1, 2, 3, 4, 5],
      [0] * 6,
    ],
  }
  for k, v in want.items():
    np.testing.assert_array_equal([p[k] for p in packs], v)
    assert spec[k].shape == (6,) and spec[k].dtype == tf.int32
  assert len(packs) == 4


def test_no_token_is_lost():
  lengths = np.random.RandomState(0).randint(1, 8, 50)
  packs, _ = pack(dataset(*tokens(*lengths)), 11)
  values = np.concatenate([p["t"] for p in packs])
  np.testing.assert_array_equal(
    values[values > 0], np.repeat(np.arange(50) + 1, lengths)
  )


def test_several_keys_are_packed_together():
  a, b = np.ones(2, np.float32), np.ones([1, 3], np.int64)
  ds = dataset(*[{"a": a * i, "b": b * i} for i in (1, 2, 3)])
  packs, spec = pack(ds, {"a": 8, "b": 2})
  assert len(packs) == 2  # Two fit under `b`.
  np.testing.assert_array_equal(packs[0]["a"], [1, 1, 2, 2, 0, 0, 0, 0])
  np.testing.assert_array_equal(packs[0]["b"], [[1] * 3, [2] * 3])
  np.testing.assert_array_equal(packs[1]["b_segment_ids"], [1, 0])
  assert spec["b"].shape == (2, 3) and spec["a"].dtype == tf.float32


def test_empty_sequence_keeps_segments_aligned():
  rows = [([1], []), ([2], [5])]
  ds = dataset(
    *[{"a": np.array(a, np.int32), "b": np.array(b, np.int32)} for a, b in rows]
  )
  (p,), _ = pack(ds, 3)
  assert p["a_segment_ids"].tolist() == [1, 2, 0]
  assert p["b_segment_ids"].tolist() == [2, 0, 0]


def test_what_is_empty():
  a, b = tf.zeros([0]), tf.zeros([2, 3])
  for example, lengths, want in (
    ({"a": a, "b": b}, 4, False),
    ({"a": a, "b": b}, {"a": 4}, True),
    ({"o": {"a": a}, "b": b}, {"o": {"a": 4}}, True),
    ({"o": {"a": a}, "b": b}, {"o": {"a": 4}, "b": 3}, False),
  ):
    assert bool(sp.is_empty(example, lengths)) == want


def test_nested_keys_and_strings():
  ds = dataset(*tokens(2, 1)).map(
    lambda x: {"o": {"s": tf.strings.as_string(x["t"])}, "x": 3}
  )
  (p,), spec = pack(ds, {"o": {"s": 4}})
  assert p["o"]["s"].tolist() == [b"1", b"1", b"2", b""]
  assert p["o"]["s_positions"].tolist() == [0, 1, 0, 0]
  assert set(spec) == {"o"}
  flat = "o" + sp.FLATTEN_SEPARATOR + "s"
  assert pack(ds, 4, [flat])[0][0]["o"]["s"].tolist()[:1] == [b"1"]


def test_errors():
  ds = dataset(*tokens(2))
  for kw, match in (
    ({"key2length": {"u": 3}}, "no 'u'"),
    ({"key2length": 0}, "length of 't' is 0"),
    ({"key2length": {"t": None}}, "length of 't' is None"),
  ):
    with pytest.raises(ValueError, match=match):
      sp.pack_dataset(ds, 2, **kw)
  with pytest.raises(ValueError, match="'x' must be a sequence"):
    sp.pack_dataset(ds.map(lambda x: {"x": 1}), 2, 3)
