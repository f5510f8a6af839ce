"""What is wrong with a config is said before anything starts."""

import importlib
import json
import pathlib

import jax
import pytest

import toy
from big_vision import optax as bv_optax
from big_vision.training import config_check


def config(**kw):
  c = toy.config(model_name="vit")
  with c.unlocked(), c.ignore_type():
    for key, value in kw.items():
      if value is None:
        del c[key]
      else:
        c[key] = value
  return c


def test_good():
  config_check.check_training(config())
  # Arguments and notes of a config are no mistake.
  config_check.check_training(
    config(runlocal=True, res=224, fewshot={}, name="x")
  )


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
    (dict(mode=dict(variant="B")), "config.mode .*Did you mean 'model'"),
    (dict(lr=None), "config.lr is required"),
    (dict(optax_name=None), "config.optax_name is required"),
    (dict(total_steps=None), "config.total_steps, config.total_examples"),
    (dict(model_name="vitt"), "config.model_name: unknown model 'vitt'.*'vit'"),
    (dict(loss="softmax"), "config.loss.*softmax_xent"),
    (dict(total_steps=None, total_percent=0.5), "total"),
    (dict(mixup=dict(p=0.2, fold=1)), "config.mixup.fold .*'fold_in'"),
    (dict(mixup=dict(prob=0.2)), "config.mixup.prob is not a known key"),
    (dict(mixup=dict(p=-0.2)), "config.mixup.p = -0.2 must be .* 0 .no mixup"),
    (dict(mixup=dict(p="0.2")), "config.mixup.p = '0.2'"),
    (dict(mixup=dict(p=0.2, num_shards=3)), "num_shards = 3 must divide .*= "),
    (dict(mixup=dict(p=0.2, num_shards=0)), "num_shards = 0 must divide"),
    (dict(mixup=dict(p=0.2, num_shards=True)), "num_shards = True must divide"),
    (dict(mixup=dict(p=0.2, n=1)), "config.mixup.n = 1 must"),
    (dict(log_training_steps=0), "config.log_training_steps = 0: .*= 50"),
    (dict(log_training_steps=None, log_training_epochs=0.0), "epochs = 0"),
    (dict(log_training_steps=-1), "config.log_training_steps, .* is required"),
    (dict(total_steps=-1), "config.total_steps, .* is required"),
    (dict(log_training_epochs=1), "Only one of config.log_training_steps, con"),
    (dict(ckpt_steps=1, ckpt_percent=0.5), "Only one of config.ckpt_steps"),
    (dict(keep_ckpt_percent=3), "config.keep_ckpt_percent = 3"),
    (dict(total_steps="9"), "config.total_steps = '9' must be a number"),
    (dict(ckpt_timeout="9"), "config.ckpt_timeout = '9'"),
    (dict(mixup=dict(n=2)), "config.mixup.p is missing"),
    (dict(mixup=0.2), "config.mixup = 0.2 must be a dict"),
    (dict(evals=dict(val=3)), "config.evals.val = 3 must be a dict"),
    (dict(input=dict(batch_size=16, data="digits")), "config.input.data = 'd"),
    (dict(input=dict(batch_size="16")), "config.input.batch_size = '16'"),
    (dict(seed=0.5), "config.seed = 0.5 must be an int"),
    (dict(grad_accum_steps=-1), "config.grad_accum_steps = -1"),
    (dict(num_classes=-1), "config.num_classes = -1"),
    (dict(num_classes=0, init_head_bias=-1.0), "init_head_bias is for a head"),
    (dict(num_classes="10"), "config.num_classes = '10'"),
    (
      dict(model=dict(dtype_mm="bfloat17")),
      "config.model.dtype_mm: unknown dtype 'bfloat17'. Did you .*'bfloat16'",
    ),
    (dict(teacher_dtype="half precision"), "config.teacher_dtype: unknown"),
    (dict(optax=dict(mu_dtype="bf16")), "config.optax.mu_dtype: unknown .*bf"),
    (dict(optax_name="scale_by_adm"), "config.optax_name.*'scale_by_adam'"),
    (
      dict(optax_name="adamw", optax=dict(learning_rate=1.0)),
      "optax_name.*uphill",
    ),
    (dict(lr=-1.0), "config.lr = -1.0"),
    (dict(schedule=dict(warmup_step=2)), "'warmup_steps'"),
    (
      dict(total_steps=23, schedule=dict(warmup_steps=70)),
      "config.schedule.warmup_steps: .*70 steps .* 23 steps.*warmup_steps = 2,",
    ),
    (
      dict(
        total_steps=23,
        schedule=[("a/.*", None), (".*", dict(warmup_examples=16 * 70))],
      ),
      "config.schedule.warmup_examples: .*70 steps",
    ),
    (
      dict(total_steps=23, schedule=dict(cooldown_steps=24)),
      "config.schedule.cooldown_steps: .*24 steps .* 23 steps.*_steps = 4,",
    ),
    (
      dict(schedule=dict(warmup_steps="3")),
      "config.schedule.warmup_steps = '3'",
    ),
    (
      dict(schedule=dict(steps=[5, 2], mults=[0.1, 0.2])),
      r"config.schedule.steps = \[5, 2\] must be in order",
    ),
    (
      dict(schedule=dict(decay_type="rsqrt", timescale=0)),
      "config.schedule.timescale = 0 must be positive",
    ),
  ],
)
def test_mistakes(kw, message):
  with pytest.raises(ValueError, match=message):
    config_check.check_training(config(**kw))


def test_what_stays_allowed():
  ok = config_check.check_training
  ok(config(log_training_steps=-1, log_training_epochs=0.5, ckpt_steps=0))
  ok(config(mixup=dict(p=0), num_classes=0, model=dict(dtype_mm="float16")))
  ok(config(mixup=dict(p=2.5, n=3), optax=dict(mu_dtype=None), lr=0.0))
  ok(config(total_steps=0, log_training_steps=None))  # Evaluates only.
  ok(config(total_steps=23, schedule=dict(cooldown_steps=23), mixup={}))
  ok(config(ckpt_steps=1, ckpt_epochs=-1, evals={}, grad_accum_steps=0))
  # Its length needs the data.
  long = dict(total_steps=23, schedule=dict(warmup_epochs=70))
  ok(config(**long))
  with pytest.raises(
    ValueError, match="config.schedule.warmup_epochs: the war"
  ):
    bv_optax.check_lengths(
      config(**long), dict(total_steps=23, batch_size=16, data_size=16)
    )


def test_parts_of_a_schedule_that_the_run_cuts_are_said(caplog):
  kw = dict(total_steps=20, batch_size=16, data_size=32)
  fits = dict(warmup_steps=10, cooldown_steps=10)
  bv_optax.check_lengths(config(schedule=fits), kw)
  assert not caplog.records
  for sched, text in (
    (dict(fits, cooldown_steps=11), "overlap in a run of 20 steps"),
    (dict(steps=[5, 20], mults=[0.1, 0.2]), "[20] are not reached"),
  ):
    caplog.clear()
    bv_optax.check_lengths(config(schedule=sched), kw)
    assert len(caplog.records) == 1 and text in caplog.text


@pytest.mark.multidevice
def test_batch_size():
  n = jax.device_count()
  assert n == 8
  c = config()
  c.input.batch_size = 12
  with pytest.raises(ValueError, match=r"batch_size=12 .*devices, 8\. .* 8\."):
    config_check.check_training(c)
  c.input.batch_size = 24
  c.grad_accum_steps = 2
  with pytest.raises(ValueError, match="grad_accum_steps=2"):
    config_check.check_training(c)


def test_what_published_configs_carry_is_no_mistake(caplog):
  with caplog.at_level("INFO", logger="absl"):
    config_check.check_training(config(mixup=dict(p=0.2, n=2, fold_in=None)))
  assert "config.mixup.fold_in has no effect" in caplog.text
  caplog.clear()
  config_check.check_training(config(mixup=dict(p=0.2)))
  assert "config.mixup" not in caplog.text


@pytest.mark.tf
@pytest.mark.parametrize(
  "change, message",
  [
    ({}, None),
    ({"input.batch_size": 7}, "config.input.batch_size=7"),
    ({"pp_modules": ["tokenizzer"]}, "config.pp_modules.*'tokenizzer'"),
    ({"input.pp": "resiz(4)"}, "config.input.pp.*'resiz'"),
    ({"input.data.name": "bv:dumy"}, "config.input.data.name.*'dummy'"),
    ({"input.data.name": "bv:core"}, "config.input.data.name: unknown dataset"),
    ({"evals.val.type": "check"}, "config.evals.val.type: unknown evaluator"),
    ({"evals.val.pp_fn": "resiz(4)"}, "config.evals.val.pp_fn.*'resiz'"),
    ({"evals.val.pred": "of a recipe that is not there yet"}, None),
  ],
)
def test_the_one_check_covers_data_and_evaluators(change, message):
  image = dict(shape=(4, 4, 3), dtype="uint8")
  data = dict(name="bv:dummy", spec=dict(image=image))
  c = config(
    input=dict(batch_size=8, data=data, pp="value_range(-1, 1)"),
    evals=dict(
      val=dict(type="mean", data=data, pp_fn="value_range(-1, 1)", log_steps=1)
    ),
  )
  for key, value in change.items():
    with c.unlocked(), c.ignore_type():
      *path, last = key.split(".")
      node = c
      for part in path:
        node = node[part]
      node[last] = value
  if message is None:
    config_check.check(c)
  else:
    with pytest.raises(ValueError, match=message):
      config_check.check(c)


def test_published_configs_pass():
  """What concerns neither data nor the number of devices."""
  golden = pathlib.Path(__file__).parents[1] / "golden/configs.json"
  stored = json.loads(golden.read_text())
  for name, arg in ((n, a) for n in stored for a in stored[n]):
    module = importlib.import_module(f"big_vision.configs.{name}")
    c = module.get_config(*([arg] if arg else []))
    if "optax_name" not in c:  # Of the speed of models; not for a trainer.
      continue
    config_check._check_dtypes(c, "config")
    config_check._check_num_classes(c.get("num_classes"))
    config_check._check_mixup(c.get("mixup") or {})
    bv_optax.check(c)
    if "input" in c:
      config_check._check_lengths(c)
