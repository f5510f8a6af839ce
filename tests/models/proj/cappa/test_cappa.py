"""The captioner: numbers of the specification, cache, parallel prediction, loading."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import trees
from big_vision.lookup import ConfigError
from big_vision.models import common, vit
from big_vision.models.proj.cappa import cappa
from big_vision.models.proj.uvim import decode

pytestmark = pytest.mark.usefixtures("quick_compilation")
SMALL = dict(
  num_heads=2, num_layers=2, mlp_dim=32, emb_dim=16, vocab_size=20, seq_len=6,
  patches=(8, 8),
)  # fmt: skip
B, L, V = 2, 6, 20


def image(size=16):
  return np.sin(np.arange(B * size * size * 3)).reshape(B, size, size, 3)


def tokens():
  return (7 * np.arange(B * L).reshape(B, L) + 3) % V


@functools.cache
def initial(size=16, **kw):
  model = cappa.Model(**{**SMALL, **kw})
  init = jax.jit(lambda key: model.init(key, image(size), tokens()))
  return model, init(jax.random.PRNGKey(0))["params"]


@functools.cache
def random(**kw):
  """Parameters far from the initial ones, which predict nothing."""
  model, params = initial(**kw)
  rng = np.random.default_rng(0)
  noisy = lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32)
  return model, jax.tree.map(noisy, params)


@pytest.mark.parametrize(
  "kw, count, total",
  [
    ({}, 14_852, 2673.76),
    (dict(scan=True), 14_852, 2671.69),
    (
      dict(masked_pred_prob=0.5, masking_ratio=0.5, decoder_bias=False),
      14_676,
      2681.41,
    ),
  ],
)
def test_initial_parameters(kw, count, total):
  leaves = jax.tree.leaves(initial(**kw)[1])
  assert sum(x.size for x in leaves) == count
  found = sum(float(np.abs(x).sum(dtype=np.float64)) for x in leaves)
  assert found == pytest.approx(total, rel=3e-6)


def test_names_of_stacked_parameters():
  _, params = initial(
    scan=True, decoder_bias=False, masked_pred_prob=0.5, decoder_num_layers=3
  )
  shapes = {k: x.shape for k, x in trees.tree_flatten_with_names(params)[0]}
  block = {
    k.removeprefix("decoder/EncDecBlock/"): shape
    for k, shape in shapes.items()
    if k.startswith("decoder/EncDecBlock/")
  }
  attention = {
    f"{a}/{k}/kernel": (2, 3, 8, 16) if k == "out" else (16, 3, 2, 8)
    for a in ("SelfAttn", "CrossAttn")
    for k in ("query", "key", "value", "out")
  }
  assert block == attention | {
    "LayerNorm1/scale": (16, 3),
    "LayerNorm2/scale": (16, 3),
    "LayerNorm3/scale": (16, 3),
    "MLP/Dense_0/kernel": (16, 3, 32),
    "MLP/Dense_1/kernel": (32, 3, 16),
  }
  assert shapes["decoder/EmbedTargets/embedding"] == (21, 16)
  assert shapes["pos_embedding_decoder"] == (1, 6, 16)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("memory", [False, True])
def test_a_cache_gives_the_logits_of_teacher_forcing(scan, memory):
  model, params = random(scan=scan)
  variables = {"params": params}
  expected = model.apply(variables, image(), tokens())
  assert np.abs(expected).max() > 1
  encoded = model.apply(variables, image(), method="encode")
  if memory:
    encoded = model.apply(variables, encoded, method="cross_memory")
  step = jax.jit(
    functools.partial(
      model.apply, method="decode", decode=True, mutable=["cache"]
    )
  )
  _, cache = step(variables, encoded, jnp.zeros_like(tokens()))
  before = np.pad(tokens(), ((0, 0), (1, 0)))[:, :-1]
  for i in range(L):
    logits, cache = step({**variables, **cache}, encoded, before[:, i : i + 1])
    np.testing.assert_allclose(logits[:, 0], expected[:, i], atol=2e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_samplers_take_the_most_probable_tokens(scan):
  model, params = random(scan=scan)
  got, *_ = decode.argmax_sampling(
    {"params": params},
    image(),
    jnp.zeros([B, L], jnp.int32),
    seed=0,
    model=model,
    num_samples=2,
    eos_token=-1,
  )
  found = np.zeros([B, L], np.int32)
  for i in range(L):
    logits = model.apply({"params": params}, image(), found)
    found[:, i] = np.argmax(logits[:, i], -1)
  for sample in (0, 1):
    np.testing.assert_array_equal(got[:, sample], found)


def train(tokens, seed=0, **kw):
  model, params = random(masked_pred_prob=kw.pop("p"), **kw)
  return model.apply(
    {"params": params},
    image(),
    tokens,
    train=True,
    rngs={"dropout": jax.random.key(seed)},
  )


def test_in_parallel_no_token_is_seen():
  other = (tokens() + 5) % V
  kw = dict(p=1.0, masking_ratio=1.0)
  np.testing.assert_array_equal(train(tokens(), **kw), train(other, **kw))
  causal = [train(x, p=1e-9, masking_ratio=1.0) for x in (tokens(), other)]
  np.testing.assert_array_equal(causal[0][:, 0], causal[1][:, 0])
  assert (np.abs(causal[0] - causal[1])[:, 1:] > 1e-3).any(axis=-1).all()


def test_in_parallel_some_tokens_tell_of_all_others():
  """Half of the tokens are hidden, others change all logits, earlier ones too."""
  kw = dict(p=1.0, masking_ratio=0.5)
  before = train(tokens(), **kw)
  seen = []
  for i in range(L):
    changed = tokens()
    changed[:, i] = (changed[:, i] + 5) % V
    seen.append(np.abs(train(changed, **kw) - before).max(axis=-1) > 1e-5)
  visible = np.array(seen)  # [L changed, B, L].
  np.testing.assert_array_equal(visible.any(-1).sum(0), [L // 2, L // 2])
  np.testing.assert_array_equal(visible.any(-1), visible.all(-1))


def test_what_is_predicted_in_parallel_is_drawn():
  model, params = random(masked_pred_prob=0.5, masking_ratio=1.0)
  other = (tokens() + 5) % V

  @jax.jit
  def differs(key):
    run = lambda x: model.apply(
      {"params": params}, image(), x, train=True, rngs={"dropout": key}
    )
    return jnp.abs(run(tokens()) - run(other)).max((1, 2)) > 1e-5

  drawn = jax.vmap(differs)(jax.random.split(jax.random.key(0), 60))
  assert 0.35 < np.mean(drawn) < 0.65
  assert (drawn[:, 0] != drawn[:, 1]).any()


def test_without_an_image():
  model, params = random()
  logits = model.apply({"params": params}, None, tokens(), method="decode")
  assert logits.shape == (B, L, V)
  encoded, out = model.apply(
    {"params": params}, image(), None, return_enc_features=True
  )
  np.testing.assert_array_equal(encoded, out["encoded"])
  assert encoded.shape == (B, 4, 16)


def test_too_long_a_caption():
  model, params = random()
  with pytest.raises(ConfigError, match="seq_len=6.*7 tokens"):
    model.apply({"params": params}, image(), np.zeros([B, 7], int))


@pytest.mark.parametrize("scan", [False, True])
def test_load_restacks_and_resamples(scan):
  model, params = random(scan=not scan)
  source = common.Loaded(params, "somewhere")
  want = model.apply({"params": params}, image(), tokens())
  other, init = initial(scan=scan)
  got = cappa.load(init, source, dict(scan=scan))
  np.testing.assert_allclose(
    other.apply({"params": got}, image(), tokens()), want, atol=2e-5
  )
  _, larger = initial(size=32, scan=scan)
  got = cappa.load(larger, source)
  np.testing.assert_allclose(
    got["encoder"]["pos_embedding"],
    vit.resample_posemb(
      old=params["encoder"]["pos_embedding"],
      new=larger["encoder"]["pos_embedding"],
    ),
  )


@pytest.mark.parametrize("scan", [False, True])
def test_load_a_vit_into_the_encoder(scan):
  tower = vit.Model(
    num_classes=3, width=16, depth=2, mlp_dim=32, num_heads=2, patch_size=(8, 8)
  )
  params = tower.init(jax.random.key(1), image())["params"]
  model, init = initial(scan=scan)
  got = cappa.load(init, {"encoder": common.Loaded(params, "vit")}, {})
  encoded = model.apply({"params": got}, image(), method="encode")
  _, out = tower.apply({"params": params}, image())
  np.testing.assert_allclose(encoded, out["encoded"], atol=1e-5)
  same = jax.tree.map(np.array_equal, got["decoder"], init["decoder"])
  assert all(jax.tree.leaves(same))


def test_load_errors():
  _, init = initial()
  with pytest.raises(ConfigError, match="model_init.*encoder"):
    cappa.load(init, {"image": "x"})
  incomplete = {**init, "decoder": {}}
  with pytest.raises(ValueError, match="EmbedTargets"):
    cappa.load(init, common.Loaded(incomplete, "x"))


def test_token_weights():
  labels = jnp.array([[3, 0, 4], [0, 0, 1]])
  batch = {"labels": labels}
  np.testing.assert_array_equal(
    cappa.token_weights(batch), [[1, 0, 1], [0, 0, 1]]
  )
  batch["label_masks"] = jnp.array([[0.5, 1, 1], [1, 1, 0]])
  np.testing.assert_array_equal(
    cappa.token_weights(batch, 4), [[0.5, 1, 0], [1, 1, 0]]
  )
