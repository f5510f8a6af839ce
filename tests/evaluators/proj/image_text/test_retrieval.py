"""Retrieval with a model that looks embeddings up in tables."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from big_vision import lookup
from big_vision.evaluators import validate
from big_vision.evaluators.proj.image_text import (
  embedding,
  image_text_retrieval,
  retrieval,
)
from big_vision.pipeline import abstract
from big_vision.pp import registry
from big_vision.tf import tf

pytestmark = pytest.mark.tf


NUM, MOST = 21, 4  # Images, and texts that an image may have.
TEXTS = [[f"{i} {j}" for j in range(i % MOST)] for i in range(NUM)]
RNG = np.random.RandomState(0)
IMAGE_TABLE = RNG.randn(NUM, 6).astype(np.float32)
TEXT_TABLE = (IMAGE_TABLE[:, None] + RNG.randn(NUM, MOST, 6)).astype(np.float32)
NAMES = [f"{a}_recall@{k}" for a in ("img2txt", "txt2img") for k in (1, 5, 10)]


def get_numbers():
  """Op: a text of two numbers to these."""

  def numbers(data):
    words = tf.strings.split(data["texts"])
    data["labels"] = tf.ensure_shape(tf.strings.to_number(words, tf.int32), [2])
    return data

  return numbers


@pytest.fixture(autouse=True)
def numbers(ops):
  with registry.temporary_ops(numbers=get_numbers):
    yield


def examples():
  texts = tf.ragged.constant(TEXTS, dtype=tf.string)
  pixels = np.arange(NUM, dtype=np.uint8).reshape(NUM, 1, 1, 1)
  ds = tf.data.Dataset.from_tensor_slices((pixels, texts))
  return ds.map(
    lambda x, y: {
      "image": x,
      "captions": {"text": y},
      "first": tf.strings.format("{} 0", tf.cast(x[0, 0, 0], tf.int32)),
    }
  )


@pytest.fixture
def in_memory(monkeypatch):
  opened = []

  def open_split(*args):
    opened.append(args)
    return SimpleNamespace(info=None), examples()

  monkeypatch.setattr(embedding, "open_split", open_split)
  return opened


def predict(state, batch):
  del state
  assert len(batch) == 1
  if "image" in batch:
    number = batch["image"][:, 0, 0, 0].astype(int)
    return jax.numpy.asarray(IMAGE_TABLE)[number], None, {}
  number, caption = batch["labels"].T
  return None, jax.numpy.asarray(TEXT_TABLE)[number, caption], {}


KW = dict(
  dataset="toy",
  pp_img="value_range(0, 255)",
  pp_txt="numbers",
  txt_name=("captions", "text"),
  batch_size=8,
)


def make(fn=predict, **kw):
  devices = np.array(jax.devices())
  return retrieval.Evaluator(fn, devices=devices, **{**KW, **kw})


@pytest.mark.multidevice
@pytest.mark.parametrize("batch_size,cache", [(8, True), (24, False)])
def test_values(in_memory, state, batch_size, cache):
  evaluator = make(batch_size=batch_size, cache_final=cache, split="validation")
  assert in_memory[0][:2] == ("toy", "validation")
  owners = np.repeat(np.arange(NUM), [len(t) for t in TEXTS])
  captions = np.concatenate([np.arange(len(t)) for t in TEXTS])
  ztxt = TEXT_TABLE[owners, captions]
  distances = -IMAGE_TABLE @ ztxt.T
  for _ in range(2):  # The second time from the caches.
    got = evaluator.evaluate(state)
    np.testing.assert_array_equal(got["images"]["id"], np.arange(NUM))
    np.testing.assert_array_equal(got["images"]["embeddings"], IMAGE_TABLE)
    np.testing.assert_array_equal(got["texts"]["id"], owners)
    np.testing.assert_array_equal(got["texts"]["caption_i"], captions)
    np.testing.assert_array_equal(got["texts"]["embeddings"], ztxt)
    i2t = image_text_retrieval.image_to_text_retrieval_eval(distances, owners)
    t2i = image_text_retrieval.text_to_image_retrieval_eval(distances, owners)
    assert got["img2txt"] == i2t and got["txt2img"] == t2i
    assert 0.1 < t2i["Recall@1"] < 0.9
  run = evaluator.run(state)
  assert [k for k, _ in run] == NAMES
  assert [v for _, v in run] == [*i2t.values(), *t2i.values()]


class Source:
  """A data source of one's own."""

  total_examples = NUM

  def __init__(self, part):
    assert part == "whole"

  def get_tfdata(self, ordered, *, process_split=True, allow_cache=True):
    assert ordered and process_split
    return examples()

  def num_examples_per_process(self):
    return [NUM]


def test_any_source(in_memory, state, monkeypatch):
  module = SimpleNamespace(DataSource=Source)
  monkeypatch.setattr(lookup, "module", lambda *args, **kw: module)
  data = dict(name="bv:mine", part="whole")
  assert retrieval.data_sources(dict(data=data)) == [("data", data)]
  given = make(dataset=None, data=data).run(state)
  assert list(given) == list(make().run(state))


@pytest.mark.parametrize("kw", [{"dataset": None}, {"data": {"name": "toy"}}])
def test_one_of_dataset_and_data(in_memory, kw):
  with pytest.raises(lookup.ConfigError, match="one of dataset=.* and data="):
    make(**kw)


def test_first_texts_only(in_memory, state):
  got = make(max_texts=2).evaluate(state)
  owners = np.repeat(np.arange(NUM), [min(len(t), 2) for t in TEXTS])
  np.testing.assert_array_equal(got["texts"]["id"], owners)
  assert got["texts"]["caption_i"].max() == 1


def test_no_batch_too_many(in_memory, state, monkeypatch):
  evaluator, sizes = make(), []
  embed = evaluator._embed_images
  evaluator._embed_images = lambda *a: sizes.append(1) or embed(*a)
  evaluator.evaluate(state)
  assert len(sizes) == 3


def test_starts_over_after_an_error(in_memory, state):
  evaluator = make()
  once = evaluator.run(state)
  it = iter(evaluator._images)
  next(it)
  it.close()  # Whoever read it gave up.
  assert evaluator.run(state) == once


def test_prepare_datasets():
  kw = {k: KW[k] for k in ("pp_img", "pp_txt")}
  images, texts = retrieval.prepare_datasets(
    examples(), txt_name="first", offset=100, cache_final=True, **kw
  )
  images, texts = (list(x.as_numpy_iterator()) for x in (images, texts))
  assert [x["id"] for x in images] == list(range(100, 100 + NUM))
  assert [x["image"].item() for x in images] == list(range(NUM))
  assert set(images[0]) == {"id", "image"}
  assert [x["id"] for x in texts] == list(range(100, 100 + NUM))
  assert {x["caption_i"] for x in texts} == {0}
  assert [x["labels"].tolist() for x in texts] == [[i, 0] for i in range(NUM)]
  assert texts[0]["id"].dtype == np.int64
  assert texts[0]["caption_i"].dtype == np.int32


def test_bad_arguments(in_memory, state):
  with pytest.raises(ValueError, match="txt_name='captions/txt'.*text"):
    make(txt_name=("captions", "txt"))
  with pytest.raises(ValueError, match="captions, first, image"):
    make(txt_name="caption")
  with pytest.raises(ValueError, match="gives no .'labels'.*texts"):
    make(pp_txt="")
  with pytest.raises(ValueError, match="gives no .'image'"):
    make(pp_img="drop('image')")
  with pytest.raises(ValueError, match="batch_size=12 is not divisible"):
    make(batch_size=12)
  wrong = make(lambda state, batch: (None, None, {}))
  with pytest.raises(ValueError, match="'image' alone an embedding.*None"):
    wrong.run(state)


def by_pixels(state, batch):
  """Images by their pixels, texts by the number of the image in them."""
  del state
  x = batch["image"] if "image" in batch else batch["labels"]
  return x.reshape(len(x), -1)[:, :8], x[:, :8].astype(np.float32), {}


def test_embedded_dataset(ops, state, tfds_data_dir):
  """`shapes` is there without having been prepared, and has several texts."""
  get_length = lambda: (
    lambda d: {**d, "labels": tf.strings.length(d["texts"])[None] + tf.range(8)}
  )
  with registry.temporary_ops(lengths=get_length):
    evaluator = make(
      by_pixels,
      dataset="shapes/tiny",
      split="test[:10]",
      pp_img="value_range(-1, 1)",
      pp_txt="lengths",
      txt_name="captions",
    )
    got = evaluator.evaluate(state)
  assert got["images"]["id"].tolist() == list(range(10))
  texts = got["texts"]
  assert sorted(set(texts["id"])) == list(range(10))
  assert len(texts["id"]) > 10 and texts["caption_i"].max() > 0
  with pytest.raises(ValueError, match="split.*'test'"):
    make(dataset="digits", split="tst")
  with pytest.raises(ValueError, match="no dataset 'diggits'.*digits"):
    make(dataset="diggits")
  with pytest.raises(ValueError, match="'cifar10' is not prepared"):
    make(dataset="cifar10")


def test_mock_data(state):
  """Tests of others replace the data of datasets that are not there."""
  tfds = pytest.importorskip("tensorflow_datasets")
  as_dataset_fn = lambda self, *args, **kw: examples()
  with tfds.testing.mock_data(as_dataset_fn=as_dataset_fn):
    evaluator = make(dataset="coco_captions")
  assert len(evaluator.evaluate(state)["images"]["id"]) == NUM


def test_checked_before_a_run(tfds_data_dir):
  import ml_collections

  def check(**kw):
    entry = dict(type="proj.image_text.retrieval", **{**KW, **kw})
    config = ml_collections.ConfigDict({"evals": {"coco": entry}})
    validate.validate(config, ["predict"], jax.devices())

  check(dataset="digits")
  with pytest.raises(ValueError, match="evals.coco.dataset.*split.*test"):
    check(dataset="digits", split="tst")
  with pytest.raises(ValueError, match="evals.coco.txt_nam.*txt_name"):
    check(dataset="digits", txt_nam="a")


def test_shapes_are_those_of_decoded_images(tfds_data_dir):
  (key, data, pp, _), _ = retrieval.inputs(
    dict(
      dataset="digits", pp_img="resize(4)", pp_txt="", data_dir=tfds_data_dir
    )
  )
  assert key == "pp_img"
  assert abstract.features(data, pp)["image"].shape == (4, 4, 1)
