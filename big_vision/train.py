"""Image classification: the shortest complete trainer, the one to copy.

  python -m big_vision.train --config configs/quickstart.py --workdir DIR

`build` says what is computed: model, loss, mixup and the functions that
evaluators call. Everything else follows from the config: `training.cli.train`
checks it, opens the data, calls `build` and hands the recipe to
`training.loop.run`, which starts the state, trains, evaluates and writes.
"""

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

from absl import app

from big_vision import losses, mixup
from big_vision.models import common
from big_vision.training import cli
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup


def build(setup: Setup) -> Recipe:
  """Makes the recipe of supervised classification.

  Args:
    setup: the Setup; reads `loss`, `mixup`, `init_head_bias` and the model's keys
      of its config. Batches have `image` [B, H, W, C] and `labels` [B, N].

  Returns:
    The Recipe.
  """
  config = setup.config
  # From config.model_name, config.model; `load` reads config.model_init.
  model, load = setup.make_model(num_classes=setup.num_classes)
  loss = losses.get(config.get("loss", "sigmoid_xent"), "loss")

  def init(rng, batch):
    params = model.init(rng, batch["image"])["params"]
    if "init_head_bias" in config:
      common.set_head_bias(params, config.init_head_bias)
    return params

  def loss_fn(params, batch, rng, state):
    del state
    logits, _ = model.apply(
      {"params": params}, batch["image"], train=True, rngs={"dropout": rng}
    )
    return loss(logits=logits, labels=batch["labels"]), {}

  def augment(batch, rng):
    # On each device among its own examples only: nothing has to travel.
    mix = mixup.get_mixup(
      rng, config.mixup.p, setup.devices.size, config.mixup.get("n", 2)
    )
    rng, (image, labels), _ = mix(batch["image"], batch["labels"])
    return {**batch, "image": image, "labels": labels}, rng

  def predict(state, batch):
    return model.apply({"params": state["params"]}, batch["image"])

  def predict_loss(state, batch):
    logits, _ = predict(state, batch)
    return {
      "loss": loss(logits=logits, labels=batch["labels"], reduction=False)
    }

  return Recipe(
    init=init,
    load=load,
    loss_fn=loss_fn,
    augment=augment if (config.get("mixup") or {}).get("p") else None,
    predict_fns={"predict": predict, "loss": predict_loss},
  )


main = cli.main_for(build)

if __name__ == "__main__":
  app.run(main)
