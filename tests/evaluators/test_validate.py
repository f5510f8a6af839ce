"""Configs of evaluators that cannot work are refused, with the reason."""

import jax
import ml_collections as mlc
import pytest

from big_vision.evaluators import validate

PP = "decode(channels=1)|reshape((8, 8, 1))|value_range(-1, 1)"
ONEHOT = PP + "|onehot(10, key='label', key_result='labels')"


def config(**evals):
  return mlc.ConfigDict({"input": {"batch_size": 16}, "evals": evals})


def entry(**kw):
  return {
    "type": "classification",
    "loss_name": "softmax_xent",
    "data": {"name": "digits", "split": "test"},
    "pp_fn": ONEHOT + "|keep('image', 'labels')",
    "log_steps": 10,
    **kw,
  }


@pytest.mark.tf
def test_validate(tfds_data_dir, ops):
  fewshot = dict(
    type="fewshot_lsr",
    datasets={"dig": ("digits", "train[:50]", "test")},
    shots=(1,),
    l2_reg=1.0,
    pp_train=PP,
    pp_eval=PP,
    display_first=[("dig", 1)],
    log_percent=0.5,
  )
  cfg = config(
    val=entry(cache="Final_Data"),
    old=entry(cache_final=True, cache_raw=False),
    fewshot=fewshot,
  )
  validate.validate(cfg, ["predict"], jax.devices())
  validate.validate(config(), ["predict"], jax.devices())


@pytest.mark.tf
@pytest.mark.parametrize(
  "change,message",
  [
    (dict(loss_nam="x"), r"evals\.val\.loss_nam: .*Did you mean 'loss_name'"),
    (dict(log_step=3), r"evals\.val\.log_step: .*'log_steps'"),
    (dict(cach="none"), r"evals\.val\.cach: .*'cache'"),
    (dict(cache="nothing"), r"evals\.val\.cache: .*'nothing'"),
    (dict(loss_name="softmax_xnt"), r"evals\.val\.loss_name.*'softmax_xent'"),
    (dict(pp_fn="decod|keep('image')"), r"evals\.val\.pp_fn: .*decod"),
    (dict(pp_fn="keep('image'"), r"evals\.val\.pp_fn: .*keep"),
    (dict(pp_fn="resize(3, sise=4)"), r"evals\.val\.pp_fn: .*sise"),
    (dict(data={"split": "test"}), r"evals\.val\.data=.*`name`"),
    (dict(data={"name": "digts", "split": "test"}), r"\.data.*digts"),
    (dict(data={"name": "digits", "split": "tets"}), r"\.data.*tets.*'test'"),
    (dict(data={"name": "bv:nothere"}), r"evals\.val\.data.*nothere"),
    (dict(data={"name": "digits", "splt": "test"}), r"\.data.*splt"),
    (dict(type="fewshot_lsr"), r"evals\.val\.\w+: unknown argument"),
    (dict(batch_size=12), r"evals\.val\.batch_size=12 .*8 or 16"),
  ],
)
def test_validate_rejects(tfds_data_dir, ops, change, message):
  cfg = config(val=entry(**change))
  with pytest.raises(ValueError, match=r"^config\.evals\.val.*") as e:
    validate.validate(cfg, ["predict"], jax.devices())
  assert e.match(message)


@pytest.mark.tf
def test_validate_names_what_is_missing(tfds_data_dir, ops):
  cfg = config(val=entry())
  del cfg.evals.val.loss_name, cfg.evals.val.data
  with pytest.raises(ValueError, match=r"evals\.val: .*loss_name, data\."):
    validate.validate(cfg, ["predict"], jax.devices())
  cfg = mlc.ConfigDict({"evals": {"val": entry()}})
  with pytest.raises(ValueError, match=r"evals\.val\.batch_size is not set"):
    validate.validate(cfg, ["predict"], jax.devices())
