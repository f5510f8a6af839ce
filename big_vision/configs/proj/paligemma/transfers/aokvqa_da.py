"""A-OKVQA, direct answers: questions that need knowledge of the world.

Schwenk et al. 2022, https://arxiv.org/abs/2206.01718,
https://allenai.org/project/a-okvqa

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/aokvqa_da.py:res=448 \
    --workdir workdirs/aokvqa_da
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`, `final_split` to train on all that has answers, `mode`, `demo`.

  Returns:
    The config.
  """
  c = transfer.parse(arg, res=224, final_split=False)
  before = [transfer.image(c.res), transfer.ASK]
  choose = 'choice_no_replacement(inkey="direct_answers", outkey="suffix")'
  pp = combine_and_keep_train(32, before=[*before, choose])
  c.input = transfer.training_data(
    "aokvqa", "train + val" if c.final_split else "train", pp, batch_size=128
  )
  transfer.settings(c, total_epochs=10, lr=5e-6)

  splits = dict(minitrain="train[:5%]", eval="val")
  c.evals = {}
  transfer.add_pplx(c, "aokvqa_da", splits, pp)
  before.append('copy(inkey="direct_answers", outkey="answers")')
  transfer.add_evals(
    c,
    "vqa",
    "aokvqa_da",
    {**splits, "test": "test"},
    combine_and_keep_eval(32, keep=("answers", "question_id"), before=before),
    max_decode_len=32,
    log_percent=1 / 4,
    at_end=["test"],
    batch_size=256,
  )
  return transfer.finish(
    c, arg, [*demo.QUESTIONS, 'copy("answers", "direct_answers")']
  )


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts = ("eval", "minitrain")
  return transfer.metrics(["aokvqa_da"], parts, ("pplx/avg", "acc"))


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = dict(lr=5e-6, wd=0.0)
  transfer.sweep(add, arg, {224: best, 448: best})


sweep = sweep_best
