"""MAE, RMSE and R^2 against scikit-learn."""

import jax
import numpy as np
import pytest
from sklearn import metrics

from big_vision.evaluators import regression

N = 45
MEAN, STD = [2000.0, -3.0], [5.0, 0.25]


def predict(state, batch):
  return batch["image"] @ state["params"]["w"][:, :2], {}


def data():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(N, 6)).astype(np.float32)
  w = np.random.RandomState(5).randn(6, 4)[:, :2]
  y = x @ w + rng.normal(size=(N, 2))
  return {"image": x, "labels": y.astype(np.float32)}


def evaluate(arrays, state, predict=predict, pp_fn="", **kw):
  # What `pp_fn` says is done already.
  evaluator = regression.Evaluator(
    predict,
    data=arrays,
    pp_fn=pp_fn,
    batch_size=16,
    devices=np.asarray(jax.devices()),
    **kw,
  )
  return dict(evaluator.run(state))


@pytest.mark.parametrize("standardized", [True, False])
def test_values(arrays, state, standardized):
  given = data()
  pp = f"decode|standardize({MEAN}, {STD}, inkey='targets', outkey='labels')"
  if not standardized:  # Of another entry.
    pp = f"decode|standardize({MEAN}, {STD}, key='other')"
  got = evaluate(given, state, pp_fn=pp, loss_name="huber")
  predicted = given["image"] @ np.asarray(state["params"]["w"])[:, :2]
  y, p = given["labels"].astype(float), predicted.astype(float)
  e = np.abs(y - p)
  loss = np.where(e < 1, e**2 / 2, e - 0.5).mean()
  if standardized:
    y, p = (x * STD + MEAN for x in (y, p))
  each = dict(
    mae=metrics.mean_absolute_error(y, p, multioutput="raw_values"),
    rmse=metrics.mean_squared_error(y, p, multioutput="raw_values") ** 0.5,
    r2=metrics.r2_score(y, p, multioutput="raw_values"),
  )
  want = {k: v.mean() for k, v in each.items()} | {"loss": loss}
  want |= {f"{i}/{k}": v[i] for k, v in each.items() for i in range(2)}
  assert got.keys() == want.keys()
  for name, value in got.items():
    assert value == pytest.approx(want[name], rel=1e-5), name


def test_names_of_targets(arrays, state):
  """The columns; one target alone has no names."""
  given = data()
  given["features"] = given.pop("labels")
  evaluator = regression.Evaluator(
    predict,
    data=given,
    pp_fn="",
    batch_size=16,
    devices=np.asarray(jax.devices()),
    label_key="features",
  )
  evaluator._data = dict(features=dict(targets=["age", "price"]))
  names = [name for name, _ in evaluator.run(state)]
  assert names[3:6] == ["age/mae", "age/rmse", "age/r2"]
  assert names[6:] == ["price/mae", "price/rmse", "price/r2", "loss"]
  one = lambda s, b: (predict(s, b)[0][:, :1], {})
  given = data()
  given["labels"] = given["labels"][:, :1]
  assert [*evaluate(given, state, one)] == ["mae", "rmse", "r2", "loss"]


def test_large_numbers(arrays, state):
  """Sums of squares of years, say, would have no digits left."""
  given = data()
  given["labels"] += 2000
  shifted = lambda s, b: (predict(s, b)[0] + 2000, {})
  got = evaluate(given, state, shifted)
  y = given["labels"].astype(float)
  p = given["image"] @ np.asarray(state["params"]["w"])[:, :2] + 2000
  assert got["r2"] == pytest.approx(metrics.r2_score(y, p), abs=1e-4)


def test_constant_targets():
  y = np.ones([4, 1])
  got = regression.errors(y + 1, y)
  assert np.isnan(got["r2"]).all() and got["mae"] == 1


def test_misfits(arrays, state):
  given = data()
  given["labels"] = given["labels"][:, :1]
  with pytest.raises(ValueError, match="config.num_classes and what"):
    evaluate(given, state)
  batch = dict(image=np.ones([8, 6]), labels=np.ones([8, 2]), _mask=np.ones(8))
  cfg = dict(devices=jax.devices())
  shapes = jax.eval_shape(
    lambda s, b: regression.trial(predict, s, dict(b), cfg), state, batch
  )
  assert shapes[0][0].shape == (8, 2)
