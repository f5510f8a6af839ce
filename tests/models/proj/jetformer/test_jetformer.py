"""JetFormer: recorded numbers, what attends to what, its cache, checkpoints."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import checkpoints, lookup, models, trees
from big_vision.models.proj.jetformer import jetformer

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = dict(
  width=16, depth=2, mlp_dim=24, num_heads=4, num_kv_heads=1, head_dim=8,
  vocab_size=20, out_dim=4, num_mixtures=3, scan=True, bos_id=18, boi_id=19,
  nolabel_id=17,
)  # fmt: skip
B, T, N = 2, 3, 5  # Examples, words, vectors of an image.
FIRST = np.array([True, False])  # Where the text is first.
WORDS = (7 * np.arange(B * T).reshape(B, T) + 3) % 17
IMAGE = np.float32(np.sin(0.01 * np.arange(B * N * 4))).reshape(B, N, 4)


def shapes(tree):
  return {k: x.shape for k, x in trees.tree_flatten_with_names(tree)[0]}


@functools.cache
def structure(**kw):
  """(model, shapes of its parameters)."""
  model = jetformer.Model(**TINY | kw)
  init = lambda: model.init(jax.random.key(0), WORDS, IMAGE, FIRST)
  return model, jax.eval_shape(init)["params"]


@functools.cache
def made(**kw):
  """(model, any parameters)."""
  model, params = structure(**kw)
  rng = np.random.default_rng(0)
  fill = lambda x: (0.4 * rng.standard_normal(x.shape)).astype(x.dtype)
  return model, jax.tree.map(fill, params)


@functools.cache
def applied(model, train=False):
  return jax.jit(
    lambda params, *args, **kw: model.apply(
      {"params": params}, *args, **kw, train=train
    )
  )


def run(model, params, words=WORDS, image=IMAGE, first=FIRST, **kw):
  return applied(model)(params, words, image, first, **kw)


def test_recorded_numbers():
  """Those of the original code, for the same parameters and inputs."""
  model = jetformer.Model(**TINY)
  init = lambda: model.init(jax.random.PRNGKey(0), WORDS, IMAGE, FIRST)
  params = jax.jit(init)()["params"]
  leaves = jax.tree.leaves(params)
  assert sum(x.size for x in leaves) == 5803
  total = sum(np.abs(np.asarray(x, np.float64)).sum() for x in leaves)
  np.testing.assert_allclose(total, 1200.92, rtol=1e-5)
  move = lambda x: np.float32(
    x + 0.05 * np.sin(np.arange(x.size, dtype=np.float64)).reshape(x.shape)
  )
  params = jax.tree.map(move, params)
  text, image, pmf, pdf, _ = run(
    model, params,
    text_input_mask=np.array([[1, 1, 0], [1, 1, 1]], bool),
    drop_prefix=np.array([False, True]),
  )  # fmt: skip
  assert text.shape == (2, 3, 20) and image.shape == (2, 5, 27)
  log_prob = pdf.log_prob(IMAGE)
  for got, size, first in [
    (text, 3.38806, (2.5588, 4.5015)),
    (image, 0.109852, (-0.14089, -0.0459)),
    (log_prob, 3.80715, (-3.6995, -3.7012)),
  ]:
    np.testing.assert_allclose(np.abs(got).mean(), size, rtol=2e-5)
    np.testing.assert_allclose(got.reshape(-1)[:2], first, rtol=2e-4)
  want = jax.nn.log_softmax(text)
  want = jnp.take_along_axis(want, WORDS[..., None], axis=-1)[..., 0]
  np.testing.assert_allclose(pmf.log_prob(WORDS), want, rtol=1e-5)


def test_parameters():
  base = shapes(structure()[1])
  assert base["EmbedText/embedding"] == (20, 16)
  assert base["decoder/layers/attn/kv_einsum/w"] == (2, 2, 1, 16, 8)
  assert base["LogitsImage/kernel"] == (16, 27)
  got = shapes(
    structure(untie_output_vocab=True, per_modality_final_norm=True)[1]
  )
  assert {k: v for k, v in got.items() if k not in base} == {
    "LogitsText/kernel": (16, 20), "LogitsText/bias": (20,),
    "TextNorm/scale": (16,), "ImageNorm/scale": (16,),
  }  # fmt: skip
  got = shapes(structure(num_vocab_repeats=2)[1])
  assert got == base | {"EmbedText/embedding": (40, 16)}
  loop = shapes(structure(scan=False)[1])
  assert loop["decoder/layers/1/mlp/linear"] == (24, 16)


@pytest.mark.parametrize("boi, causal", [(19, False), (None, True)])
def test_order_and_attention(boi, causal):
  """Each sequence put together by hand."""
  model, params = made(boi_id=boi, causal_mask_on_prefix=causal)
  mask = np.array([[1, 0, 1], [1, 1, 0]], bool)
  embed = lambda shift: model.apply(
    {"params": params}, WORDS, IMAGE, text_first_mask=FIRST,
    text_input_mask=mask, shift=shift, method="embed_image_and_text",
  )  # fmt: skip
  table = params["EmbedText"]["embedding"]
  image = IMAGE @ params["EmbedImage"]["kernel"] + params["EmbedImage"]["bias"]
  one = [True]
  begin, between = ([], [19]) if boi else ([18], [])
  sequences = [
    ([table[[18]], table[WORDS[0]], table[between], image[0]],
     [one, mask[0], one * len(between), one * N], T),
    ([table[begin or between], image[1], table[[18] if boi else []],
      table[WORDS[1]]],
     [one, one * N, one * len(between), mask[1]], N),
  ]  # fmt: skip
  x, attn_mask, input_mask = embed(False)
  size = T + N + (2 if boi else 1)
  for i, (parts, masks, prefix) in enumerate(sequences):
    np.testing.assert_allclose(x[i], np.concatenate(parts), atol=1e-6)
    masks = np.concatenate(masks)
    np.testing.assert_array_equal(input_mask[i], masks)
    for query in range(size):
      seen = {k for k in range(size) if k <= query}
      seen |= set() if causal else set(range(prefix + 1))
      want = [k in seen and masks[k] for k in range(size)]
      np.testing.assert_array_equal(attn_mask[i, query], want)
  shifted = embed(True)
  np.testing.assert_array_equal(shifted[0], x[:, :-1])
  np.testing.assert_array_equal(shifted[1], attn_mask[:, :-1, :-1])
  np.testing.assert_array_equal(shifted[2], input_mask[:, :-1])


@pytest.mark.parametrize("kw", [{}, dict(boi_id=None)])
def test_nothing_is_predicted_from_what_follows(kw):
  model, params = made(**kw)
  text, image, *_ = run(model, params)
  for i in range(T):
    words = WORDS.copy()
    words[:, i:] = (words[:, i:] + 5) % 17
    new_text, new_image, *_ = run(model, params, words)
    changed = np.abs(new_text - text).max(-1) > 1e-4
    same = np.arange(T) <= i
    np.testing.assert_array_equal(changed, np.stack([~same, ~same]))
    moved = np.abs(new_image - image).max((1, 2)) > 1e-4
    np.testing.assert_array_equal(moved, FIRST)
  for i in range(N):
    other = IMAGE.copy()
    other[:, i:] += 1
    new_text, new_image, *_ = run(model, params, image=other)
    changed = np.abs(new_image - image).max(-1) > 1e-5
    np.testing.assert_array_equal(changed, np.stack([np.arange(N) > i] * 2))
    moved = np.abs(new_text - text).max((1, 2)) > 1e-5
    np.testing.assert_array_equal(moved, ~FIRST)


def test_a_dropped_prefix_does_not_matter():
  model, params = made()
  drop = np.array([True, True])
  masks = np.array([[1, 1, 0], [1, 1, 1]], bool)
  text, image, *_ = run(model, params, drop_prefix=drop, text_input_mask=masks)
  other = run(
    model, params, (WORDS + 3) % 17, IMAGE + 1, drop_prefix=drop,
    text_input_mask=~masks,
  )  # fmt: skip
  # The first vector after a dropped text, the first word after a dropped image.
  np.testing.assert_allclose(image[0, 0], other[1][0, 0], atol=1e-6)
  np.testing.assert_allclose(text[1, 0], other[0][1, 0], atol=1e-6)
  kept = run(model, params, drop_prefix=~drop)
  plain = run(model, params)
  jax.tree.map(np.testing.assert_array_equal, kept[:2], plain[:2])
  assert np.abs(image[0, 0] - plain[1][0, 0]).max() > 1e-3


def test_copies_of_a_text():
  model, params = made(num_vocab_repeats=3)
  x, _, mask = model.apply(
    {"params": params}, WORDS, IMAGE, text_first_mask=FIRST,
    drop_prefix=np.array([True, False]), method="embed_image_and_text",
  )  # fmt: skip
  table = params["EmbedText"]["embedding"]
  assert mask.shape == (B, 3 * T + N + 1) and mask.all()
  ids = [17 + 20 * r for r in range(3) for _ in range(T)]
  np.testing.assert_array_equal(x[0, : 1 + 3 * T], table[[18, *ids]])
  ids = [w + 20 * r for r in range(3) for w in WORDS[1]][:-1]
  np.testing.assert_array_equal(x[1, -len(ids) :], table[ids])
  out = jax.eval_shape(applied(model), params, WORDS, IMAGE, FIRST)
  assert out[0].shape == (B, T, 60) and out[1].shape == (B, N, 27)


@pytest.mark.parametrize(
  "kw", [{}, dict(scan=False, per_modality_final_norm=True)]
)
def test_a_cache_gives_the_same_numbers(kw):
  """With padding in the middle of a prefix, and prefixes of other lengths."""
  model, params = made(**kw)
  mask = np.array([[True, False, True], [True, True, True]])
  first = np.array([True, True])
  # The heads read this.
  want = run(model, params, first=first, text_input_mask=mask)[4]
  key = "encoded" if model.per_modality_final_norm else "pre_logits"
  want = want[key][:, T + 1 :]

  @jax.jit
  def prefill(params):
    x, attn_mask, input_mask = model.apply(
      {"params": params}, WORDS, IMAGE, text_first_mask=first,
      text_input_mask=mask, method="embed_image_and_text",
    )  # fmt: skip
    got, state = model.apply(
      {"params": params}, x[:, :num], attn_mask[:, :num, :num],
      input_mask[:, :num], cache_size=num + N, method="prefill_cache",
      mutable=("cache",),
    )  # fmt: skip
    return x[:, num:], got[:, -1:], state["cache"]

  @jax.jit
  def extend(params, cache, x):
    got, state = model.apply(
      {"params": params, "cache": cache}, x, method="extend_cache",
      mutable=("cache",),
    )  # fmt: skip
    return got, state["cache"]

  num = T + 2
  rest, got, cache = prefill(params)
  outs = [got]
  for i in range(N - 1):
    got, cache = extend(params, cache, rest[:, i : i + 1])
    outs.append(got)
  got = np.concatenate(outs, 1)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  where = {
    k: cache[k].tolist() for k in ("seq_len", "cache_begin", "cache_end")
  }
  assert where == dict(seq_len=[8, 9], cache_begin=[1, 0], cache_end=[9, 9])


def test_right_align():
  mask = np.array([[1, 0, 1, 0], [0, 0, 0, 0]], bool)
  x = np.arange(1.0, 9).reshape(2, 4, 1)
  attn = np.tril(np.ones((2, 4, 4), bool))
  got, new, valid = jetformer.right_align(x, attn, mask)
  np.testing.assert_array_equal(got[..., 0], [[0, 0, 1, 3], [0, 0, 0, 0]])
  np.testing.assert_array_equal(valid, [[0, 0, 1, 1], [0, 0, 0, 0]])
  want = np.zeros((2, 4, 4))
  want[0, 2, 2] = want[0, 3, 2] = want[0, 3, 3] = 1
  np.testing.assert_array_equal(new, want)
  assert new.dtype == valid.dtype == bool
  empty = np.zeros((2, 0, 1)), np.zeros((2, 0, 0)), np.zeros((2, 0))
  assert jetformer.right_align(*empty) == empty


def test_one_gaussian():
  model, params = structure(multivariate=True, num_mixtures=1)
  _, logits, _, pdf, _ = jax.eval_shape(
    applied(model), params, WORDS, IMAGE, FIRST
  )
  assert logits.shape == (B, N, 20) and pdf.scale_tri.shape == (B, N, 4, 4)
  logits = np.random.default_rng(0).normal(size=logits.shape)
  pdf = model.get_pdf(logits)
  assert pdf.log_prob(IMAGE).shape == (B, N)
  colder = model.get_pdf(logits, temperature_scales=0.5)
  np.testing.assert_allclose(colder.scale_tri, 0.5 * pdf.scale_tri, rtol=1e-6)


def test_temperatures():
  model, _ = structure()
  logits = np.random.default_rng(0).normal(size=(B, N, 27))
  pdf = model.get_pdf(logits)
  new = model.get_pdf(logits, temperature_scales=0.5, temperature_probs=2.0)
  scale = lambda pdf: pdf.components_distribution.scale_diag
  np.testing.assert_allclose(scale(new), 0.5 * scale(pdf), rtol=1e-6)
  weights = lambda pdf: pdf.mixture_distribution.logits
  np.testing.assert_allclose(weights(new), 2 * weights(pdf), rtol=1e-6)


def test_intermediates():
  model, params = made()
  out = run(model, params)[4]
  assert shapes(out) == dict.fromkeys(
    ["block00_rep", "block01_rep", "encoded", "pre_logits"], (B, T + N + 1, 16)
  )
  np.testing.assert_array_equal(out["block01_rep"], out["encoded"])


def test_low_precision():
  model, params = made(dtype_mm="bfloat16", head_dtype="bfloat16")
  text, image, _, pdf, out = run(model, params)
  assert text.dtype == jnp.float32 and image.dtype == jnp.bfloat16
  assert out["encoded"].dtype == jnp.bfloat16
  assert pdf.log_prob(IMAGE).dtype == jnp.float32
  exact = run(*made())
  np.testing.assert_allclose(text, exact[0], atol=0.2)
  np.testing.assert_allclose(image, exact[1], atol=0.2)


def test_gradients():
  model, params = made(dropout=0.1)

  @jax.jit
  @jax.grad
  def gradient(params):
    *_, pmf, pdf, _ = model.apply(
      {"params": params}, WORDS, IMAGE, FIRST, train=True,
      rngs={"dropout": jax.random.key(1)},
    )  # fmt: skip
    return -pmf.log_prob(WORDS).mean() - pdf.log_prob(IMAGE).mean()

  got = gradient(params)
  assert all(np.isfinite(x).all() and x.any() for x in jax.tree.leaves(got))


def test_get_drop_labels():
  key = jax.random.key(0)
  assert structure()[0].get_drop_labels(key, 4) is None
  model = jetformer.Model(**TINY, drop_labels_probability=0.3)
  got = model.get_drop_labels(key, 1000)
  np.testing.assert_array_equal(got, jax.random.uniform(key, (1000,)) <= 0.3)


@pytest.mark.parametrize("scan", [True, False])
def test_checkpoints(tmp_path, scan):
  """Layers may be stacked in the checkpoint and not in the model, or v. v."""
  model, params = made(scan=scan)
  path = str(tmp_path / "model.npz")
  checkpoints.save_checkpoint({"params": params}, path)
  kw = TINY | dict(scan=not scan)
  config = dict(
    model_name="proj.jetformer.jetformer", model=kw, model_init=path
  )
  _, load = models.build(config)
  got = load(structure(scan=not scan)[1])
  assert shapes(got) == shapes(structure(scan=not scan)[1])
  stacked, each = (got, params) if not scan else (params, got)
  layers = lambda tree: tree["decoder"]["layers"]
  for i in range(2):
    want = jax.tree.map(lambda x, i=i: x[i], layers(stacked))
    jax.tree.map(np.testing.assert_array_equal, layers(each)[str(i)], want)
  np.testing.assert_array_equal(
    got["EmbedText"]["embedding"], params["EmbedText"]["embedding"]
  )
  zeros = jax.tree.map(np.zeros_like, params)
  kept = jetformer.load(zeros, path, kw, dont_load=["Embed.*"])
  assert not kept["EmbedText"]["embedding"].any()
  assert kept["LogitsImage"]["bias"].any()
  assert shapes(jetformer.load(None, path)) == shapes(params)
  with pytest.raises(lookup.ConfigError, match=r"config\.model_init=\{"):
    jetformer.load(params, {"encoder": path})


@pytest.mark.parametrize(
  "kw, match",
  [
    (dict(bos_id=None), r"config\.model\.bos_id is not set"),
    (
      dict(boi_id=20),
      r"config\.model\.boi_id = 20 .* 0 to vocab_size - 1 = 19",
    ),
    (dict(nolabel_id=-1), r"config\.model\.nolabel_id = -1"),
    (dict(multivariate=True), r"config\.model\.num_mixtures = 3.*Use 1"),
    (dict(num_vocab_repeats=0), r"config\.model\.num_vocab_repeats = 0"),
    (dict(head_dtype="float12"), r"model\.head_dtype"),
    (dict(embed_dtype="int32"), r"embed_dtype"),
  ],
)
def test_bad_settings(kw, match):
  model = jetformer.Model(**TINY | kw)
  init = lambda: model.init(jax.random.key(0), WORDS, IMAGE, FIRST)
  with pytest.raises(lookup.ConfigError, match=match):
    jax.eval_shape(init)


def test_bad_calls():
  model, params = made(nolabel_id=None)
  run(model, params)
  with pytest.raises(lookup.ConfigError, match=r"nolabel_id is not set"):
    run(model, params, drop_prefix=np.array([True, False]))
  x = np.zeros((2, 4, 16), np.float32)
  fill = lambda **kw: model.apply(
    {"params": params}, x, np.ones((2, 4, 4), bool), np.ones((2, 4), bool),
    method="prefill_cache", mutable=("cache",), **kw,
  )  # fmt: skip
  with pytest.raises(ValueError, match="cache of 3 tokens is too small for 4"):
    fill(cache_size=3)
  with pytest.raises(ValueError, match="no cache: call prefill_cache"):
    model.apply(
      {"params": params}, x[:, :1], method="extend_cache", mutable=("cache",)
    )
