import numpy as np
import pytest
import tensorflow as tf

from big_vision.pp import builder, ops_text

pytestmark = pytest.mark.tf


def run(pp, **data):
  """Result in eager mode, after a check that graphs give the same."""
  fn = builder.get_preprocess_fn(pp, log_data=False)
  data = tf.nest.map_structure(tf.convert_to_tensor, data)
  eager = fn(dict(data))
  ds = tf.data.Dataset.from_tensors(data).map(fn)
  graph = next(ds.as_numpy_iterator())
  tf.nest.map_structure(
    lambda e, g: np.testing.assert_array_equal(np.asarray(e), g), eager, graph
  )
  return eager


def test_lower_changes_ascii_only():
  got = run("lower", text=tf.constant("AbC ÄÉ 1"))["text"]
  assert got.numpy().decode() == "abc ÄÉ 1"
  got = run("lower(inkey='t', outkey='u')", t=tf.constant(["A", "bC"]))
  assert got["u"].numpy().tolist() == [b"a", b"bc"]
  assert got["t"].numpy().tolist() == [b"A", b"bC"]


def test_coco_captions():
  texts = tf.constant(["a", "b"])
  features = {"id": tf.constant([1, 2]), "text": texts}
  got = run("coco_captions('c')", captions=features)
  assert got["c"].numpy().tolist() == [b"a", b"b"]
  assert set(got) == {"captions", "c"}
  got = run("coco_captions", captions=features)
  assert got["captions"].numpy().tolist() == [b"a", b"b"]


@pytest.mark.parametrize(
  "template, want",
  [
    ("", ""),
    ("plain", "plain"),
    ("{s}", "txt"),
    ("<{s}|{i}>{s}", "<txt|42>txt"),
    ("{{{i}}} {{}}", "{42} {}"),
    ("{a/b c}", "7"),
    ("{f} {neg}", "1.5 -3"),
    ("{v}", "[0 1 2]"),
    ("{m}", "[[0 1]\n [2 3]]"),
    ("{t}{n}", "10"),
    ("x{}y", "xy"),
    ("{u}", "ü"),
  ],
)
def test_strfmt(template, want):
  data = {
    "s": "txt",
    "i": tf.constant(42),
    "a/b c": tf.constant(7, tf.int64),
    "f": tf.constant(1.5),
    "neg": tf.constant(-3),
    "v": tf.range(3),
    "m": tf.reshape(tf.range(4), (2, 2)),
    "t": tf.constant(True),
    "n": tf.constant(False),
    "u": "ü",
  }
  got = run(f"strfmt({template!r}, outkey='out')", **data)
  assert got["out"].numpy().decode() == want
  assert got["out"].shape == ()


def test_strfmt_of_long_vectors_and_python_numbers():
  got = ops_text.get_strfmt("{v}")({"v": tf.range(2000)})["text"]
  want = "[" + " ".join(map(str, range(2000))) + "]"
  assert got.numpy().decode() == want
  got = ops_text.get_strfmt("{x} {y} {z}")({"x": 0.25, "y": 3, "z": b"b"})
  assert got["text"].numpy() == b"0.25 3 b"


@pytest.mark.parametrize("template", ["{x:.2f}", "{x!r}", "a{x:{w}}"])
def test_strfmt_knows_no_formats(template):
  op = ops_text.get_strfmt(template)
  with pytest.raises(AssertionError, match="neither formats nor conversions"):
    op({"x": tf.constant(1.0)})


def test_strfmt_of_unknown_entry():
  with pytest.raises(KeyError, match="nope"):
    ops_text.get_strfmt("{nope}")({"x": 1})
