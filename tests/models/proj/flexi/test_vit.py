"""FlexiViT against TensorFlow's resizing, and the properties of its paper."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import trees
from big_vision.models.proj.flexi import vit
from big_vision.models.xp.flexivit import vit as xp

SMALL = dict(width=16, depth=1, mlp_dim=32, num_heads=2, patch_size=(4, 4))


def rand(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def named(tree):
  return dict(trees.tree_flatten_with_names(tree)[0])


def resize(images, hw):
  """Bilinear resizing [..., h, w, C], half-pixel centers, no antialiasing."""
  shape = (*images.shape[:-3], *hw, images.shape[-1])
  return np.asarray(jax.image.resize(images, shape, "linear", antialias=False))


@pytest.mark.parametrize("old", [(4, 4), (5, 3)])
@pytest.mark.parametrize("new", [(8, 8), (7, 5), (6, 9), (3, 2), (2, 3)])
@pytest.mark.parametrize("channels", [1, 3, 10])
def test_resample_patchemb_is_the_pseudo_inverse(old, new, channels):
  kernel = rand(*old, channels, 6)
  got = vit.resample_patchemb(kernel, new)
  assert got.shape == (*new, channels, 6) and got.dtype == jnp.float32
  # B, column by column: what becomes of each pixel.
  pixels = np.eye(np.prod(old), dtype=np.float32).reshape(-1, *old, 1)
  b = resize(pixels, new).reshape(len(pixels), -1).T  # [new, old]
  want = np.linalg.pinv(b.T.astype(np.float64)) @ kernel.reshape(
    len(pixels), -1
  )
  np.testing.assert_allclose(
    got.reshape(want.shape), want, rtol=1e-3, atol=2e-4
  )


def test_larger_patches_keep_their_embedding():
  """Equation 3 of the paper is solved exactly."""
  patches, kernel = rand(5, 6, 4, 3), rand(6, 4, 3, 8, seed=1)
  for new in [(12, 8), (7, 9), (6, 13)]:
    larger = vit.resample_patchemb(kernel, new)
    np.testing.assert_allclose(
      np.einsum("nhwc,hwcd->nd", resize(patches, new), larger),
      np.einsum("nhwc,hwcd->nd", patches, kernel),
      rtol=1e-3,
      atol=1e-3,
    )


def test_resample_patchemb_dtypes():
  kernel = rand(4, 4, 3, 2)
  assert vit.resample_patchemb(kernel, (4, 4)) is kernel
  half = jnp.asarray(kernel, jnp.bfloat16)
  assert vit.resample_patchemb(half, [8, 8]).dtype == jnp.float32
  with jax.enable_x64(True):
    got = vit.resample_patchemb(kernel.astype(np.float64), (8, 6))
    assert got.dtype == jnp.float64
  jitted = jax.jit(lambda k: vit.resample_patchemb(k, (8, 6)))(kernel)
  np.testing.assert_allclose(jitted, got, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("new", [(8,), (8, 8, 3), ()])
def test_resample_patchemb_of_malformed_sizes(new):
  with pytest.raises(AssertionError, match="height and a width"):
    vit.resample_patchemb(rand(4, 4, 3, 2), new)
  with pytest.raises(AssertionError, match="four dimensions, not 3"):
    vit.resample_patchemb(rand(4, 4, 3), (2, 2))


@pytest.mark.slow
def test_number_of_tokens_is_an_argument():
  model = vit.Model(3, posemb_size=(3, 3), **SMALL, head_zeroinit=False)
  image = rand(2, 24, 24, 3)
  params = model.init(jax.random.key(0), image)["params"]
  shapes = {k: v.shape for k, v in named(params).items()}
  assert shapes["embedding/kernel"] == (4, 4, 3, 16)
  assert shapes["pos_embedding"] == (1, 9, 16)
  logits = {}
  for seqhw in (2, 3, 6, 8):
    logits[seqhw], out = model.apply({"params": params}, image, seqhw=seqhw)
    assert out["stem"].shape == (2, seqhw, seqhw, 16)
    assert out["logits_2d"].shape == (2, seqhw, seqhw, 3)
  assert np.ptp([x[0, 0] for x in logits.values()]) > 1e-4
  # 24 pixels in 6 tokens of 4 is what is stored: a convolution as any other.
  want = jax.lax.conv_general_dilated(
    image, params["embedding"]["kernel"], (4, 4), "VALID",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )  # fmt: skip
  _, out = model.apply({"params": params}, image, seqhw=6)
  np.testing.assert_allclose(out["stem"], want, atol=1e-5)
  fixed = vit.Model(
    3, posemb_size=(3, 3), seqhw=3, **SMALL, head_zeroinit=False
  )
  np.testing.assert_array_equal(
    fixed.apply({"params": params}, image)[0], logits[3]
  )
  with pytest.raises(TypeError, match="seqhw=…, or set config.model.seqhw"):
    model.apply({"params": params}, image)
  with pytest.raises(ValueError, match="24x24 pixels has no 25 tokens"):
    model.apply({"params": params}, image, seqhw=25)


def test_load_resamples_what_is_stored(tmp_path):
  """Larger images of the same content give nearly the same result."""
  old = vit.Model(3, posemb_size=(3, 3), **SMALL, head_zeroinit=False)
  image = rand(2, 12, 12, 3)
  params = old.init(jax.random.key(0), image)["params"]
  file = str(tmp_path / "old.npz")
  np.savez(file, **{k: np.asarray(v) for k, v in named(params).items()})
  cfg = types.SimpleNamespace(patch_size=(8, 8))
  new = vit.Model(3, posemb_size=(4, 4), **{**SMALL, "patch_size": (8, 8)})
  init = jax.eval_shape(new.init, jax.random.key(1), image)["params"]
  loaded = vit.load(init, file, cfg)
  assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(jnp.shape, init)
  np.testing.assert_array_equal(
    loaded["embedding"]["kernel"],
    vit.resample_patchemb(params["embedding"]["kernel"], (8, 8)),
  )
  _, before = old.apply({"params": params}, image, seqhw=3)
  _, after = new.apply({"params": loaded}, resize(image, (24, 24)), seqhw=3)
  # Interpolation at the sides of patches sees the next patch.
  corr = np.corrcoef(np.ravel(before["stem"]), np.ravel(after["stem"]))[0, 1]
  assert corr > 0.9
  init["head"]["kernel"] = jnp.ones((16, 3))
  kept = vit.load(init, file, cfg, dont_load=["head/kernel"])
  np.testing.assert_array_equal(kept["head"]["kernel"], 1)


def test_public_names():
  assert vit.VANITY_NAMES["FlexiViT-B i21k 90ep"].endswith(
    "flexivit/flexivit_b_i21k_90ep.npz"
  )
  assert vit.VANITY_NAMES["FlexiViT-S i1k"].endswith("flexivit_s_i1k.npz")
  assert vit.VANITY_NAMES["ViT-B/30 i21k"].endswith("vit_b30_i21k_300ep.npz")
  assert "howto-i21k-B/8" in vit.VANITY_NAMES


def test_stored_patches_larger_than_the_image():
  kw = dict(width=8, depth=1, mlp_dim=8, num_heads=2, posemb_size=(2, 2))
  image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  m = vit.Model(3, **kw, patch_size=(16, 16))
  with pytest.raises(ValueError, match="patch of 16x16 pixels is larger"):
    jax.eval_shape(m.init, jax.random.key(0), image)
  m = vit.Model(3, **kw, patch_size=(16, 16), seqhw=2)  # They are resampled.
  jax.eval_shape(m.init, jax.random.key(0), image)


def test_rows_and_columns():
  """A pair is (rows, columns), in a call or in the config."""
  image = rand(2, 12, 12, 3)
  model = vit.Model(5, **SMALL, posemb_size=(3, 3))
  params = jax.jit(model.init)(jax.random.key(0), image)
  logits, out = model.apply(params, image, seqhw=(2, 3))
  assert out["stem"].shape == (2, 2, 3, 16)
  # Patches are (6, 4) pixels.
  kernel = vit.resample_patchemb(
    params["params"]["embedding"]["kernel"], (6, 4)
  )
  want = np.einsum("nyaxbc,abcd->nyxd", image.reshape(2, 2, 6, 3, 4, 3), kernel)
  np.testing.assert_allclose(out["stem"], want, atol=1e-4)
  # The name that the config of timing has, with the size in the model.
  old = xp.Model(5, **SMALL, posemb_size=(3, 3), seqhw=(2, 3))
  np.testing.assert_array_equal(old.apply(params, image)[0], logits)


def test_load_of_every_kind_of_model(tmp_path):
  """Of stacked blocks, other kernels, fixed positions, and parts of it."""
  image = jax.ShapeDtypeStruct((1, 12, 12, 3), jnp.float32)
  shapes = lambda m: jax.eval_shape(m.init, jax.random.key(0), image)["params"]
  old = vit.Model(3, posemb_size=(3, 3), **{**SMALL, "depth": 2})
  params = jax.tree.map(lambda x: rand(*x.shape), shapes(old))
  file = str(tmp_path / "old.npz")
  np.savez(file, **named(params))
  assert jax.tree.all(
    jax.tree.map(np.array_equal, vit.load(None, file, None), params)
  )
  # The sizes of the model are those of its parameters, whatever its config says.
  kw = {**SMALL, "depth": 2, "patch_size": (8, 6), "posemb_size": (4, 5)}
  new = shapes(vit.Model(3, scan=True, **kw))
  for cfg in (None, {}, {"variant": "B/8"}, {**kw, "scan": True}):
    if not cfg or "posemb_size" not in cfg:
      with pytest.raises(ValueError, match=r"grid=\(rows, columns\)"):
        vit.load(new, file, cfg)
    loaded = vit.load(new, file, cfg, grid=(4, 5))
    assert jax.tree.map(np.shape, loaded) == jax.tree.map(np.shape, new)
    block = loaded["Transformer"]["encoderblock"]["MlpBlock_0"]["Dense_0"]
    for i in range(2):
      was = params["Transformer"][f"encoderblock_{i}"]["MlpBlock_0"]["Dense_0"]
      np.testing.assert_array_equal(block["kernel"][i], was["kernel"])
  # What keeps its initial value is not resampled.
  kept = vit.load(new, file, kw, ["embedding/kernel", "pos_embedding"])
  assert kept["pos_embedding"] is new["pos_embedding"]
  assert kept["embedding"]["kernel"] is new["embedding"]["kernel"]
  fixed = shapes(vit.Model(3, posemb="sincos2d", **kw))
  loaded = vit.load(fixed, file, kw, dont_load=["pos_embedding"])
  assert "pos_embedding" not in loaded
  np.testing.assert_array_equal(
    loaded["embedding"]["kernel"],
    vit.resample_patchemb(params["embedding"]["kernel"], (8, 6)),
  )


def test_seqhw_that_does_not_divide_the_image(caplog):
  model = vit.Model(3, posemb_size=(3, 3), **SMALL)
  image = jax.ShapeDtypeStruct((1, 24, 24, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), image)
  for seqhw, want in ((6, None), (5, "patches of 4x4 make a grid of 6x6")):
    caplog.clear()
    with caplog.at_level("INFO", "absl"):
      _, out = jax.eval_shape(
        lambda p, x, n=seqhw: model.apply(p, x, seqhw=n), params, image
      )
    assert out["stem"].shape == (1, 6, 6, 16)
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == (want is not None)
    assert want is None or want in lines[0]
