"""Tests for MLP-Mixer, against a forward pass in NumPy and golden numbers."""

import functools

import convnets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convnets import apply, images, init, named, perturbed, save

from big_vision import checkpoints
from big_vision.models import mlp_mixer

pytestmark = pytest.mark.usefixtures("quick_compilation")
SMALL = dict(patch_size=(8, 8), num_blocks=2, hidden_dim=32, tokens_mlp_dim=24,
             channels_mlp_dim=64)  # fmt: skip


@pytest.fixture(scope="module")
def params():
  model = mlp_mixer.Model(10, **SMALL)
  return perturbed(init(model, 2, 32, 32, 3)["params"])


def test_initial_values():
  variables = init(mlp_mixer.Model(10, **SMALL), 2, 32, 32, 3)
  convnets.assert_golden_init("mlp_mixer/init", variables)


def test_known_numbers():
  kw = dict(patch_size=(8, 8), num_blocks=2, hidden_dim=16, tokens_mlp_dim=12,
            channels_mlp_dim=20)  # fmt: skip
  first = (-0.018959, 0.099831, 0.12684)
  model = mlp_mixer.Model(10, **kw)
  convnets.assert_known_numbers(model, 678.469, 0.0958277, first)


def reference_forward(p, image, patch, num_blocks):
  """The network in float64 NumPy."""
  dense = lambda p, x: x @ p["kernel"] + p["bias"]

  def norm(p, x):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * p["scale"] + p["bias"]

  def mlp(p, x):
    return dense(p["Dense_1"], convnets.gelu(dense(p["Dense_0"], x)))

  x = convnets.conv(image, p["stem"]["kernel"], patch) + p["stem"]["bias"]
  x = x.reshape(len(x), -1, x.shape[-1])
  for i in range(num_blocks):
    b = p[f"MixerBlock_{i}"]
    y = norm(b["LayerNorm_0"], x).swapaxes(1, 2)
    x = x + mlp(b["token_mixing"], y).swapaxes(1, 2)
    x = x + mlp(b["channel_mixing"], norm(b["LayerNorm_1"], x))
  x = norm(p["pre_head_layer_norm"], x).mean(1)
  return dense(p["head"], x)


@pytest.mark.parametrize("size", [(32, 32), (22, 37)])
def test_reference_forward(size):
  """Incomplete patches are padded."""
  model = mlp_mixer.Model(10, **SMALL)
  params = perturbed(init(model, 2, *size, 3)["params"])
  image = images(2, *size, 3)
  out, _ = apply(model, params, image)
  double = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  expected = reference_forward(double, image.astype(np.float64), 8, 2)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_patches_larger_than_the_image():
  m = mlp_mixer.Model(3, variant="S/16")
  for size in ((8, 32), (32, 8)):
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    with pytest.raises(ValueError, match="config.model.patch_size: a patch of"):
      jax.eval_shape(m.init, jax.random.key(0), image)


def test_parameters_and_outputs():
  model = mlp_mixer.Model(10, patch_size=[16, 16], num_blocks=2, hidden_dim=8,
                          tokens_mlp_dim=5, channels_mlp_dim=7)  # fmt: skip
  shapes = convnets.shapes(model, 2, 64, 64, 3)
  assert convnets.count(shapes) == 6938
  shapes = {k: v.shape for k, v in named(shapes).items()}
  assert shapes["MixerBlock_1/token_mixing/Dense_1/kernel"] == (5, 16)
  assert shapes["MixerBlock_0/channel_mixing/Dense_0/kernel"] == (8, 7)
  (_, out), _ = jax.eval_shape(
    model.init_with_output, jax.random.key(0), images(2, 64, 64, 3)
  )
  assert {k: v.shape for k, v in out.items()} == {
    "stem": (2, 4, 4, 8),
    "input_tokens": (2, 16, 8),
    "block_0": (2, 16, 8),
    "block_1": (2, 16, 8),
    "pre_logits": (2, 8),
    "logits": (2, 10),
  }


@pytest.mark.parametrize(
  "variant, n",
  [
    ("S/16", 18_528_264),
    ("S/32", 19_104_624),
    ("B/16", 59_880_472),
    ("B/32", 60_293_428),
    ("L/16", 208_196_168),
    ("H/14", 432_350_952),
  ],
)
def test_number_of_parameters(variant, n):
  model = mlp_mixer.Model(1000, variant=variant)
  assert convnets.count(convnets.shapes(model, 1, 224, 224, 3)) == n


def test_variant_fills_what_is_not_given():
  model = mlp_mixer.Model(None, variant="B/32", num_blocks=3, patch_size=(4, 4))
  assert (model.num_blocks, model.patch_size) == (3, (4, 4))
  assert (model.hidden_dim, model.tokens_mlp_dim) == (768, 384)
  for bad in ("B", "X/16", "B/large", "B16"):
    with pytest.raises(ValueError, match="config.model.variant.*/16"):
      mlp_mixer.Model(10, variant=bad)
  with pytest.raises(TypeError, match="hidden_dim"):
    mlp_mixer.Model(10, patch_size=(8, 8))
  with pytest.raises(TypeError, match="hidden_dims"):
    mlp_mixer.Model(10, variant="B/16", hidden_dims=3)


def test_stochastic_depth():
  """Two draws per block and example; what stays is not rescaled."""
  block = mlp_mixer.MixerBlock(4, 6, drop_p=0.5)
  x = np.random.default_rng(0).standard_normal((64, 3, 5)).astype(np.float32)
  params = jax.jit(block.init)(jax.random.key(0), x)["params"]

  @functools.partial(jax.jit, static_argnums=1)
  def run(params, train):
    rngs = {"dropout": jax.random.key(1)}
    return block.apply({"params": params}, x, train=train, rngs=rngs)

  zero = lambda tree: jax.tree.map(jnp.zeros_like, tree)
  out = run(params, True)
  both = run(params, False)
  token = run(
    {**params, "channel_mixing": zero(params["channel_mixing"])}, False
  )
  channel = run({**params, "token_mixing": zero(params["token_mixing"])}, False)
  cases = [x, token, channel, both]
  kinds = [
    [i for i, c in enumerate(cases) if np.allclose(c[n], out[n], atol=1e-5)]
    for n in range(len(x))
  ]
  assert all(len(k) == 1 for k in kinds)
  counts = np.bincount([k[0] for k in kinds], minlength=4)
  assert (counts > 4).all()  # 16 are expected of each.
  # In evaluation, and with a probability of zero, no key is needed.
  never = mlp_mixer.MixerBlock(4, 6, drop_p=0.0)
  for module, train in ((block, False), (never, True)):
    jax.eval_shape(lambda p, m=module, t=train: m.apply(
      {"params": p}, x, train=t), params)  # fmt: skip


def test_stochastic_depth_grows(monkeypatch):
  seen = []
  block = mlp_mixer.MixerBlock.__call__

  def spy(self, x, *, train=False):
    seen.append(self.drop_p)
    return block(self, x, train=train)

  monkeypatch.setattr(mlp_mixer.MixerBlock, "__call__", spy)
  for num_blocks, expected in ((5, [0, 0.1, 0.2, 0.3, 0.4]), (1, [0])):
    kw = dict(SMALL, num_blocks=num_blocks, stoch_depth=0.4)
    seen.clear()
    convnets.shapes(mlp_mixer.Model(10, **kw), 1, 32, 32, 3)
    np.testing.assert_allclose(seen, expected)


def test_bfloat16(params):
  model = mlp_mixer.Model(10, **SMALL, dtype_mm="bfloat16")
  image = images(2, 32, 32, 3)
  x, out = apply(model, params, image)
  high = {k for k, v in out.items() if v.dtype == jnp.float32}
  assert high == {"pre_logits", "logits"}
  fresh = named(convnets.shapes(model, 1, 32, 32, 3))
  assert all(v.dtype == jnp.float32 for v in fresh.values())
  full, _ = apply(mlp_mixer.Model(10, **SMALL), params, image)
  assert 0 < np.abs(x - full).max() < 0.05 * np.abs(full).max()


def test_load(tmp_path, params):
  path = save(tmp_path / "x.npz", params)
  out = mlp_mixer.load(None, path, None)
  jax.tree.map(np.testing.assert_array_equal, out, params)
  fresh = convnets.shapes(mlp_mixer.Model(7, **SMALL), 1, 32, 32, 3)
  out = mlp_mixer.load(fresh, path, {}, dont_load=["head/.*"])
  assert out["head"]["kernel"] is fresh["head"]["kernel"]
  with pytest.raises(ValueError, match=r" - MixerBlock_2/LayerNorm_0/bias"):
    kw = dict(SMALL, num_blocks=3)
    more = convnets.shapes(mlp_mixer.Model(10, **kw), 1, 32, 32, 3)
    mlp_mixer.load(more, path, {})


def published(params):
  """The layout of the published files, with names from before linen."""
  out = {}
  for name, x in named(params).items():
    first, *rest = name.split("/")
    if first == "pre_head_layer_norm":
      first = "Mixer/encoder_norm"
    elif first == "stem":
      first = "embedding"
    elif first.startswith("MixerBlock"):
      first = first.replace("MixerBlock", "Mixer/encoderblock")
      module, *rest = rest
      if module.endswith("mixing"):
        array = rest[1] + str(int(rest[0][-1]) + 1)
        rest = [f"{module}_phase_0", array]
        x = x[None]
      else:
        number = dict(LayerNorm_0=0, LayerNorm_1=2)[module]
        rest = [f"LayerNorm_{number}", *rest]
    out["/".join([first, *rest])] = x
  return out


def test_load_published_format(tmp_path, params):
  path = str(tmp_path / "x.npz")
  np.savez(path, **{f"opt/target/{k}": v for k, v in published(params).items()})
  for init_params in (params, None):
    out = mlp_mixer.load(init_params, path, {})
    jax.tree.map(np.testing.assert_array_equal, out, params)
  more = published(params) | {"Mixer/posemb": np.ones(2)}
  np.savez(path, **more)
  with pytest.raises(AssertionError, match="Mixer/posemb"):
    mlp_mixer.load(params, path, {})


def test_vanity_names(monkeypatch):
  asked = []
  monkeypatch.setattr(
    checkpoints, "load_params", lambda f: asked.append(f) or {"x": 1}
  )
  for name in ("B-i1k/16", "L-i21k/16", "/some/file.npz"):
    assert mlp_mixer.load(None, name, {}) == {"x": 1}
  assert len(mlp_mixer.VANITY_NAMES) == 4
  assert asked == [
    "gs://mixer_models/imagenet1k/Mixer-B_16.npz",
    "gs://mixer_models/imagenet21k/Mixer-L_16.npz",
    "/some/file.npz",
  ]
