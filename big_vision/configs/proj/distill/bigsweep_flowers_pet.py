r"""Distillation of BiT-M R152x2 into R50 on Flowers or Pets.

https://arxiv.org/abs/2106.05237 ("A good teacher is patient and consistent")

  python -m big_vision.trainers.proj.distill.distill \
    --config big_vision/configs/proj/distill/bigsweep_flowers_pet.py:data=flowers,variant=fast \
    --workdir /path/to/workdir

Arguments: data=flowers or pet; variant=fast, medium or long, the last with the
results of the paper; crop, the op that crops.

Expected: within 1h10m (flowers) or 28m (pet) for `fast` on a TPU v2-8, 25 h on a
v3-32 or 11 h on a v2-8 for `long`; the accuracies of the paper's figure 3.

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
  flowers=dict(
    name="oxford_flowers102",
    split="train",
    classes=102,
    schedules=dict(
      fast=(10_000, 10.0, 0.003, 3e-4),
      medium=(100_000, 1.0, 0.001, 1e-4),
      long=(1_000_000, 1.0, 0.0003, 1e-5),
    ),
    splits=dict(train="train[:512]", val="validation", test="test"),
    splits_local=dict(
      train="train[:16]", val="validation[:16]", test="test[:16]"
    ),
  ),
  pet=dict(
    name="oxford_iiit_pet",
    split="train[:90%]",
    classes=37,
    schedules=dict(
      fast=(1000, 5.0, 0.01, 1e-3),
      medium=(3000, 10.0, 0.003, 3e-4),
      long=(30_000, 2.0, 0.003, 1e-5),
    ),
    splits=dict(train="train[:512]", val="train[90%:]", test="test"),
    splits_local=dict(train="train[:16]", val="train[:16]", test="test[:16]"),
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
  return common.bigsweep(arg, DATA, log_training_steps=100)
