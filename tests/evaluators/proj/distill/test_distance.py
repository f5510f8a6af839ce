"""Distances of outputs against SciPy, and their evaluator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from big_vision.evaluators.proj.distill import distance
from big_vision.pp import ops_general, ops_image  # noqa: F401

S = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
Z = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)


def log_softmax(x):
  return scipy.special.log_softmax(x.astype(np.float64), axis=-1)


def kl(labels, s):
  """KL divergence of the distribution of logits s from labels."""
  return scipy.stats.entropy(labels, np.exp(log_softmax(s)), axis=-1)


def expected(kind, t=1, ls=0.0, k=1, **_):
  hard = np.eye(5)[Z.argmax(-1)]
  hard = (1 - ls) * hard + ls / 4 * (1 - hard)
  return {
    "l2": lambda: np.sum((S - Z) ** 2, -1),
    "euclidean": lambda: np.linalg.norm(S - Z, axis=-1),
    "logsoftmax_euclidean": lambda: np.linalg.norm(
      log_softmax(S) - log_softmax(Z), axis=-1
    ),
    "kl": lambda: t**2 * kl(np.exp(log_softmax(Z / t)), S / t),
    "hard": lambda: kl(hard, S),
    "agree": lambda: [
      z in np.argsort(s)[-k:] for s, z in zip(S, Z.argmax(-1), strict=True)
    ],
  }[kind]()


@pytest.mark.parametrize(
  "kw",
  [
    dict(kind="l2"),
    dict(kind="euclidean"),
    dict(kind="logsoftmax_euclidean"),
    dict(kind="kl"),
    dict(kind="kl", t=2),
    dict(kind="hard"),
    dict(kind="hard", ls=0.1),
    dict(kind="agree"),
    dict(kind="agree", k=3),
  ],
)
def test_dist(kw):
  want = np.asarray(expected(**kw), np.float64)
  np.testing.assert_allclose(
    distance.dist(S, Z, **kw), want, rtol=1e-4, atol=1e-6
  )
  other = distance.dist(jnp.asarray(S.T), jnp.asarray(Z.T), feat_axis=0, **kw)
  np.testing.assert_allclose(other, want, rtol=1e-4, atol=1e-6)
  if kw["kind"] not in ("agree", "hard"):
    same = distance.dist(100 * Z, 100 * Z, **kw)
    np.testing.assert_allclose(same, 0, atol=1e-3)


def test_gradient_at_zero_distance_is_finite():
  grad = jax.grad(lambda s: distance.dist(s, Z, "euclidean").sum())(Z)
  assert np.isfinite(grad).all()


def test_unknown_kind():
  with pytest.raises(AssertionError, match="'cosin'.*euclidean"):
    distance.dist(S, Z, "cosin")


@pytest.mark.tf
def test_evaluator(tfds_data_dir):
  """All 297 examples in batches of 32, in order, without the padding."""
  w = [np.random.default_rng(i).normal(size=(64, 10)) / 8 for i in range(2)]
  w = [x.astype(np.float32) for x in w]

  def forward(state, batch):
    x = batch["image"].reshape(len(batch["image"]), -1)
    assert "_mask" not in batch
    s, z = (state["scale"] * (x @ m) for m in w)
    return (None, {"a": {"b": s}}), (None, {"logits": z})

  distances = [dict(kind="l2"), dict(t=2, kind="kl"), dict(kind="agree", k=2)]
  evaluator = distance.Evaluator(
    forward,
    data=dict(name="digits", split="test"),
    pp_fn="decode(channels=1)|resize(8)|value_range(-1, 1)|keep('image')",
    distances=distances,
    what=("a/b", "logits"),
    devices=jax.devices(),
    batch_size=32,
  )
  got = dict(evaluator.run({"scale": np.float32(1.0)}))
  assert list(got) == [
    f"{name}/{what}"
    for name in ("kind=l2", "t=2_kind=kl", "kind=agree_k=2")
    for what in ("all", "avg", "min", "max")
  ]
  from sklearn.datasets import load_digits

  images = load_digits().images[1500:].reshape(297, -1)
  x = np.round(images * 255 / 16).astype(np.float32) / 127.5 - 1
  each = np.sum((x @ w[0] - x @ w[1]) ** 2, -1)
  # (The files of the dataset are in another order.)
  np.testing.assert_allclose(
    np.sort(got["kind=l2/all"]), np.sort(each), rtol=1e-2
  )
  for what, fn in (("avg", np.mean), ("min", np.min), ("max", np.max)):
    for name in ("kind=l2", "t=2_kind=kl", "kind=agree_k=2"):
      assert got[f"{name}/{what}"] == fn(got[f"{name}/all"])
  assert set(got["kind=agree_k=2/all"]) == {0, 1}
  again = dict(evaluator.run({"scale": np.float32(1.0)}))
  np.testing.assert_array_equal(again["kind=l2/all"], got["kind=l2/all"])


def test_unknown_kind_in_the_config():
  with pytest.raises(AssertionError, match="distances: unknown kind.*'klx'"):
    distance.Evaluator(
      None, {}, "", [dict(kind="klx")], devices=[], batch_size=1
    )
