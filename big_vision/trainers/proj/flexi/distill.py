"""FlexiViT from a teacher: the student's patch size changes with the step.

  python -m big_vision.trainers.proj.flexi.distill --config CONFIG --workdir DIR

"FlexiViT: One Model for All Patch Sizes", https://arxiv.org/abs/2212.08013.
Differs from `distill.distill`: arguments of the student's call are drawn for each
step, see `common`; those of teachers stay as they are. Evaluators choose by name:
`student_seqhw=15`, `prof`, and for the two together `student_seqhw=15_prof`.
"""

if __name__ == "__main__":  # Before jax is imported, which takes seconds.
  from big_vision.training import run_help

  run_help.answer(__doc__)

from absl import app

from big_vision.trainers.proj.distill import distill
from big_vision.trainers.proj.flexi import common
from big_vision.training import cli
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup


def build(setup: Setup) -> Recipe:
  """Makes the recipe of distillation with changing arguments of the student.

  Args:
    setup: reads `flexi` of its config besides the keys of that trainer.

  Returns:
    The Recipe.
  """
  config = setup.config
  base = distill.build(setup, mixup_shards=setup.mix_parts)

  fns = base.predict_fns
  flexi = common.settings(config)
  predict_fns = common.mkpredictfns(fns["student_fwd"], flexi, "student_{x}")
  for t in config.teachers:
    predict_fns[t] = fns[f"{t}_fwd"]
    predict_fns |= common.mkpredictfns(
      fns[f"student_{t}_fwd"], flexi, f"student_{{x}}_{t}"
    )
  return common.flexible(base, config, base.loss_fn, predict_fns)


main = cli.main_for(build, model="student")

if __name__ == "__main__":
  app.run(main)
