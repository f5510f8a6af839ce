"""An image and a text tower with a common embedding space.

References:
  Radford et al. 2021, CLIP, https://arxiv.org/abs/2103.00020
  Zhai et al. 2021, LiT, https://arxiv.org/abs/2111.07991
  Zhai et al. 2023, SigLIP, https://arxiv.org/abs/2303.15343
  Tschannen et al. 2025, SigLIP 2, https://arxiv.org/abs/2502.14786

Shapes: `B` batch, `E` size of the embeddings.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from big_vision import checkpoints, lookup
from big_vision.models import common, fields, load_errors, positions, vit
from big_vision.models.proj.image_text import huggingface_files
from big_vision.types import AnyArray, Array, ConfigLike, Params

_IMAGE_MODEL = "vit"
_TEXT_MODEL = "proj.image_text.text_transformer"

# Names of public checkpoints that `config.model_init` accepts.
VANITY_NAMES = dict(vit.SIGLIP_CHECKPOINTS)


class Model(nn.Module):
  """Two towers, and the parameters of the loss that compares them.

  Attributes:
    image: mapping, arguments of the image model; None means {}.
    text: mapping, arguments of the text model; None means {}.
    text_model: str, module below `big_vision.models`, or a dotted path.
    image_model: str, the same.
    out_dim: int, size of the embeddings; or a pair (image, text), where None
      leaves out the head: the embedding is the pooled output of the tower.
    temperature_init: float, initial inverse temperature: factor of the logits.
    bias_init: float, initial bias of the logits; None leaves out the parameter.
    dtype_mm: str, dtype of the computation of both towers, unless `image` or
      `text` has its own; None leaves it to them.
  """

  image: Mapping[str, Any] | None = None
  text: Mapping[str, Any] | None = None
  text_model: str = _TEXT_MODEL
  image_model: str = _IMAGE_MODEL
  out_dim: int | Sequence[int | None] = 128
  temperature_init: float = 1.0
  bias_init: float | None = None
  dtype_mm: str | None = None

  @nn.compact
  def __call__(
    self, image: Any, text: Array | None = None, **kw: Any
  ) -> tuple[Array | None, Array | None, dict[str, Any]]:
    """Embeds images and texts.

    Args:
      image: [B, ...], input of the image model, or None.
      text: [B, L] int, tokens, or None.
      **kw: for both towers, for example `train`.

    Returns:
      (zimg, ztxt, out): [B, E] embeddings of unit length, or None for an input
        of
      None; and a dict of named intermediates: those of the towers as `img/...`
      and `txt/...`, `t` the factor of the logits [1], and `b` their bias [1] if
      there is one.

    Raises:
      ValueError: unknown model, or `out_dim` is neither a number nor a pair.
    """
    out = {}
    image_dim, text_dim = self._out_dims()

    ztxt = None
    if text is not None:
      ztxt = self._embed(
        "txt", text, self.text_model, self.text, text_dim, out, kw
      )
    zimg = None
    if image is not None:
      zimg = self._embed(
        "img", image, self.image_model, self.image, image_dim, out, kw
      )

    add_temperature(self, self.temperature_init, out)
    if self.bias_init is not None:
      init = nn.initializers.constant(self.bias_init)
      out["b"] = self.param("b", init, (1,), jnp.float32)
    return zimg, ztxt, out

  def _out_dims(self):
    if not isinstance(self.out_dim, Sequence):
      return self.out_dim, self.out_dim
    if len(self.out_dim) != 2:
      raise ValueError(
        f"config.model.out_dim = {self.out_dim!r} must be a number or a pair "
        "(image, text)."
      )
    return self.out_dim

  def _embed(self, name, x, model_name, config, out_dim, out, kw):
    """Makes a tower and applies it, see `embed`."""
    config = {"num_classes": out_dim, **(config or {})}
    module = tower_module(name, model_name)
    make = functools.partial(module.Model, name=name)
    try:
      where = f"model.{_LONG_NAMES[name]}_model"
      tower = fields.with_dtype(make, config, self.dtype_mm, where, model_name)
    except TypeError as e:
      kind = _LONG_NAMES[name]
      raise lookup.ConfigError(
        f"config.model.{kind} does not fit config.model.{kind}_model="
        f"{model_name!r}: {e}"
      ) from e
    return embed(tower, name, x, out, **kw)


def embed(
  tower: nn.Module, name: str, x: Any, out: dict[str, Any], **kw: Any
) -> Array:
  """Applies a tower and normalizes its output.

  Args:
    tower: linen module that returns (z [B, E], dict of intermediates).
    name: str, prefix of the entries in `out`.
    x: input of the tower.
    out: dict, to which the intermediates of the tower are added, `norm` [B, 1],
      and `normalized` [B, E], which is returned.
    **kw: for the tower, for example `train`.

  Returns:
    [B, E], z with a norm of 1, or of 0 where z is 0.
  """
  z, tower_out = tower(x, **kw)
  out.update({f"{name}/{k}": v for k, v in tower_out.items()})
  norm = out[f"{name}/norm"] = _norm(z)
  z = out[f"{name}/normalized"] = z / (norm + 1e-8)
  return z


def _norm(z):
  """Computes the L2 norm [B, 1] of z [B, E], with gradient 0 at 0, not NaN.

  NaN would stop the training of a tower whose head starts with zeros.
  """
  squared = jnp.sum(jnp.square(z), axis=1, keepdims=True)
  positive = squared > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def add_temperature(
  self: nn.Module, temperature_init: float, out: dict[str, Any]
) -> None:
  """Makes the parameter `t` [1], the logarithm of the factor of the logits.

  Args:
    self: linen module that will own the parameter.
    temperature_init: float, initial factor.
    out: dict, to which `t`, the factor, and `t/parameter` are added.
  """
  init = nn.initializers.constant(np.log(temperature_init))
  t = self.param("t", init, (1,), jnp.float32)
  out["t"], out["t/parameter"] = jnp.exp(t), t


def tower_module(tower: str, name: str) -> ModuleType:
  """Imports the module of a tower's model.

  Args:
    tower: str, "img" or "txt".
    name: str, module below `big_vision.models`, or a dotted path.

  Returns:
    The module.

  Raises:
    ValueError: unknown model.
  """
  kind = {"img": "image", "txt": "text"}[tower]
  return lookup.module(
    "models",
    name,
    kind=f"{kind} model",
    key=f"model.{kind}_model",
    needs="Model",
  )


def load_tower(
  tower: str,
  name: str,
  init_params: Params | None,
  init_file: Any,
  model_cfg: ConfigLike,
  load_kw: Mapping[str, Any] | None,
  grid: tuple[int, int] | None = None,
) -> Params:
  """Calls the `load` of a tower's model; errors name the tower's config keys.

  Args:
    tower: str, "img" or "txt".
    name: str, see `tower_module`.
    init_params: parameters of the tower, arrays or shapes, or None.
    init_file: what its `load` accepts.
    model_cfg: mapping, arguments of the model, or None.
    load_kw: mapping, further arguments of its `load`, or None.
    grid: (rows, columns) of the positions, or None.

  Returns:
    The parameters of the tower.

  Raises:
    ValueError: as `tower_module` and `load`, which may not take the arguments.
  """
  module = tower_module(tower, name)
  if module.__name__.startswith("big_vision.") and not isinstance(
    init_file, common.Loaded
  ):
    load_errors.check_path(module.load, init_file, f"config.model_init.{tower}")
  with load_errors.within(f"{tower}_load_kw"):
    load_errors.check_arguments(module.load, load_kw or {})
    kw = {**positions.grid_kw(module, grid), **(load_kw or {})}
    return module.load(init_params, init_file, model_cfg, **kw)


def load_scalar(name: str, init_file: Any) -> AnyArray:
  """Reads temperature or bias.

  Args:
    name: str, "t" or "b".
    init_file: str, `<path>:<name>`; or the array itself.

  Returns:
    [1] array.

  Raises:
    ConfigError: that is not one array.
  """
  if isinstance(init_file, np.ndarray):
    return init_file
  key = f"config.model_init.{name}"
  load_errors.check_path(checkpoints.load_params, init_file, key)
  value = checkpoints.load_params(init_file)
  if hasattr(value, "items"):
    raise lookup.ConfigError(
      f"{key}={init_file!r} has many parameters instead of one: name it, as in "
      f"'<path>:{name}'."
    )
  return value


def load(
  init_params: Params | None,
  init_files: str | Mapping[str, Any],
  model_cfg: ConfigLike,
  img_load_kw: Mapping[str, Any] | None = None,
  txt_load_kw: Mapping[str, Any] | None = None,
  grid: tuple[int, int] | None = None,
) -> Params:
  """Loads both towers from one checkpoint, or each part from its own.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all
      that the checkpoints have.
    init_files: str, a path or one of `VANITY_NAMES`, for everything; or a
      mapping with some of `image` (or `img`), `text` (or `txt`), `temperature`
      (or `t`), `bias` (or `b`), each a path `<path>[:<sub/tree>]`, or for
      towers any `init_file` of their model's `load`. Parts that are not listed
      keep their initial values. A path may be a published checkpoint, see
      `models/weights/sources.py`.
    model_cfg: mapping, `config.model`, or None.
    img_load_kw: mapping, further arguments of the image model's `load`.
    txt_load_kw: mapping, further arguments of the text model's `load`.
    grid: (rows, columns) of the positions of images, for the image model's
      `load`, which knows what to do without.

  Returns:
    Dict of parameters; leaves that are not loaded are those of `init_params`,
    and None for a tower without any.

  Raises:
    ConfigError: unknown keys in `init_files`.
    ValueError: unknown model or public checkpoint, the model does not have such
      a tower, parameters do not match, see `common.merge_params`, or a
      checkpoint of Hugging Face does not fit the model.
  """
  model_cfg = model_cfg or {}
  if isinstance(init_files, str | os.PathLike):
    path = _public_or_path(os.fspath(init_files))
    has_bias = model_cfg.get("bias_init") is not None
    names = ("img", "txt", "t", "b") if has_bias else ("img", "txt", "t")
    init_files = {name: f"{path}:{name}" for name in names}
  parts = parts_to_load(init_files, ("img", "txt", "t", "b"))
  parts = huggingface_files.load_parts(
    parts, model_cfg.get("image_model") or _IMAGE_MODEL
  )

  init_params = init_params or {"img": None, "txt": None}
  params = dict(init_params)
  for name, kind, default, load_kw in (
    ("img", "image", _IMAGE_MODEL, img_load_kw),
    ("txt", "text", _TEXT_MODEL, txt_load_kw),
  ):
    if not parts[name]:
      continue
    if name not in init_params:
      raise ValueError(
        f"config.model_init asks for the {kind} tower {parts[name]!r}, but the "
        f"model has none; it has {', '.join(sorted(init_params))}. List what to "
        "load, as in config.model_init = {'img': ...}."
      )
    params[name] = load_tower(
      name,
      model_cfg.get(f"{kind}_model") or default,
      init_params[name],
      parts[name],
      model_cfg.get(kind),
      load_kw,
      grid if name == "img" else None,
    )
  for name in ("t", "b"):
    if isinstance(parts[name], np.ndarray) or parts[name]:
      params[name] = load_scalar(name, parts[name])
  return params


def image_grid(
  model_cfg: ConfigLike, size: Sequence[int], key: str = "model"
) -> positions.ImageGrid | None:
  """Tells how the image tower cuts images into patches.

  Args:
    model_cfg: mapping, `config.model` of two towers or of one, or None.
    size: (height, width) of the images in pixels.
    key: config key of the model, for error messages.

  Returns:
    The ImageGrid, or None if the model of the tower does not have such a grid.

  Raises:
    ConfigError: the patch is larger than the image.
  """
  model_cfg = model_cfg or {}
  name = model_cfg.get("image_model") or _IMAGE_MODEL
  module = tower_module("img", name)
  if not hasattr(module, "image_grid"):
    return None
  return module.image_grid(model_cfg.get("image"), size, f"{key}.image")


_LONG_NAMES = {"img": "image", "txt": "text", "t": "temperature", "b": "bias"}


def _public_or_path(init_file):
  """Returns the path of a public checkpoint; other paths as they are."""
  is_public = init_file.startswith(("SigLIP ", "SigLIP2 "))
  if is_public and init_file not in VANITY_NAMES:
    raise lookup.unknown(
      "public checkpoint", init_file, VANITY_NAMES, "model_init"
    )
  return VANITY_NAMES.get(init_file, init_file)


def parts_to_load(
  init_files: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
  """Lists which checkpoint each part of a model starts from.

  Args:
    init_files: mapping from some of the parts, by their short or long name, to
      checkpoints; the long name wins.
    names: sequence of the parts there are, of `img`, `txt`, `t`, `b`.

  Returns:
    Dict with `names` as keys, None for parts without a checkpoint.

  Raises:
    ConfigError: unknown keys in `init_files`.
  """
  rest = dict(init_files)
  parts = {}
  for short in names:
    value = rest.pop(short, None)
    parts[short] = rest.pop(_LONG_NAMES[short], value)
  known = [*names, *(_LONG_NAMES[name] for name in names)]
  if rest:
    raise lookup.ConfigError(
      f"Unknown keys in config.model_init: {rest}"
      + lookup.did_you_mean(next(iter(rest)), known)
    )
  return parts
