"""GQA: questions about scenes, made of graphs; xGQA, in eight languages.

Hudson and Manning 2019, https://arxiv.org/abs/1902.09506,
https://gqadataset.org
Pfeiffer et al. 2021, https://arxiv.org/abs/2109.06082,
https://github.com/Adapter-Hub/xGQA

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/gqa.py:res=448 \
    --workdir workdirs/gqa
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

_LANGUAGES = ("bn", "de", "en", "id", "ko", "pt", "ru", "zh")


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`, `final_split` to train on all that has answers, `freeze_vit`,
      `freeze_llm`, `prefix` of the question, `mode`, `demo`.

  Returns:
    The config.
  """
  c = transfer.parse(
    arg,
    res=224,
    final_split=False,
    freeze_vit=True,
    freeze_llm=False,
    prefix="answer en {question}",
  )
  c.name = ""
  image = transfer.image(c.res, antialias=False)
  ask = f'strfmt("{c.prefix}", outkey="prefix")'
  pp = combine_and_keep_train(32, before=[image, ask, transfer.ANSWER])
  val = "+val_balanced" if c.final_split else ""
  c.input = transfer.training_data("gqa", f"train_balanced{val}", pp)
  transfer.settings(c, total_epochs=1, lr=1e-5)

  c.evals = {}
  splits = dict(minitrain="train_balanced[:5%]", minival="val_balanced[:5%]")
  transfer.add_pplx(c, "gqa", splits, pp)
  named = 'copy(inkey="example_id", outkey="question_id")'
  kw = dict(
    pp=combine_and_keep_eval(
      32, keep=("answer", "question_id"), before=[image, named, ask]
    ),
    max_decode_len=32,
    suffix="/decode",
    log_percent=1 / 8,
    batch_size=1024,
  )
  splits = dict(
    minitrain="train_balanced[:10000]",
    val_balanced="val_balanced",
    testdev_balanced="testdev_balanced",
  )
  transfer.add_evals(
    c,
    "vqa",
    "gqa",
    splits,
    at_end=["testdev_balanced"],
    out_question_key="question_id",
    out_answer_key="prediction",
    **kw,
  )
  # Too many questions to begin with.
  c.evals["gqa/val_balanced/decode"].skip_first = True
  for lang in _LANGUAGES:
    split = {f"test_zs_{lang}": f"test_zs_{lang}"}
    file = f"{{prefix}}_test_{lang}"
    transfer.add_evals(c, "vqa", "xgqa", split, name="xgqa", file=file, **kw)
  return transfer.finish(c, arg, [*demo.QUESTIONS, 'copy("id", "example_id")'])


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  loss = transfer.metrics(["gqa"], ("minitrain", "minival"), ("pplx/avg",))
  parts = ("minitrain", "val_balanced", "testdev_balanced")
  return [*loss, *transfer.measured(["gqa"], parts, ("decode/acc",))]


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = dict(lr=1e-5, wd=0.0)
  freeze = {224: dict(freeze_vit=False), 448: dict(freeze_vit=True)}
  transfer.sweep(add, arg, {224: best, 448: best}, freeze)


sweep = sweep_best
