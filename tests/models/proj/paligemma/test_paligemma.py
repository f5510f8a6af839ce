"""PaliGemma: numbers of the specification, masks, slow decoding, loading."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import trees
from big_vision.lookup import ConfigError
from big_vision.models import common, vit
from big_vision.models.proj.paligemma import checkpoints, paligemma

pytestmark = pytest.mark.usefixtures("quick_compilation")
B, T, V, I = 2, 5, 20, 4
IMG = dict(variant="mu/16", pool_type="none", scan=True, head_zeroinit=False)
LLM = dict(
  variant="gemma_2b", width=16, depth=2, mlp_dim=24, num_heads=4, num_kv_heads=2,
  head_dim=8, vocab_size=V, cache_dtype=None, remat_policy="none",
)  # fmt: skip
MODEL = dict(img=IMG, llm=LLM)
AR = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])


def image(*lead):
  shape = (*(lead or (B,)), 32, 32, 3)
  return np.sin(0.01 * np.arange(np.prod(shape), dtype=np.float32)).reshape(
    shape
  )


def text():
  return (7 * np.arange(B * T).reshape(B, T) + 3) % V


def named(tree):
  return dict(trees.tree_flatten_with_names(tree)[0])


@functools.cache
def random(**kw):
  """Parameters without compiling anything; no two values are the same."""
  model = paligemma.Model(**MODEL | kw)
  init = lambda: model.init(jax.random.key(0), image(), text(), AR)
  rng = np.random.default_rng(0)
  fill = lambda x: (0.3 * rng.standard_normal(x.shape)).astype(x.dtype)
  return model, jax.tree.map(fill, jax.eval_shape(init)["params"])


def test_known_numbers():
  img = {k: v for k, v in IMG.items() if k != "head_zeroinit"}
  model = paligemma.Model(img=img, llm=LLM)
  init = jax.jit(model.init)
  params = init(jax.random.PRNGKey(0), image(), text(), AR)["params"]
  leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(params)]
  assert sum(x.size for x in leaves) == 43_808
  total = sum(np.abs(x).sum() for x in leaves)
  np.testing.assert_allclose(total, 3359.52, rtol=3e-6)
  assert sorted(params) == ["img", "llm"]
  assert params["img"]["head"]["kernel"].shape == (32, 16)
  wave = lambda x: np.float32(0.05 * np.sin(np.arange(x.size))).reshape(x.shape)
  params = jax.tree.map(lambda x: np.asarray(x) + wave(x), params)
  run = jax.jit(lambda p: model.apply({"params": p}, image(), text(), AR))
  logits, out = run(params)
  assert logits.shape == (B, T, V)
  np.testing.assert_allclose(np.abs(logits).mean(), 0.867559, rtol=2e-5)
  np.testing.assert_allclose(logits[0, 0, :2], (-0.65597, -1.2553), rtol=1e-4)
  names = (
    "img/zimg img/stem img/with_posemb img/encoder img/encoded img/pre_logits_2d "
    "img/pre_logits img/logits_2d img/logits llm/ztxt attn_mask llm/encoded "
    "llm/pre_logits llm/logits_pre_norm llm/logits text_logits text_tokens"
  )
  assert set(out) == set(names.split())
  np.testing.assert_array_equal(out["text_tokens"], logits.argmax(-1))
  np.testing.assert_array_equal(out["text_logits"], logits)
  same = out["llm/logits"][:, I:]
  np.testing.assert_allclose(logits, same, rtol=1e-5, atol=1e-5)
  assert out["attn_mask"].shape == (B, I + T, I + T)
  assert out["attn_mask"][:, :, :I].all()


def test_make_attn_mask():
  rng = np.random.default_rng(0)
  valid, mask_ar = rng.random((3, 6)) < 0.8, rng.integers(2, size=(3, 6))
  got = paligemma.make_attn_mask(jnp.asarray(valid), jnp.asarray(mask_ar))
  for b, i, j in np.ndindex(got.shape):
    # A later token is seen if no block starts between.
    sees = j <= i or not mask_ar[b, i + 1 : j + 1].any()
    assert got[b, i, j] == (valid[b, i] and valid[b, j] and sees)


def test_several_images():
  """Their tokens follow each other."""
  model, params = random()
  embed = jax.jit(
    lambda x: model.apply({"params": params}, x, method="embed_image")
  )
  several, out = embed(image(B, 3))
  assert several.shape == (B, 3 * I, 16)
  each, _ = embed(image(B, 3).reshape(-1, 32, 32, 3))
  np.testing.assert_allclose(several.reshape(each.shape), each, atol=1e-5)
  assert out["img/encoded"].shape == (B * 3, I, 32)


def test_text_cannot_see_what_follows():
  """A prefix sees all of itself and the image, a suffix what is before it."""
  model, params = random()
  run = jax.jit(
    lambda image, text: model.apply({"params": params}, image, text, AR)[0]
  )
  before = run(image(), text())
  sees = np.zeros((B, T, T), bool)
  for j in range(T):
    changed = text()
    changed[:, j] = (changed[:, j] + 5) % V
    sees[:, :, j] = np.abs(run(image(), changed) - before).max(-1) > 1e-4
  for b in range(B):
    num = int((AR[b] == 0).sum())
    want = np.tri(T, dtype=bool)
    want[:num, :num] = True
    np.testing.assert_array_equal(sees[b], want)
  assert (np.abs(run(image() + 0.1, text()) - before).max(-1) > 1e-4).all()


SLOW = '''
import flax.linen as nn
from big_vision.models.proj.paligemma import gemma_bv

class Model(nn.Module):
  """Gemma that does not know how to use a cache."""

  size: dict

  def setup(self):
    self.inner = gemma_bv.Model(**self.size)
    nn.share_scope(self, self.inner)

  @property
  def embdim(self):
    return self.inner.embdim

  def embed_tokens(self, tokens, train=False):
    return self.inner.embed_tokens(tokens)

  def compute_logits(self, pre_logits, train=False):
    return self.inner.compute_logits(pre_logits)

  def __call__(self, embs, mask=None, train=False):
    return self.inner(embs, mask)
'''


@pytest.fixture
def slow(tmp_path, monkeypatch):
  """The model and its parameters, with a language model without a cache."""
  (tmp_path / "bv_slow_llm.py").write_text(SLOW)
  monkeypatch.syspath_prepend(str(tmp_path))
  model = paligemma.Model(img=IMG, llm_model="bv_slow_llm", llm=dict(size=LLM))
  yield model, random()[1]
  sys.modules.pop("bv_slow_llm", None)


def decoded(model, params, extra=2):
  """Logits [B, 1 + extra, V] after prompts of 4 and 2 of the 5 tokens."""
  lengths = np.array([3, 2])
  mask = np.arange(T) < lengths[:, None]
  then = np.stack([text()[b, n : n + extra] for b, n in enumerate(lengths)])

  @jax.jit
  def run(params, image, text, mask, then):
    apply = lambda *args, **kw: model.apply({"params": params}, *args, **kw)
    (x, mask, mask_ar), _ = apply(
      image, text, input_mask=mask, mask_ar=jnp.asarray(AR),
      method=model.embed_image_and_text,
    )  # fmt: skip
    logits, state = apply(
      x, mask, mask_ar, cache_size=I + T + extra,
      method=model.prefill_cache, mutable="cache",
    )  # fmt: skip
    out = [logits]
    for i in range(extra):
      x, _ = apply(then[:, i : i + 1], method=model.embed_text)
      logits, state = model.apply(
        {"params": params, **state}, x,
        method=model.extend_cache, mutable="cache",
      )  # fmt: skip
      out.append(logits)
    return jnp.concatenate(out, axis=1), state["cache"]

  logits, cache = run(params, image(), text(), mask, then)
  return logits, cache, lengths


def test_caches_give_the_logits_of_training(slow):
  model, params = random()
  run = jax.jit(lambda p: model.apply({"params": p}, image(), text(), AR)[0])
  logits = run(params)
  fast, _, lengths = decoded(model, params)
  at = np.add.outer([0, 1, 2], lengths - 1).T[:, :, None]
  want = np.take_along_axis(np.asarray(logits), at, axis=1)
  assert np.abs(want).max() > 1
  np.testing.assert_allclose(fast, want, rtol=1e-5, atol=1e-5)
  found, cache, _ = decoded(*slow)
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
  size = I + T + 2
  assert {k: x.shape for k, x in cache.items()} == {
    "x_cache": (B, size, 16),
    "input_mask_cache": (B, size),
    "mask_ar_cache": (B, size),
  }
  np.testing.assert_array_equal(cache["input_mask_cache"].sum(1), [9, 8])


def test_too_small_a_cache():
  model, params = random()
  x, mask = jnp.zeros((B, 9, 16)), jnp.ones((B, 9), bool)
  with pytest.raises(ValueError, match="cache of 8 tokens.*for 9"):
    model.apply(
      {"params": params}, x, mask, mask.astype(int), cache_size=8,
      method=model.prefill_cache, mutable="cache",
    )  # fmt: skip


def test_defaults_of_embed_image_and_text():
  model, params = random()
  run = lambda: model.apply(
    {"params": params}, image(), text(), method=model.embed_image_and_text
  )
  (x, mask, mask_ar), out = jax.jit(run)()
  assert mask.all() and mask.shape == (B, I + T)
  np.testing.assert_array_equal(mask_ar, [[0] * I + [1] * T] * B)
  np.testing.assert_array_equal(x[:, :I], out["img/zimg"])
  np.testing.assert_array_equal(x[:, I:], out["llm/ztxt"])


def test_bfloat16():
  model, params = random()
  want = jax.jit(lambda p: model.apply({"params": p}, image(), text(), AR))
  want, half = want(params)[0], paligemma.Model(**MODEL, dtype_mm="bfloat16")
  run = jax.jit(lambda p: half.apply({"params": p}, image(), text(), AR))
  got, out = run(params)
  assert got.dtype == jnp.float32
  assert out["llm/encoded"].dtype == out["img/stem"].dtype == jnp.bfloat16
  assert 1e-4 < np.abs(got - want).mean() < 0.03 * np.abs(want).mean()


def test_unknown_parts():
  for kw, match in (
    (dict(img_model="vitt"), "image model.*vitt.*model.img_model"),
    (dict(llm_model="gema"), "language model.*gema.*model.llm_model"),
  ):
    with pytest.raises(ValueError) as e:
      jax.eval_shape(
        paligemma.Model(**MODEL, **kw).init,
        jax.random.key(0), image(), text(), AR,
      )  # fmt: skip
    assert all(word in str(e.value) for word in match.split(".*")), e.value


def test_width_of_the_image_model():
  """By default that of the language model."""
  model = paligemma.Model(img={**IMG, "num_classes": 24}, llm=LLM)
  with pytest.raises(ValueError, match=r"img\.num_classes = 24.*16"):
    jax.eval_shape(model.init, jax.random.key(0), image(), text(), AR)


def test_image_grid():
  grid = paligemma.image_grid(dict(img=dict(variant="So400m/14")), (224, 448))
  assert grid == vit.image_grid(dict(variant="So400m/14"), (224, 448), "x")
  with pytest.raises(ConfigError, match=r"model\.img"):
    paligemma.image_grid(dict(img=dict(variant="B/16")), (8, 8))
  no_grid = dict(img_model="proj.image_text.text_transformer")
  assert paligemma.image_grid(no_grid, (8, 8)) is None


def same(a, b):
  a, b = named(a), named(b)
  assert a.keys() == b.keys()
  for k, x in a.items():
    np.testing.assert_array_equal(x, b[k], err_msg=k)


@pytest.fixture
def npz(tmp_path):
  path = str(tmp_path / "it.npz")
  flat = {f"params/{k}": x for k, x in named(random()[1]).items()}
  np.savez(path, **flat)
  return path


def shapes(**kw):
  model = paligemma.Model(**MODEL | kw)
  return jax.eval_shape(model.init, jax.random.key(0), image(), text(), AR)[
    "params"
  ]


def test_load_all(npz):
  _, params = random()
  init = shapes()
  same(paligemma.load(init, npz, MODEL), params)
  same(paligemma.load(None, npz, MODEL), params)
  with_names = {"img": f"{npz}:img", "llm": f"{npz}:llm"}
  same(paligemma.load(init, with_names, MODEL), params)


def test_load_a_part(npz):
  """What is not listed keeps its values, or shapes."""
  _, params = random()
  init = jax.tree.map(np.zeros_like, params)
  got = paligemma.load(init, {"img": f"{npz}:img"}, MODEL)
  same(got, {"img": params["img"], "llm": init["llm"]})
  got = paligemma.load(shapes(), {"llm": f"{npz}:llm"}, MODEL)
  same(got["llm"], params["llm"])
  assert isinstance(got["img"]["head"]["kernel"], jax.ShapeDtypeStruct)
  got = paligemma.load(None, {"llm": f"{npz}:llm"}, MODEL)
  assert got["img"] is None
  source = common.Loaded(params["img"], "somewhere")
  same(paligemma.load(init, {"img": source}, MODEL)["img"], params["img"])


def test_load_with_arguments(npz):
  llm = {**LLM, "vocab_size": V + 4}
  init = jax.tree.map(lambda x: np.zeros(x.shape), shapes(llm=llm))
  got = paligemma.load(
    init, npz, dict(img=IMG, llm=llm),
    img_load_kw=dict(dont_load=["head/.*"]),
    llm_load_kw=dict(dont_load="final_norm/.*"),
  )  # fmt: skip
  assert not got["img"]["head"]["kernel"].any()
  assert not got["llm"]["final_norm"]["scale"].any()
  table = got["llm"]["embedder"]["input_embedding"]
  np.testing.assert_array_equal(
    table[:V], random()[1]["llm"]["embedder"]["input_embedding"]
  )
  assert table[V:].all()
  with pytest.raises(ValueError, match="img_load_kw.*dont_lode"):
    paligemma.load(init, npz, MODEL, img_load_kw=dict(dont_lode=[]))


def test_load_errors(npz):
  with pytest.raises(ConfigError, match=r"config\.model_init: \['image'\]"):
    paligemma.load(shapes(), {"image": npz}, MODEL)
  with pytest.raises(ValueError, match="post_ffw_norm"):
    llm = {**LLM, "post_norms": True}
    paligemma.load(shapes(llm=llm), npz, dict(img=IMG, llm=llm))


def test_names_of_public_checkpoints(monkeypatch, npz, tmp_path):
  names = checkpoints.VANITY_NAMES
  assert len(names) == 18
  assert names["pt_448"] == "pt_448.npz"
  assert names["pt_224.f16"] == "pt_224.f16.npz"
  assert names["pt_3b_896"] == "pt_3b_896.bf16.npz"
  monkeypatch.delenv("BV_GEMMA_DIR", raising=False)
  with pytest.raises(ConfigError, match=r"pt_224.*\$BV_GEMMA_DIR.*not set"):
    paligemma.load(shapes(), "pt_224", MODEL)
  monkeypatch.setenv("BV_GEMMA_DIR", str(tmp_path))
  with pytest.raises(FileNotFoundError, match=r"pt_224\.npz"):
    paligemma.load(shapes(), "pt_224", MODEL)
  (tmp_path / "it.npz").rename(tmp_path / "pt_224.npz")
  same(paligemma.load(shapes(), "pt_224", MODEL), random()[1])
