"""Zero-shot classification with a model that looks embeddings up in tables."""

import threading
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision.evaluators import validate
from big_vision.evaluators.proj.image_text import (
  discriminative_classifier as dc,
)
from big_vision.evaluators.proj.image_text import embedding, prompt_engineering
from big_vision.pipeline import abstract
from big_vision.pp import registry
from big_vision.tf import tf

pytestmark = pytest.mark.tf


NAMES = ["Red,  crimson", "green_", "Blue,navy,azure", "black"]
NUM, LENGTH, DIM = 21, 40, 6
LABEL = (np.arange(NUM) * 5 % len(NAMES)).astype(np.int64)
RNG = np.random.RandomState(0)
IMAGE_TABLE = RNG.randn(NUM, DIM).astype(np.float32)
LETTER_TABLE = RNG.randn(128, LENGTH, DIM).astype(np.float32)


def get_letters():
  """Op: a text to its bytes, padded with 0."""

  def letters(data):
    x = tf.io.decode_raw(data["texts"], tf.uint8)[:LENGTH]
    x = tf.pad(tf.cast(x, tf.int32), [[0, LENGTH - tf.size(x)]])
    data["labels"] = tf.ensure_shape(x, [LENGTH])
    return data

  return letters


def get_two_labels():
  """Op: the next class is right too, or, for the last one, none more."""
  return lambda data: {
    **data,
    "label": tf.stack(
      [
        data["label"],
        tf.where(data["label"] == 3, tf.cast(-1, tf.int64), data["label"] + 1),
      ]
    ),
  }


@pytest.fixture(autouse=True)
def own_ops(ops):
  with registry.temporary_ops(letters=get_letters, two_labels=get_two_labels):
    yield


def examples():
  pixels = np.arange(NUM, dtype=np.uint8).reshape(NUM, 1, 1, 1)
  return tf.data.Dataset.from_tensor_slices({"image": pixels, "label": LABEL})


@pytest.fixture
def in_memory(monkeypatch):
  opened = []

  def open_split(*args):
    opened.append(args)
    return SimpleNamespace(info=None), examples()

  monkeypatch.setattr(embedding, "open_split", open_split)
  return opened


def embed_text(text):
  """Returns the embedding of a text."""
  codes = np.zeros(LENGTH, int)
  codes[: len(text)] = [*text.encode()]
  return LETTER_TABLE[codes, np.arange(LENGTH)].sum(axis=0)


def predict(state, batch):
  del state
  assert len(batch) == 1
  if "image" in batch:
    number = batch["image"][:, 0, 0, 0].astype(int)
    return jnp.asarray(IMAGE_TABLE)[number], None, {}
  z = jnp.asarray(LETTER_TABLE)[batch["labels"], jnp.arange(LENGTH)[None]]
  return None, z.sum(axis=1), {}


def classifier(names, templates):
  """[C, E] weights, given the names of each class."""
  means = []
  for own in names:
    texts = [t.replace("{}", n) for n in own for t in templates]
    means.append(np.mean([embed_text(t) for t in texts], axis=0))
  return np.array([m / np.linalg.norm(m) for m in means])


KW = dict(
  batch_size=8,
  dataset_names=("toy",),
  class_names=NAMES,
  dataset_overrides={},
  pp_img="value_range(0, 255)",
  pp_txt="letters",
)


def make(fn=predict, **kw):
  devices = np.array(jax.devices())
  return dc.Evaluator(fn, devices=devices, **{**KW, **kw})


FIRST = [["red"], ["green"], ["blue"], ["black"]]
ALL = [["red", "crimson"], ["green"], ["blue", "navy", "azure"], ["black"]]


@pytest.mark.multidevice
@pytest.mark.parametrize("first,names", [(True, FIRST), (False, ALL)])
def test_values(in_memory, state, first, names):
  evaluator = make(
    prompt_templates="clip_best",
    first_class_name_only=first,
    cache_final=first,
    async_delay=3 - first,
  )
  templates = prompt_engineering.get_prompt_templates("clip_best")
  weights = classifier(names, templates)
  best = (IMAGE_TABLE @ weights.T).argmax(axis=1)
  for _ in range(2):  # The second time from the caches.
    got = evaluator.evaluate(state, "toy", return_embeddings=True)
    assert got["count"] == NUM and got["correct"] == (best == LABEL).sum()
    assert got["accuracy"] == got["correct"] / NUM
    assert 0 < got["correct"] < NUM
    np.testing.assert_array_equal(got["images"]["label"], LABEL)
    np.testing.assert_array_equal(got["images"]["embedding"], IMAGE_TABLE)
    texts = got["texts"]
    repeats = [len(n) * len(templates) for n in names]
    np.testing.assert_array_equal(texts["label"], np.repeat(range(4), repeats))
    np.testing.assert_allclose(texts["average_embedding"], weights, atol=1e-5)
    first_text = embed_text(templates[0].replace("{}", "red"))
    np.testing.assert_allclose(texts["embedding"][0], first_text, rtol=1e-4)
  assert evaluator.run(state) == [("toy_accuracy", got["accuracy"])]
  assert "images" not in evaluator.evaluate(state, "toy")
  assert len(evaluator.datasets["toy"]["class_names"]) == 4


def test_several_labels_and_filter(in_memory, state):
  evaluator = make(
    prompt_templates="class_name_only",
    pp_img="value_range(0, 255)|two_labels",
    pre_filter_fn=lambda example: example["label"] != 1,
  )
  weights = classifier(FIRST, ["{}"])
  best = (IMAGE_TABLE @ weights.T).argmax(axis=1)
  hit = (best == LABEL) | (best == LABEL + 1)
  assert hit.sum() != (best == LABEL).sum()
  got = evaluator.evaluate(state, "toy", return_embeddings=True)
  assert got["count"] == (LABEL != 1).sum()
  assert got["correct"] == hit[LABEL != 1].sum()
  assert got["images"]["label"].shape == (got["count"], 2)
  nothing = make(
    prompt_templates="class_name_only", pre_filter_fn=lambda e: e["label"] > 9
  )
  with pytest.raises(ValueError, match="no examples.*pre_filter_fn"):
    nothing.run(state)


def test_overrides(in_memory, state):
  evaluator = make(
    dataset_names=("a", "b"),
    prompt_templates="class_name_only",
    dataset_overrides=(
      ("b", (("dataset_name", "toy"), ("data_dir", "there"), ("split", "val"),
             ("class_names", ("Red", "Green_", "Blue", "Black")),
             ("canonicalize", False), ("prompt_templates", "clip_paper"))),
    ),
  )  # fmt: skip
  assert in_memory == [("a", "test", None), ("toy", "val", "there")]
  b = evaluator.datasets["b"]
  assert b["dataset_name"] == "toy" and b["split"] == "val"
  assert b["class_names"] == ["Red", "Green_", "Blue", "Black"]
  with mock.patch.object(
    prompt_engineering, "get_class_names", return_value=["x", "y"]
  ) as names, mock.patch.object(
    prompt_engineering, "get_prompt_templates", return_value=["{}"]
  ) as templates:  # fmt: skip
    make(dataset_overrides={"toy": {"class_names_dataset_name": "c",
                                    "canonicalize": False}})  # fmt: skip
  kw = names.call_args.kwargs
  assert (kw["dataset_name"], kw["canonicalize"]) == ("c", False)
  assert templates.call_args.kwargs == {"canonicalize": False}
  names = [k for k, _ in evaluator.run(state)]
  assert names == ["a_accuracy", "b_accuracy"]


@pytest.mark.multidevice
def test_what_comes_next_is_read_ahead(in_memory, state, monkeypatch):
  started, start = [], embedding.Batches.start
  monkeypatch.setattr(
    embedding.Batches, "start", lambda b: (started.append(b), start(b))
  )
  two = dict(dataset_names=("a", "b"), dataset_overrides={})
  evaluator = make(prompt_templates="clip_best", **two)
  results = evaluator.run(state)
  images_a, _ = evaluator._batches["a"]
  images_b, texts_b = evaluator._batches["b"]
  assert started == [images_a, texts_b, images_b]
  assert evaluator.run(state) == results
  alone = make(prompt_templates="clip_best")
  assert alone.run(state)[0][1] == results[0][1] == results[1][1]


def test_examples_are_counted_in_the_background():
  def batches(threads, **kw):
    def note(x):
      threads.append(threading.get_ident())
      return x

    ds = tf.data.Dataset.range(10).filter(lambda x: x % 2 == 0)
    ds = ds.map(lambda x: {"x": tf.numpy_function(note, [x], tf.int64)})
    ds = ds.map(lambda d: {"x": tf.ensure_shape(d["x"], [])})
    return embedding.Batches(ds, 4, jax.devices()[:1], **kw)

  want = [[0, 2, 4, 6], [8, 0, 0, 0]]
  for cache in (False, True):
    threads = []  # Of this dataset: others may still be read ahead.
    b = batches(threads, cache_final=cache)
    b.start()
    b.start()
    for _ in range(2):
      assert [x["x"].tolist() for x in b] == want
    if cache:  # All is read once, to be counted.
      assert len(threads) == 5
    assert [x["x"].tolist() for x in batches([], cache_final=cache)] == want


def test_default_overrides(in_memory):
  """ImageNet has its names from CLIP and is evaluated on "validation"."""
  kw = {k: v for k, v in KW.items() if k != "dataset_overrides"}
  devices = np.array(jax.devices())
  kw["dataset_names"] = ("toy", "imagenet2012")
  evaluator = dc.Evaluator(predict, devices=devices, **kw)
  assert [args[1] for args in in_memory] == ["test", "validation"]
  assert len(evaluator.datasets["imagenet2012"]["class_names"]) == 1000
  kw["dataset_names"] = ("toy",)
  dc.Evaluator(predict, devices=devices, **kw)


def test_average_embeddings():
  labels = np.array([2, 0, 1, 0, 2, 2])
  z = RNG.randn(6, DIM).astype(np.float32)
  want = np.array([z[labels == c].mean(axis=0) for c in range(3)])
  kw = dict(labels=labels, num_classes=3)
  got = dc._average_embeddings(z, normalize=False, **kw)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  got = dc._average_embeddings(z, normalize=True, **kw)
  want /= np.linalg.norm(want, axis=1, keepdims=True)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert not dc._average_embeddings(0 * z, normalize=True, **kw).any()
  with pytest.raises(AssertionError, match=r"without any text: \[3, 4\]"):
    dc._average_embeddings(z, labels=labels, num_classes=5, normalize=True)
  with pytest.raises(AssertionError, match="up to 2, but there are 2"):
    dc._average_embeddings(z, labels=labels, num_classes=2, normalize=True)
  with pytest.raises(AssertionError, match=r"\(5,\)"):
    dc._average_embeddings(z, labels=labels[1:], num_classes=3, normalize=True)


def test_prepare_datasets():
  kw = dict(pp_img="", pp_txt="copy('texts', 'labels')")
  images, texts = dc.prepare_datasets(
    examples(),
    ["a, b", "c"],
    prompt_templates=["{}!", "the {}"],
    class_name_offset=3,
    cache_final=True,
    pre_filter_fn=lambda x: x["label"] == 2,
    **kw,
  )
  got = [(x["label"], x["labels"]) for x in texts.as_numpy_iterator()]
  assert got == [(3, b"a!"), (3, b"the a"), (3, b"b!"), (3, b"the b"),
                 (4, b"c!"), (4, b"the c")]  # fmt: skip
  assert {x["label"] for x in images.as_numpy_iterator()} == {2}
  with pytest.raises(AssertionError, match="no prompt_templates"):
    dc.prepare_datasets(examples(), ["a"], prompt_templates=[], **kw)
  for bad in ("a photo", "{} and {}"):
    with pytest.raises(AssertionError, match="exactly one"):
      dc.prepare_datasets(examples(), ["a"], prompt_templates=[bad], **kw)
  # A process may have no class at all.
  _, texts = dc.prepare_datasets(examples(), [], prompt_templates=["{}"], **kw)
  assert not list(texts)


def test_bad_arguments(in_memory, state):
  with pytest.raises(AssertionError, match="nope.*toy"):
    make(dataset_overrides={"nope": {}})
  with pytest.raises(AssertionError, match="toy: unknown batch_size.*pp_img"):
    make(dataset_overrides={"toy": {"batch_size": 3}})
  with pytest.raises(AssertionError, match="async_delay=0"):
    make(async_delay=0)
  with pytest.raises(KeyError, match="prompt_templates='nope'"):
    make(prompt_templates="nope")
  with pytest.raises(ValueError, match="gives no .'label'"):
    make(pp_img="drop('label')")
  with pytest.raises(ValueError, match="batch_size=12 is not divisible"):
    make(batch_size=12)
  wrong = make(lambda state, batch: (None, None, {}))
  with pytest.raises(ValueError, match="'labels' alone an embedding"):
    wrong.run(state)


def test_embedded_dataset(state, tfds_data_dir):
  """With the names that TFDS has for the classes."""

  def by_pixels(state, batch):
    if "image" in batch:
      return batch["image"].reshape(len(batch["image"]), -1)[:, :DIM], None
    return predict(state, batch)

  evaluator = make(
    by_pixels,
    dataset_names=("shapes/tiny",),
    split="test[:10]",
    class_names="dataset_info:label",
    prompt_templates="class_name_only",
    data_dir=tfds_data_dir,
  )
  got = evaluator.evaluate(state, "shapes/tiny", return_embeddings=True)
  z = got["images"]["embedding"] @ got["texts"]["average_embedding"].T
  correct = (z.argmax(axis=1) == got["images"]["label"]).sum()
  assert got["count"] == 10 and got["correct"] == correct


def test_fewer_names_than_labels(tfds_data_dir):
  """Digits of the tenth class would count as wrong."""
  own = dict(dataset_names=("digits",), data_dir=tfds_data_dir)
  names = [f"digit {i}" for i in range(10)]
  make(class_names=[*names, "no digit"], **own)
  with pytest.raises(
    ValueError, match="9 names, but digits has labels up to 9"
  ):
    make(class_names=names[:9], **own)


def test_labels_that_are_no_class_are_said(in_memory, state, caplog):
  """The data in memory tells no classes beforehand."""
  evaluator = make(
    class_names=("red", "green"), prompt_templates="class_name_only"
  )
  with caplog.at_level("WARNING", logger="absl"):
    evaluator.run(state)
    evaluator.run(state)
  num = (LABEL > 1).sum()
  assert caplog.text.count(f"{num} of {NUM} examples of toy have a label") == 1


def test_checked_before_a_run(tfds_data_dir):
  import ml_collections

  def check(**kw):
    own = {k: v for k, v in KW.items() if k != "dataset_overrides"}
    own["dataset_names"] = ("digits",)
    entry = dict(
      type="proj.image_text.discriminative_classifier", **{**own, **kw}
    )
    config = ml_collections.ConfigDict({"evals": {"zs": entry}})
    validate.validate(config, ["predict"], jax.devices())

  check()
  digits = {"zs": {"dataset_name": "digits", "split": "tst"}}
  with pytest.raises(ValueError, match="evals.zs.dataset_names.zs.*'tst'"):
    check(dataset_names=("zs",), dataset_overrides=digits)
  with pytest.raises(ValueError, match="dataset_overrides of zs"):
    check(dataset_overrides=digits)


def test_shapes_are_those_of_decoded_images(tfds_data_dir):
  (key, data, pp, _), _ = dc.inputs(
    dict(
      dataset_names=("digits",),
      pp_img="resize(4)",
      pp_txt="",
      data_dir=tfds_data_dir,
    )
  )
  assert key == "pp_img"
  assert abstract.features(data, pp)["image"].shape == (4, 4, 1)
