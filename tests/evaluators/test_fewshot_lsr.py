"""Few-shot regression against a NumPy ridge solve in float64."""

import threading

import jax
import numpy as np
import pytest

from big_vision.evaluators import fewshot_lsr, iteration
from big_vision.pipeline import evaluation


def clusters(n, dim, num_classes, seed=0, noise=1.0):
  rng = np.random.RandomState(seed)
  centers = np.random.RandomState(99).randn(num_classes, dim)
  y = np.arange(n) % num_classes
  x = centers[y] + noise * rng.randn(n, dim)
  return x.astype(np.float32), y


def ridge(x, y, num_classes, l2_reg):
  """Weights [D + 1, C] and the function that prepares features."""
  x = x.astype(np.float64)
  mean, std = x.mean(axis=0), x.std(axis=0) + 1e-5
  prepare = lambda x: np.concatenate(
    [(x - mean) / std, np.full((len(x), 1), 100.0)], axis=1
  )
  x = prepare(x)
  targets = 2 * np.eye(num_classes)[y] - 1
  gram = x.T @ x + l2_reg * np.eye(x.shape[1])
  return np.linalg.solve(gram, x.T @ targets), prepare


@pytest.mark.parametrize("n,dim", [(60, 12), (20, 48), (13, 12)])
@pytest.mark.parametrize("l2_reg", [1.0, 1024.0])
def test_regression(n, dim, l2_reg):
  x, y = clusters(n, dim, 5)
  x_test, y_test = clusters(200, dim, 5, seed=1)
  cache = fewshot_lsr._precompute_cache(x, y, 5)
  eigs, lhs, rhs = (np.asarray(cache[k]) for k in ("eigs", "lhs", "rhs"))
  w, prepare = ridge(x, y, 5, l2_reg)
  np.testing.assert_allclose((lhs / (eigs + l2_reg)) @ rhs, w, atol=1e-5)
  expected = ((prepare(x_test) @ w).argmax(axis=1) == y_test).mean()
  got = fewshot_lsr._eig_fewshot_acc_fn(cache, x_test, y_test, l2_reg)
  assert got == expected


@pytest.mark.parametrize(
  "n,dim,rank", [(200, 60, 20), (200, 60, 60), (40, 60, 20)]
)
@pytest.mark.parametrize("l2_reg", [1e-6, 1e-3, 1024.0])
def test_near_singular_covariance(n, dim, rank, l2_reg):
  """Features that others explain but for a millionth, and constant ones."""
  mix = (
    np.random.RandomState(3).randn(rank, dim)
    * np.logspace(0, -2, rank)[:, None]
  )

  def features(n, seed):
    x, y = clusters(n, rank, 5, seed)
    tiny = np.random.RandomState(seed + 7).randn(n, dim)
    x = 30 + x @ mix + 1e-6 * tiny
    x[:, 0] = 0.1
    return x.astype(np.float32), y

  (x, y), (x_test, y_test) = features(n, 0), features(3000, 1)
  cache = fewshot_lsr._precompute_cache(x, y, 5)
  got = fewshot_lsr._eig_fewshot_acc_fn(cache, x_test, y_test, l2_reg)
  w = (cache["lhs"] / (cache["exact"]["eigs"] + l2_reg)) @ cache["rhs"]
  # A solve of the normal equations loses the digits that this test is about:
  # least squares of the rows and of sqrt(l2_reg) I does not.
  _, prepare = ridge(x, y, 5, 1.0)
  rows, targets = prepare(x), 2 * np.eye(5)[y] - 1
  ridge_rows = np.sqrt(l2_reg) * np.eye(dim + 1)
  want, *_ = np.linalg.lstsq(
    np.concatenate([rows, ridge_rows]),
    np.concatenate([targets, np.zeros([dim + 1, 5])]),
    rcond=None,
  )
  outputs = prepare(x_test) @ want
  np.testing.assert_allclose(
    prepare(x_test) @ w, outputs, rtol=1e-4, atol=1e-4 * np.abs(outputs).max()
  )
  assert abs(got - (outputs.argmax(axis=1) == y_test).mean()) < 1e-3


def test_a_feature_without_variance_has_no_weight():
  """One that is constant in training, such as 0 after a ReLU."""
  x, y = clusters(20, 6, 3)
  more = np.insert(x, 3, 5.0, axis=1)
  w, want = (
    (c["lhs"] / (c["exact"]["eigs"] + 1e-6)) @ c["rhs"]
    for c in (fewshot_lsr._precompute_cache(f, y, 3) for f in (more, x))
  )
  # Its standard deviation is 1e-5, so that tests multiply it by as much.
  assert np.abs(w[3]).max() < 1e-9
  np.testing.assert_allclose(np.delete(w, 3, axis=0), want, atol=1e-9)


def test_diverged_representations_give_nan():
  x, y = clusters(20, 4, 5)
  x_test, y_test = clusters(10, 4, 5)
  for bad in (np.nan, np.inf):
    broken = x.copy()
    broken[3] = bad
    cache = fewshot_lsr._precompute_cache(broken, y, 5)
    assert np.isnan(fewshot_lsr._eig_fewshot_acc_fn(cache, x_test, y_test, 1.0))
  cache = fewshot_lsr._precompute_cache(x, y, 5)
  x_test[3] = np.nan
  assert np.isnan(fewshot_lsr._eig_fewshot_acc_fn(cache, x_test, y_test, 1.0))


def test_sample():
  labels = np.array([0, 1, 0, 2, 1, 0])
  a, b = (fewshot_lsr._sample(labels, 4, seed) for seed in (0, 0))
  for x, y in zip(a, b, strict=True):
    np.testing.assert_array_equal(x, y)
  assert [sorted(x) for x in a] == [[0, 2, 5], [1, 4], [3], []]
  many = np.zeros(30, np.int32)
  assert list(fewshot_lsr._sample(many, 1, 0)[0]) != list(
    fewshot_lsr._sample(many, 1, 1)[0]
  )


def predict(state, batch):
  z = batch["image"] @ state["params"]["w"]
  return z, None, {"pre": {"logits": z * 2.0 + 1.0}}


@pytest.fixture
def make(arrays, monkeypatch):
  """Builds an evaluator on splits in memory: train, other and test."""
  splits = {
    k: dict(zip(("image", "label"), clusters(90, 6, 3, i, 1.5), strict=True))
    for i, k in enumerate(("train", "test", "other"))
  }
  pipeline = evaluation.eval_input_pipeline

  def by_name(data, *args):
    assert data["name"] == "toy"
    return pipeline(splits[data["split"]], *args)

  monkeypatch.setattr(evaluation, "eval_input_pipeline", by_name)
  monkeypatch.setattr(
    fewshot_lsr.Evaluator, "_num_classes", lambda self, name, split: 3
  )

  def fn(datasets, batch_size=16, **kw):
    kw = {"shots": (1, 5), "l2_reg": 16.0, "num_seeds": 2, **kw}
    return fewshot_lsr.Evaluator(
      kw.pop("predict", predict),
      batch_size,
      datasets,
      pp_train="",
      pp_eval="",
      display_first=[["toy", 5]],
      devices=jax.devices(),
      **kw,
    )

  return fn, splits


def test_evaluator(make, state):
  fn, splits = make
  w = np.asarray(jax.device_get(state["params"]["w"]))
  evaluator = fn({"toy": ["toy", "train", "test"]})
  result = list(evaluator.run(state))
  assert [k for k, _ in result] == [
    "z/toy_1shot-seed-0",
    "a/toy_5shot-seed-0",
    "z/toy_1shot-seed-1",
    "a/toy_5shot-seed-1",
  ]
  x, y = splits["train"]["image"] @ w, splits["train"]["label"]
  x_test, y_test = splits["test"]["image"] @ w, splits["test"]["label"]
  for name, value in result:
    shots, seed = int(name[6]), int(name[-1])
    rng = np.random.default_rng(seed)
    order = [rng.permutation(np.where(y == c)[0]) for c in range(3)]
    chosen = np.concatenate([o[:shots] for o in order])
    weights, prepare = ridge(x[chosen], y[chosen], 3, 16.0)
    expected = ((prepare(x_test) @ weights).argmax(axis=1) == y_test).mean()
    assert value == pytest.approx(expected, abs=0.012)  # One of 90 images.
  assert list(evaluator.run(state)) == result


def test_batch_size_does_not_matter(make, state):
  fn, _ = make
  datasets = {"toy": ("toy", "train", "test")}
  results = [list(fn(datasets, b).run(state)) for b in (8, 64, 128)]
  for result in results[1:]:
    assert [k for k, _ in result] == [k for k, _ in results[0]]
    values = [v for _, v in result]
    np.testing.assert_allclose(values, [v for _, v in results[0]], atol=0.012)


def test_splits_of_one_dataset_do_not_share_features(make, state):
  fn, _ = make
  both = {"a": ("toy", "train", "test"), "b": ("toy", "other", "test")}
  together = dict(fn(both).run(state))
  alone = dict(fn({"b": both["b"]}).run(state))
  for name, value in alone.items():
    assert together[name] == value
  assert any(
    together[name.replace("/b", "/a")] != value for name, value in alone.items()
  )


def test_regression_in_the_background(make, state, monkeypatch):
  """The host regresses for one dataset while devices work on the next."""
  fn, _ = make
  both = {"a": ("toy", "train", "test"), "b": ("toy", "other", "test")}
  want = list(fn(both).run(state))
  main, next_one = threading.get_ident(), threading.Event()
  solve, threads = fewshot_lsr._precompute_cache, []

  def precompute(*args):
    threads.append(threading.get_ident())
    assert next_one.wait(timeout=30)
    return solve(*args)

  class Evaluator(fewshot_lsr.Evaluator):
    def _features(self, train_state, key, after):
      if key[1] == "other":  # Of the second dataset.
        next_one.set()
      return super()._features(train_state, key, after)

  monkeypatch.setattr(fewshot_lsr, "_precompute_cache", precompute)
  monkeypatch.setattr(fewshot_lsr, "Evaluator", Evaluator)
  assert list(fn(both).run(state)) == want
  assert len(threads) == 8 and main not in threads


def test_an_error_of_the_regression_is_raised(make, state, monkeypatch):
  def broken(*args):
    raise FloatingPointError("no solution")

  monkeypatch.setattr(fewshot_lsr, "_precompute_cache", broken)
  fn, _ = make
  with pytest.raises(FloatingPointError, match="no solution"):
    list(fn({"a": ("toy", "train", "test")}).run(state))


def test_the_next_split_is_read_ahead(make, state, monkeypatch):
  opened, started = [], []
  open_batches, start = iteration.open_batches, iteration.Batches.start

  def note_open(data, *args, **kw):
    opened.append(data["split"])
    return open_batches(data, *args, **kw)

  monkeypatch.setattr(iteration, "open_batches", note_open)
  monkeypatch.setattr(
    iteration.Batches, "start", lambda b: (started.append(b), start(b))
  )
  fn, _ = make
  both = {"a": ("toy", "train", "test"), "b": ("toy", "other", "test")}
  evaluator = fn(both)
  first = list(evaluator.run(state))
  assert opened == ["train", "test", "other"]
  assert len(started) == 2  # All but the first.
  assert list(evaluator.run(state)) == first
  assert opened == ["train", "test", "other"]


def test_features_are_new_at_every_run(make, state):
  fn, _ = make
  evaluator = fn({"toy": ("toy", "train", "test")})
  before = list(evaluator.run(state))
  zero = jax.tree.map(lambda x: jax.jit(lambda x: x * 0.0)(x), state)
  assert list(evaluator.run(zero)) != before


def test_layer(make, state):
  """Standardising undoes what is affine."""
  fn, _ = make
  datasets = {"toy": ("toy", "train", "test")}
  a = list(fn(datasets).run(state))
  b = list(fn(datasets, representation_layer="pre/logits").run(state))
  np.testing.assert_allclose([v for _, v in a], [v for _, v in b], atol=0.012)
  with pytest.raises(KeyError, match="pre/logits"):
    list(fn(datasets, representation_layer="pre/logit").run(state))
  with pytest.raises(ValueError, match="should be an array"):
    list(fn(datasets, representation_layer="pre").run(state))


def test_data_sources():
  cfg = {"datasets": {"p": ("pets", "train", "test")}, "data_dir": "d"}
  train, test = fewshot_lsr.data_sources(cfg)
  name = "datasets.p"
  assert train == (name, dict(name="pets", split="train", data_dir="d"))
  assert test == (name, dict(name="pets", split="test", data_dir="d"))
  with pytest.raises(ValueError, match="datasets.p"):
    fewshot_lsr.data_sources({"datasets": {"p": ("pets", "train")}})
  given = dict(train=dict(name="bv:x", path="a"), test=dict(name="bv:x"))
  assert fewshot_lsr.data_sources({"datasets": {"p": given}}) == [
    ("datasets.p.train", given["train"]),
    ("datasets.p.test", given["test"]),
  ]
  with pytest.raises(ValueError, match="or a dict of `train` and `test`"):
    fewshot_lsr.data_sources({"datasets": {"p": dict(train={}, val={})}})


@pytest.mark.tf
def test_digits(tfds_data_dir):
  """Few-shot on pixels: well above chance, better with more shots."""
  from big_vision.pp import ops_general, ops_image  # noqa: F401  (Registers.)

  def pixels(state, batch):
    image = batch["image"]
    return image.reshape(len(image), -1), {}

  pp = "decode(channels=1)|reshape((8, 8, 1))|value_range(-1, 1)|keep('image', 'label')"
  kw = dict(
    batch_size=256,
    shots=(1, 10),
    l2_reg=32.0,
    pp_train=pp,
    pp_eval=pp,
    display_first=[],
    num_seeds=1,
    devices=np.asarray(jax.devices()),
  )
  datasets = {"dig": ("digits", "train[:300]", "test")}
  with jax.transfer_guard("disallow"):
    evaluator = fewshot_lsr.Evaluator(pixels, datasets=datasets, **kw)
    result = dict(evaluator.run({}))
  one, ten = result["z/dig_1shot-seed-0"], result["z/dig_10shot-seed-0"]
  assert 0.3 < one < ten
  assert ten > 0.7

  # The same by the arguments of any source.
  given = dict(
    train=dict(name="digits", split="train[:300]"),
    test=dict(name="digits", split="test"),
  )
  evaluator = fewshot_lsr.Evaluator(pixels, datasets=dict(dig=given), **kw)
  assert dict(evaluator.run({})) == result

  with pytest.raises(ValueError, match="label_key='lbl'.*label"):
    evaluator = fewshot_lsr.Evaluator(
      pixels, datasets=datasets, label_key="lbl", **kw
    )
    evaluator._num_classes("digits", "train")
