"""Label smoothing and class weights in the loss of training."""

import types

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from scipy import special

from big_vision import lookup, losses
from big_vision.training import config_check, train_loss

LOGITS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
LABELS = np.eye(4, dtype=np.float32)[[0, 2, 1]]


def make(**kw):
  config = ml_collections.ConfigDict({"num_classes": 4, **kw})
  setup = types.SimpleNamespace(config=config, num_classes=4)
  return train_loss.make(setup, losses.get(config.get("loss", "sigmoid_xent")))


def value(fn, labels=LABELS):
  return fn(logits=jnp.array(LOGITS), labels=jnp.array(labels))


def test_without_the_keys_it_is_the_loss():
  assert make() is losses.sigmoid_xent
  assert make(loss="softmax_xent", label_smoothing=0.0) is losses.softmax_xent


def test_smoothed_softmax():
  logp = LOGITS - special.logsumexp(LOGITS, axis=1, keepdims=True)
  smoothed = 0.9 * LABELS + 0.1 / 4
  want = -(smoothed * logp).sum(axis=1)
  fn = make(loss="softmax_xent", label_smoothing=0.1)
  np.testing.assert_allclose(value(fn), want.mean(), rtol=1e-6)
  # What has no label still does not count.
  got = value(fn, LABELS * np.array([[1], [1], [0]], np.float32))
  np.testing.assert_allclose(got, want[:2].sum() / 3, rtol=1e-6)


def test_smoothed_sigmoid_with_weights():
  """Weights follow from the labels as they were."""
  p = special.expit(LOGITS.astype(np.float64))
  smoothed = 0.8 * LABELS + 0.2 / 4
  terms = smoothed * np.log(p) + (1 - smoothed) * np.log(1 - p)
  w = np.array([1.0, 2.0, 0.5, 3.0])
  want = -np.mean(w[[0, 2, 1]] * terms.sum(axis=1))
  fn = make(label_smoothing=0.2, class_weights=[1, 2, 0.5, 3])
  np.testing.assert_allclose(value(fn), want, rtol=1e-6)


@pytest.mark.parametrize(
  "kw, message",
  [
    (dict(label_smoothing=1.0), r"config.label_smoothing = 1.0 must be in"),
    (dict(label_smoothing=-0.1), r"config.label_smoothing = -0.1"),
    (
      dict(label_smoothing=0.1, loss="mse"),
      "config.loss = 'mse' is of numbers",
    ),
    (
      dict(class_weights="balanced", loss="huber"),
      "config.class_weights is for",
    ),
    (dict(class_weights=[1, 2]), "2 numbers, but config.num_classes = 4"),
    (dict(class_weights="equal"), "config.class_weights = 'equal' must be"),
  ],
)
def test_bad_values(kw, message):
  with pytest.raises(lookup.ConfigError, match=message) as e:
    make(**kw)
  assert "\n" not in str(e.value)


def test_is_checked_before_data_is_read():
  config = ml_collections.ConfigDict(
    dict(
      input=dict(batch_size=8), model_name="vit", optax_name="scale_by_adam",
      lr=1.0, total_steps=1, log_training_steps=1, num_classes=4,
    )
  )  # fmt: skip
  config_check.check_training(config)
  for key, bad in [
    ("label_smoothing", 2), ("class_weights", "x"), ("cutmix", dict(p=-1)),
    ("lora", dict(rank=0)), ("layer_decay", 2),
  ]:  # fmt: skip
    wrong = config.copy_and_resolve_references()
    wrong[key] = bad
    with pytest.raises(lookup.ConfigError, match=f"config.{key}"):
      config_check.check_training(wrong)
