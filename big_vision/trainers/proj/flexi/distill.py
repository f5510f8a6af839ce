"""FlexiViT from a teacher: the student has another patch size at every step.

  python -m big_vision.trainers.proj.flexi.distill --config CONFIG --workdir DIR

"FlexiViT: One Model for All Patch Sizes", https://arxiv.org/abs/2212.08013. The
trainer of distillation, but that arguments of the student's call are drawn anew
for each step, see `common`; teachers are called as ever. Evaluators choose by
name: `student_seqhw=15`, `prof`, and for the two together
`student_seqhw=15_prof`.
"""

import dataclasses

from absl import app

from big_vision.trainers.proj.distill import distill
from big_vision.trainers.proj.flexi import common
from big_vision.training import cli


def build(setup):
  """The recipe of distillation with arguments of the student that vary.

  Args:
    setup: Setup; reads `flexi` of its config besides the keys of that trainer.

  Returns:
    The Recipe.
  """
  config = setup.config
  names = sorted(config.flexi)
  base = distill.build(setup, mixup_shards=setup.devices.size)

  def loss_fn(params, batch, rng, state, *values):
    kw = dict(zip(names, values, strict=True))
    return base.loss_fn(params, batch, rng, state, **kw)

  fns = base.predict_fns
  student = common.mkpredictfns(fns["student_fwd"], config.flexi, "student_{x}")
  teachers = {t: fns[f"{t}_fwd"] for t in config.teachers}
  pairs = [
    common.mkpredictfns(
      fns[f"student_{t}_fwd"], config.flexi, f"student_{{x}}_{t}"
    )
    for t in config.teachers
  ]
  return dataclasses.replace(
    base,
    loss_fn=loss_fn,
    predict_fns={
      k: f for d in (student, teachers, *pairs) for k, f in d.items()
    },
    static_args=common.static_args(config.flexi, config.get("seed", 0)),
  )


main = cli.main_for(build, model="student")

if __name__ == "__main__":
  app.run(main)
