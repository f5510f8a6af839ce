"""The contrastive evaluator against the loss in NumPy."""

import jax
import numpy as np
import pytest
import scipy.special

from big_vision.evaluators.proj.image_text import contrastive
from big_vision.pipeline import evaluation

N = 21
RNG = np.random.RandomState(3)
IMAGE = RNG.randn(N, 6).astype(np.float32)
TEXT = (IMAGE + RNG.randn(N, 6)).astype(np.float32)
T = 2.5


def predict(state, batch):
  assert set(batch) == {"image", "labels"}
  w = state["params"]["w"]
  extras = {"t": np.full([1], T, np.float32), "b": np.ones([1], np.float32)}
  return batch["image"] @ w, batch["labels"] @ w, extras


def predict_without_t(state, batch):
  return batch["image"], batch["labels"], {"b": 1.0}


def expected(w, part_size):
  """(fraction of correct images, loss) within parts of the examples."""
  correct, loss = [], []
  for start in range(0, N, part_size):
    rows = slice(start, min(start + part_size, N))
    logits = (IMAGE[rows] @ w) @ (TEXT[rows] @ w).T * np.float64(T)
    own = np.arange(len(logits))
    correct += list(logits.argmax(axis=1) == own)
    rows = scipy.special.log_softmax(logits, axis=1)
    columns = scipy.special.log_softmax(logits, axis=0)
    loss += list(-(rows[own, own] + columns[own, own]) / 2)
  return np.mean(correct), np.mean(loss)


def make(fn=predict, text="labels", **kw):
  return contrastive.Evaluator(
    fn,
    {"image": IMAGE, text: TEXT},
    "",
    16,
    devices=np.array(jax.devices()),
    **kw,
  )


@pytest.mark.multidevice
@pytest.mark.parametrize("whole", [True, False])
def test_values(arrays, state, whole):
  w = np.asarray(jax.device_get(state["params"]["w"]))
  evaluator = make(use_global_batch=whole)
  correct, loss = expected(w, 16 if whole else 2)
  for _ in range(2):
    got = list(evaluator.run(state))
    assert [k for k, _ in got] == ["ncorrect_minibatch", "loss"]
    assert got[0][1] == pytest.approx(correct, rel=1e-6)
    assert got[1][1] == pytest.approx(loss, rel=1e-5)
    assert all(type(v) is float for _, v in got)


def test_label_key(arrays, state):
  evaluator = make(text="caption", label_key="caption", use_global_batch=True)
  same = make(use_global_batch=True)
  assert list(evaluator.run(state)) == list(same.run(state))
  wrong = make(label_key="caption", use_global_batch=True)
  with pytest.raises(ValueError, match="label_key='caption'.*image, labels"):
    list(wrong.run(state))


def test_no_temperature(arrays, state):
  evaluator = make(predict_without_t, use_global_batch=True)
  with pytest.raises(ValueError, match=r"extras\['t'\].*b"):
    list(evaluator.run(state))


def test_data_options(monkeypatch, arrays):
  given = {}
  pipeline = evaluation.eval_input_pipeline

  def record(*args, **kw):
    given.update(kw)
    return pipeline(*args, **kw)

  monkeypatch.setattr(evaluation, "eval_input_pipeline", record)
  make(use_global_batch=False, cache_final=False, cache_raw=True, prefetch=3)
  assert given == {"cache_final": False, "cache_raw": True, "prefetch": 3}
