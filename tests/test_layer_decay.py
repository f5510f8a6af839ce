"""Layer-wise decay of the learning rate, against the formula of BEiT and MAE."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from big_vision import layer_decay, lookup, trees
from big_vision import optax as bv_optax
from big_vision.models import bit, mlp_mixer, vit
from big_vision.models.proj.flexi import vit as flexi_vit
from big_vision.models.proj.image_text import two_towers

SIZE = dict(width=8, depth=3, mlp_dim=8, num_heads=2)
VIT = dict(SIZE, patch_size=(4, 4))


def shapes(model, *inputs):
  init = lambda: model.init(jax.random.PRNGKey(0), *inputs)
  return nn.unbox(jax.eval_shape(init))["params"]


def image(size=8):
  return jnp.zeros((1, size, size, 3))


def named(decay, params):
  tree = layer_decay.factors(decay, params)
  return dict(trees.tree_flatten_with_names(tree)[0])


def exponents(params):
  """The exponent of the decay, per parameter."""
  return {n: np.log2(f) / -1 for n, f in named(0.5, params).items()}


@pytest.mark.parametrize("model", [vit, flexi_vit])
def test_factors_of_a_vit(model):
  kw = dict(pool_type="tok", posemb="learn") if model is vit else {}
  got = exponents(shapes(model.Model(3, **VIT, **kw), image()))
  for name, exponent in got.items():
    top = name.split("/")[0]
    if top in ("embedding", "pos_embedding", "cls"):
      assert exponent == 4, name
    elif "encoderblock" in name:  # Block i, from 0, is layer i + 1 of 4.
      assert exponent == 3 - int(name.split("encoderblock_")[1][0]), name
    else:
      assert top == "head" or name.startswith("Transformer/encoder_norm")
      assert exponent == 0, name
  assert set(got.values()) == {0, 1, 2, 3, 4}


def test_blocks_of_scan_have_the_factors_of_single_blocks():
  kw = dict(pool_type="map", class_token=True, registers=2, pre_norm=True)
  kw |= dict(VIT, rep_size=True)
  one = named(0.7, shapes(vit.Model(3, **kw), image()))
  all_ = named(0.7, shapes(vit.Model(3, scan=True, **kw), image()))
  for name, factor in all_.items():
    if "/encoderblock/" in name:
      names = [name.replace("block/", f"block_{i}/") for i in range(3)]
      want = [one[n] for n in names]
      np.testing.assert_array_equal(factor.reshape(-1), np.array(want))
    else:
      np.testing.assert_array_equal(factor, one[name])
  assert one["registers"] == one["pre_norm/scale"] == np.float32(0.7**4)
  assert one["MAPHead_0/probe"] == one["pre_logits/kernel"] == 1


def test_every_tower_counts_its_own_blocks():
  model = two_towers.Model(
    image=VIT,
    text=dict(SIZE, depth=2, vocab_size=9),
    out_dim=(None, 8),
    bias_init=-1.0,
  )
  got = exponents(shapes(model, image(), jnp.zeros((1, 4), jnp.int32)))
  assert got["img/pos_embedding"] == 4 and got["txt/pos_embedding"] == 3
  assert got["txt/Embed_0/embedding"] == 3
  last = "LayerNorm_0/scale"
  assert got[f"img/Transformer/encoderblock_2/{last}"] == 1
  assert got[f"txt/Encoder_0/encoderblock_0/{last}"] == 2
  assert got["txt/head/kernel"] == got["t"] == got["b"] == 0


def test_mixer_and_bit():
  mixer = mlp_mixer.Model(
    3, patch_size=(4, 4), num_blocks=2, hidden_dim=8, tokens_mlp_dim=8,
    channels_mlp_dim=8,
  )  # fmt: skip
  got = exponents(shapes(mixer, image()))
  assert got["stem/kernel"] == 3 and got["head/kernel"] == 0
  assert got["MixerBlock_0/LayerNorm_0/scale"] == 2
  got = exponents(shapes(bit.Model(3, depth=(1, 2, 1, 1)), image(32)))
  assert got["conv_root/kernel"] == 6 and got["head/bias"] == 0
  assert got["block1/unit1/conv1/kernel"] == 5
  assert got["block2/unit2/conv1/kernel"] == 3
  assert got["block4/unit1/conv1/kernel"] == 1


def test_update_and_state():
  """Updates have the factor, besides lr_mults; weight decay does not."""
  params = {
    "Transformer": {"encoderblock": {"kernel": jnp.full((2, 3), 2.0)}},
    "embedding": {"kernel": jnp.full((3,), 2.0)},
    "head": {"kernel": jnp.full((3,), 2.0)},
  }
  config = dict(
    optax_name="scale_by_sign", lr=0.1, wd=0.01, schedule={},
    lr_mults=[("embedding/.*", 3.0)],
  )  # fmt: skip

  def make(**kw):
    config_ = ml_collections.ConfigDict(config | kw)
    kw = dict(total_steps=9, batch_size=1, data_size=9)
    return bv_optax.make(config_, params, sched_kw=kw)[0]

  plain, decayed = make(), make(layer_decay=0.5)
  states = plain.init(params), decayed.init(params)
  leaves = [trees.tree_flatten_with_names(s)[0] for s in states]
  assert [n for n, _ in leaves[0]] == [n for n, _ in leaves[1]]
  grads = jax.tree.map(jnp.ones_like, params)
  out, _ = jax.jit(decayed.update)(grads, states[1], params)
  got = dict(trees.tree_flatten_with_names(out)[0])
  blocks = got["Transformer/encoderblock/kernel"]
  np.testing.assert_allclose(blocks[:, 0], [-0.045, -0.07], rtol=1e-6)
  np.testing.assert_allclose(got["head/kernel"], -0.12, rtol=1e-6)
  want = -(0.1 * 0.125 * 3 + 0.02)
  np.testing.assert_allclose(got["embedding/kernel"], want, rtol=1e-6)


@pytest.mark.parametrize("decay", [0, -0.5, 1.5, "0.5", True])
def test_refuses_what_is_not_a_decay(decay):
  with pytest.raises(lookup.ConfigError, match="config.layer_decay = .* 0.75"):
    layer_decay.check(decay)


def test_refuses_models_without_known_blocks():
  params = {"conv": {"kernel": jnp.zeros((2,))}}
  with pytest.raises(lookup.ConfigError, match="'toy'.*lr_mults"):
    layer_decay.factors(0.5, params, "toy")
