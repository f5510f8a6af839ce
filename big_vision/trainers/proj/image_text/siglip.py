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

The loss compares all pairs of the global batch, for any number of devices and of
micro-batches (`grad_accum_steps`).
"""

import functools

import jax
from absl import app

from big_vision import contrastive, grads, lookup, sharding
from big_vision.training import cli, recipe

LOSSES = {
  "sigmoid": contrastive.sigmoid,
  "chunked_sigmoid": contrastive.sigmoid,
  "softmax": contrastive.softmax,
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

  def init(rng, batch):
    return model.init(rng, batch["image"], batch["labels"])["params"]

  def embed(params, batch, rng):
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
    return {"img": zimg, "txt": ztxt, "norms": norms}, shared

  def loss(z, shared):
    value, extras = LOSSES[name](
      z["img"], z["txt"], shared["t"], shared.get("b", 0.0), ring=ring
    )
    measured = {k: v.mean() for k, v in {**z["norms"], **shared}.items()}
    return value, measured | {f"train/{k}": v for k, v in extras.items()}

  def loss_fn(params, batch, rng, state):
    del state
    return loss(*embed(params, batch, rng))

  def accumulate(params, batch, rng, state, *, steps, constrain):
    del state
    return grads.through_embeddings(
      lambda p, micro, i: embed(p, micro, jax.random.fold_in(rng, i)),
      loss,
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
    load=load,
    loss_fn=loss_fn,
    accumulate=accumulate,
    predict_fns={"predict": predict},
  )


main = cli.main_for(build)

# The trainer of CLIP and CLIPPO in the past: the same with another default.
build_softmax = functools.partial(build, default_loss="softmax")
main_softmax = cli.main_for(build_softmax)

if __name__ == "__main__":
  app.run(main)
