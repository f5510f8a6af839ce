r"""SciCap: captions of figures in papers.

Hsu et al. 2021, https://arxiv.org/abs/2110.11624,
https://github.com/tingyaohsu/SciCap

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/scicap.py:res=448 \
    --workdir workdirs/scicap
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

# In lower case, without the number of the figure.
_KEY = "caption/lowercase_and_token_and_remove_figure_index"


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`, `final_split` to train on `val`, too, `mode`, `demo`.

  Returns:
    The config.
  """
  c = transfer.parse(arg, res=224, final_split=False)
  before = [transfer.image(c.res, antialias=False), transfer.CAPTION]
  copy = f'copy(inkey="{_KEY}", outkey="suffix")'
  pp = combine_and_keep_train(96, before=[*before, copy])
  c.input = transfer.training_data(
    "scicap/first_sentence_subfig_no",
    "train+val" if c.final_split else "train",
    pp,
  )
  transfer.settings(
    c, total_epochs=80, lr=3e-5, label_smoothing=0.1, dropout=0.1
  )

  splits = dict(minitrain="train[:5%]", val="val", test="test")
  c.evals = {}
  transfer.add_pplx(c, "scicap", splits, pp)
  before = [f'reshape([1], inkey="{_KEY}", outkey="captions")', *before]
  transfer.add_evals(
    c,
    "coco_caption",
    "scicap",
    splits,
    combine_and_keep_eval(96, keep=("image/id", "captions"), before=before),
    max_decode_len=96,
    file=None,
    log_percent=0.3,
    batch_size=1024,
    metrics=["cider", "bleu-4"],
  )
  task = [f'choice(inkey="captions", outkey="{_KEY}")']
  return transfer.finish(c, arg, task)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts = ("test", "val", "minitrain")
  return transfer.metrics(["scicap"], parts, ("pplx/avg", "cider"))


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  transfer.sweep(add, arg, {224: {}, 448: {}})


sweep = sweep_best
