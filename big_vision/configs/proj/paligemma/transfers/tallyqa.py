r"""TallyQA: how many? And CountBenchQA.

Acharya et al. 2018, https://arxiv.org/abs/1810.12440,
https://github.com/manoja328/TallyQA_dataset
Paiss et al. 2023, https://arxiv.org/abs/2302.12066

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/tallyqa.py:res=448 \
    --workdir workdirs/tallyqa
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

_DEMO = (
  "flatten",
  # How many shapes, and how many of one kind: the latter is called simple.
  'setdefault("kinds", [0, 1])|choice(inkey="kinds", outkey="issimple")',
  *demo.question("issimple"),
  'copy("answer", "number")',
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`, `mode`, `demo`.

  Returns:
    The config.
  """
  c = transfer.parse(arg, res=224)
  before = [transfer.image(c.res), transfer.ASK]
  suffix = 'strfmt("{answer}", outkey="suffix")'
  pp = combine_and_keep_train(32, before=[*before, suffix])
  c.input = transfer.training_data("tallyqa", "train", pp)
  transfer.settings(c, total_epochs=2, lr=1e-5)

  splits = dict(minitrain="train[:5%]", eval="test")
  c.evals = {}
  transfer.add_pplx(c, "tallyqa", splits, pp, log_percent=0.1)
  for prefix, name, parts, number, more in (
    ("tallyqa", None, splits, "answer", ["issimple"]),
    ("countbenchqa", "countbenchqa", dict(eval="huggingface"), "number", []),
  ):
    answer = f'strfmt("{{{number}}}", outkey="answer")'
    transfer.add_evals(
      c,
      "tallyqa",
      prefix,
      parts,
      combine_and_keep_eval(
        32, keep=("answer", *more), before=[*before, answer]
      ),
      max_decode_len=32,
      file=None,
      name=name,
      log_percent=0.1,
      batch_size=256,
    )
  c.evals["tallyqa/eval"].log_percent = 0.25
  return transfer.finish(c, arg, _DEMO)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  scores = ("acc", "acc/complex", "acc/simple")
  return [
    *transfer.metrics(["countbenchqa"], ["eval"], ["acc"]),
    *transfer.measured(["tallyqa"], ("minitrain", "eval"), ["pplx/avg"]),
    *transfer.measured(["tallyqa"], ["eval"], scores),
  ]


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = {
    res: dict(lr=lr, wd=wd, total_epochs=2)
    for res, lr, wd in (
      (224, 1e-5, 0.0),
      (448, 1e-5, 1e-6),
      (896, 7e-6, 7e-7),
    )
  }
  transfer.sweep(add, arg, best)


sweep = sweep_best
