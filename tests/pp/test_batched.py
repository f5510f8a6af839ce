"""Steps that wait for batches: which ops do, and that results are the same."""

import json

import ml_collections as mlc
import numpy as np
import pytest

from big_vision import input_pipeline as ip
from big_vision.evaluators.proj.image_text import embedding
from big_vision.pipeline import failures
from big_vision.pp import (
  batched,
  builder,
  ops_general,  # noqa: F401  (Registers its ops.)
  ops_text,  # noqa: F401
  string_ops,
)
from big_vision.pp.proj.image_text import ops_locca
from big_vision.pp.registry import temporary_ops
from big_vision.pp.utils import InKeyOutKey
from big_vision.tf import tf

pytestmark = pytest.mark.tf

N = 11
TEXTS = [f"a {'red blue green'.split()[i % 3]} square {i}" for i in range(N)]
TOKENIZE = 'tokenize(8, "sticky", "shapes", inkey="text")'


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
  path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
  rows = [{"n": i, "text": t} for i, t in enumerate(TEXTS)]
  path.write_text("\n".join(map(json.dumps, rows)))
  return {"name": "bv:jsonl", "fname": str(path)}


@pytest.fixture
def calls(monkeypatch):
  """The number of texts in each call of the tokenizer's function."""
  sizes, run = [], string_ops._numpy_function

  def counted(fn, args, dtypes):
    def count(*values):
      sizes.append(np.size(values[0]))
      return fn(*values)

    return run(count, args, dtypes)

  monkeypatch.setattr(string_ops, "_numpy_function", counted)
  return sizes


@pytest.fixture
def each(monkeypatch):
  """Calls a function with everything done for each example."""

  def run(fn):
    with monkeypatch.context() as m:
      m.setattr(batched, "waiting", lambda ops: [None] * len(ops))
      return fn()

  return run


def config(texts, pp, **kw):
  base = {"batch_size": 4, "data": dict(texts), "shuffle_buffer_size": 5}
  return mlc.ConfigDict({**base, "pp": pp, **kw})


def take(cfg, num=6, **kw):
  ds, _ = ip.training(cfg, **kw)
  return [
    {k: v.numpy() for k, v in b.items()}
    for _, b in zip(range(num), ds, strict=False)
  ]


def same(a, b):
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    assert [*x] == [*y]
    for k in x:
      assert x[k].dtype == y[k].dtype
      np.testing.assert_array_equal(x[k], y[k])


@pytest.mark.parametrize(
  "pp, waits",
  [
    (f'{TOKENIZE}|keep("labels")', True),
    (f'{TOKENIZE}|drop("text")|onehot(N, key="n")', True),
    (f'{TOKENIZE}|tokenize(3, "yes", "shapes", key="text")', True),
    (f'{TOKENIZE}|reshape([2, 4], key="labels")', False),
    (f'{TOKENIZE}|onehot(N, key="labels")', False),
    (f"{TOKENIZE}|flatten", False),
    (f"{TOKENIZE}|mine", False),
    (f"mine|{TOKENIZE}", True),
  ],
)
def test_what_waits(pp, waits):
  with temporary_ops(mine=lambda: lambda data: data):
    fn = builder.get_preprocess_fn(pp.replace("N", "11"), log_data=False)
  assert (TOKENIZE in batched.steps(fn)) == waits


@pytest.mark.parametrize("start", [0, 3])
def test_training_is_the_same(texts, calls, each, start):
  cfg = config(texts, f'{TOKENIZE}|keep("labels", "n", "text")')
  got = take(cfg, start_step=start)
  assert set(calls) == {4}
  calls.clear()
  want = each(lambda: take(cfg, start_step=start))
  assert set(calls) == {1}
  same(got, want)
  assert got[0]["labels"].shape == (4, 8) and got[0]["labels"].any()


def two_texts(pp):
  """The first batches of a dataset with two texts per example."""
  both = [[t, t[::-1]] for t in TEXTS]
  data = tf.data.Dataset.from_tensor_slices({"both": both})
  fn = builder.get_preprocess_fn(pp, log_data=False)
  ds = ip.make_for_train(data, fn, 4, num_parallel_calls=1)
  return [
    {k: v.numpy() for k, v in b.items()}
    for _, b in zip(range(3), ds, strict=False)
  ]


def test_random_choices_are_the_same(calls, each):
  pp = 'tokenize(8, "yes", "shapes", inkey="both")|keep("labels")'
  got = two_texts(pp)
  assert set(calls) == {4}
  same(got, each(lambda: two_texts(pp)))


def test_locca_is_the_same(each, monkeypatch):
  sizes, run = [], tf.numpy_function

  def counted(fn, args, *rest, **kw):
    def count(*values):
      sizes.append(np.size(values[0]))
      return fn(*values)

    return run(count, args, *rest, **kw)

  monkeypatch.setattr(ops_locca.tf, "numpy_function", counted)
  boxes = np.random.default_rng(0).random((N, 2, 4), np.float32)
  phrases = [[t, t[::-1]] for t in TEXTS]

  def batches():
    data = tf.data.Dataset.from_tensor_slices(
      {"text": TEXTS, "boxes": {"bbox": boxes, "expression": phrases}}
    )
    pp = 'locca(24, "byte")|drop("text", "boxes")'
    fn = builder.get_preprocess_fn(pp, log_data=False)
    ds = ip.make_for_train(data, fn, 4, num_parallel_calls=1)
    it = ds.as_numpy_iterator()
    return [next(it) for _ in range(6)]

  got = batches()
  assert set(sizes) == {4}
  assert sorted(got[0]) == ["cap_mask", "cap_task", "cap_tokens"]
  assert {*np.concatenate([b["cap_task"] for b in got])} == {0, 1, 2}
  sizes.clear()
  same(got, each(batches))
  assert set(sizes) == {1}


def test_several_texts_of_an_example_do_not_wait(calls):
  op = 'tokenize(8, "yes", "shapes", inkey="both", sample_if_multi=False)'
  assert two_texts(f'{op}|keep("labels")')[0]["labels"].shape == (4, 2, 8)
  assert set(calls) == {2}


@pytest.mark.parametrize("agree", [True, False])
def test_mixtures(texts, calls, each, agree):
  pp = f'{TOKENIZE}|keep("labels")'
  other = pp if agree else pp.replace("sticky", "yes")
  parts = {
    k: {"data": dict(texts), "pp": p}
    for k, p in zip("ab", (pp, other), strict=True)
  }
  cfg = mlc.ConfigDict(
    {"batch_size": 4, "data": {"a": 1, "b": 1}, "keep_only": ("labels",)}
    | parts
  )
  got = take(cfg)
  assert set(calls) == {4 if agree else 1}
  same(got, each(lambda: take(cfg)))


@pytest.mark.parametrize(
  "kw",
  [
    {"skip_errors": True},
    {"post_filter_fn": lambda x: x["labels"][0] >= 0},
    {"pack": {"labels": 16}},
  ],
)
def test_what_looks_at_results_gets_them(texts, calls, kw):
  take(config(texts, f'{TOKENIZE}|keep("labels")', **kw), 2)
  assert set(calls) == {1}


def test_own_functions_get_results(texts, calls):
  fn = builder.get_preprocess_fn(TOKENIZE, log_data=False)
  data = tf.data.Dataset.from_tensor_slices({"text": TEXTS})
  first = lambda pp: next(iter(ip.make_for_train(data, pp, 4)))["labels"]
  own = first(lambda x: {"labels": fn(x)["labels"] + 1})
  assert set(calls) == {1}
  np.testing.assert_array_equal(own, first(fn) + 1)
  assert set(calls) == {1, 4}


def test_evaluation_is_the_same_and_pads_with_zeros(calls, each):
  data = tf.data.Dataset.from_tensor_slices({"text": TEXTS})

  def run():
    fn = builder.get_preprocess_fn(f"{TOKENIZE}|drop('text')", log_data=False)
    ds, steps = ip.make_for_inference(data, fn, 4, [N])
    return [
      {k: v.numpy() for k, v in b.items()}
      for _, b in zip(range(steps + 1), ds, strict=False)
    ]

  got = run()
  assert max(calls) == 4
  same(got, each(run))
  assert sorted(got[0]) == ["_mask", "labels"]
  assert got[2]["labels"][:3].any() and not got[2]["labels"][3].any()


def test_prompts_are_the_same(calls, each):
  data = tf.data.Dataset.from_tensor_slices({"texts": TEXTS, "label": range(N)})
  pp = TOKENIZE.replace('"text"', '"texts"')

  def run():
    ds = embedding.preprocess(data, pp, ("label", "labels"))
    return [{k: v.numpy() for k, v in x.items()} for x in ds]

  got = run()
  assert calls == [N]
  same(got, each(run))


def test_an_error_names_its_example(texts):
  def encode(text):
    if b" 7" in text:
      raise ValueError("seven")
    return [1]

  step = lambda x: string_ops.encode_padded(encode, x, 2, pad_value=0)
  bad = lambda: batched.TwoSteps(lambda x: x, step)
  with temporary_ops(bad=InKeyOutKey()(bad)):
    cfg = config(texts, 'bad(inkey="text", outkey="labels")|keep("labels")')
    cfg.shuffle_buffer_size = 1
    ds, _ = ip.training(cfg)
  with pytest.raises(ValueError, match=r"index 7 .*seven"):
    for _ in failures.iterate(ds):
      pass
