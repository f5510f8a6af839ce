"""Named sizes of transformers, such as "B" and "So400m/14".

`models/vit.py` offers these functions under its own name.
"""

from typing import Any

from big_vision import lookup

_SIZES = {
  # name: (width, depth, mlp_dim, num_heads)
  "mu": (32, 1, 128, 2),
  "Ti": (192, 12, 768, 3),
  "S": (384, 12, 1536, 6),
  "M": (512, 12, 2048, 8),
  "B": (768, 12, 3072, 12),
  "L": (1024, 24, 4096, 16),
  "So400m": (1152, 27, 4304, 16),
  "H": (1280, 32, 5120, 16),
  "g": (1408, 40, 6144, 16),
  "g-opt": (1536, 40, 6144, 16),
  "G": (1664, 48, 8192, 16),
  "G-opt": (1536, 48, 8192, 16),
  "e": (1792, 56, 15360, 16),
}


def decode_variant(variant: str | None) -> dict[str, Any]:
  """Decodes the name of a size, such as "B", "B/16" or "So400m/14".

  Args:
    variant: str, a size and optionally "/<side of a patch in pixels>", or None.

  Returns:
    dict, fields of `_Model`: width, depth, mlp_dim, num_heads, and patch_size
    if the variant has it; {} for None.

  Raises:
    KeyError: unknown size.
    ValueError: the patch size is not a number.
  """
  if variant is None:
    return {}
  size, slash, patch = str(variant).partition("/")
  if size not in _SIZES:
    raise KeyError(
      str(lookup.unknown("ViT variant", variant, _SIZES, "model.variant"))
    )
  names = ("width", "depth", "mlp_dim", "num_heads")
  kw: dict[str, Any] = dict(zip(names, _SIZES[size], strict=True))
  if slash:
    if not patch.isdecimal():
      raise ValueError(
        f"config.model.variant: {variant!r} must be '<size>/<pixels>', for "
        f"example '{size}/16'."
      )
    kw["patch_size"] = (int(patch), int(patch))
  return kw


def decode_size(variant: str | None, key: str, why: str) -> dict[str, Any]:
  """Decodes variants of models that have no patch size, such as text models.

  Args:
    variant: str, a size such as "B", or None.
    key: str, the config key of the variant, for the error message.
    why: str, a clause about patch sizes, for the error message.

  Returns:
    dict: width, depth, mlp_dim, num_heads; {} for None.

  Raises:
    KeyError: unknown size.
    ValueError: the variant has a patch size.
  """
  fields = decode_variant(variant)
  if "patch_size" in fields:
    size = variant.partition("/")[0]
    raise ValueError(
      f"config.{key}: {variant!r} has a patch size, {why}; use {size!r}."
    )
  return fields
