"""What is wrong with a config is said before anything starts."""

import jax
import pytest

import toy
from big_vision.training import config_check


def config(**kw):
  c = toy.config(model_name="vit")
  with c.unlocked():
    for key, value in kw.items():
      if value is None:
        del c[key]
      else:
        c[key] = value
  return c


def test_good():
  config_check.check(config())
  # Arguments and notes of a config are no mistake.
  config_check.check(config(runlocal=True, res=224, fewshot={}, name="x"))


@pytest.mark.parametrize(
  "kw, message",
  [
    (
      dict(log_trainig_steps=3),
      "config.log_trainig_steps.*'log_training_steps'",
    ),
    (
      dict(grad_clip_nrom=1.0),
      "config.grad_clip_nrom.*Did you mean 'grad_clip_norm'",
    ),
    (dict(model_nam="vit"), "config.model_nam .*Did you mean 'model_name'"),
    (dict(lr=None), "config.lr is required"),
    (dict(optax_name=None), "config.optax_name is required"),
    (dict(total_steps=None), "config.total_steps, config.total_examples"),
    (dict(model_name="vitt"), "config.model_name: unknown model 'vitt'.*'vit'"),
    (dict(loss="softmax"), "config.loss.*softmax_xent"),
    (dict(total_steps=None, total_percent=0.5), "total"),
  ],
)
def test_mistakes(kw, message):
  with pytest.raises(ValueError, match=message):
    config_check.check(config(**kw))


@pytest.mark.multidevice
def test_batch_size():
  n = jax.device_count()
  assert n == 8
  c = config()
  c.input.batch_size = 12
  with pytest.raises(ValueError, match=r"batch_size=12 .*devices, 8\. .* 8\."):
    config_check.check(c)
  c.input.batch_size = 24
  c.grad_accum_steps = 2
  with pytest.raises(ValueError, match="grad_accum_steps=2"):
    config_check.check(c)
