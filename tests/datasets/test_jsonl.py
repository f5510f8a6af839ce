"""JSON-lines files as data: rows, files, downloads, errors."""

import hashlib
import json
import os
import tempfile
import urllib.request

import hosts_in_turn
import jax
import numpy as np
import pytest

from big_vision import input_pipeline
from big_vision.datasets import jsonl
from big_vision.datasets.classes import Classes
from big_vision.pp import ops_general  # noqa: F401 (registers ops)
from big_vision.tf import tf

pytestmark = pytest.mark.tf

ROWS = [
  {"t": "ä", "n": 1, "x": 0.5, "b": True, "f": "1.txt"},
  {"t": "", "n": -2, "x": 2, "b": False, "f": "2.txt"},
  {"t": "c", "n": 3, "x": 1e3, "b": True, "f": "1.txt"},
]


@pytest.fixture
def write(tmp_path):
  def fn(text):
    path = tmp_path / "rows.jsonl"
    path.write_text(
      text if isinstance(text, str) else "\n".join(map(json.dumps, text))
    )
    return str(path)

  return fn


def read(source, **kw):
  return list(source.get_tfdata(ordered=True, **kw).as_numpy_iterator())


def test_types_and_ids(write):
  source = jsonl.DataSource(write(ROWS))
  spec = source.get_tfdata(ordered=True).element_spec
  assert {k: (s.dtype, s.shape.rank) for k, s in spec.items()} == {
    "id": (tf.string, 0),
    "t": (tf.string, 0),
    "n": (tf.int32, 0),
    "x": (tf.float32, 0),
    "b": (tf.bool, 0),
    "f": (tf.string, 0),
  }
  assert [r["id"] for r in read(source)] == [b"0", b"1", b"2"]
  assert [r["x"] for r in read(source)] == [0.5, 2, 1000]
  assert read(source)[0]["t"].decode() == "ä"
  assert source.total_examples == 3


def test_range_and_own_id(write):
  path = write([{"id": i * 10} for i in range(6)])
  source = jsonl.DataSource(path, start=2, stop=4)
  assert [r["id"] for r in read(source)] == [20, 30]
  for stop in (0, None, float("inf")):
    assert jsonl.DataSource(path, start=None, stop=stop).total_examples == 6
  with pytest.raises(ValueError, match="No rows.*start=6"):
    jsonl.DataSource(path, start=6)


def test_processes_get_contiguous_parts(write, monkeypatch):
  source = jsonl.DataSource(write([{"n": i} for i in range(5)]))
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  assert source.num_examples_per_process() == [3, 2]
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  assert [r["n"] for r in read(source)] == [3, 4]
  assert len(read(source, process_split=False)) == 5
  monkeypatch.setattr(jax, "process_count", lambda: 6)
  with pytest.raises(AssertionError, match="5 examples for 6 processes"):
    source.num_examples_per_process()


def test_hosts_evaluate_the_same_batches(write, monkeypatch):
  """Also if there are fewer examples than hosts."""
  path = write([{"n": i, "t": f"text {i}"} for i in range(7)])
  data = dict(name="bv:jsonl", fname=path)
  of = lambda n: hosts_in_turn.global_batches(
    n, data, "keep('n', 't')", 8, monkeypatch
  )
  for hosts in (2, 8):
    jax.tree.map(np.testing.assert_array_equal, of(hosts), of(1))


def test_unordered_is_a_fixed_shuffle(write):
  source = jsonl.DataSource(write([{"n": i} for i in range(20)]))
  order = lambda: [int(r["n"]) for r in source.get_tfdata(ordered=False)]
  assert order() == order() != sorted(order()) == list(range(20))


def test_labels_are_integers_in_range(write):
  path = write([{"label": i, "x": 0.5 * i} for i in (0, 3, -1)])
  source = jsonl.DataSource(path, num_classes=3, start=1)
  assert [m[:30] for m in source.bad_examples()] == [
    f"The label {label} of line {i} of {path}"[:30]
    for i, label in ((1, 3), (2, -1))
  ]
  with pytest.raises(tf.errors.InvalidArgumentError, match="label 3 of line 1"):
    read(source)
  source = jsonl.DataSource(path, num_classes=3, stop=1)
  assert read(source) == [{"id": b"0", "label": 0, "x": 0.0}]
  assert not source.bad_examples() and source.classes_of("label").num == 3
  source = jsonl.DataSource(path)
  assert source.classes_of("label").num == 4 and not source.classes_of("x")
  cfg = {
    "batch_size": 1,
    "data": dict(name="bv:jsonl", fname=path, num_classes=3),
  }
  with pytest.raises(ValueError, match="2 examples of .*label 3 of line 1"):
    input_pipeline.training(cfg)
  ds, _ = input_pipeline.training(cfg | {"skip_errors": True})
  assert [int(x["label"][0]) for x in ds.take(3)] == [0, 0, 0]


def test_values_may_be_files(write, tmp_path):
  for n in (1, 2):
    (tmp_path / f"{n}.txt").write_bytes(b"\x00file%d" % n)
  want = [b"\x00file1", b"\x00file2", b"\x00file1"]
  source = jsonl.DataSource(write(ROWS), fopen_keys={"f": str(tmp_path)})
  assert [r["f"] for r in read(source)] == want
  full = [{**r, "f": str(tmp_path / r["f"])} for r in ROWS]
  for keys in (["f"], ("f",), {"f"}):
    source = jsonl.DataSource(write(full), fopen_keys=keys)
    assert [r["f"] for r in read(source)] == want
  data = {"name": "bv:jsonl", "fname": write(full), "fopen_keys": ["f"]}
  for cache_raw in (False, True):
    cfg = {"batch_size": 3, "data": data, "cache_raw": cache_raw}
    ds, _ = input_pipeline.training(cfg)
    assert next(iter(ds))["f"].numpy().tolist() == want
  for key in ("n", "nope"):
    with pytest.raises(ValueError, match=f"fopen_keys: '{key}'"):
      jsonl.DataSource(write(ROWS), fopen_keys=[key])


def test_training_reads_only_files_that_it_needs(write, tmp_path):
  (tmp_path / "2.txt").write_bytes(b"two")  # The only file there is.
  data = {"fname": write(ROWS), "fopen_keys": {"f": str(tmp_path)}}
  cfg = {"batch_size": 1, "data": {"name": "bv:jsonl", **data}, "prefetch": 0}
  ds, _ = input_pipeline.training(
    {**cfg, "num_parallel_calls": 1}, start_step=1
  )
  assert next(iter(ds))["f"].numpy() == [b"two"]


def test_downloads_once_and_whole(write, tmp_path, monkeypatch):
  remote = tmp_path / "remote.bin"
  remote.write_bytes(b"content")
  url = remote.as_uri()
  dest = tmp_path / "cache"
  path = jsonl.cached_download(url, str(dest))
  assert path == str(dest / hashlib.md5(url.encode()).hexdigest())
  remote.write_bytes(b"changed")
  assert jsonl.cached_download(url, str(dest)) == path
  with open(path, "rb") as f:
    assert f.read() == b"content"
  assert os.listdir(dest) == [os.path.basename(path)]

  class Broken:
    def __enter__(self):
      return self

    def __exit__(self, *_):
      pass

    def read(self, n):
      raise ConnectionError("cable")

  monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Broken())
  with pytest.raises(ConnectionError):
    jsonl.cached_download("http://x/y", str(dest))
  assert os.listdir(dest) == [os.path.basename(path)]


def test_download_keys(write, tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  remote = tmp_path / "remote.bin"
  remote.write_bytes(b"content")
  path = write([{"u": remote.as_uri()}] * 3)
  source = jsonl.DataSource(path, fopen_keys=["u"], download_keys=["u"])
  assert [r["u"] for r in read(source)] == [b"content"] * 3
  with pytest.raises(AssertionError, match="fopen_keys"):
    jsonl.DataSource(path, download_keys=["u"])


@pytest.mark.parametrize(
  "text, match",
  [
    ('{"a": 1}\nnope', "^Invalid JSON in line 1 "),
    ('{"a": 1}\n\n{"a": 2}', "^Invalid JSON in line 1 .*blank"),
    ('{"a": 1}\n[1]', "^Invalid JSON in line 1 .*not an object"),
    ('{"a": [1]}', "^Invalid JSON in line 0 .*'a'"),
    ('{"a": null}', "^Invalid JSON in line 0 .*None"),
    ('{"a": 5000000000}', "int32"),
    ('{"a": 1}\n{"b": 1}', r"^Line 1 .*missing keys \['a'\].*\['b'\]"),
    ('{"a": 1}\n{"a": 2}\n{"a": 1.5}', "^Line 2 .*'a' is 1.5, expected int"),
    ('{"a": 1}\n{"a": true}', "^Line 1 .*'a' is True"),
    ("", "No rows"),
  ],
)
def test_errors_name_the_line(write, text, match):
  with pytest.raises(ValueError, match=match):
    jsonl.DataSource(write(text))


def test_blank_lines_at_the_end(write):
  assert jsonl.DataSource(write('{"a": 1}\n\n  \n')).total_examples == 1


def test_splits_and_names_of_classes(write):
  path = write(
    [
      dict(label="b", split="val"),
      dict(label="a", split="train"),
      dict(label="b", split="train"),
    ]
  )
  source = jsonl.DataSource(path, "train", classes=["a", "b"])
  assert [(r["id"], r["label"]) for r in read(source)] == [(b"1", 0), (b"2", 1)]
  assert source.classes_of("label") == Classes(2, ("a", "b"))
  assert source.split_names() == ["val", "train"]
  source = jsonl.DataSource(path, features=dict(kind="label"))
  assert [r["kind"] for r in read(source)] == [b"b", b"a", b"b"]
  assert source.labels_as_text() == ["a", "b"]
  for kw, message in [
    (dict(split="test"), "'test'"),
    (dict(features=dict(x="kind")), "'kind'"),
    (dict(classes=["a", "c"]), "label 'b', which is none of the 2"),
  ]:
    with pytest.raises(ValueError, match=message):
      jsonl.DataSource(path, **kw)
  path = write([dict(label=i) for i in range(10)])
  with pytest.raises(ValueError, match="not text"):
    jsonl.DataSource(path, classes=["a"])
  parts = [
    {int(r["label"]) for r in read(jsonl.DataSource(path, s, split_seed=0))}
    for s in ("all[:3]", "all[3:]")
  ]
  assert len(parts[0]) == 3
  assert parts[0] | parts[1] == set(range(10))
  assert parts[0] != {0, 1, 2}
  # Labels are in the range of all rows, whatever the split.
  source = jsonl.DataSource(path, "all[:1]", num_classes=None)
  assert source.classes_of("label") == Classes(10)
