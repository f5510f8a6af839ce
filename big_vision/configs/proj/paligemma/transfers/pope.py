r"""POPE: does a model see what is not there? Evaluation only.

Li et al. 2023, https://arxiv.org/abs/2305.10355,
https://github.com/AoiDragon/POPE

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/pope.py:res=448 \
    --workdir workdirs/pope

For a model that was trained with prompts, `:prefix=answer en {question}`, and
`--config.model_init` for one of your own. `:demo` evaluates a tiny model, which
knows nothing unless `--config.model_init` is the checkpoint of `forkme.py:demo`.
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

# How what is not there was chosen.
_NAMES = ("pope_random", "pope_popular", "pope_adversarial")


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`, `text_len` tokens, `prefix` of the question, `mode`, `demo`.

  Returns:
    The config.
  """
  c = transfer.parse(arg, res=224, text_len=48, prefix="{question}")
  c.name = ""
  before = [
    transfer.image(c.res, antialias=False),
    f'strfmt("{c.prefix}", outkey="prefix")',
  ]
  # Nothing is trained, but a run reads its data.
  pp = combine_and_keep_train(c.text_len, before=[*before, transfer.ANSWER])
  c.input = transfer.mixture(
    dict.fromkeys(_NAMES, 1),
    {n: dict(data=dict(name=n, split="test"), pp=pp) for n in _NAMES},
  )
  c.total_steps = 0
  c.optax_name = "identity"
  c.lr = 0.0
  transfer.model(c)
  c.model_init = f"pt_{c.res}"

  pp = combine_and_keep_eval(
    c.text_len, keep=("question_id", "answer"), before=before
  )
  c.evals = {}
  for name in _NAMES:
    transfer.add_evals(
      c,
      "pope",
      "pope",
      {name: "test"},
      pp,
      max_decode_len=c.text_len,
      file=None,
      name=name,
      log_percent=1,
    )
  task = (*demo.yes_no_question(), 'copy("id", "question_id")')
  return transfer.finish(c, arg, task, transfer.few_examples)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  return transfer.measured(["pope"], _NAMES, ("acc", "valid_percent"))


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the evaluation of each resolution, see `transfer.sweep`."""
  transfer.sweep(add, arg, {224: {}, 448: {}})


sweep = sweep_best
