"""A-OKVQA, multiple choice: questions that need knowledge of the world.

Schwenk et al. 2022, https://arxiv.org/abs/2206.01718,
https://allenai.org/project/a-okvqa

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/aokvqa_mc.py:res=448 \
    --workdir workdirs/aokvqa_mc
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)


def _right(outkey):
  """Writes the op that takes the right one of the choices."""
  return (
    'getidx(inkey="multiple_choice_possible_answers", '
    f'index_key="multiple_choice_correct_idx", outkey="{outkey}")'
  )


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`, `final_split` to train on all that has answers, `mode`, `demo`.

  Returns:
    The config.
  """
  c = transfer.parse(arg, res=224, final_split=False)
  before = [
    transfer.image(c.res),
    'strjoin(" \t ", inkey="multiple_choice_possible_answers", outkey="ansstr")',
    'strfmt("answer en  {question} choose from: {ansstr}", outkey="prefix")',
  ]
  pp = combine_and_keep_train(128, before=[*before, _right("suffix")])
  c.input = transfer.training_data(
    "aokvqa", "train + val" if c.final_split else "train", pp, batch_size=128
  )
  transfer.settings(c, total_epochs=15, lr=5e-6)

  splits = dict(minitrain="train[:5%]", eval="val", test="test")
  c.evals = {}
  transfer.add_pplx(c, "aokvqa_mc", splits, pp)
  transfer.add_evals(
    c,
    "vqa",
    "aokvqa_mc",
    splits,
    combine_and_keep_eval(
      128, keep=("answer", "question_id"), before=[*before, _right("answer")]
    ),
    max_decode_len=128,
    log_percent=1 / 4,
    at_end=["test"],
    batch_size=256,
  )
  task = [
    *demo.CHOICES,
    'copy("choices", "multiple_choice_possible_answers")',
    'copy("label", "multiple_choice_correct_idx")',
  ]
  return transfer.finish(c, arg, task)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts = ("eval", "minitrain")
  return transfer.metrics(["aokvqa_mc"], parts, ("pplx/avg", "acc"))


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = dict(lr=5e-6, wd=0.0)
  transfer.sweep(add, arg, {224: best, 448: best})


sweep = sweep_best
