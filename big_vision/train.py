"""Image classification: the shortest complete trainer, the one to copy.

  python -m big_vision.train --config configs/quickstart.py --workdir DIR

`build` says what is computed: model, loss, mixing and the functions that
evaluators call. Everything else follows from the config: `training.cli.train`
checks it, opens the data, calls `build` and hands the recipe to
`training.loop.run`, which starts the state, trains, evaluates and writes.
"""

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

from absl import app

from big_vision import cutmix, losses
from big_vision.models import common
from big_vision.training import cli, train_loss
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup


def build(setup: Setup) -> Recipe:
  """Makes the recipe of supervised classification.

  Args:
    setup: the Setup; reads `loss`, what changes it, `mixup`, `cutmix`,
      `init_head_bias`, the model's keys. Batches have `image` and `labels` [B, N].

  Returns:
    The Recipe.
  """
  config = setup.config
  # From config.model_name, config.model; `load` reads config.model_init.
  model, load = setup.make_model(num_classes=setup.num_classes)
  loss = losses.get(config.get("loss", "sigmoid_xent"), "loss")
  smoothed_loss = train_loss.make(setup, loss)  # Or weighted, if asked for.

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
    return smoothed_loss(logits=logits, labels=batch["labels"]), {}

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
    augment=cutmix.make_augment(config, setup.mix_parts),
    predict_fns={"predict": predict, "loss": predict_loss},
  )


main = cli.main_for(build)

if __name__ == "__main__":
  app.run(main)
