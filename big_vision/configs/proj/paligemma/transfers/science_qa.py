r"""ScienceQA: multiple choice in sciences, of problems that have a picture.

Lu et al. 2022, https://arxiv.org/abs/2209.09513, https://scienceqa.github.io

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/science_qa.py \
    --workdir workdirs/science_qa
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision import lookup
from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

# In strings within preprocessing strings, a line break is written as two signs.
_ASKED = r"Question: {question}\n"
_CHOICES = r"Options: {indexed_choices}"
_QUESTIONS = {
  "simple": rf"{{question}}\n{_CHOICES}",
  "QM": rf"{_ASKED}{_CHOICES}\nAnswer:",
  "CQM": rf"Context: {{hint}}\n{_ASKED}{_CHOICES}\nAnswer:",
  "QCM": rf"{_ASKED}Context: {{hint}}\n{_CHOICES}\nAnswer:",
}
_RIGHT = "The answer is {indexed_answer}."
_ANSWERS = {
  "simple": "{indexed_answer}",
  "A": _RIGHT,
  "AL": f"{_RIGHT} BECAUSE: {{solution}}",
  "AE": f"{_RIGHT} BECAUSE: {{lecture}}",
  "ALE": f"{_RIGHT} BECAUSE: {{lecture}} {{solution}}",
}
_SHUFFLE = (
  "sci_qa_choices_shuffle(choice_str_inkey='choices', ans_inkey='answer')"
)
_DEMO = (
  *demo.CHOICES,
  'copy("label", "answer")',
  *(
    f'strfmt("N/A", outkey="{key}")' for key in ("hint", "lecture", "solution")
  ),
  _SHUFFLE,
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`, `final_split` to train on `val`, too, `freeze_vit`,
      `freeze_llm`, `qfmt` of questions: "QCM" for question, context, choices,
      or "CQM", "QM", "simple"; `afmt` of answers: "A", also with lecture (E)
      and solution (L), "AE", "AL", "ALE", or "simple"; `mode`, `demo`.

  Returns:
    The config.

  Raises:
    ValueError: there is no such format.
  """
  c = transfer.parse(
    arg,
    res=448,
    final_split=False,
    freeze_vit=False,
    freeze_llm=False,
    qfmt="QCM",
    afmt="A",
  )
  question, answer = (
    _format("qfmt", c.qfmt, _QUESTIONS),
    _format("afmt", c.afmt, _ANSWERS),
  )
  image = transfer.image(c.res, antialias=False)
  ask = f'strfmt("{question}", outkey="prefix")'
  pp = combine_and_keep_train(
    512,
    before=[
      image,
      'drop("indexed_choices","indexed_answer")',
      _SHUFFLE,
      ask,
      f'strfmt("{answer}", outkey="suffix")',
    ],
  )
  c.input = transfer.training_data(
    "science_qa",
    "train+val" if c.final_split else "train",
    pp,
    batch_size=128,
  )
  transfer.settings(
    c, total_epochs=20, lr=5e-5, pp_modules=["proj.paligemma.sciqa_ops"]
  )

  splits = dict(minitrain="train[:5%]", minival="val")
  c.evals = {}
  transfer.add_pplx(c, "science_qa", splits, pp)
  transfer.add_evals(
    c,
    "science_qa",
    "science_qa",
    {**splits, "eval": "test"},
    combine_and_keep_eval(
      512,
      keep=("answer", "question_id"),
      before=[
        image,
        ask,
        f'strfmt("{answer}", outkey="answer")',
        'copy(inkey="_id",outkey="question_id")',
      ],
    ),
    max_decode_len=512,
    file="science_{name}",
    log_percent=1 / 8,
    batch_size=1024,
  )
  return transfer.finish(c, arg, _DEMO)


def _format(name, value, known):
  """Returns the text of a format."""
  if value not in known:
    raise lookup.unknown("format", value, known, name)
  return known[value]


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  loss = transfer.metrics(
    ["science_qa"], ("minival", "minitrain"), ("pplx/avg",)
  )
  parts = ("eval", "minival", "minitrain")
  return [*loss, *transfer.measured(["science_qa"], parts, ("acc",))]


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best, freeze = dict(lr=1e-5, wd=0.0), dict(freeze_vit=True)
  transfer.sweep(add, arg, {224: best, 448: best}, {224: freeze, 448: freeze})


sweep = sweep_best
