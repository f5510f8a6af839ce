import collections
import io
import itertools

import numpy as np
import pytest

from big_vision.pp import builder, ops_general, rng
from big_vision.tf import tf

pytestmark = pytest.mark.tf


def to_numpy(x):
  return x.to_list() if isinstance(x, tf.RaggedTensor) else np.asarray(x)


def in_graph(fn, data):
  """(results, static shapes) of a preprocessing function in tf.data."""
  ds = tf.data.Dataset.from_tensors(data).map(fn)
  shapes = {
    k: s.shape.as_list() if s.shape.rank is not None else None
    for k, s in ds.element_spec.items()
  }
  return {k: to_numpy(v) for k, v in next(iter(ds)).items()}, shapes


def run(pp, data):
  """Result in eager mode, after a check that graphs give the same."""
  fn = builder.get_preprocess_fn(pp, log_data=False)
  data = {k: tf.constant(v) for k, v in data.items()}
  eager = {k: to_numpy(v) for k, v in fn(dict(data)).items()}
  graph, _ = in_graph(fn, data)
  assert set(eager) == set(graph)
  for k in eager:
    if eager[k].dtype == np.float32:  # Graphs are optimized, and may round.
      np.testing.assert_allclose(eager[k], graph[k], rtol=1e-6, atol=1e-6)
    else:
      np.testing.assert_array_equal(eager[k], graph[k])
  return eager


def seeded(fn, data, seed, epoch=0):
  with rng.example_seed(seed, epoch):
    return fn(dict(data))


@pytest.mark.parametrize(
  "args, vmin, vmax, in_min, in_max",
  [
    ("", -1, 1, 0, 255),
    ("0, 1", 0, 1, 0, 255),
    ("5, -3, in_min=10, in_max=90", 5, -3, 10, 90),
    ("0, 1, [0, 10, 20], [100.0, 200.0, 255.0]",
     0, 1, np.array([0, 10, 20]), np.array([100, 200, 255])),
  ],
)  # fmt: skip
def test_value_range(args, vmin, vmax, in_min, in_max):
  x = np.arange(256, dtype=np.uint8)[:255].reshape(5, 17, 3)
  got = run(f"value_range({args})", {"image": x})["image"]
  want = vmin + (x.astype(float) - in_min) / (in_max - in_min) * (vmax - vmin)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_value_range_clips():
  x = np.array([0, 50, 100, 200], np.uint8)
  pp = "value_range(-1, 1, 50, 150, clip_values=True)"
  np.testing.assert_array_equal(run(pp, {"image": x})["image"], [-1, -1, 0, 1])


def test_standardize():
  pp = "standardize([2020, -1], [5, 0.5], inkey='targets', outkey='labels')"
  data = {"targets": np.array([2025.5, 1], np.float32)}
  got = run(pp, dict(data))["labels"]
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, [1.1, 4], rtol=1e-6)
  got = run("standardize(1, 2)", {"targets": np.array([5], np.int64)})
  np.testing.assert_array_equal(got["targets"], [2])


def test_lookup(tmp_path):
  lines, pairs, npz = (tmp_path / n for n in ("l.txt", "p.txt", "m.npz"))
  lines.write_text("ant\nbee\nä\n", encoding="utf-8")
  pairs.write_text("ant|10\nbee two|-3\n", encoding="utf-8")
  np.savez(npz, fnames=np.array(["x/1", "x/2"]), ids=np.array(["q", "r", "s"]))
  k = {"image": [["ä", "ant"], ["eel", ""]]}
  got = run(f"lookup({str(lines)!r})", k)["image"]
  np.testing.assert_array_equal(got, [[2, 0], [-1, -1]])
  assert got.dtype == np.int64
  k = {"k": ["bee two", "ant", "x"]}
  got = run(f"lookup({str(pairs)!r}, sep='|', inkey='k', outkey='v')", k)["v"]
  np.testing.assert_array_equal(got, [-3, 10, -1])
  assert got.dtype == np.int32
  # Only line breaks of files end a line, not those within text.
  lines.write_bytes("\ufeffa\u2028b\r\nc\x85d\ne\x0bf".encode())
  k = {"k": ["a\u2028b", "c\x85d", "e\x0bf"]}
  got = run(f"lookup({str(lines)!r}, key='k')", k)["k"]
  np.testing.assert_array_equal(got, [0, 1, 2])
  assert run(f"lookup({str(npz)!r}, key='k')", {"k": "x/2"})["k"] == 1
  got = run(f"lookup({str(npz)!r}, 'ids', key='k')", {"k": ["s", "x/1"]})["k"]
  np.testing.assert_array_equal(got, [2, -1])
  assert got.dtype == np.int64


def test_lookup_many_examples_and_errors(tmp_path):
  path = tmp_path / "l.txt"
  path.write_text("\n".join(map(str, range(100))))
  fn = builder.get_preprocess_fn(f"lookup({str(path)!r}, key='k')")
  ds = tf.data.Dataset.range(110).map(lambda i: {"k": tf.strings.as_string(i)})
  got = [int(d["k"]) for d in ds.map(fn, num_parallel_calls=4)]
  assert got == [*range(100), *[-1] * 10]
  with pytest.raises(ValueError, match="line 1 of .*l.txt.*'0'"):
    ops_general.get_lookup(str(path), sep=" ")
  np.savez(tmp_path / "m.npz", ids=np.array(["q"]))
  with pytest.raises(ValueError, match="'fnames'.*ids"):
    ops_general.get_lookup(str(tmp_path / "m.npz"))
  with pytest.raises((FileNotFoundError, tf.errors.NotFoundError)):
    ops_general.get_lookup(str(tmp_path / "nope.txt"))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_onehot(dtype):
  label = np.array(2, dtype)
  got = run("onehot(4)", {"labels": label})["labels"]
  np.testing.assert_array_equal(got, np.eye(4)[2])
  assert got.dtype == np.float32
  labels = np.array([3, 0, 3], dtype)
  got = run("onehot(4, key='y', key_result='z', on=2., off=-1.)", {"y": labels})
  np.testing.assert_array_equal(got["z"], [2, -1, -1, 2])
  np.testing.assert_array_equal(got["y"], labels)
  pp = "onehot(4, multi=False, on=1, off=0)"
  got = run(pp, {"labels": labels[None]})["labels"]
  np.testing.assert_array_equal(got, np.eye(4)[[[3, 0, 3]]])
  assert got.dtype == np.int32


def test_onehot_of_no_or_unknown_classes():
  empty = np.zeros([0], np.int64)
  got = run("onehot(3, off=0.5)", {"labels": empty})["labels"]
  np.testing.assert_array_equal(got, [0.5] * 3)
  for label in (-1, 3):
    np.testing.assert_array_equal(
      run("onehot(3)", {"labels": label})["labels"], [0, 0, 0]
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
      run("onehot(3)", {"labels": [0, label]})


def test_onehot_of_matrices_is_an_error():
  op = ops_general.get_onehot(5)
  with pytest.raises(ValueError, match=r"'labels'.*\(2, 1\).*multi=False"):
    op({"labels": tf.constant([[1], [2]])})
  with pytest.raises(ValueError, match="multi=False"):
    tf.data.Dataset.from_tensors({"labels": [[1], [2]]}).map(op)


def test_keep_and_drop():
  data = {"b": 1, "a": 2, "c": 3}
  assert list(ops_general.get_keep("c", "b", "z")(data).items()) == [
    ("b", 1),
    ("c", 3),
  ]
  assert list(ops_general.get_drop("a", "z")(data)) == ["b", "c"]
  assert list(data) == ["b", "a", "c"]


def test_copy_shares_tensors_only():
  leaf = tf.constant(1)
  data = {"n": {"x": [leaf, (leaf,)]}}
  got = ops_general.get_copy("n", "m")(data)
  assert got is data and got["m"] is not got["n"]
  assert got["m"]["x"] is not got["n"]["x"]
  assert got["m"]["x"][0] is leaf and got["m"] == got["n"]
  run("copy('a', 'b')|value_range(0, 1, key='b')", {"a": [1, 2]})


def test_shape_ops():
  x = np.arange(6).reshape(2, 3, 1)
  got = run("squeeze_last_dim(key='x')", {"x": x})["x"]
  np.testing.assert_array_equal(got, x[..., 0])
  got = run("reshape((-1, 2), inkey='x', outkey='y')", {"x": x})["y"]
  np.testing.assert_array_equal(got, x.reshape(3, 2))
  got = run("concat(['x', 'y'])", {"x": x, "y": x + 9})
  np.testing.assert_array_equal(got["x"], np.concatenate([x, x + 9], -1))
  got = run("concat(['x', 'y'], 'z', axis=0)", {"x": x, "y": x + 9})
  np.testing.assert_array_equal(got["z"], np.concatenate([x, x + 9], 0))
  fn = builder.get_preprocess_fn("rag_tensor(key='x')")
  got = fn({"x": tf.constant([3, 1])})["x"]
  assert isinstance(got, tf.RaggedTensor) and got.to_list() == [[3, 1]]


@pytest.mark.parametrize("where", ["after", "before", "both"])
def test_pad_to_shape(where):
  x = np.arange(6, dtype=np.int16).reshape(2, 3)
  pp = f"pad_to_shape((5, None), pad_value=7, where={where!r}, key='x')"
  before = {"after": 0, "before": 3, "both": 1}[where]
  want = np.pad(x, [(before, 3 - before), (0, 0)], constant_values=7)
  got = run(pp, {"x": x})["x"]
  np.testing.assert_array_equal(got, want)
  assert got.dtype == np.int16


def test_pad_to_shape_static_shape_and_errors():
  make = ops_general.get_pad_to_shape
  ds = tf.data.Dataset.range(1, 4).map(lambda i: {"image": tf.range(i)})
  ds = ds.map(make((3,), -1))
  assert ds.element_spec["image"].shape == [3]
  rows = [d["image"].tolist() for d in ds.as_numpy_iterator()]
  assert rows == [[0, -1, -1], [0, 1, -1], [0, 1, 2]]
  x = tf.zeros([2, 3])
  with pytest.raises(AssertionError, match=r"\(2, 3\).*\(5,\)"):
    make((5,))({"image": x})
  with pytest.raises(KeyError, match="nowhere"):
    make((5, 5), where="nowhere")({"image": x})
  with pytest.raises(tf.errors.InvalidArgumentError):
    make((1, 3))({"image": x})


def test_flatten():
  data = {"z": 1, "b": {"y": 2, "x": [3, {"w": 4}]}, "n": {"m": None}}
  got = ops_general.get_flatten()(data)
  assert list(got.items()) == [
    ("b/x/0", 3),
    ("b/x/1/w", 4),
    ("b/y", 2),
    ("z", 1),
  ]
  got = ops_general.get_flatten(["b"])(data)
  assert list(got) == ["b/x/0", "b/x/1/w", "b/y", "z", "n"]
  assert data["b"]["y"] == 2
  with pytest.raises(ValueError, match="flatten: none of"):
    ops_general.get_flatten(["q"])(data)


def test_setdefault():
  assert run("setdefault('k', 5)", {"x": 1})["k"] == 5
  pp = "setdefault('k', 7)"
  got = run(pp, {"k": np.zeros([0, 2], np.float32)})["k"]
  np.testing.assert_array_equal(got, [[7, 7]])
  assert got.dtype == np.float32
  np.testing.assert_array_equal(run(pp, {"k": [1, 2]})["k"], [1, 2])
  assert run("setdefault('k', 'a')", {"k": "b"})["k"] == b"b"


def test_setdefault_with_dynamic_shape():
  ds = tf.data.Dataset.range(2).map(lambda i: {"k": tf.repeat("x", i)})
  ds = ds.map(ops_general.get_setdefault("k", ""))
  got = [d["k"].tolist() for d in ds.as_numpy_iterator()]
  assert got == [[b""], [b"x"]]
  with pytest.raises((TypeError, ValueError)):
    ops_general.get_setdefault("k", 1.5)({"k": tf.zeros([0], tf.int32)})


def draw_choices(args, num=600, items=4, out="x"):
  """Results of many seeds, in a graph, checked against eager mode."""
  fn = builder.get_preprocess_fn(f"choice({args})", log_data=False)
  data = {"x": tf.range(items), "y": tf.range(items) * 10}
  ds = tf.data.Dataset.range(num)
  ds = ds.map(lambda i: seeded(fn, data, tf.stack([3, i])), 2)
  got = list(ds.as_numpy_iterator())
  for i in range(5):
    eager = seeded(fn, data, [3, i])
    for k in eager:
      np.testing.assert_array_equal(eager[k], got[i][k])
  return [d[out].tolist() for d in got]


def test_choice_of_one():
  got = collections.Counter(draw_choices("key='x'"))
  assert set(got) == {0, 1, 2, 3}
  # Binomial with n=600, p=1/4: a standard deviation of 10.6.
  assert all(abs(n - 150) < 45 for n in got.values())


def test_choice_of_some_keeps_the_order():
  got = collections.Counter(map(tuple, draw_choices("n=2, key='x'")))
  assert set(got) == set(itertools.combinations(range(4), 2))
  assert all(abs(n - 100) < 40 for n in got.values())
  assert set(map(tuple, draw_choices("4, key='x'", 20))) == {(0, 1, 2, 3)}


def test_choice_of_a_random_number():
  got = draw_choices("n=[1, 3], key='x'")
  assert all(x == sorted(set(x)) for x in got)
  lengths = collections.Counter(map(len, got))
  assert set(lengths) == {1, 2, 3}
  assert all(abs(n - 200) < 50 for n in lengths.values())
  lengths = collections.Counter(map(len, draw_choices("(3, 9), key='x'")))
  # Of 3...9, all but 3 take everything.
  assert set(lengths) == {3, 4} and abs(lengths[3] - 600 / 7) < 40


def test_choice_takes_the_same_of_all_keys():
  x, y = (
    draw_choices("n=2, inkey=['x', 'y'], outkey=['p', '{key}_q']", 50, out=o)
    for o in ("p", "y_q")
  )
  assert y == [[10 * i for i in row] for row in x]
  x, y = (draw_choices("key=('x', 'y')", 50, out=o) for o in "xy")
  assert y == [10 * i for i in x]
  # What has no partner is ignored.
  op = ops_general.get_choice(1, inkey=["x", "y"], outkey="{key}_c")
  got = op({"x": tf.range(2), "y": tf.range(2)})
  assert set(got) == {"x", "y", "x_c"}


@pytest.mark.parametrize(
  "args, shape, want",
  [
    ("", [4, 3], [3]),
    ("n=2", [4, 3], [2, 3]),
    ("n=2", [None, 3], [2, 3]),
    ("n=[1, 2]", [4, 3], [None, 3]),
    ("n=2, fewer_ok=True", [None, 3], [None, 3]),
    ("n=5, fewer_ok=True", [4, 3], [4, 3]),
    ("fewer_ok=True", [None, 3], [3]),
  ],
)
def test_choice_static_shapes(args, shape, want):
  fn = builder.get_preprocess_fn(f"choice({args}{', ' * bool(args)}key='x')")
  rows = [np.zeros([4, 3])] * 2
  spec = {"x": tf.TensorSpec(shape)}
  ds = tf.data.Dataset.from_generator(
    lambda: ({"x": r} for r in rows), output_signature=spec
  ).map(fn)
  assert ds.element_spec["x"].shape.as_list() == want
  assert len(list(ds)) == 2


def test_choice_with_fewer_items():
  x = {"x": tf.constant(["a", "b"])}
  for args in ({"n": 5}, {"n": [4, 5]}):
    got = ops_general.get_choice(key="x", fewer_ok=True, **args)(dict(x))
    assert got["x"].numpy().tolist() == [b"a", b"b"]
    op = ops_general.get_choice(key="x", **args)
    with pytest.raises(
      tf.errors.InvalidArgumentError, match="choice: too few items in 'x'"
    ):
      op(dict(x))
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
      list(tf.data.Dataset.from_tensors(x).map(op))
  # Enough for the minimum is enough.
  got = ops_general.get_choice([2, 9], key="x")(dict(x))
  assert got["x"].shape[0] == 2


def test_single_choice_of_nothing():
  single = ops_general.get_choice(key="x", fewer_ok=True)
  assert single({"x": tf.zeros([0], tf.string)})["x"].numpy() == b""
  got = single({"x": tf.zeros([0, 2])})["x"]
  np.testing.assert_array_equal(got, [0, 0])
  assert int(single({"x": tf.constant([5])})["x"]) == 5
  with pytest.raises(tf.errors.InvalidArgumentError, match="too few"):
    ops_general.get_choice(key="x")({"x": tf.zeros([0])})


@pytest.mark.parametrize("name", ["choice", "choice_no_replacement"])
def test_choice_errors(name):
  make = getattr(ops_general, f"get_{name}")
  data = {"x": tf.constant(1), "_id": 0}
  with pytest.raises(AssertionError, match=f"{name}: 'x' is a scalar"):
    make(key="x")(data)
  data = {"x": tf.range(2), "y": tf.range(3), "_id": 0}
  with pytest.raises(
    tf.errors.InvalidArgumentError, match=f"{name}: 'y' and 'x' differ"
  ):
    make(key=["x", "y"])(data)
  for kw in ({"inkey": "x"}, {"outkey": "x"}, {}):
    with pytest.raises(AttributeError, match=f"{name}: set `key`"):
      make(**kw)


@pytest.mark.parametrize("n", ["all", [1, 2, 3], [3, 1], -1, 1.5, None])
def test_choice_bad_number(n):
  with pytest.raises(ValueError, match="choice: n must be"):
    ops_general.get_choice(n, key="x")


def is_permutation(x, n):
  return sorted(x) == list(range(n))


def test_choice_no_replacement_counts_by_id():
  op = ops_general.get_choice_no_replacement(key=["x", "y"])
  seen = collections.defaultdict(list)
  for i in range(36):
    id_ = i % 3
    data = {"x": tf.range(4), "y": tf.range(4) * 10, "_id": tf.constant(id_)}
    got = op(data)
    assert got["x"].shape == () and int(got["y"]) == 10 * int(got["x"])
    seen[id_].append(int(got["x"]))
  rounds = [x[i : i + 4] for x in seen.values() for i in (0, 4, 8)]
  assert all(is_permutation(r, 4) for r in rounds)
  assert len(set(map(tuple, rounds))) > 1


def test_choice_no_replacement_in_the_pipeline_follows_the_epoch():
  fn = builder.get_preprocess_fn("choice_no_replacement(key='x')")

  def pick(id_, epoch, run=1):
    # As in training: the seed of an example differs between epochs.
    seed = tf.stack([tf.cast(epoch, tf.int64), tf.cast(id_, tf.int64)])
    with rng.example_seed(seed, epoch, run_seed=[run, 0]):
      return int(fn({"x": tf.range(5), "_id": tf.constant(id_)})["x"])

  rounds = [
    [pick(id_, 5 * r + i) for i in range(5)]
    for id_ in range(4)
    for r in range(2)
  ]
  assert all(is_permutation(r, 5) for r in rounds)
  assert len(set(map(tuple, rounds))) > 5
  # There is no state: any epoch can come first, as often as one likes.
  assert [pick(0, i) for i in (3, 3, 1)] == [rounds[0][i] for i in (3, 3, 1)]
  other_run = [[pick(i, e, run=2) for e in range(5)] for i in range(4)]
  assert other_run != rounds[::2]

  def prepare(i):
    id_, epoch = i // 10, i % 10
    with rng.example_seed(tf.stack([epoch, id_]), epoch, run_seed=[1, 0]):
      return fn({"x": tf.range(5), "_id": id_})["x"]

  ds = tf.data.Dataset.range(40).map(prepare, num_parallel_calls=4)
  assert list(ds.as_numpy_iterator()) == list(itertools.chain(*rounds))


def test_choice_no_replacement_needs_an_id():
  op = ops_general.get_choice_no_replacement(key="x")
  with pytest.raises(KeyError, match="_id"):
    op({"x": tf.range(3)})


def test_lookup_of_npz_without_pickle(tmp_path):
  buffer = io.BytesIO()
  np.savez(buffer, fnames=np.array(["a", None], object))
  path = tmp_path / "m.npz"
  path.write_bytes(buffer.getvalue())
  with pytest.raises(
    ValueError, match="holds Python objects, which are not read"
  ):
    ops_general.get_lookup(str(path))
