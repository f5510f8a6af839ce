"""Gemma 1 and 2 of transformers: `ppp.gemma`.

References:
  Gemma team 2024, https://arxiv.org/abs/2403.08295
  Gemma 2 team 2024, https://arxiv.org/abs/2408.00118
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision.models.ppp import gemma
from big_vision.models.weights import settings, tables
from big_vision.models.weights.family import GEMMA, Family, Found, Tensors
from big_vision.types import Params

EMBEDDING = "embed_tokens.weight"
HEAD = "lm_head.weight"
_TITLE = "transformers' Gemma"
_SIZES = dict(
  width="hidden_size",
  depth="num_hidden_layers",
  mlp_dim="intermediate_size",
  num_heads="num_attention_heads",
  num_kv_heads="num_key_value_heads",
  head_dim="head_dim",
)
_COMMON = dict(
  head_dim=256,
  hidden_act="gelu_pytorch_tanh",
  rms_norm_eps=1e-6,
  attention_bias=False,
  vocab_size=256_000,
)
_DEFAULTS = {
  "gemma": _COMMON
  | dict(
    hidden_size=3072,
    num_hidden_layers=28,
    intermediate_size=24_576,
    num_attention_heads=16,
    num_key_value_heads=16,
  ),
  "gemma2": _COMMON
  | dict(
    hidden_size=2304,
    num_hidden_layers=26,
    intermediate_size=9216,
    num_attention_heads=8,
    num_key_value_heads=4,
    query_pre_attn_scalar=256,
    sliding_window=4096,
    final_logit_softcapping=30.0,
    attn_logit_softcapping=50.0,
  ),
}
# The first releases say "gelu", but mean its approximation.
_ACTIVATIONS = ("gelu_pytorch_tanh", "gelu", "gelu_new", "gelu_fast", None)
_THETA = 10_000.0
_NORMS = {
  "pre_attention_norm": "input_layernorm",
  "pre_ffw_norm": "post_attention_layernorm",
}
_NORMS_2 = {
  "pre_attention_norm": "input_layernorm",
  "post_attention_norm": "post_attention_layernorm",
  "pre_ffw_norm": "pre_feedforward_layernorm",
  "post_ffw_norm": "post_feedforward_layernorm",
}
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"


def read_model(
  config: Mapping[str, Any], vocab_size: int | None, where: str = "config.json"
) -> dict[str, Any]:
  """Reads the settings of a Gemma.

  Args:
    config: content of config.json, or a part of it.
    vocab_size: number of embeddings in the file, which may be padded; None takes
      that of the settings.
    where: what `config` is, for errors.

  Returns:
    Arguments of `gemma.Model`.

  Raises:
    ValueError: a setting that it does not have; names it.
  """
  kind = config.get("model_type", "gemma")
  if kind not in _DEFAULTS:
    raise ValueError(
      f"{where}: model_type = {kind!r} is not supported, only "
      f"{', '.join(map(repr, _DEFAULTS))}."
    )
  s = settings.Settings(config, _DEFAULTS[kind], where)
  s.one_of("hidden_act", _ACTIVATIONS)
  s.one_of("hidden_activation", _ACTIVATIONS)
  s.one_of("attention_bias", [False])
  _check_positions(config, where)
  sizes = {here: s.integer(there) for here, there in _SIZES.items()}
  if sizes["num_heads"] % sizes["num_kv_heads"]:
    raise ValueError(
      f"{where}: num_key_value_heads = {sizes['num_kv_heads']} should divide "
      f"num_attention_heads = {sizes['num_heads']}."
    )
  is_2 = kind == "gemma2"
  out = dict(
    variant="gemma2_2b" if is_2 else "gemma_2b",
    **sizes,
    norm_eps=s.number("rms_norm_eps"),
    vocab_size=s.integer("vocab_size") if vocab_size is None else vocab_size,
    query_pre_attn_norm="rsqrt_head_dim",
    final_logits_softcap=0.0,
    attn_logits_softcap=0.0,
    post_norms=is_2,
    scan=True,
    sliding_window=0,
  )
  if is_2:
    # None is not the same as nothing: it turns them off.
    given = lambda key: config.get(key, 0) is not None
    for name in ("final", "attn"):
      key = f"{name}_logit_softcapping"
      out[f"{name}_logits_softcap"] = s.number(key) if given(key) else 0.0
    out["query_pre_attn_norm"] = _query_norm(s, sizes, where)
    has_window = given("sliding_window") and _has_local(s, sizes, where)
    out["sliding_window"] = s.integer("sliding_window") if has_window else 0
  return out


def _check_positions(config, where):
  """Raises ValueError for other rotary positions than those of Gemma."""
  s = settings.Settings(config, {}, where)
  for key in ("rope_scaling", "rope_parameters"):
    kind = s.section(key)
    kind = kind.get("rope_type", kind.get("type", "default"))
    if kind != "default":
      raise ValueError(f"{where}: {key} of type {kind!r} is not supported.")
  theta = settings.rope_theta(config, _THETA)
  if theta != _THETA:
    raise ValueError(
      f"{where}: rope_theta = {theta} is not supported, only {_THETA}."
    )


def _query_norm(s, sizes, where):
  """Names what queries are multiplied by."""
  scalar = s.number("query_pre_attn_scalar")
  by_size = {
    "rsqrt_head_dim": sizes["head_dim"],
    "rsqrt_emb_per_head": sizes["width"] // sizes["num_heads"],
  }
  for name, size in by_size.items():
    if scalar == size:
      return name
  raise ValueError(
    f"{where}: query_pre_attn_scalar = {scalar:g} is not supported, only "
    f"{' or '.join(map(str, by_size.values()))}, the size of a head or the width "
    "per head."
  )


def _has_local(s, sizes, where):
  """Tells whether every other layer, from the first on, is local."""
  types = s.get("layer_types")
  if types is None or types == _layer_types(sizes["depth"]):
    return True
  if types == [_GLOBAL] * sizes["depth"]:
    return False
  raise ValueError(
    f"{where}: layer_types = {types!r:.60} is not supported: {_LOCAL!r} and "
    f"{_GLOBAL!r} should alternate."
  )


def _layer_types(depth):
  return [_GLOBAL if i % 2 else _LOCAL for i in range(depth)]


def settings_of(model: Any) -> dict[str, Any]:
  """Writes the settings of a Gemma.

  Args:
    model: `gemma.Model(...)`.

  Returns:
    Content of config.json, without `architectures`.
  """
  out = {
    "model_type": "gemma2" if model.post_norms else "gemma",
    **{there: getattr(model, here) for here, there in _SIZES.items()},
    "vocab_size": model.vocab_size,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": model.norm_eps,
    "rope_theta": _THETA,
    "attention_bias": False,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
  }
  if not model.post_norms:
    return out
  by_head = model.query_pre_attn_norm == "rsqrt_head_dim"
  scalar = model.head_dim if by_head else model.width // model.num_heads
  default = _DEFAULTS["gemma2"]["sliding_window"]
  types = _layer_types(model.depth) if model.window else [_GLOBAL] * model.depth
  return out | {
    "query_pre_attn_scalar": scalar,
    "final_logit_softcapping": model.final_logits_softcap or None,
    "attn_logit_softcapping": model.attn_logits_softcap or None,
    "sliding_window": model.window or default,
    "layer_types": types,
  }


def table(model: Any, scan: bool = True) -> tables.Table:
  """Makes the table of a Gemma.

  Args:
    model: `gemma.Model(...)`.
    scan: whether its layers are stacked.

  Returns:
    The table, with the names that transformers' GemmaModel has.
  """
  size = (model.vocab_size, model.width)
  out = tables.same(EMBEDDING, "embedder/input_embedding", *size)
  for i in range(model.depth):
    layer = _layer(model, f"layers.{i}.")
    if scan:
      layer = tables.stacked(
        tables.within(layer, "", "layers/"), i, model.depth
      )
    else:
      layer = tables.within(layer, "", f"layers/{i}/")
    out += layer
  return [*out, *tables.same("norm.weight", "final_norm/scale", model.width)]


def _layer(model, there):
  d, f, h = model.width, model.mlp_dim, model.head_dim
  heads, groups = model.num_heads, model.num_kv_heads
  q, *kv = (
    _queries(f"{there}self_attn.{x}_proj.weight", d, n, h)
    for x, n in (("q", heads), ("k", groups), ("v", groups))
  )
  gating = [
    _matrix(f"{there}mlp.{x}_proj.weight", "mlp/gating_einsum", d, f)
    for x in ("gate", "up")
  ]
  if heads == groups:
    attn = _stack([q, *kv], "attn/qkv_einsum/w")
  else:
    attn = [
      dataclasses.replace(q, path="attn/q_einsum/w"),
      *_stack(kv, "attn/kv_einsum/w"),
    ]
  out_name, out_path = (
    f"{there}self_attn.o_proj.weight",
    "attn/attn_vec_einsum/w",
  )
  out = [
    *attn,
    tables.Entry(out_name, out_path, (d, heads * h), (1, 0), (heads, h, d)),
    *_stack(gating, "mlp/gating_einsum"),
    _matrix(f"{there}mlp.down_proj.weight", "mlp/linear", f, d),
  ]
  for here, name in (_NORMS_2 if model.post_norms else _NORMS).items():
    out += tables.same(f"{there}{name}.weight", f"{here}/scale", d)
  return out


def _queries(name, d, n, h):
  """Lists a projection to heads, [N * H, D] there and [N, D, H] here."""
  return tables.Entry(
    name, "", (n * h, d), (0, 2, 1), (n, d, h), split=(n, h, d)
  )


def _matrix(name, path, num_in, num_out):
  return tables.Entry(name, path, (num_out, num_in), (1, 0), (num_in, num_out))


def _stack(entries, path):
  """Lists tensors that are one parameter."""
  return [
    one
    for i, entry in enumerate(entries)
    for one in tables.stacked(
      [dataclasses.replace(entry, path=path)], i, len(entries)
    )
  ]


def tied(tensors: Tensors, head: str, embedding: str) -> Tensors:
  """Leaves out the last layer, whose weights are those of the embedding.

  Args:
    tensors: name -> array.
    head: name of the tensor of the last layer, which some files have.
    embedding: name of the embedding.

  Returns:
    The tensors without it.

  Raises:
    ValueError: it has other values.
  """
  if head not in tensors:
    return tensors
  if embedding in tensors and not np.array_equal(
    tensors[head], tensors[embedding]
  ):
    raise ValueError(
      f"The values of {head} are not those of {embedding}: the models here have "
      "one table for both."
    )
  return tables.Renamed(tensors, lambda name: None if name == head else name)


def plain(name: str) -> str | None:
  """Names a tensor as transformers' GemmaModel does.

  Args:
    name: also that of GemmaForCausalLM.

  Returns:
    The name; None for what old files have besides.
  """
  if name.endswith(".inv_freq"):
    return None
  return name.removeprefix("model.")


def scanned(params: Params) -> bool:
  """Tells whether the layers of a Gemma are stacked.

  Args:
    params: of `gemma.Model`.

  Returns:
    Whether they are.
  """
  return "0" not in params["layers"]


def _read(config, shapes):
  s = settings.Settings(config, {})
  s.one_of("use_bidirectional_attention", [False, None])
  sizes = {plain(name): shape for name, shape in shapes.items()}
  vocab_size = sizes[EMBEDDING][0] if EMBEDDING in sizes else None
  return Found(GEMMA, read_model(config, vocab_size))


def _to_params(tensors, found):
  tensors = tied(tables.Renamed(tensors, plain), HEAD, EMBEDDING)
  model = gemma.Model(**found.model)
  return tables.to_params(table(model), tensors, "the checkpoint", _TITLE)


def _table(found, scan=True):
  return [
    dataclasses.replace(e, name=f"model.{e.name}")
    for e in table(gemma.Model(**found.model), scan)
  ]


def _settings(found):
  out = settings_of(gemma.Model(**found.model))
  kind = "Gemma2" if out["model_type"] == "gemma2" else "Gemma"
  return {"architectures": [f"{kind}ForCausalLM"], **out}


def _written(found):
  return {e.name: e.tensor for e in _table(found)}, _settings(found)


def _to_tensors(params, found):
  entries = _table(found, scanned(params))
  return tables.Tensors(entries, params, _TITLE), _settings(found)


FAMILY = Family(
  "Gemma 1 and 2",
  "transformers",
  "gemma2?",
  _read,
  _to_params,
  _to_tensors,
  models=(GEMMA,),
  written=_written,
)
