"""VQAv2: questions about photos, with pairs of similar photos.

Goyal et al. 2017, https://arxiv.org/abs/1612.00837, https://visualqa.org

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/vqav2.py:res=448 \
    --workdir workdirs/vqav2
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
  *demo.QUESTIONS,
  'copy("question", "question_text")',
  *demo.question_types(count="number", presence="yes/no", other="other"),
  'copy("question_type", "answer_type")',
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`, `final_split` to train on all that has answers, `mode`, `demo`.

  Returns:
    The config.
  """
  c = transfer.parse(arg, res=224, final_split=False)
  ask = 'strfmt("answer en {question_text}", outkey="prefix")'
  before = [transfer.image(c.res), ask]
  pp = combine_and_keep_train(32, before=[*before, transfer.ANY_ANSWER])
  val = "validation" if c.final_split else "validation[:-10240]"
  c.input = transfer.training_data("vqa", f"train + {val}", pp)
  transfer.settings(c, total_epochs=10, lr=3e-6, wd=3e-7)
  del c.optax  # What it says is the default.

  c.evals = {}
  splits = dict(minitrain="train[:20_864]", minival="validation[-10240:]")
  transfer.add_pplx(c, "vqav2", splits, pp, log_percent=1 / 4)
  keep = ("answers", "answer_type", "question_type", "question_id")
  transfer.add_evals(
    c,
    "vqav2",
    "vqav2",
    {**splits, "minitrain": "train[:5120]", "test": "test + test-dev"},
    combine_and_keep_eval(32, keep=keep, before=before),
    max_decode_len=32,
    log_percent=1 / 4,
    at_end=["test"],
    batch_size=1024,
  )
  return transfer.finish(c, arg, _DEMO)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts = ("minival", "minitrain")
  return transfer.metrics(["vqav2"], parts, ("acc", "pplx/avg"))


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = {
    224: dict(lr=1e-5, wd=1e-6, total_epochs=10),
    448: dict(lr=1e-5, wd=0.0, total_epochs=10),
  }
  transfer.sweep(add, arg, best)


sweep = sweep_best
