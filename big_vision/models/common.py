"""Loads and merges checkpoints of any model; adds positions to tokens."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision import checkpoints, lookup, rules, trees
from big_vision.models import load_errors
from big_vision.types import Array, Params


class Loaded(dict):
  """Parameters that `load` of a model accepts in place of a path.

  Models look up a path among the names of public checkpoints, and show it in
  errors.

  Attributes:
    path: the checkpoint.
    grid: (rows, columns) of its learned positions, None if they are unknown.
    resample: method of `positions.resample` for other grids.
    num_tokens: how many embeddings of tokens are used, None is all.
  """

  def __init__(
    self,
    params: Mapping[str, Any],
    path: str,
    grid: tuple[int, int] | None = None,
    resample: str = "corners",
    num_tokens: int | None = None,
  ) -> None:
    """Wraps parameters.

    Args:
      params: nested mapping, the parameters.
      path: the checkpoint, for error messages.
      grid: see above.
      resample: see above.
      num_tokens: see above.
    """
    super().__init__(params)
    self.path, self.grid, self.resample = path, grid, resample
    self.num_tokens = num_tokens

  def __repr__(self):
    return repr(self.path)

  __hash__ = object.__hash__


def load(
  init_params: Params | None,
  init_file: str,
  dont_load: str | Sequence[str] = (),
  convert: Callable[[Params], Params] = lambda params: params,
) -> Params:
  """Reads a checkpoint, converts it, and merges it with the initial parameters.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all
      that the checkpoint has.
    init_file: str, a path `<path>[:<sub/tree>]`.
    dont_load: regexes of parameters that keep their initial values, for example
      ["head/.*"].
    convert: function from the parameters in the file to those of today's model.

  Returns:
    Nested dict of parameters; leaves that are not loaded are those of
    `init_params`.

  Raises:
    ValueError: parameters do not match, see `merge_params`.
  """
  params = convert(checkpoints.load_params(init_file))
  return merge_params(params, init_params, dont_load)


def set_head_bias(params: Params, value: float) -> None:
  """Sets the bias of the last layer, `head`, in place.

  Args:
    params: initial parameters of a model.
    value: `config.init_head_bias`, the same for all classes.

  Raises:
    ConfigError: the model has no such layer.
  """
  head = params.get("head")
  if not isinstance(head, dict) or "bias" not in head:
    raise lookup.ConfigError(
      f"config.init_head_bias = {value} needs a last layer `head` with a bias; "
      f"the model has {', '.join(sorted(params))}. Name it so, or leave it out: "
      "config.init_head_bias = None."
    )
  head["bias"] = jnp.full_like(head["bias"], value)


def merge_params(
  loaded: Params,
  inited: Params | None,
  dont_load: str | Sequence[str] = (),
  match_dtype: bool = False,
) -> Params:
  """Puts the parameters of a checkpoint in place of the initial ones.

  Shapes are not compared: a model may still have to adapt what was loaded.

  Args:
    loaded: nested mapping, the parameters of the checkpoint.
    inited: nested mapping, the parameters of the model (arrays or shapes); with
      None, `loaded` is returned as it is.
    dont_load: regex or list of regexes. Parameters whose full name matches keep
      their initial value, and may be missing on either side.
    match_dtype: bool, whether to cast what is loaded to the dtype of the model.

  Returns:
    Nested dict with the names of `inited`.

  Raises:
    ValueError: a name exists on one side only and is not in
      `dont_load`; lists all such names.
    lookup.ConfigError: a regex of `dont_load` cannot be read, or matches no name
      of either side.
  """
  if inited is None:
    return loaded

  key = f"{load_errors.load_key()}.dont_load"
  try:
    excluded = trees.check_and_compile_patterns(dont_load)
  except (lookup.ConfigError, re.error) as e:
    raise lookup.ConfigError(f"{key}={dont_load!r}: {e}") from e
  is_excluded = lambda name: any(p.fullmatch(name) for p in excluded)
  loaded = dict(trees.tree_flatten_with_names(loaded)[0])
  inited = dict(trees.tree_flatten_with_names(inited)[0])

  missing = {k for k in inited.keys() - loaded.keys() if not is_excluded(k)}
  unused = {k for k in loaded.keys() - inited.keys() if not is_excluded(k)}
  if missing or unused:
    section = lambda title, names, prefix: (
      f"{title}:\n" + "\n".join(prefix + n for n in sorted(names))
      if names
      else ""
    )
    text = "\n".join(
      [
        section("Params in checkpoint", loaded, "  "),
        section("Params in model (code)", inited, "  "),
        section(
          "Params in model (code) but not in checkpoint and not `dont_load`ed",
          missing,
          " - ",
        ),
        section(
          "Params in checkpoint but not in model (code) and not `dont_load`ed",
          unused,
          " + ",
        ),
      ]
    )
    raise load_errors.of_names(
      loaded, inited, sorted(missing), sorted(unused), text
    )

  rules.check_used(
    [p.pattern for p in excluded],
    [*inited, *(loaded.keys() - inited.keys())],
    key,
    "parameter of model or checkpoint",
  )

  def pick(name, init):
    if name not in loaded or is_excluded(name):
      return init
    value = loaded[name]
    return value.astype(init.dtype) if match_dtype else value

  return trees.recover_tree(
    list(inited), [pick(name, init) for name, init in inited.items()]
  )


def convert_pre_linen(params: Mapping[str, Any]) -> Params:
  """Renames modules as Flax linen numbers them: from 0 for each class.

  The library before linen counted the modules of all classes together, as in
  `LayerNorm_0, Dense_1, LayerNorm_2`; public checkpoints still have such names.
  Names that already count from 0 without gaps stay the same.

  Args:
    params: nested mapping with string keys.

  Returns:
    Nested dict with the same leaves.
  """
  if not hasattr(params, "items"):
    return params
  numbered = {}  # Prefix -> names, by their number.
  for name in params:
    if match := re.fullmatch(r"(.*)_(\d+)", name):
      numbered.setdefault(match[1], []).append((int(match[2]), name))
  rename = {
    name: f"{prefix}_{i}"
    for prefix, names in numbered.items()
    for i, (_, name) in enumerate(sorted(names))
  }
  return {rename.get(k, k): convert_pre_linen(v) for k, v in params.items()}


class AddPositionEmbs(nn.Module):
  """Adds positional embeddings, to whole sequences or to the next tokens.

  Attributes:
    decode: bool, autoregressive decoding. The call that creates the variable
      `cache/cache_index` takes whole sequences; each later call takes the next
      token, or the next few.
  """

  decode: bool = False

  @nn.compact
  def __call__(self, inputs: Array, posemb: Array) -> Array:
    """Adds the embeddings of the positions of the tokens.

    Args:
      inputs: [B, S, D].
      posemb: [1, >= S, D].

    Returns:
      [B, S, D].

    Raises:
      ConfigError: `inputs` does not have three dimensions.
    """
    if inputs.ndim != 3:
      raise lookup.ConfigError(f"Expected [B, S, D], got {inputs.shape}.")
    here = posemb[:, : inputs.shape[1]]
    if self.decode:
      started = self.has_variable("cache", "cache_index")
      index = self.variable(
        "cache", "cache_index", lambda: jnp.zeros((), jnp.uint32)
      )
      if started:
        num = inputs.shape[1]
        here = jax.lax.dynamic_slice_in_dim(posemb, index.value, num, axis=1)
        index.value = index.value + num
    return inputs + here
