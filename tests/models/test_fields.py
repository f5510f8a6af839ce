"""Fields of models that cannot work are named by their config key."""

import jax
import jax.numpy as jnp
import pytest

from big_vision import lookup
from big_vision.models import mlp_mixer, vit
from big_vision.models.proj.flexi import vit as flexi_vit
from big_vision.models.proj.image_text import two_towers
from big_vision.models.proj.paligemma import paligemma

VIT = dict(width=8, depth=1, mlp_dim=8, num_heads=2, patch_size=(4, 4))
IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
TOKENS = jax.ShapeDtypeStruct((1, 4), jnp.int32)


def init(model, *inputs):
  return jax.eval_shape(model.init, jax.random.key(0), *inputs)


@pytest.mark.parametrize(
  "field, match",
  [
    (dict(num_heads=3), "num_heads=3 does not divide the width, 8: use for "
     "example 2 or 4."),
    (dict(num_heads=0), "num_heads=0 does not divide"),
    (dict(dtype_mm="bfloat61"), "dtype_mm: unknown dtype of floats 'bfloat61'. "
     "Did you mean 'bfloat16'"),
    (dict(dtype_mm="int8"), "dtype_mm: unknown dtype of floats 'int8'"),
  ],
)  # fmt: skip
def test_fields_of_transformers(field, match):
  cfg = {**VIT, **field}
  for model in (vit.Model(3, **cfg), flexi_vit.Model(3, seqhw=2, **cfg)):
    with pytest.raises(ValueError, match=f"config.model.{match}"):
      init(model, IMAGE)
  text = dict(width=8, depth=1, mlp_dim=8, num_heads=2, vocab_size=9)
  towers = two_towers.Model(image=cfg, text=text, out_dim=8)
  with pytest.raises(ValueError, match=f"config.model.image.{match}"):
    init(towers, IMAGE, TOKENS)
  if "num_heads" in field:
    towers = two_towers.Model(image=VIT, text={**text, **field}, out_dim=8)
    with pytest.raises(ValueError, match=f"config.model.text.{match}"):
      init(towers, IMAGE, TOKENS)


def test_other_models_and_fields():
  mixer = dict(patch_size=(4, 4), num_blocks=1, hidden_dim=4)
  mixer |= dict(tokens_mlp_dim=4, channels_mlp_dim=4, num_classes=2)
  with pytest.raises(ValueError, match="config.model.dtype_mm: unknown dtype"):
    init(mlp_mixer.MlpMixer(**mixer, dtype_mm="bf16"), IMAGE)
  for dtype in (None, "bfloat16", jnp.float16):
    init(vit.Model(3, **VIT, dtype_mm=dtype), IMAGE)
  with pytest.raises(ValueError, match="config.model.image does not fit.*wdth"):
    init(two_towers.Model(image=dict(VIT, wdth=3)), IMAGE)


@pytest.mark.parametrize("part", ["img", "llm"])
def test_key_of_a_part_of_paligemma(part):
  sizes = dict(width=8, depth=1, mlp_dim=8, num_heads=1)
  args = {
    "img": dict(sizes, pool_type="none", patch_size=(4, 4)),
    "llm": dict(sizes, num_kv_heads=1, head_dim=8, vocab_size=8),
  }
  args[part]["dtype_mm"] = "float31"
  with pytest.raises(lookup.ConfigError, match=rf"config\.model\.{part}\."):
    init(paligemma.Model(**args), IMAGE, TOKENS, TOKENS)
