"""CLIPPO: one tower for images and for texts, which are rendered as images.

The preprocessing renders texts (`pp/proj/clippo`), so CLIPPO has neither tokens
nor a text model; both inputs share all parameters.

References:
  Tschannen et al. 2022, CLIPPO, https://arxiv.org/abs/2212.08045

Shapes: `B` batch, `E` size of the embeddings.
"""

import functools
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from big_vision.models import fields
from big_vision.models.proj.image_text import two_towers
from big_vision.models.proj.image_text.two_towers import image_grid
from big_vision.types import Array, ConfigLike, Params

__all__ = ["Model", "image_grid", "load"]

_IMAGE_MODEL = "vit"


class Model(nn.Module):
  """One tower, and the temperature of the loss.

  Attributes:
    image: mapping, arguments of the image model; None means {}.
    image_model: str, module below `big_vision.models`, or a dotted path.
    out_dim: int, size of the embeddings.
    temperature_init: float, initial inverse temperature: factor of the logits.
    dtype_mm: str, dtype of the tower's computation, unless `image` has its own;
      None leaves it to the tower.
  """

  image: Mapping[str, Any] | None = None
  image_model: str = _IMAGE_MODEL
  out_dim: int = 768
  temperature_init: float = 10.0
  dtype_mm: str | None = None

  @nn.compact
  def __call__(
    self, image: Array | None, text: Array | None = None, **kw: Any
  ) -> tuple[Array | None, Array | None, dict[str, Any]]:
    """Embeds images and rendered texts.

    Args:
      image: [B, H, W, 3], input of the image model, or None.
      text: [B, H, W, 3], images of texts, or None.
      **kw: for the tower, for example `train`.

    Returns:
      (zimg, ztxt, out): [B, E] embeddings of unit length, or None for an input
        of
      None; and a dict of named intermediates: those of the tower as `img/...`
      and `txt/...`, and `t` the factor of the logits [1].

    Raises:
      ValueError: unknown model.
    """
    out = {}
    config = {"num_classes": self.out_dim, **(self.image or {})}
    module = two_towers.tower_module("img", self.image_model)
    make = functools.partial(module.Model, name="img")
    tower = fields.with_dtype(
      make, config, self.dtype_mm, "model.image_model", self.image_model
    )

    zimg, ztxt = None, None
    if image is not None:
      zimg = two_towers.embed(tower, "img", image, out, **kw)
    if text is not None:
      ztxt = two_towers.embed(tower, "txt", text, out, **kw)
    two_towers.add_temperature(self, self.temperature_init, out)
    return zimg, ztxt, out


def load(
  init_params: Params | None,
  init_files: str | Mapping[str, Any],
  model_cfg: ConfigLike,
  img_load_kw: Mapping[str, Any] | None = None,
  grid: tuple[int, int] | None = None,
) -> Params:
  """Loads tower and temperature from one checkpoint, or each from its own.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all
      that the checkpoints have.
    init_files: str, a path, for everything; or a mapping with `image` (or
      `img`), an `init_file` of the image model's `load`, and `temperature` (or
      `t`), a path `<path>:<name>`. Parts that are not listed keep their initial
      values.
    model_cfg: mapping, `config.model`, or None.
    img_load_kw: mapping, further arguments of the image model's `load`.
    grid: (rows, columns) of the positions, for the image model's `load`.

  Returns:
    Dict of parameters; leaves that are not loaded are those of `init_params`,
    and None for the tower without any.

  Raises:
    ConfigError: unknown keys in `init_files`.
    ValueError: unknown model, or parameters do not match, see
      `common.merge_params`.
  """
  model_cfg = model_cfg or {}
  if isinstance(init_files, str | os.PathLike):
    init_files = os.fspath(init_files)
    init_files = {name: f"{init_files}:{name}" for name in ("img", "t")}
  parts = two_towers.parts_to_load(init_files, ("img", "t"))

  params: dict[str, Any] = dict(init_params or {"img": None})
  if parts["img"]:
    params["img"] = two_towers.load_tower(
      "img",
      model_cfg.get("image_model") or _IMAGE_MODEL,
      params["img"],
      parts["img"],
      model_cfg.get("image"),
      img_load_kw,
      grid,
    )
  if parts["t"]:
    params["t"] = two_towers.load_scalar("t", parts["t"])
  return params
