"""Contrastive training of images and texts: SigLIP, CLIP, LiT, CLIPPO.

  python -m big_vision.trainers.proj.image_text.siglip --config CONFIG --workdir DIR

"Sigmoid Loss for Language Image Pre-Training", https://arxiv.org/abs/2303.15343.
Keys of the config besides those of every trainer:

  model_name, model, model_init, model_load: a model with two inputs, for example
    proj.image_text.two_towers. LiT loads an image tower and does not train it:
    `schedule = [("img/.*", None), (".*", ...)]`.
  loss_fn: "sigmoid" or "softmax"; "chunked_sigmoid" is the same as "sigmoid",
    which always works in chunks.
  loss_chunk: columns of logits that exist at a time, default 256.
  captioning, self_distill: further losses, see `siglip2.py`.

The loss compares all pairs of the global batch, for any number of devices and of
micro-batches (`grad_accum_steps`).
"""

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

import functools

from absl import app

from big_vision import contrastive, grads, lookup, sharding
from big_vision.trainers.proj.image_text import siglip2
from big_vision.trainers.proj.image_text.pairs import batch_shapes  # noqa: F401  (To plan runs.)
from big_vision.training import cli
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup

LOSSES = {
  "sigmoid": contrastive.sigmoid,
  "chunked_sigmoid": contrastive.sigmoid,
  "softmax": contrastive.softmax,
}


@siglip2.extend
def build(setup: Setup, default_loss: str = "sigmoid") -> Recipe:
  """Makes the recipe of contrastive training.

  Args:
    setup: batches have `image` [B, H, W, C] and `labels`, the input of the text
      tower: tokens [B, L], or pictures of text.
    default_loss: the loss if the config does not name one.

  Returns:
    The Recipe.

  Raises:
    ValueError: the loss is unknown, or the config asks for mixup.
  """
  config = setup.config
  if "mixup" in config:
    raise ValueError("config.mixup: pairs of image and text are not mixed.")
  name = config.get("loss_fn", default_loss)
  if name not in LOSSES:
    raise lookup.unknown("contrastive loss", name, LOSSES, "loss_fn")
  ring = contrastive.Ring(
    setup.mesh,
    sharding.batch_axes(config, setup.mesh.shape),
    config.get("loss_chunk", 256),
    ordered=bool(config.get("deterministic_reductions")),
    abstract=setup.abstract,
  )
  model, load = setup.make_model()

  def init(rng, batch):
    return model.init(rng, batch["image"], batch["labels"])["params"]

  def embed(params, batch, rng, state):
    del state
    zimg, ztxt, out = model.apply(
      {"params": params},
      batch["image"],
      batch["labels"],
      train=True,
      rngs={"dropout": rng},
    )
    norms = {f"train/n{x}": out[f"{x}/norm"] for x in ("img", "txt")}
    shared = {k: out[k] for k in ("t", "t/parameter", "b") if k in out}
    return {"img": zimg, "txt": ztxt, "norms": norms}, shared, out

  def compare(z, shared, state):
    del state
    loss, extras = LOSSES[name](
      z["img"], z["txt"], shared["t"], shared.get("b", 0.0), ring=ring
    )
    measured = {k: v.mean() for k, v in {**z["norms"], **shared}.items()}
    return loss, measured | {f"train/{k}": v for k, v in extras.items()}

  def predict(state, batch):
    """(zimg or None, ztxt or None, out) of what is in the batch."""
    return model.apply(
      {"params": state["params"]}, batch.get("image"), batch.get("labels")
    )

  loss_fn = grads.EmbeddingLoss(embed, compare)
  return Recipe(
    init=init,
    load=load,
    loss_fn=loss_fn,
    accumulate=loss_fn.accumulate,  # Embeds in parts, compares all pairs.
    predict_fns={"predict": predict},
  )


main = cli.main_for(build)

# The trainer of CLIP and CLIPPO in the past: the same with another default.
build_softmax = functools.partial(build, default_loss="softmax")
main_softmax = cli.main_for(build_softmax)

if __name__ == "__main__":
  app.run(main)
