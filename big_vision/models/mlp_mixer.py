"""MLP-Mixer: MLPs across patches alternate with MLPs across channels.

References:
  Tolstikhin et al. 2021, https://arxiv.org/abs/2105.01601
  Huang et al. 2016 (stochastic depth), https://arxiv.org/abs/1603.09382

Shapes: `B` batch, `T` tokens (patches), `D` width, `C` classes.
The names of the modules are the names in checkpoints, and random keys derive
from them and from the order of calls.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models import activations, common, fields, positions
from big_vision.types import Array, ConfigLike, Params


class MlpBlock(nn.Module):
  """Two dense layers with a GELU between them.

  Attributes:
    mlp_dim: int, hidden width.
    dtype_mm: str, dtype of the computation; None means that of the input.
    exact_gelu: bool, see `MlpMixer`.
  """

  mlp_dim: int
  dtype_mm: str | None = None
  exact_gelu: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Applies the block.

    Args:
      x: [..., D].

    Returns:
      [..., D].
    """
    d = x.shape[-1]
    x = nn.Dense(self.mlp_dim, dtype=self.dtype_mm)(x)
    x = nn.gelu(x, approximate=not self.exact_gelu)
    return nn.Dense(d, dtype=self.dtype_mm)(x)


class MixerBlock(nn.Module):
  """Mixes tokens, then channels.

  Attributes:
    tokens_mlp_dim: int, hidden width of the MLP across tokens.
    channels_mlp_dim: int, hidden width of the MLP across channels.
    drop_p: float, probability to skip each of the two, per example.
    dtype_mm: str, dtype of matrix products; None means that of the input.
    exact_gelu: bool, see `MlpMixer`.
  """

  tokens_mlp_dim: int
  channels_mlp_dim: int
  drop_p: float
  dtype_mm: str | None = None
  exact_gelu: bool = False

  @nn.compact
  def __call__(self, x: Array, *, train: bool = False) -> Array:
    """Applies the block.

    Args:
      x: [B, T, D].
      train: bool, turns stochastic depth on.

    Returns:
      [B, T, D].
    """
    options = dict(dtype_mm=self.dtype_mm, exact_gelu=self.exact_gelu)
    y = nn.LayerNorm(dtype=self.dtype_mm)(x)
    y = jnp.swapaxes(y, 1, 2)
    y = MlpBlock(self.tokens_mlp_dim, **options, name="token_mixing")(y)
    y = jnp.swapaxes(y, 1, 2)
    x = x + self._drop(y, train)
    y = nn.LayerNorm(dtype=self.dtype_mm)(x)
    y = MlpBlock(self.channels_mlp_dim, **options, name="channel_mixing")(y)
    return x + self._drop(y, train)

  def _drop(self, y, train):
    """Replaces y [B, T, D] by zeros for some examples."""
    if not train or not self.drop_p:
      return y
    rng = self.make_rng("dropout")
    drop = jax.random.bernoulli(rng, self.drop_p, (len(y), 1, 1))
    # Unlike dropout, this does not divide what stays by its probability:
    # published numbers were made like this.
    return jnp.where(drop, 0, y)


class MlpMixer(nn.Module):
  """MLP-Mixer.

  Attributes:
    patch_size: (int, int), height and width of a patch in pixels.
    num_classes: int, outputs of the head; None or 0 leaves out the head.
    num_blocks: int.
    hidden_dim: int, D.
    tokens_mlp_dim: int, hidden width of the MLPs across tokens.
    channels_mlp_dim: int, hidden width of the MLPs across channels.
    model_name: not used; old configs set it.
    stoch_depth: float, probability to skip in the last block. It grows linearly
      from 0 in the first block.
    dtype_mm: str, dtype of everything before the head, for example "bfloat16".
      Parameters are float32. None means the dtype of image and parameters.
    exact_gelu: bool, whether GELU is exact, as in timm, instead of approximated
      with tanh.
  """

  patch_size: Sequence[int]
  num_classes: int | None
  num_blocks: int
  hidden_dim: int
  tokens_mlp_dim: int
  channels_mlp_dim: int
  model_name: str | None = None
  stoch_depth: float = 0.0
  dtype_mm: str | None = None
  exact_gelu: bool = False

  @nn.compact
  def __call__(
    self, image: Array, *, train: bool = False
  ) -> tuple[Array, dict[str, Array]]:
    """Applies the model.

    Args:
      image: [B, H, W, 3], normally in [-1, 1]. The shapes of the parameters
        depend on the number of patches.
      train: bool, turns stochastic depth on.

    Returns:
      (x, out): x is [B, C], or [B, D] without classes; out is a dict of named
      intermediates.
    """
    fields.check_dtype(self.dtype_mm, f"{fields.key(self)}.dtype_mm")
    out = {}
    patch_size = tuple(self.patch_size)
    positions.image_grid(image.shape[1:3], patch_size, fields.key(self))
    x = out["stem"] = nn.Conv(
      self.hidden_dim,
      patch_size,
      strides=patch_size,
      dtype=self.dtype_mm,
      name="stem",
    )(image)
    x = activations.patches(x)
    x = out["input_tokens"] = x.reshape(x.shape[0], -1, self.hidden_dim)

    for i in range(self.num_blocks):
      x = out[f"block_{i}"] = MixerBlock(
        self.tokens_mlp_dim,
        self.channels_mlp_dim,
        drop_p=self.stoch_depth * i / max(self.num_blocks - 1, 1),
        dtype_mm=self.dtype_mm,
        exact_gelu=self.exact_gelu,
      )(x, train=train)
    x = nn.LayerNorm(name="pre_head_layer_norm")(x)
    x = out["pre_logits"] = jnp.mean(x, axis=1)
    if self.num_classes:
      head = nn.Dense(
        self.num_classes, kernel_init=nn.initializers.zeros, name="head"
      )
      x = out["logits"] = head(x)
    return x, out


_SIZES = {
  # name: (hidden_dim, num_blocks, channels_mlp_dim, tokens_mlp_dim)
  "S": (512, 8, 2048, 256),
  "B": (768, 12, 3072, 384),
  "L": (1024, 24, 4096, 512),
  "H": (1280, 32, 5120, 640),
}


def Model(
  num_classes: int | None = None, *, variant: str | None = None, **kw: Any
) -> MlpMixer:
  """Makes an MLP-Mixer, possibly of a named size.

  Args:
    num_classes: int, outputs of the head; None or 0 leaves out the head.
    variant: str, "<size>/<side of a patch in pixels>", for example "B/16".
    **kw: fields of `MlpMixer`, which override those of the variant. Without a
      variant, all fields without a default are required.

  Returns:
    The linen module.

  Raises:
    ValueError: unknown variant.
    TypeError: unknown or missing keyword.
  """
  return MlpMixer(num_classes=num_classes, **{**_decode_variant(variant), **kw})


def _decode_variant(variant):
  """Decodes a name such as "B/16" to fields of `MlpMixer`; {} for None."""
  if variant is None:
    return {}
  size, _, patch = str(variant).partition("/")
  if size not in _SIZES or not patch.isdecimal():
    known = [f"{s}/{p}" for s in _SIZES for p in (14, 16, 32)]
    raise lookup.unknown("Mixer variant", variant, known, "model.variant")
  names = ("hidden_dim", "num_blocks", "channels_mlp_dim", "tokens_mlp_dim")
  return {
    "patch_size": (int(patch), int(patch)),
    **dict(zip(names, _SIZES[size], strict=True)),
  }


# Names of public checkpoints that `config.model_init` accepts.
VANITY_NAMES = {
  f"{size}-{data}/16": f"gs://mixer_models/{folder}/Mixer-{size}_16.npz"
  for size in ("B", "L")
  for data, folder in (("i1k", "imagenet1k"), ("i21k", "imagenet21k"))
}


def load(
  init_params: Params | None,
  init_file: str,
  model_cfg: ConfigLike,
  dont_load: str | Sequence[str] = (),
) -> Params:
  """Loads a checkpoint; published ones are converted from their own format.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all
      that the checkpoint has.
    init_file: str, a path `<path>[:<sub/tree>]` or one of `VANITY_NAMES`.
    model_cfg: not used.
    dont_load: regexes of parameters that keep their initial values.

  Returns:
    Nested dict of parameters, see `common.load`.

  Raises:
    ConfigError: a checkpoint in the published format has unknown parameters.
    ValueError: parameters do not match, see `common.merge_params`.
  """
  del model_cfg
  init_file = VANITY_NAMES.get(init_file, init_file)
  return common.load(init_params, init_file, dont_load, convert)


def convert(params: Params) -> Params:
  """Converts parameters of any age and format to those of `MlpMixer`.

  Args:
    params: nested mapping.

  Returns:
    Nested dict.

  Raises:
    ConfigError: the published format with unknown parameters.
  """
  params = common.convert_pre_linen(params)
  return _convert_published(params) if "Mixer" in params else params


def _convert_published(params):
  """Converts parameters of the published files to those of `MlpMixer`."""
  params = dict(params)
  mixer = params.pop("Mixer")
  if "embedding" in params:
    params["stem"] = params.pop("embedding")
  for name, value in mixer.items():
    if name == "encoder_norm":
      params["pre_head_layer_norm"] = value
    else:
      if not name.startswith("encoderblock_"):
        raise lookup.ConfigError(
          f"Mixer checkpoint with an unexpected entry Mixer/{name}."
        )
      block = name.replace("encoderblock", "MixerBlock")
      params[block] = {
        k.removesuffix("_phase_0"): _convert_mlp(v) for k, v in value.items()
      }
  return params


def _convert_mlp(mlp):
  """Converts the four arrays of a mixing phase to two dense layers."""
  if "kernel1" not in mlp:
    return mlp  # A normalization.
  return {
    f"Dense_{i}": {
      "kernel": mlp[f"kernel{i + 1}"].squeeze(),
      "bias": mlp[f"bias{i + 1}"].squeeze(),
    }
    for i in (0, 1)
  }
