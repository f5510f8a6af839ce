"""Streams of which nothing is left end; the log stays short."""

import itertools
import json

import numpy as np
import pytest

from big_vision import input_pipeline, lookup
from big_vision.datasets import bad_examples
from big_vision.pipeline import failures
from big_vision.tf import tf

pytestmark = pytest.mark.tf

N = 12


def fails(x):
  with tf.control_dependencies(
    [tf.debugging.Assert(x["x"] < 0, ["broken image", x["x"]])]
  ):
    return {k: tf.identity(v) for k, v in x.items()}


def numbers(n=N):
  return tf.data.Dataset.range(n).map(lambda i: {"x": i})


def take(ds, num):
  batches = itertools.islice(failures.iterate(ds), num)
  return [b["x"].numpy().tolist() for b in batches]


def make(data, preprocess_fn, **kw):
  return input_pipeline.make_for_train(data, preprocess_fn, 3, name="toy", **kw)


@pytest.mark.parametrize(
  ("data", "preprocess_fn", "kw", "message"),
  [
    (numbers, fails, {"skip_errors": True}, "broken image"),
    (
      numbers,
      fails,
      {"skip_errors": True, "shuffle_buffer_size": 5, "cache_raw": True},
      "broken image",
    ),
    (
      lambda: numbers().map(fails),
      dict,
      {"skip_errors": True},
      "none can be read; the last error: broken image 0",
    ),
    (
      numbers,
      dict,
      {"post_filter_fn": lambda x: x["x"] > 100},
      "post_filter_fn drops them all",
    ),
    (
      numbers,
      dict,
      {"pre_filter_fn": lambda x: fails(x)["x"] > 1, "skip_errors": True},
      "No examples .* after pre_filter_fn. An error: broken image 0",
    ),
    # How many there are is known when they are read only.
    (
      lambda: numbers().filter(lambda x: x["x"] < 0),
      dict,
      {},
      "'toy' gave none",
    ),
    (
      numbers,
      lambda x: {"x": tf.zeros([0])},
      {"pack": {"x": 4}},
      "config.input.pack gets nothing but empty sequences",
    ),
  ],
)
def test_nothing_is_left(caplog, data, preprocess_fn, kw, message):
  with pytest.raises(ValueError, match=message) as e:
    take(make(data(), preprocess_fn, **kw), 1)
  assert "'toy'" in str(e.value) and "\n" not in str(e.value)
  assert len(caplog.records) < 10


def test_nothing_is_left_later():
  """Examples may come to an end in the middle of a run."""
  seen = set()

  def is_new(x):  # In whatever order they are asked for.
    new = int(x) not in seen
    seen.add(int(x))
    return new

  def only_in_the_first_pass(x):
    return tf.ensure_shape(tf.numpy_function(is_new, [x["x"]], tf.bool), [])

  # In parallel, the second pass may ask for an example before the first.
  ds = make(
    numbers(),
    dict,
    post_filter_fn=only_in_the_first_pass,
    num_parallel_calls=1,
  )
  it = failures.iterate(ds)
  assert [next(it)["x"][0].numpy() for _ in range(3)] == [0, 3, 6]
  with pytest.raises(lookup.ConfigError, match="no example of 'toy' is left"):
    for _ in range(3):
      next(it)


def test_data_that_can_be_read_once():
  rest = iter(range(7))
  data = tf.data.Dataset.from_generator(
    lambda: ({"x": i} for i in rest),
    output_signature={"x": tf.TensorSpec([], tf.int64)},
  )
  it = failures.iterate(make(data, dict))
  assert [next(it)["x"][0].numpy() for _ in range(2)] == [0, 3]
  with pytest.raises(lookup.ConfigError, match="a pass over the .* gave none"):
    next(it)


@pytest.mark.parametrize("kind", ["pre_filter_fn", "post_filter_fn"])
def test_few_examples_are_enough(kind):
  """One of a pass is one: nothing ends, whatever runs ahead."""
  ds = make(numbers(800), dict, **{kind: lambda x: x["x"] == 799})
  assert take(ds, 3) == [[799] * 3] * 3
  # Two iterators of one dataset do not disturb each other.
  first, second = (failures.iterate(ds) for _ in range(2))
  for _ in range(3):
    assert next(first)["x"].numpy().tolist() == [799] * 3
    assert next(second)["x"].numpy().tolist() == [799] * 3


def test_losses_in_reading_are_counted(caplog):
  data = numbers(4).concatenate(numbers(2).map(fails))
  with caplog.at_level("WARNING", logger="absl"):
    got = take(make(data, dict, skip_errors=True), 4)
  assert got == [[0, 1, 2], [3, 0, 1], [2, 3, 0], [1, 2, 3]]
  assert "2 of 6 examples of toy could not be read" in caplog.text
  assert "broken image 0" in caplog.text


def test_errors_are_shown_as_they_were_written():
  text = r"no 'jpg' or \"png\" in Käse\xe9.tar"
  ds = numbers(1).map(lambda x: bad_examples.fail_with(tf.constant(text), x))
  with pytest.raises(tf.errors.InvalidArgumentError) as e:
    list(ds)
  assert failures.reason(e.value) == text


def test_the_log_stays_short(caplog):
  def every_second_fails(x):
    return tf.cond(x["x"] % 2 == 0, lambda: dict(x), lambda: fails(x))

  ds = make(numbers(1000), every_second_fails, skip_errors=True)
  with caplog.at_level("WARNING", logger="absl"):
    take(ds, 160)
  lines = [r.getMessage() for r in caplog.records if "dropped" in r.message]
  assert 10 < len(lines) < 20
  assert "dropped 1 of the examples of toy, 1 since the start" in lines[0]
  assert "index 1 of the dataset 'toy' in epoch 0: broken image 1" in lines[0]


@pytest.fixture
def broken(tmp_path):
  """Config of a folder with broken PNGs."""
  for i in range(N):
    path = tmp_path / "broken" / "ab"[i % 2] / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n no image")
  return {"name": "bv:folder", "path": str(tmp_path / "broken")}


def training(config, **kw):
  lookup.preprocessing({})
  pp = "decode|resize(4)|keep('image')"
  parts = [config, *(v for v in config.values() if isinstance(v, dict))]
  for part in parts:
    if "name" in part.get("data", ()):
      part.update(pp=pp)
  ds, _ = input_pipeline.training({"batch_size": 2, **config}, **kw)
  return [b["image"] for b in itertools.islice(failures.iterate(ds), 8)]


@pytest.mark.parametrize(
  ("kw", "hosts"), [({}, (0, 1)), ({"shuffle_buffer_size": 9}, (1, 2))]
)
def test_a_folder_of_broken_images(broken, caplog, kw, hosts):
  host, num_hosts = hosts
  with pytest.raises(lookup.ConfigError, match=r"\d.png'.*Invalid PNG") as e:
    training(
      {"data": broken, "skip_errors": True, **kw},
      process_index=host,
      process_count=num_hosts,
    )
  assert "'bv:folder'" in str(e.value) and "\n" not in str(e.value)
  assert len(caplog.records) < 10


def test_a_part_of_a_mixture(broken, tfds_data_dir):
  good = {"data": {"name": "digits", "split": "train[:20]"}}
  bad = {"data": broken, "skip_errors": True}
  mixture = {"data": {"good": 1, "bad": 1}, "good": good, "bad": bad}
  with pytest.raises(lookup.ConfigError, match="no example of 'bad' is left"):
    training(mixture)


@pytest.mark.parametrize("kind", ["folder", "table", "jsonl"])
def test_warns_of_data_sorted_by_class(tmp_path, caplog, kind):
  lookup.preprocessing({})
  labels = np.repeat(["a", "b"], 4)
  data = {"name": "bv:folder", "path": str(tmp_path)}
  for i, label in enumerate(labels):
    folder = "" if kind == "table" else label
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / f"{i}.png").touch()
  table = [f"{i}.png,{label}" for i, label in enumerate(labels)]
  if kind == "table":
    data["labels"] = str(tmp_path / "t.csv")
  if kind == "jsonl":
    rows = [{"label": int(x == "b")} for x in labels]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"name": "bv:jsonl", "fname": str(tmp_path / "x.jsonl")}

  def warnings(table=table, **kw):
    (tmp_path / "t.csv").write_text("\n".join(["file,label", *table]))
    caplog.clear()
    pp = "keep('label')"
    config = {"batch_size": 4, "data": data, "pp": pp, **kw}
    with caplog.at_level("WARNING", logger="absl"):
      input_pipeline.training(config)
    return [r.getMessage() for r in caplog.records]

  (message,) = warnings()
  assert message.startswith("config.input.shuffle_buffer_size is not set")
  assert "8 examples" in message and "Set it to 8" in message
  for size in (1, 2, 100):
    assert not warnings(shuffle_buffer_size=size)
  assert not warnings(batch_size=8)
  if kind == "table":
    assert not warnings(table[::2] + table[1::2])
