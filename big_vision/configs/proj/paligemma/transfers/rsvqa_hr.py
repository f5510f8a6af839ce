"""RSVQA-HR: questions about aerial photos, of 15 cm to a pixel.

Lobry et al. 2020, https://arxiv.org/abs/2003.07333,
https://rsvqa.sylvainlobry.com

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/rsvqa_hr.py:res=448 \
    --workdir workdirs/rsvqa_hr
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections as mlc

from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

_DEMO = (
  *demo.QUESTIONS,
  *demo.question_types(count="count", presence="presence", other="comp"),
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`, `final_split` to train on all that has answers, `mode`, `demo`.

  Returns:
    The config.
  """
  return make(
    arg,
    "rsvqa_hr",
    dict(total_epochs=1, lr=1e-5),
    dict(minival="val", test="test", test2="test_2"),
    at_end=["minival", "test", "test2"],
  )


def make(
  arg: str | None,
  name: str,
  recipe: Mapping[str, Any],
  splits: Mapping[str, str],
  **evaluator: Any,
) -> mlc.ConfigDict:
  """Makes the config of one of the datasets of RSVQA.

  Args:
    arg: see `get_config`.
    name: of the dataset.
    recipe: what `transfer.settings` takes.
    splits: name -> split, besides `minitrain`.
    **evaluator: what `transfer.add_evals` takes besides.

  Returns:
    The config.
  """
  c = transfer.parse(arg, res=224, final_split=False)
  ask = [transfer.LOWER, transfer.ASK]
  pp = combine_and_keep_train(
    32, before=[transfer.image(c.res), *ask, transfer.ANY_ANSWER]
  )
  c.input = transfer.training_data(
    f"{name}/nonum", "train + val" if c.final_split else "train", pp
  )
  transfer.settings(c, **recipe)

  splits = dict(minitrain="train[:1280]", **splits)
  c.evals = {}
  held_out = {k: splits[k] for k in ("minitrain", "minival")}
  transfer.add_pplx(c, name, held_out, pp, log_percent=0.1)
  transfer.add_evals(
    c,
    "rsvqa",
    name,
    splits,
    combine_and_keep_eval(
      32,
      keep=("answers", "question_type", "question_id"),
      before=[transfer.image(c.res, antialias=False), *ask],
    ),
    max_decode_len=32,
    log_percent=0.1,
    batch_size=1024,
    to_lower=True,
    **evaluator,
  )
  return transfer.finish(c, arg, _DEMO, transfer.run_few_steps)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  return compared("rsvqa_hr", ("minival", "test", "test2", "minitrain"))


def compared(name: str, parts: Sequence[str]) -> list:
  """Lists the metrics to compare of one of the datasets of RSVQA.

  Args:
    name: of the dataset.
    parts: those of which answers are scored.

  Returns:
    See `transfer.metrics`.
  """
  scores = ("acc_any", "acc_avg", "acc_avg_nonum", "anls")
  loss = transfer.metrics([name], ("minival", "minitrain"), ("pplx/avg",))
  return [*loss, *transfer.measured([name], parts, scores)]


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = dict(lr=1e-5, wd=0.0, total_epochs=1)
  transfer.sweep(add, arg, {224: best, 448: best})


sweep = sweep_best
