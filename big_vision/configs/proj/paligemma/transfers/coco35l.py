r"""COCO-35L: captions of COCO in 35 languages; XM3600, of photos of the world.

Thapliyal et al. 2022, https://arxiv.org/abs/2205.12522,
https://google.github.io/crossmodal-3600

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/coco35l.py:res=448 \
    --workdir workdirs/coco35l
"""

import itertools
from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs import demo
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

LANGUAGES = (
  *("ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr"),
  *("he", "hi", "hr", "hu", "id", "it", "ja", "ko", "mi", "nl", "no", "pl"),
  *("pt", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk", "vi", "zh"),
)
# Without captions to train on.
XM3600_LANGUAGES = (*LANGUAGES, "quz")
# Those that are evaluated during training, not only at its end.
FREQUENT = ("ar", "bn", "en", "id", "sw", "tr", "zh")
# Captions of one language: an epoch.
NUM_EXAMPLES = 566_435

_DEMO_LANGUAGES = ("en", "sw")
_DEMO = (
  f'setdefault("languages", {list(_DEMO_LANGUAGES)})',
  'choice(inkey="languages", outkey="language")',
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `crop` of images to train on, see `transfer.cropped_image`, `res`,
      `eval_xm3600`, `beam_size` of captions or 0, `mode`; `demo` of English
      captions, which are called by the names of two languages.

  Returns:
    The config.
  """
  c = transfer.parse(arg, crop="rs", res=224, eval_xm3600=True, beam_size=0)
  languages, xm3600 = LANGUAGES, XM3600_LANGUAGES
  if demo.split_arg(arg)[1]:
    languages = xm3600 = _DEMO_LANGUAGES
  pp = combine_and_keep_train(
    32,
    before=[
      "flatten",
      transfer.cropped_image(c.res, c.crop),
      'choice_no_replacement(inkey="captions", outkey="suffix")',
      'strfmt("caption {language}", outkey="prefix")',
    ],
  )
  c.input = transfer.mixture(
    dict.fromkeys(languages, 1),
    {
      lang: transfer.training_data(
        "coco35l", f"train_{lang}", pp, shuffle_buffer_size=10_000
      )
      for lang in languages
    },
  )
  transfer.settings(c, total_examples=NUM_EXAMPLES, lr=1e-4)

  splits = dict(minitrain="train_en[:2%]", minival="dev_en[:5%]", eval="dev_en")
  c.evals = {}
  transfer.add_pplx(c, "coco35l", splits, pp, name="coco35l")
  for lang in languages:
    _add_captions(c, "coco35l", lang, f"dev_{lang}", cache="none")
  for lang in xm3600 if c.eval_xm3600 else ():
    _add_captions(c, "xm3600", lang, lang)
  return transfer.finish(c, arg, _DEMO, _run_local)


def _add_captions(c, name, lang, split, **kw):
  """Adds the evaluator of a dataset in one language."""
  transfer.add_evals(
    c,
    "coco_caption",
    name,
    {lang: split},
    combine_and_keep_eval(
      32,
      keep=("image/id", "captions"),
      before=[
        "flatten",
        transfer.image(c.res, antialias=False),
        f'strfmt("caption {lang}", outkey="prefix")',
      ],
    ),
    max_decode_len=32,
    beam_size=c.beam_size,
    file=None,
    name=name,
    log_percent=0.25 if lang in FREQUENT else 1.0,
    skip_first=lang not in FREQUENT,
    batch_size=1024,
    **kw,
  )


def _run_local(c):
  """Evaluates few examples; shuffles as ever."""
  transfer.few_examples(c)
  transfer.run_single_steps(c)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  names = ("cider",)
  found = [
    *transfer.measured(["coco35l"], LANGUAGES, names),
    *transfer.measured(["xm3600"], XM3600_LANGUAGES, names),
  ]
  return [("epoch", name) for name in found]


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = dict(lr=1e-5, wd=1e-6, total_examples=5 * NUM_EXAMPLES)
  transfer.sweep(add, arg, {224: best, 448: best})


def sweep_hyper(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the settings that were compared, see `transfer.sweep`."""
  for lr, decay, epochs in itertools.product(
    (1e-5, 3e-6, 1e-6), (0.0, 0.1), (1, 3, 5, 10, 20)
  ):
    tried = dict(lr=lr, wd=decay * lr, total_examples=epochs * NUM_EXAMPLES)
    transfer.sweep(add, arg, {224: tried})


sweep = sweep_best
