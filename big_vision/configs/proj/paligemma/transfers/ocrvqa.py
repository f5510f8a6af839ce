"""OCR-VQA: questions about covers of books.

Mishra et al. 2019, https://doi.org/10.1109/ICDAR.2019.00156,
https://ocr-vqa.github.io

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/ocrvqa.py:res=448 \
    --workdir workdirs/ocrvqa
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
  pp = combine_and_keep_train(32, before=[*before, transfer.ANSWER])
  c.input = transfer.training_data(
    "ocrvqa_id",
    "train+val" if c.final_split else "train + val[20_000:]",
    pp,
    batch_size=128,
  )
  transfer.settings(c, total_epochs=3, lr=3e-6)

  splits = dict(minitrain="train[:5120]", minival="val[:20_000]", eval="test")
  c.evals = {}
  transfer.add_pplx(c, "ocrvqa", splits, pp, log_percent=0.1)
  before.append('copy(inkey="int_id", outkey="question_id")')
  transfer.add_evals(
    c,
    "vqa",
    "ocrvqa",
    splits,
    combine_and_keep_eval(32, keep=("answer", "question_id"), before=before),
    max_decode_len=32,
    log_percent=1 / 4,
    at_end=["eval"],
    file=None,
    batch_size=256,
    to_lower=True,
  )
  c.evals["ocrvqa/minitrain"].log_percent = 1 / 8
  return transfer.finish(
    c, arg, [*demo.QUESTIONS, 'copy("image/id", "int_id")']
  )


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts = ("eval", "minival", "minitrain")
  return transfer.metrics(["ocrvqa"], parts, ("acc",))


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  transfer.sweep(
    add, arg, {224: dict(lr=3e-6), 448: dict(lr=3e-6), 896: dict(lr=1e-5)}
  )


sweep = sweep_best
