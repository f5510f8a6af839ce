"""SigLIP 2: further losses around a contrastive recipe.

`config.captioning` and `config.self_distill` switch them on, see the modules of
these names and `docs/siglip2.md`. Without these keys a recipe stays as it is.

"SigLIP 2: Multilingual Vision-Language Encoders with Improved Semantic
Understanding, Localization, and Dense Features",
https://arxiv.org/abs/2502.14786.
"""

import functools
from collections.abc import Callable
from typing import Any

from big_vision.trainers.proj.image_text import (
  aux_losses,
  captioning,
  self_distill,
)
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup

AUX_LOSSES = {
  "captioning": captioning.make,
  "self_distill": self_distill.make,
}


def extend(build: Callable[..., Recipe]) -> Callable[..., Recipe]:
  """Wraps a method, so that its config can ask for the losses of SigLIP 2.

  Args:
    build: `Setup -> Recipe` of a contrastive method whose `loss_fn` is a
      `grads.EmbeddingLoss`.

  Returns:
    `Setup -> Recipe`; further arguments are passed on.
  """

  @functools.wraps(build)
  def extended(setup: Setup, *args: Any, **kw: Any) -> Recipe:
    recipe = build(setup, *args, **kw)
    keys = [k for k in AUX_LOSSES if setup.config.get(k) is not None]
    if not keys:
      return recipe
    model, _ = setup.make_model()
    return aux_losses.add(recipe, [AUX_LOSSES[k](setup, model) for k in keys])

  return extended
