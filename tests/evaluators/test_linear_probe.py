"""Linear probes of a model: against scikit-learn, chosen on held-out data."""

import csv
import logging

import jax
import numpy as np
import pytest

from big_vision import lookup
from big_vision.evaluators import linear_probe
from big_vision.probes import linear

CALLS = []


def predict(state, batch):
  jax.debug.callback(lambda: CALLS.append(1))
  x = batch["image"] @ state["params"]["w"]
  return x, {"noise": 1e-3 * batch["noise"], "x": x}


def split(n, seed):
  rng = np.random.RandomState(seed)
  y = rng.randint(3, size=n).astype(np.int32)
  image = np.random.RandomState(7).randn(3, 6)[y] + 0.7 * rng.randn(n, 6)
  noise = rng.randn(n, 4)
  x = dict(image=image, noise=noise)
  return {k: v.astype(np.float32) for k, v in x.items()} | dict(label=y)


TRAIN, TEST = split(90, 0), split(61, 1)


def make(**kw):
  kw = dict(
    dict(train=TRAIN, data=TEST, pp_fn="", batch_size=32, layers=("x", "noise"),
         sgd_steps=20, learning_rates=(0.01, 0.1), costs=(0.01, 1.0),
         l2_regs=(1e3, 1.0)),
    **kw,
  )  # fmt: skip
  return linear_probe.Evaluator(predict, devices=jax.devices(), **kw)


def features(data, state):
  return data["image"] @ np.asarray(jax.device_get(state["params"]["w"]))


def test_equals_scikit_learn(arrays, state, tmp_path, caplog):
  from sklearn.linear_model import LogisticRegression, RidgeClassifier

  caplog.set_level(logging.INFO, "absl")
  evaluator = make(workdir=str(tmp_path), get_step=lambda: 0)
  result = dict(evaluator.run(state))
  assert set(result) == {
    "prec@1", "val_prec@1",
    *(f"{m}/{k}" for m, s in (("ridge", "l2_reg"), ("lbfgs", "cost"), ("sgd", "lr"))
      for k in ("prec@1", "val_prec@1", s, "x/prec@1", "noise/prec@1")),
  }  # fmt: skip
  held = linear.hold_out(TRAIN["label"], 0.1, 0)
  assert held.sum() == 9 and set(TRAIN["label"][held]) == {0, 1, 2}
  x, x_test = features(TRAIN, state), features(TEST, state)
  for method, key, make_model in (
    ("ridge", "l2_reg", lambda v: RidgeClassifier(alpha=v)),
    ("lbfgs", "cost", lambda v: LogisticRegression(C=v, max_iter=1000)),
  ):
    values = (1e3, 1.0) if method == "ridge" else (0.01, 1.0)
    scores = [
      make_model(v)
      .fit(x[~held], TRAIN["label"][~held])
      .score(x[held], TRAIN["label"][held])
      for v in values
    ]
    chosen = values[int(np.argmax(scores))]
    assert result[f"{method}/{key}"] == chosen
    assert result[f"{method}/val_prec@1"] == pytest.approx(max(scores))
    model = make_model(chosen).fit(x, TRAIN["label"])  # Held out ones, too.
    want = model.score(x_test, TEST["label"])
    assert result[f"{method}/x/prec@1"] == pytest.approx(want)
  with open(tmp_path / "linear_probe.csv", encoding="utf-8") as f:
    rows = list(csv.DictReader(f))
  assert len(rows) == 6 and rows[0]["setting"].startswith("l2_reg ")
  assert "| ridge  | x " in caplog.text and "Best on held-out" in caplog.text


def test_given_validation_split(arrays, state):
  """Without refitting, as DINOv2: the classifier that was chosen."""
  from sklearn.linear_model import RidgeClassifier

  evaluator = make(val=TEST, refit=False, methods=("ridge",), layers=("x",))
  result = dict(evaluator.run(state))
  assert set(result) == {
    "prec@1", "val_prec@1", "ridge/prec@1", "ridge/val_prec@1", "ridge/l2_reg",
  }  # fmt: skip
  x, x_test = features(TRAIN, state), features(TEST, state)
  scores = [
    RidgeClassifier(alpha=v).fit(x, TRAIN["label"]).score(x_test, TEST["label"])
    for v in (1e3, 1.0)
  ]
  assert result["prec@1"] == result["val_prec@1"] == max(scores)


def test_features_are_kept(arrays, state, tmp_path):
  kw = dict(
    workdir=str(tmp_path), methods=("ridge",), layers=("x",), outfile=""
  )

  def run(state, **more):
    CALLS.clear()
    result = dict(make(cache_features=True, **kw, **more).run(state))
    jax.effects_barrier()
    return result, len(CALLS) // len(jax.devices()) or len(CALLS)

  first, before = run(state)
  files = sorted((tmp_path / "features").iterdir())
  assert len(files) == 2
  again, after = run(state)
  assert again == first and after < before  # The first batches only.
  other = jax.tree.map(jax.numpy.exp, state)
  changed, _ = run(other)  # Not the features of another model.
  assert changed["ridge/l2_reg"] > 0
  assert sorted((tmp_path / "features").iterdir()) == files
  assert run(other)[1] == after
  files[0].write_bytes(b"torn")
  assert run(other)[0] == changed
  run(other, label_key="label", normalize=True)
  assert sorted((tmp_path / "features").iterdir()) == files


def test_unlabeled_and_diverged(arrays, state):
  kw = dict(methods=("ridge",), layers=("x",))
  more = {k: np.concatenate([v, v[:9]]) for k, v in TRAIN.items()}
  more["label"][90:] = -1
  want = dict(make(**kw).run(state))
  assert dict(make(train=more, **kw).run(state)) == want
  bad = dict(TEST, image=np.full_like(TEST["image"], np.nan))
  result = dict(make(data=bad, **kw).run(state))
  assert np.isnan(result["prec@1"]) and np.isnan(result["ridge/val_prec@1"])


@pytest.mark.parametrize(
  "kw, text",
  [
    (dict(methods=("svm",)), "methods.*'svm'"),
    (dict(methods=()), "methods is empty"),
    (dict(layers=()), "layers is empty"),
    (dict(layers="cls1"), "lists of names"),
    (dict(holdout=1.0), "holdout=1.0"),
    (dict(costs=(0.0,)), "costs="),
    (dict(l2_regs=()), "l2_regs="),
    (dict(learning_rates=(-1,)), "learning_rates="),
  ],
)
def test_errors(kw, text):
  with pytest.raises(lookup.ConfigError, match=text):
    make(**kw)


def test_hold_out():
  labels = np.repeat([0, 1, 2], [50, 30, 3])
  held = linear.hold_out(labels, 0.2, 0)
  counts = np.bincount(labels[held], minlength=3)
  assert abs(counts - [10, 6, 0.6]).max() <= 1 and held.sum() == 17
  assert linear.hold_out(np.zeros(3, int), 0.01, 0).sum() == 1
  other = linear.hold_out(labels, 0.2, 1)
  assert (other != held).any()
