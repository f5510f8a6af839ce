"""k-NN of a model's features: layers, padding, splits, errors."""

import jax
import numpy as np
import pytest

from big_vision import lookup
from big_vision.evaluators import knn
from big_vision.models import vit


def predict(state, batch):
  x = batch["image"] @ state["params"]["w"]
  return x, {"wide": jax.numpy.tile(x, [1, 2])}


def split(n, seed):
  rng = np.random.RandomState(seed)
  y = rng.randint(3, size=n).astype(np.int32)
  centers = np.random.RandomState(7).randn(3, 6)
  return dict(image=(centers[y] + rng.randn(n, 6)).astype(np.float32), label=y)


def make(train, test, **kw):
  kw = dict(dict(ks=(1, 5), pp_fn="", batch_size=16), **kw)
  return knn.Evaluator(
    predict, train=train, data=test, devices=jax.devices(), **kw
  )


def test_equals_scikit_learn(arrays, state):
  from sklearn.neighbors import KNeighborsClassifier

  train, test = split(45, 0), split(37, 1)
  w = np.asarray(jax.device_get(state["params"]["w"]), np.float64)
  for batch_size, layer in ((8, "zimg"), (24, "wide")):
    evaluator = make(
      train, test, batch_size=batch_size, representation_layer=layer
    )
    for _ in range(2):
      result = dict(evaluator.run(state))
    assert [*result] == [f"k{k}/prec@{top}" for k in (1, 5) for top in (1, 5)]
    for k in (1, 5):
      model = KNeighborsClassifier(
        k, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07)
      ).fit(train["image"] @ w, train["label"])
      want = model.score(test["image"] @ w, test["label"])
      assert result[f"k{k}/prec@1"] == want
      assert result[f"k{k}/prec@5"] == 1.0


def test_unlabeled_and_diverged(arrays, state):
  train, test = split(45, 0), split(40, 1)
  half = dict(test, label=np.where(np.arange(40) % 2, test["label"], -1))
  result = dict(make(train, half).run(state))
  got = dict(make(train, {k: x[1::2] for k, x in test.items()}).run(state))
  assert result["k5/prec@1"] == got["k5/prec@1"] / 2
  test["image"][3] = np.nan
  assert all(np.isnan(v) for _, v in make(train, test).run(state))


def test_errors(arrays, state):
  for kw in (dict(ks=(0,)), dict(ks=()), dict(temperature=0.0)):
    with pytest.raises(lookup.ConfigError, match=next(iter(kw))):
      make(split(9, 0), split(9, 1), **kw)
  with pytest.raises(lookup.ConfigError, match=r"ks=\(1, 5\).* has 4 images"):
    dict(make(split(4, 0), split(9, 1)).run(state))
  evaluator = make(split(9, 0), split(9, 1), representation_layer="cls1")
  with pytest.raises(lookup.ConfigError, match="'cls1' is for a ViT"):
    dict(evaluator.run(state))


@pytest.mark.parametrize("scan", [False, True])
def test_tokens_of_a_vit(quick_compilation, scan):
  """Against the model itself: the last block's are its `encoded` tokens."""
  from big_vision.evaluators import layers

  kw = dict(width=8, depth=3, num_heads=2, mlp_dim=8, patch_size=(4, 4))
  model = vit.Model(None, pool_type="tok", registers=2, scan=scan, **kw)
  image = np.random.RandomState(0).randn(2, 8, 12, 3).astype(np.float32)
  params = model.init(jax.random.key(0), image)["params"]
  norm = params["Transformer"]["encoder_norm"]
  norm["scale"] += np.linspace(0, 1, 8)
  norm["bias"] += 0.5
  zimg, out = model.apply({"params": params}, image)
  state = {"params": params}
  assert layers.default_layers(state) == [
    "cls1", "cls1+mean", "cls3", "cls3+mean"
  ]  # fmt: skip
  parts = layers.compute(["cls3+mean", "mean2", "pre_logits"], zimg, out, state)
  assert set(parts) == {"cls3", "cls2", "cls1", "mean1", "mean2", "pre_logits"}
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
  close(parts["cls1"], out["encoded"][:, 0])
  close(parts["mean1"], out["encoded"][:, 3:].mean(axis=1))
  x = np.asarray(out["encoder"]["block01"]["+mlp"], np.float64)
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  x = x * np.asarray(norm["scale"]) + np.asarray(norm["bias"])
  close(parts["cls2"], x[:, 0])
  close(parts["mean2"], x[:, 3:].mean(axis=1))
  with pytest.raises(lookup.ConfigError, match="the model has 3 blocks"):
    layers.compute(["cls4"], zimg, out, state)
  gap = {"params": {k: v for k, v in params.items() if k != "cls"}}
  assert layers.default_layers(gap) == ["mean1", "mean3", "pre_logits"]
  with pytest.raises(lookup.ConfigError, match="no class token"):
    layers.compute(["cls1"], zimg, out, gap)
