r"""Distillation of BiT-M R152x2 into R50 on Food or SUN397.

https://arxiv.org/abs/2106.05237 ("A good teacher is patient and consistent")

  python -m big_vision.trainers.proj.distill.distill \
    --config big_vision/configs/proj/distill/bigsweep_food_sun.py:data=food,variant=fast \
    --workdir /path/to/workdir

Arguments: data=food or sun; variant=fast, medium or long, the last with the
results of the paper; crop, the op that crops.

Expected: 45 minutes for `fast` on food with a TPU v2-8, 14 h for `long` on a
v3-8; the accuracies of the paper's figure 3.

`:runlocal` is for trying it on one machine: small batch, 16 images per
evaluation.

`:source=folder,path=/data/pets` and others are data of your own, with a teacher of
the same classes, see `bit_i1k.py`.

`:demo` really trains, in a minute or two on a CPU, a tiny student of a tiny
random teacher on generated data, see `demo.py`.
"""

import ml_collections as mlc

from big_vision.configs.proj.distill import common

DATA = dict(
  food=dict(
    name="food101",
    split="train[:90%]",
    classes=101,
    schedules=dict(
      fast=(100, 10.0, 0.01, 1e-3),
      medium=(1000, 10.0, 0.001, 3e-4),
      long=(3000, 5.0, 0.01, 1e-4),
    ),
    splits=dict(train="train[:1024]", val="train[90%:]", test="validation"),
    splits_local=dict(train="train[:16]", val="train[:16]", test="test[:16]"),
  ),
  sun=dict(
    name="sun397",
    split="train",
    classes=397,
    schedules=dict(
      fast=(100, 10.0, 0.01, 1e-3),
      medium=(1000, 10.0, 0.001, 1e-4),
      long=(3000, 10.0, 0.01, 3e-5),
    ),
    splits=dict(train="train[:1024]", val="validation", test="test"),
    splits_local=dict(
      train="train[:16]", val="validation[:16]", test="test[:16]"
    ),
  ),
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: the keys `data`, `variant`, `crop`, `runlocal`, `demo`, and those of
      `own_data.ARGS`.

  Returns:
    ConfigDict.
  """
  return common.bigsweep(arg, DATA, log_training_steps=50)
