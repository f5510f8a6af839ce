"""The image tower: shapes, hidden patches, local views."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision.models.proj.image_text import two_towers
from big_vision.trainers.proj.image_text import image_tower

pytestmark = pytest.mark.usefixtures("quick_compilation")
VIT = dict(patch_size=(4, 4), width=8, depth=1, num_heads=2)


def tower(size=16, image=VIT, image_model="vit", **kw):
  """(Tower, parameters of the model, images)."""
  model = two_towers.Model(image=image, image_model=image_model, out_dim=4)
  settings = types.SimpleNamespace(
    **dict(local_size=None, local_weight=1.0, masked_weight=1.0,
           mask_ratio=0.5) | kw
  )  # fmt: skip
  x = np.random.default_rng(0).normal(size=(2, size, size, 3))
  x = x.astype(np.float32)
  t = image_tower.ImageTower(
    model, {"image": jax.eval_shape(lambda: x)}, settings
  )
  return t, model, x


@pytest.fixture(scope="module")
def vit():
  t, model, x = tower()
  return t, jax.jit(model.init)(jax.random.key(0), x)["params"], x


def test_shapes(vit):
  t = vit[0]
  assert (t.width, t.stem_width, t.num_patches, t.num_hidden) == (8, 8, 16, 8)
  assert t.local_size == 8  # 2 of 4 patches.


def test_hidden_patches_are_not_seen(vit):
  t, params, x = vit
  hidden = np.array([[0, 5, 6], [3, 4, 15]])
  token, key = jnp.arange(8.0), jax.random.key(0)
  run = jax.jit(lambda x, token: t.masked(params, x, hidden, token, key))
  want = run(x, token)
  assert want.shape == (2, 4, 4, 8)
  patches = x.reshape(2, 4, 4, 4, 4, 3).copy()
  for i, at in enumerate(hidden):
    for n in at:
      patches[i, n // 4, :, n % 4] += 1
  other = patches.reshape(x.shape)
  np.testing.assert_allclose(run(other, token), want, atol=1e-6)
  x = x.copy()
  x[:, 0, 4] += 1  # Of patch 1.
  assert np.abs(run(x, token) - want).max() > 1e-3
  assert np.abs(run(other, token[::-1]) - want).max() > 1e-3


def test_positions_are_stretched_over_a_local_view(vit):
  """Constant ones stay, others are averages of neighbours."""
  t, params, x = vit
  posemb = np.asarray(params["img"]["pos_embedding"]).reshape(4, 4, 8)
  at = jax.image.resize(posemb, (2, 2, 8), "linear").reshape(1, 4, 8)
  small = {**params, "img": {**params["img"], "pos_embedding": at}}
  view = x[:, :8, :8]
  got = jax.jit(lambda p: t.local(p, view, jax.random.key(0)))(params)
  model = two_towers.Model(image=VIT, out_dim=4)
  out = jax.jit(model.apply)({"params": small}, view)[2]
  np.testing.assert_allclose(got, out["img/pre_logits"], atol=1e-5)


def test_size_of_local_views():
  # 96 of 224 pixels in patches of 16.
  image = dict(VIT, patch_size=(16, 16))
  assert tower(224, image)[0].local_size == 96
  assert tower(224, image, local_size=64)[0].local_size == 64
  with pytest.raises(ValueError, match="local_size = 65.*patch size, 16"):
    tower(224, image, local_size=65)


def test_models_that_do_not_fit():
  with pytest.raises(ValueError, match="self_distill.*pool_type"):
    tower(image=dict(VIT, pool_type="none"))
  flexi = dict(VIT, seqhw=4, posemb_size=(4, 4))
  kw = dict(image=flexi, image_model="proj.flexi.vit")
  with pytest.raises(ValueError, match="masked_weight.*no `replace`"):
    tower(**kw)
  assert tower(**kw, masked_weight=0)[0].width == 8
  patches = (np.zeros([2, 4, 48]), *[np.zeros([2, 4], int)] * 3)
  with pytest.raises(ValueError, match="NaFlex"):
    image_tower.ImageTower(None, {"image": patches}, None)
