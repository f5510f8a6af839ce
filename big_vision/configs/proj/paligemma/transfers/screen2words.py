r"""Screen2Words: summaries of screens of apps.

Wang et al. 2021, https://arxiv.org/abs/2108.03353,
https://github.com/google-research-datasets/screen2words

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/screen2words.py \
    --workdir workdirs/screen2words
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`, `final_split` to train on `dev`, too, `mode`, `demo`.

  Returns:
    The config.
  """
  c = transfer.parse(arg, res=224, final_split=False)
  before = [transfer.image(c.res, antialias=False), transfer.CAPTION]
  pp = combine_and_keep_train(
    24,
    before=[
      *before,
      # The number of the screen tells which summary is next.
      'copy(inkey="image/id", outkey="_id")',
      'choice_no_replacement(inkey="summary", outkey="suffix")',
    ],
  )
  c.input = transfer.training_data(
    "screen2_words", "train+dev" if c.final_split else "train", pp
  )
  transfer.settings(
    c, total_epochs=10, lr=1e-5, label_smoothing=0.2, dropout=0.3
  )

  splits = dict(minitrain="train[:5%]", dev="dev", test="test")
  c.evals = {}
  transfer.add_pplx(c, "screen2words", splits, pp)
  before = ['copy("summary", "captions")', *before]
  transfer.add_evals(
    c,
    "coco_caption",
    "screen2words",
    splits,
    combine_and_keep_eval(24, keep=("image/id", "captions"), before=before),
    max_decode_len=24,
    file=None,
    log_percent=0.1,
    batch_size=1024,
  )
  return transfer.finish(c, arg, ['copy("captions", "summary")'])


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts, names = ("test", "dev", "minitrain"), ("cider", "pplx/avg")
  return transfer.metrics(["screen2words"], parts, names, "epoch")


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  transfer.sweep(add, arg, {224: {}, 448: {}})


sweep = sweep_best
