"""Loads ViT checkpoints: public ones, those of old layouts, and of other sizes.

`models/vit.py` offers all of it under its own name.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from big_vision import checkpoints
from big_vision.models import common, load_errors, positions, stored_grid
from big_vision.types import AnyArray, ConfigLike, Params


def resample_posemb(
  old: AnyArray,
  new: AnyArray | jax.ShapeDtypeStruct,
  grid: Sequence[int] | None = None,
  from_grid: Sequence[int] | None = None,
  method: str = "corners",
) -> AnyArray:
  """Resamples learned positions to another grid, with the corners kept.

  Args:
    old: [1, n * m, D] array.
    new: [1, h * w, D] array or shape; only its shape matters.
    grid: (h, w); None keeps positions of the same number as they are, and
      means a square otherwise.
    from_grid: (n, m); None means a square where that is possible, and `grid`
      otherwise.
    method: of `positions.resample`; others than "corners" do not keep them.

  Returns:
    `old` itself if the grids are equal, else a NumPy array [1, h * w, D] in
    the dtype of `old`.

  Raises:
    ValueError: a grid does not have the number of positions, or it is not
      given and they do not make a square.
  """
  num_old, num_new = old.shape[1], new.shape[1]
  _check_grid("grid", grid, num_new, "the model")
  _check_grid("from_grid", from_grid, num_old, "the checkpoint")
  if num_old == num_new and grid is None:
    return old
  stored = tuple(from_grid or _square(num_old) or ())
  wanted = tuple(grid or _square(num_new) or ())
  if num_old == num_new and not stored:
    return old
  if not stored or not wanted:
    raise ValueError(
      f"Cannot resample pos_embedding from {tuple(old.shape)} to "
      f"{tuple(new.shape)}: both must have a square number of positions, or "
      f"{load_errors.load_key()} must say grid=(rows, columns) of the model and "
      "from_grid=(rows, columns) of the checkpoint. Or train at the "
      "checkpoint's resolution, or list pos_embedding in "
      f"{load_errors.load_key()}.dont_load."
    )
  if stored == wanted:
    return old
  if num_old == num_new and from_grid is None:
    logging.info(
      "pos_embedding: %d positions, taken as a grid of %dx%d, are resampled to "
      "%dx%d. Say %s.from_grid=(rows, columns) if the checkpoint has another "
      "grid.",
      *(num_old, *stored, *wanted, load_errors.load_key()),
    )
  resampled = positions.resample(
    old.reshape(*stored, -1), wanted, method=method
  )
  return resampled.reshape(1, num_new, -1)


def _square(num):
  """Returns (side, side) of a square number of positions, else None."""
  side = math.isqrt(num)
  return (side, side) if side**2 == num else None


def _check_grid(key, grid, num, owner):
  """Raises ValueError if a grid has another number of positions."""
  if grid is not None and (len(grid) != 2 or math.prod(grid) != num):
    raise ValueError(
      f"{load_errors.load_key()}.{key}={tuple(grid)} should be (rows, columns) "
      f"of the {num} positions of {owner}."
    )


def fix_old_checkpoints(
  params: Mapping[str, Any], num_positions: int | None = None
) -> Params:
  """Converts all earlier layouts of a ViT checkpoint to the current one.

  Args:
    params: nested mapping, the parameters.
    num_positions: int, number of positions of the model. A table of exactly
      this length has no entry for the class token. With None (unknown), every
      table of m * m + 1 entries counts as having one.

  Returns:
    Nested dict.
  """
  params = common.convert_pre_linen(params)
  encoder = params.get("Transformer", {})

  # Very old, then old: the positions belonged to the encoder.
  if "posembed_input" in encoder:
    params["pos_embedding"] = encoder.pop("posembed_input")["pos_embedding"]
  if "pos_embedding" in encoder:
    params["pos_embedding"] = encoder.pop("pos_embedding")

  # The class token had a position, too.
  if "pos_embedding" in params:
    pos = params["pos_embedding"]
    num = pos.shape[1]
    if math.isqrt(num) ** 2 + 1 == num and num != num_positions:
      params["pos_embedding"] = pos[:, 1:]
      if "cls" in params:
        params["cls"] = params["cls"] + pos[:, :1]

  # The MAP head did not have a module of its own.
  if "probe" in params:
    params["MAPHead_0"] = {
      name: params.pop(name)
      for name in (
        "probe",
        "MlpBlock_0",
        "MultiHeadDotProductAttention_0",
        "LayerNorm_0",
      )
    }
  return params


def pyloop_to_scan(
  params: Mapping[str, Any] | None = None,
  *,
  params_pyloop: Mapping[str, Any] | None = None,
) -> Params:
  """Stacks the parameters of the blocks, as models with `scan=True` have them.

  Args:
    params: nested mapping with `Transformer/encoderblock_{0..n-1}`.
    params_pyloop: another name of `params`.

  Returns:
    Nested dict with `Transformer/encoderblock`, leaves [n, ...].
  """
  params = _copy(_one_of(params, params_pyloop))
  encoder = params["Transformer"]
  names = [n for n in encoder if n.startswith("encoderblock_")]
  depth = 1 + max(int(n.removeprefix("encoderblock_")) for n in names)
  blocks = [encoder.pop(f"encoderblock_{i}") for i in range(depth)]
  encoder["encoderblock"] = jax.tree.map(_stack, *blocks)
  return params


def _stack(*leaves):
  """Stacks on the host, where loaded arrays belong, unless traced."""
  if any(isinstance(x, jax.core.Tracer) for x in leaves):
    return jnp.stack(leaves)
  return np.stack([np.asarray(x) for x in leaves])


def scan_to_pyloop(
  params: Mapping[str, Any] | None = None,
  *,
  params_scan: Mapping[str, Any] | None = None,
) -> Params:
  """Unstacks the parameters of the blocks; the inverse of `pyloop_to_scan`.

  Args:
    params: nested mapping with `Transformer/encoderblock`, leaves [n, ...].
    params_scan: another name of `params`.

  Returns:
    Nested dict with `Transformer/encoderblock_{0..n-1}`.
  """
  params = _copy(_one_of(params, params_scan))
  encoder = params["Transformer"]
  stacked = encoder.pop("encoderblock")
  for i in range(len(jax.tree.leaves(stacked)[0])):
    encoder[f"encoderblock_{i}"] = jax.tree.map(lambda x, i=i: x[i], stacked)
  return params


def _one_of(params, same):
  """Returns the argument that was given; TypeError for none or both."""
  if (params is None) == (same is None):
    raise TypeError("Expected the parameters once, by one of their two names.")
  return same if params is None else params


def restack(params: Params, scan: bool | None) -> Params:
  """Stacks or unstacks the blocks where the model needs the other layout.

  Args:
    params: nested mapping, with or without `Transformer`.
    scan: bool, whether the blocks of the model are stacked.

  Returns:
    Nested mapping.
  """
  encoder = params.get("Transformer", {})
  if scan and any(k.startswith("encoderblock_") for k in encoder):
    return pyloop_to_scan(params)
  if not scan and "encoderblock" in encoder:
    return scan_to_pyloop(params)
  return params


def _copy(tree):
  """Copies nested mappings to dicts, not the leaves."""
  if hasattr(tree, "items"):
    return {k: _copy(v) for k, v in tree.items()}
  return tree


def load(
  init_params: Params | None,
  init_file: str | common.Loaded,
  model_cfg: ConfigLike,
  dont_load: str | Sequence[str] = (),
  grid: Sequence[int] | None = None,
  from_grid: Sequence[int] | None = None,
) -> Params:
  """Loads a checkpoint of any age, resolution, and stacking of the blocks.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all
      that the checkpoint has.
    init_file: str, a path `<path>[:<sub/tree>]` or one of `VANITY_NAMES`.
    model_cfg: mapping, `config.model`, or None.
    dont_load: regexes of parameters that keep their initial values, for example
      ["head/.*"].
    grid: (rows, columns) of the positions of the model, which runs know from
      the size of their images; see `resample_posemb`.
    from_grid: (rows, columns) of the positions in the checkpoint; None finds
      it in the workdir of the checkpoint, or takes a square.

  Returns:
    Nested dict of parameters; leaves that are not loaded are those of
    `init_params`.

  Raises:
    ValueError: parameters do not match, see `common.merge_params` and
      `resample_posemb`.
  """
  params = checkpoints.load_params(VANITY_NAMES.get(init_file, init_file))

  posemb = init_params.get("pos_embedding") if init_params else None
  if not isinstance(init_file, common.Loaded):
    params = fix_old_checkpoints(
      params, None if posemb is None else posemb.shape[1]
    )

  params = restack(params, (model_cfg or {}).get("scan"))
  params = common.merge_params(params, init_params, dont_load)
  if posemb is not None and params["pos_embedding"] is not posemb:
    params["pos_embedding"] = fit_posemb(
      params["pos_embedding"], posemb, init_file, grid, from_grid
    )
  return params


def fit_posemb(
  old: AnyArray,
  new: AnyArray | jax.ShapeDtypeStruct,
  init_file: Any,
  grid: Sequence[int] | None = None,
  from_grid: Sequence[int] | None = None,
) -> AnyArray:
  """Resamples positions from the grid that the run of a checkpoint had.

  Args:
    old: [1, n * m, D] array.
    new: [1, h * w, D] array or shape.
    init_file: the checkpoint.
    grid: (h, w), see `resample_posemb`.
    from_grid: (n, m); None looks for the run's config, if `grid` is given.

  Returns:
    As `resample_posemb`.
  """
  method = "corners"
  if isinstance(init_file, common.Loaded):
    from_grid, method = from_grid or init_file.grid, init_file.resample
  # Nearly all checkpoints have a square, but 16 positions may be 2x8, too.
  if grid is not None and from_grid is None:
    from_grid = stored_grid.find(init_file, old.shape[1])
  return resample_posemb(old, new, grid, from_grid, method)


_AUGREG = (
  "gs://vit_models/augreg/{}-i21k-300ep-lr_0.001-aug_{}-do_0.0-sd_0.0.npz"
)

# Both towers of the public SigLIP models; `:img` is the image tower.
SIGLIP_CHECKPOINTS = {
  f"{family} {name}": f"gs://big_vision/{family.lower()}/{file}.npz"
  for family, name, file in [
    ("SigLIP", "B/16 224", "webli_en_b16_224_63724782"),
    ("SigLIP", "B/16 256", "webli_en_b16_256_60500360"),
    ("SigLIP", "B/16 384", "webli_en_b16_384_68578854"),
    ("SigLIP", "B/16 512", "webli_en_b16_512_68580893"),
    ("SigLIP", "L/16 256", "webli_en_l16_256_60552751"),
    ("SigLIP", "L/16 384", "webli_en_l16_384_63634585"),
    ("SigLIP", "So400m/14 224", "webli_en_so400m_224_57633886"),
    ("SigLIP", "So400m/14 384", "webli_en_so400m_384_58765454"),
    ("SigLIP", "B/16-i18n 256", "webli_i18n_b16_256_66117334"),
    *[
      (
        "SigLIP2",
        f"{size} {res}",
        f"siglip2_{size.lower().replace('/', '')}_{res}",
      )
      for size, resolutions in {
        "B/16": (224, 256, 384, 512),
        "B/32": (256,),
        "L/16": (256, 384, 512),
        "So400m/14": (224, 384),
        "So400m/16": (256, 384, 512),
        "g-opt/16": (256, 384),
      }.items()
      for res in resolutions
    ],
    ("SigLIP2", "B/16 NaFlex", "siglip2_b16_naflex"),
    ("SigLIP2", "So400m/16 NaFlex", "siglip2_so400m16_naflex"),
  ]
}

# Names of public checkpoints that `config.model_init` accepts.
VANITY_NAMES = {
  # "How to train your ViT?", https://arxiv.org/abs/2106.10270
  "howto-i21k-Ti/16": _AUGREG.format("Ti_16", "none-wd_0.03"),
  "howto-i21k-S/32": _AUGREG.format("S_32", "none-wd_0.1"),
  "howto-i21k-S/16": _AUGREG.format("S_16", "light1-wd_0.03"),
  "howto-i21k-B/32": _AUGREG.format("B_32", "light1-wd_0.1"),
  "howto-i21k-B/16": _AUGREG.format("B_16", "medium1-wd_0.1"),
  "howto-i21k-B/8": _AUGREG.format("B_8", "medium2-wd_0.1"),
  "howto-i21k-L/16": _AUGREG.format("L_16", "strong1-wd_0.1"),
  # "Better plain ViT baselines for ImageNet-1k".
  **{
    f"i1k-s16-{epochs}ep": f"gs://big_vision/vit_s16_i1k_{epochs}ep.npz"
    for epochs in (90, 150, 300)
  },
  # "DeiT III", https://arxiv.org/abs/2204.07118; inputs in [-1, 1].
  **{
    f"deit3_{letter}_{res}_{data}": (
      f"gs://big_vision/zoo/deit3/bv_deit_3_{size}_{res}_{data}.npz"
    )
    for letter, size in (("S", "small"), ("B", "base"), ("L", "large"))
    for res in (224, 384)
    for data in ("1k", "21k")
  },
  **{name: f"{path}:img" for name, path in SIGLIP_CHECKPOINTS.items()},
}
