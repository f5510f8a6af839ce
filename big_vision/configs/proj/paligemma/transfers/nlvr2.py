r"""NLVR2: whether a sentence is true of two photos; MaRVL, in five languages.

Suhr et al. 2018, https://arxiv.org/abs/1811.00491,
https://lil.nlp.cornell.edu/nlvr
Liu et al. 2021, https://arxiv.org/abs/2109.13238,
https://marvl-challenge.github.io

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/nlvr2.py:res=448 \
    --workdir workdirs/nlvr2
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

_LANGUAGES = ("id", "sw", "ta", "tr", "zh")
_SIDES = ("image_left", "image_right")
_DEMO = (
  *demo.yes_no_question(question="sentence", answer="label"),
  'copy("id", "example_id")',
  # Twice the same picture.
  *(f'decode(inkey="image", outkey="{side}")' for side in _SIDES),
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`, `final_split` to train on `dev`, too, `mode`, `demo`.

  Returns:
    The config.
  """
  c = transfer.parse(arg, res=224, final_split=False)
  before = [
    *(f'resize({c.res}, key="{side}")' for side in _SIDES),
    'stack_images(inkeys=["image_left", "image_right"], outkey="image")',
    "value_range(-1, 1)",
    f'video_ensure_shape("image", (2, {c.res}, {c.res}, 3))',
    'strfmt("answer en {sentence}", outkey="prefix")',
  ]
  label = 'copy(inkey="label", outkey="suffix")'
  pp = combine_and_keep_train(64, before=[*before, label])
  c.input = transfer.training_data(
    "nlvr2", "train+dev" if c.final_split else "train", pp
  )
  transfer.settings(
    c, total_epochs=3, lr=1e-4, pp_modules=["proj.paligemma.video"]
  )

  before += [
    'copy(inkey="label", outkey="answer")',
    'copy(inkey="example_id", outkey="question_id")',
  ]
  pp = combine_and_keep_eval(64, keep=("answer", "question_id"), before=before)
  c.evals = {}
  for name, splits in (
    ("nlvr2", dict(minitrain="train[:10000]", dev="dev", test="test")),
    ("marvl", {f"test_{lang}": f"test_{lang}" for lang in _LANGUAGES}),
  ):
    transfer.add_evals(
      c,
      "vqa",
      name,
      splits,
      pp,
      max_decode_len=64,
      name=name,
      log_percent=0.1,
      batch_size=1024,
    )
  return transfer.finish(c, arg, _DEMO)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts = [f"test_{lang}" for lang in _LANGUAGES]
  return [
    *transfer.metrics(["nlvr2"], ("minitrain", "dev", "test"), ("acc",)),
    *transfer.measured(["marvl"], parts, ("acc",)),
  ]


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  large = dict(lr=3e-6, wd=3e-7, total_epochs=10)
  best = {224: dict(lr=1e-5, wd=1e-6, total_epochs=3), 448: large}
  transfer.sweep(add, arg, best)


sweep = sweep_best
