"""FlexiViT from labels: the patch size changes from step to step.

  python -m big_vision.trainers.proj.flexi.train --config CONFIG --workdir DIR

"FlexiViT: One Model for All Patch Sizes", https://arxiv.org/abs/2212.08013.
Differs from `big_vision.train`: arguments of the model's call are drawn for each
step, see `common`. Each combination of them compiles once. Evaluators choose by
name: `predict_seqhw=15`.
"""

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

from absl import app

from big_vision import losses, train
from big_vision.trainers.proj.flexi import common
from big_vision.training import cli, train_loss
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup


def build(setup: Setup) -> Recipe:
  """Makes the recipe of `big_vision.train` with changing arguments.

  Args:
    setup: reads `flexi` of its config besides the keys of that trainer.

  Returns:
    The Recipe.
  """
  config = setup.config
  model, _ = setup.make_model(num_classes=setup.num_classes)
  loss = losses.get(config.get("loss", "sigmoid_xent"), "loss")
  loss = train_loss.make(setup, loss)

  def loss_fn(params, batch, rng, state, **kw):
    del state
    logits, _ = model.apply(
      {"params": params},
      batch["image"],
      train=True,
      rngs={"dropout": rng},
      **kw,
    )
    return loss(logits=logits, labels=batch["labels"]), {}

  def predict(state, batch, **kw):
    return model.apply({"params": state["params"]}, batch["image"], **kw)

  return common.flexible(
    train.build(setup),
    config,
    loss_fn,
    common.mkpredictfns(predict, common.settings(config)),
  )


main = cli.main_for(build)

if __name__ == "__main__":
  app.run(main)
