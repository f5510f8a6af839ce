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
  captioning, self_distill: what SigLIP 2 adds, https://arxiv.org/abs/2502.14786;
    see the modules of these names, and `docs/siglip2.md`.

The loss compares all pairs of the global batch, for any number of devices and of
micro-batches (`grad_accum_steps`).
"""

import functools

import jax
from absl import app

from big_vision import contrastive, grads, lookup, sharding
from big_vision.trainers.proj.image_text import (
  additions,
  captioning,
  self_distill,
)
from big_vision.training import cli, recipe

LOSSES = {
  "sigmoid": contrastive.sigmoid,
  "chunked_sigmoid": contrastive.sigmoid,
  "softmax": contrastive.softmax,
}
ADDITIONS = {
  "captioning": captioning.make,
  "self_distill": self_distill.make,
}


def build(setup, default_loss="sigmoid"):
  """The recipe of contrastive training.

  Args:
    setup: Setup. Batches have `image` [B, H, W, C] and `labels`, what the text
      tower takes: tokens [B, L], or pictures of text.
    default_loss: str, if the config does not say.

  Returns:
    The Recipe.
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
  )
  model, load = setup.make_model()
  added = [
    make(setup, model)
    for key, make in ADDITIONS.items()
    if config.get(key) is not None
  ]

  def init(rng, batch):
    params = model.init(rng, batch["image"], batch["labels"])["params"]
    return additions.init(added, rng, params, batch)

  def embed(params, batch, rng, state, active):
    """Embeddings; and what does not depend on the examples."""
    zimg, ztxt, out = model.apply(
      {"params": params},
      batch["image"],
      batch["labels"],
      train=True,
      rngs={"dropout": rng},
    )
    norms = {f"train/n{x}": out[f"{x}/norm"] for x in ("img", "txt")}
    shared = {k: out[k] for k in ("t", "t/parameter", "b") if k in out}
    z = {"img": zimg, "txt": ztxt, "norms": norms}
    z["added"] = additions.embed(added, active, params, batch, out, rng, state)
    return z, shared

  def loss(z, shared, state):
    value, extras = LOSSES[name](
      z["img"], z["txt"], shared["t"], shared.get("b", 0.0), ring=ring
    )
    measured = {k: v.mean() for k, v in {**z["norms"], **shared}.items()}
    measured |= {f"train/{k}": v for k, v in extras.items()}
    value, more = additions.add_losses(added, value, z["added"], state)
    return value, measured | more

  def loss_fn(params, batch, rng, state, active=None):
    return loss(*embed(params, batch, rng, state, active), state)

  def accumulate(params, batch, rng, state, active=None, *, steps, constrain):
    def embed_one(params, micro, i):
      key = jax.random.fold_in(rng, i)
      return embed(params, micro, key, state, active)

    return grads.through_embeddings(
      embed_one,
      functools.partial(loss, state=state),
      params,
      batch,
      steps,
      constrain,
    )

  def predict(state, batch):
    """(zimg or None, ztxt or None, out) of what is in the batch."""
    return model.apply(
      {"params": state["params"]}, batch.get("image"), batch.get("labels")
    )

  return recipe.Recipe(
    init=init,
    load=additions.load(added, load),
    loss_fn=loss_fn,
    accumulate=accumulate,
    predict_fns=additions.predict_fns(added, predict=predict),
    **additions.recipe_fields(added),
  )


main = cli.main_for(build)

# The trainer of CLIP and CLIPPO in the past: the same with another default.
build_softmax = functools.partial(build, default_loss="softmax")
main_softmax = cli.main_for(build_softmax)

if __name__ == "__main__":
  app.run(main)
