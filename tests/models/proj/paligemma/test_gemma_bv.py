"""Gemma as a part of PaliGemma: its parameters, its cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import trees
from big_vision.models.ppp import gemma
from big_vision.models.proj.paligemma import gemma_bv, paligemma

pytestmark = pytest.mark.usefixtures("quick_compilation")
B, V, D, C = 2, 20, 16, 9
TINY = dict(
  variant="gemma_2b", width=D, depth=2, mlp_dim=24, num_heads=4, num_kv_heads=2,
  head_dim=8, vocab_size=V, cache_dtype=None,
)  # fmt: skip
# Three tokens that see each other, then some that see what was before.
AR = np.array([0, 0, 0, 1, 1, 1, 1])
LENGTHS = (5, 3)
NEXT = 2  # Tokens that are read one by one.


def shapes(tree):
  return {k: x.shape for k, x in trees.tree_flatten_with_names(tree)[0]}


@functools.cache
def random(**kw):
  model = gemma_bv.Model(**TINY | kw)
  init = lambda: model.init(jax.random.key(0), np.zeros((B, 2, D)))
  rng = np.random.default_rng(0)
  fill = lambda x: (0.4 * rng.standard_normal(x.shape)).astype(x.dtype)
  return model, jax.tree.map(fill, jax.eval_shape(init)["params"])


def test_parameters_are_those_of_gemma():
  ids = np.arange(10).reshape(2, 5)
  model, embs = gemma_bv.Model(**TINY), np.zeros((2, 5, D), np.float32)
  got = jax.jit(model.init)(jax.random.PRNGKey(0), embs)["params"]
  other = gemma.Model(**model.arguments)
  want = jax.jit(other.init)(jax.random.PRNGKey(0), ids)["params"]
  assert shapes(got) == shapes(want) and "layers/attn/q_einsum/w" in shapes(got)
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_arguments_are_those_of_the_variant():
  model = gemma_bv.Model("gemma2_2b", scan=False, dropout=0.1)
  want = dict(gemma.get_config("gemma2_2b"))
  want |= dict(scan=False, remat_policy="nothing_saveable", dropout=0.1)
  want |= dict(dropout_bdims=(), cache_dtype="bfloat16")
  assert model.arguments == want
  assert model.embdim == 2304 and gemma_bv.Model().embdim == 2048
  model = gemma_bv.Model("gemma2_2b", vocab_size=9, final_logits_softcap=0.0)
  changed = dict(vocab_size=9, final_logits_softcap=0.0)
  assert changed.items() <= model.arguments.items()
  assert model.arguments["attn_logits_softcap"] == 50.0
  assert gemma_bv.Model(**TINY).embdim == D


def test_width_of_embeddings():
  model, params = random()
  with pytest.raises(ValueError, match=r"width 17.*is 16.*img\.num_classes"):
    model.apply({"params": params}, np.zeros((B, 2, 17)))


def placed(where):
  """Positions in 7 places of the tokens of each example, and nothing else."""
  rows = {
    "right": [[0, 1, 2, 3, 4], [0, 1, 2]],
    "left": [[2, 3, 4, 5, 6], [4, 5, 6]],
    "middle": [[0, 1, 2, 5, 6], [1, 3, 4]],
  }
  return [np.array(row) for row in rows[where]]


def tokens():
  return (7 * np.arange(B * 7).reshape(B, 7) + 3) % V


@functools.cache
def jitted(model, capped=True):
  """`(params, prompts, their masks, next tokens) -> logits, caches`."""

  @jax.jit
  def run(params, ids, mask, mask_ar, then):
    embed = lambda x: model.apply(
      {"params": params}, x, method=model.embed_tokens
    )
    attn_mask = paligemma.make_attn_mask(mask, mask_ar)
    logits, state = model.apply(
      {"params": params}, embed(ids), mask, attn_mask, cache_size=C,
      method=model.prefill_cache, mutable="cache",
    )  # fmt: skip
    first, out = state["cache"], [logits]
    for i in range(NEXT):
      logits, state = model.apply(
        {"params": params, **state}, embed(then[:, i : i + 1]), capped=capped,
        method=model.extend_cache, mutable="cache",
      )  # fmt: skip
      out.append(logits)
    return jnp.concatenate(out, 1), first, state["cache"]

  return run


def decoded(model, params, where, **kw):
  """Logits after the prompts, and after each further token [B, 1 + NEXT, V]."""
  ids = np.full((B, 7), 11)  # What padding is, does not matter.
  mask = np.zeros((B, 7), bool)
  mask_ar = np.full((B, 7), int(where == "right"))
  for i, at in enumerate(placed(where)):
    ids[i, at] = tokens()[i, : len(at)]
    mask[i, at], mask_ar[i, at] = True, AR[: len(at)]
  then = np.stack([tokens()[i, n : n + NEXT] for i, n in enumerate(LENGTHS)])
  return jitted(model, **kw)(params, ids, mask, mask_ar, then)


def whole(model, params, key="logits"):
  """The same, from all tokens of an example at once."""

  @jax.jit
  def run(params, ids):
    embs = model.apply({"params": params}, ids, method=model.embed_tokens)
    mask_ar = jnp.broadcast_to(AR[None], ids.shape)
    mask = paligemma.make_attn_mask(jnp.ones(ids.shape, bool), mask_ar)
    return model.apply({"params": params}, embs, mask)[1][key]

  logits = run(params, tokens())
  at = np.add.outer(np.array(LENGTHS) - 1, np.arange(1 + NEXT))
  return np.take_along_axis(logits, at[..., None], axis=1)


@pytest.mark.parametrize(
  "kw", [{}, dict(scan=False), dict(sliding_window=2, post_norms=True)]
)
def test_a_cache_gives_the_same_numbers(kw):
  """Wherever the padding is, with prompts of different lengths."""
  model, params = random(**kw)
  want = whole(model, params)
  for where in ("right", "left", "middle"):
    got, _, cache = decoded(model, params, where)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=where)
  np.testing.assert_array_equal(cache["seq_len"], np.add(LENGTHS, NEXT))
  assert np.abs(want).max() > 2


def test_what_a_cache_holds():
  model, params = random(cache_dtype="bfloat16")
  got, first, last = decoded(model, params, "right")
  layers = {
    "layers/attn/idx": (2, 2),
    "layers/attn/k_cache": (2, 2, C, 2, 8),
    "layers/attn/v_cache": (2, 2, C, 2, 8),
  }
  names = ("seq_len", "cache_begin", "cache_end")
  assert shapes(first) == layers | dict.fromkeys(names, (2,))
  assert first["layers"]["attn"]["k_cache"].dtype == jnp.bfloat16
  assert {first[k].dtype for k in names} == {np.dtype("int32")}
  np.testing.assert_array_equal(
    [first[k] for k in names], [[5, 3], [2, 4], [7, 7]]
  )
  np.testing.assert_array_equal(
    [last[k] for k in names], [[7, 5], [2, 4], [9, 9]]
  )
  np.testing.assert_array_equal(last["layers"]["attn"]["idx"], 9)
  np.testing.assert_allclose(got, whole(model, params), atol=0.3)


@pytest.mark.parametrize("capped", [False, True])
def test_only_what_follows_prompts_is_capped(capped):
  model, params = random(final_logits_softcap=2.0)
  got, *_ = decoded(model, params, "right", capped=capped)
  want = whole(model, params, "logits_pre_norm")
  np.testing.assert_allclose(got[:, 0], want[:, 0], rtol=1e-5, atol=1e-5)
  rest = whole(model, params)[:, 1:] if capped else want[:, 1:]
  np.testing.assert_allclose(got[:, 1:], rest, rtol=1e-5, atol=1e-5)
  assert np.abs(want[:, 1:]).max() > 2
