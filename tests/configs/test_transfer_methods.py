"""Arguments of configs/transfer.py that say how to fine-tune."""

import pytest

from big_vision import lookup
from big_vision.configs import transfer

pytestmark = pytest.mark.tf


def get(arg):
  return transfer.get_config(f"model=vit-s16,{arg}")


def test_each_argument_changes_its_keys():
  plain = get("").to_dict()
  decayed = get("layer_decay=0.75").to_dict()
  assert decayed.pop("layer_decay") == 0.75 and decayed == plain
  dropped = get("drop_path=0.1").to_dict()
  assert dropped["model"].pop("drop_path") == 0.1 and dropped == plain
  adapted = get("lora=4").to_dict()
  assert adapted.pop("lora") == dict(rank=4, alpha=8.0)
  assert adapted.pop("optax_name") == "scale_by_adam"
  assert adapted.pop("lr") == 1e-3
  assert set(plain) - set(adapted) == {"optax_name", "lr"}


def test_evaluation_at_another_resolution():
  config = get("h_res=256,l_res=224,eval_res=280")
  assert "random_crop(224)" in config.input.pp
  for cfg in config.evals.values():
    assert "resize_small(320)|central_crop(280)" in cfg.pp_fn
  assert config.model.posemb_size == (14, 14)
  config = transfer.get_config("model=bit-m-r50x1,eval_res=280")
  assert "posemb_size" not in config.model
  assert "posemb_size" not in get("demo,eval_res=280").model


@pytest.mark.parametrize("arg", ["lora=4", "drop_path=0.1"])
def test_refuses_what_the_model_lacks(arg):
  with pytest.raises(
    lookup.ConfigError, match="is for ViTs, not .*bit-m-r50x1"
  ):
    transfer.get_config(f"model=bit-m-r50x1,{arg}")


def test_refuses_lora_of_a_probe():
  with pytest.raises(lookup.ConfigError, match="Either lora or probe"):
    get("lora=4,probe")
