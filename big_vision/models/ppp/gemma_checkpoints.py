"""Loads `gemma`: checkpoints of this package, and what Google publishes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from big_vision import checkpoints, lookup
from big_vision.models import common
from big_vision.types import ConfigLike, Params

# Rows of the embedding of the first release, of which the last are not used.
_PADDED, _VOCAB = 256_128, 256_000
_NEW_ROWS_STD = 0.02


def load(
  init_params: Params | None,
  init_file: str | common.Loaded,
  model_cfg: ConfigLike | None = None,
  dont_load: str | Sequence[str] = (),
) -> Params:
  """Loads Gemma, with layers stacked or not and any number of tokens.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all that
      the checkpoint has.
    init_file: str, a path `<path>[:<sub/tree>]`: npz or folder of this package,
      Google's npz, or its Orbax folder, with `transformer/layer_0/...`; or
      `common.Loaded`, of another library.
    model_cfg: mapping, arguments of the model, or None. With a larger
      `vocab_size` than that of the checkpoint, the rows of new tokens are random,
      the same for each run.
    dont_load: regexes of parameters that keep their initial values.

  Returns:
    Nested dict of parameters; leaves that are not loaded are those of
    `init_params`.

  Raises:
    ConfigError: the checkpoint has more tokens than `vocab_size`.
    ValueError: parameters do not match, see `common.merge_params`.
  """
  params = from_published(checkpoints.load_params(init_file))
  vocab = (model_cfg or {}).get("vocab_size")
  if vocab is None and init_params is not None:
    vocab = init_params["embedder"]["input_embedding"].shape[0]
  embedder = params.get("embedder", {})
  if vocab is not None and "input_embedding" in embedder:
    table = with_rows(embedder["input_embedding"], vocab, init_file)
    params["embedder"] = {**embedder, "input_embedding": table}
  if init_params is not None and "layers" in params:
    params["layers"] = restack(
      params["layers"], "0" not in init_params["layers"]
    )
  return common.merge_params(params, init_params, dont_load)


def from_published(params: Mapping[str, Any]) -> Params:
  """Brings what Google publishes into the layout of `gemma.Model`.

  Args:
    params: nested mapping; in its first layout names have `transformer/layer_0/`
      and MLPs have one module per matrix. Others stay the same.

  Returns:
    Nested dict.
  """
  params = dict(params.get("transformer", params))
  numbered = [k for k in params if re.fullmatch(r"layer_\d+", k)]
  if not numbered:
    return params
  blocks = [_plain_mlp(params.pop(f"layer_{i}")) for i in range(len(numbered))]
  params["layers"] = _stack(blocks)
  table = params["embedder"]["input_embedding"]
  if len(table) == _PADDED:
    params["embedder"] = {"input_embedding": table[:_VOCAB]}
  return params


def with_rows(table: Any, num: int, source: Any) -> Any:
  """Adds random rows for new tokens.

  Args:
    table: [V, D], the embedding of tokens.
    num: of rows.
    source: where it is from, for the error; with `num_tokens` of
      `common.Loaded`, rows beyond these may be cut off.

  Returns:
    [num, D] in the dtype of `table`; new rows are normal with a standard
    deviation of 0.02, from a fixed seed.

  Raises:
    ConfigError: it has more rows.
  """
  used = source.num_tokens if isinstance(source, common.Loaded) else None
  if used is not None and used <= num < len(table):
    return table[:num]
  if len(table) > num:
    raise lookup.ConfigError(
      f"config.model.llm.vocab_size = {num} is less than the {len(table)} tokens "
      f"of {source!r}."
    )
  if len(table) == num:
    return table
  shape = (num - len(table), table.shape[1])
  new = np.random.default_rng(0).standard_normal(shape, np.float32)
  new = (_NEW_ROWS_STD * new).astype(table.dtype)
  return np.concatenate([np.asarray(table), new])


def restack(layers: Mapping[str, Any], scan: bool) -> Params:
  """Stacks layers, or takes them apart, where the model has the other layout.

  Args:
    layers: parameters of all layers; of each by its number, or stacked along the
      first axis.
    scan: whether the model has them stacked.

  Returns:
    The same in the layout of the model.
  """
  if scan and "0" in layers:
    return _stack([layers[str(i)] for i in range(len(layers))])
  if not scan and "0" not in layers:
    num = len(jax.tree.leaves(layers)[0])
    at = lambda i: jax.tree.map(lambda x: x[i], dict(layers))
    return {str(i): at(i) for i in range(num)}
  return dict(layers)


def _stack(blocks):
  """Stacks the parameters of layers along a new first axis."""
  stack = lambda *xs: np.stack([np.asarray(x) for x in xs])
  return jax.tree.map(stack, *blocks)


def _plain_mlp(block):
  """Names the matrices of a published MLP as `gemma.FeedForward` does."""
  mlp = {
    k: v["w"] if hasattr(v, "items") else v for k, v in block["mlp"].items()
  }
  gating = mlp["gating_einsum"]
  if gating.shape[-2] > gating.shape[-1]:  # Of Gemma 2: [2, F, D].
    mlp["gating_einsum"] = np.swapaxes(gating, -2, -1)
  return {**block, "mlp": mlp}
