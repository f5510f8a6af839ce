"""The log-loss of texts, against SciPy."""

import jax
import numpy as np
import pytest
import scipy.special

from big_vision.evaluators.proj.paligemma import perplexity
from big_vision.lookup import ConfigError

B, N, L, V = 8, 11, 5, 7
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(N, L, V)).astype(np.float32)
TOKENS = RNG.integers(1, V, (N, L)).astype(np.int32)
TOKENS[:, -1] = 0
TOKENS[2, 1:] = 0
WEIGHTS = (RNG.random((N, L)) < 0.6).astype(np.int32)
WEIGHTS[3] = 0  # Nothing of this text counts.
LOG_P = np.take_along_axis(
  scipy.special.log_softmax(LOGITS.astype(np.float64), -1),
  TOKENS[..., None],
  -1,
)[..., 0]


def logits_fn(train_state, batch):
  del train_state
  return batch["logits"], {}


def evaluate(fn=logits_fn, weights=WEIGHTS, state=None, **kw):
  data = {"logits": LOGITS, kw.get("key", "labels"): TOKENS}
  if weights is not None:
    data["mask_loss"] = weights
  evaluator = perplexity.Evaluator(
    fn, data=data, pp_fn="", batch_size=B, devices=jax.devices(), **kw
  )
  return list(evaluator.run(state))


def expected(log_p, weights):
  total = -(log_p * weights).sum(1)
  num = weights.sum(1)
  avg = np.divide(total, num, out=np.zeros(len(num)), where=num > 0)
  return [
    ("avg", pytest.approx(avg.mean(), rel=1e-5)),
    ("sum", pytest.approx(total.mean(), rel=1e-5)),
  ]


def test_weights(arrays, state):
  ones = np.ones_like(WEIGHTS)
  is_token = TOKENS != 0
  assert evaluate(state=state) == expected(LOG_P, WEIGHTS)
  assert evaluate(state=state, weights=None) == expected(LOG_P, ones)
  got = evaluate(state=state, weights=None, pad_token=0)
  assert got == expected(LOG_P, is_token)
  got = evaluate(state=state, pad_token=0, key="text")
  assert got == expected(LOG_P, WEIGHTS * is_token)


def test_key():
  fn = perplexity.perplexity(logits_fn, "text")
  with pytest.raises(ValueError, match="key='text' is not in the batch"):
    fn(None, {"logits": LOGITS, "labels": TOKENS})


def test_shift(arrays, state):
  """Logits of text[:, :-1] predict text[:, 1:]."""
  short = lambda s, batch: (batch["logits"][:, 1:], {})
  got = evaluate(short, key="text", shift_labels=True, state=state)
  assert got == expected(LOG_P[:, 1:], WEIGHTS[:, 1:])
  for fn, shift in ((short, False), (logits_fn, True)):
    with pytest.raises(ConfigError, match="shift_labels"):
      evaluate(fn, shift_labels=shift, state=state)


def test_one_function_for_equal_settings():
  same = perplexity.perplexity(logits_fn, "text", False, 0)
  assert perplexity.perplexity(logits_fn, "text", False, 0) is same
  assert perplexity.perplexity(logits_fn, "text", True, 0) is not same


def test_trial():
  shapes = dict(
    logits=jax.ShapeDtypeStruct((B, L - 1, V), np.float32),
    text=jax.ShapeDtypeStruct((B, L), np.int32),
    _mask=jax.ShapeDtypeStruct((B,), np.bool_),
  )
  cfg = dict(key="text", shift_labels=True)
  jax.eval_shape(lambda b: perplexity.trial(logits_fn, {}, b, cfg), shapes)
  with pytest.raises(ConfigError, match="shift_labels=False"):
    jax.eval_shape(
      lambda b: perplexity.trial(logits_fn, {}, b, dict(key="text")), shapes
    )


def test_default_prefetch(monkeypatch):
  from big_vision.evaluators import iteration

  given = {}
  monkeypatch.setattr(
    iteration,
    "open_batches",
    lambda **kw: given.update(kw) or iteration.Batches(iter, 0, 1, []),
  )
  perplexity.Evaluator(logits_fn, data={})
  assert given["prefetch"] == 0
  perplexity.Evaluator(logits_fn, data={}, prefetch=2)
  assert given["prefetch"] == 2
