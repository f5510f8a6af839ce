r"""PaliGemma 2 on your own data: a template to copy.

Steiner et al. 2024, "PaliGemma 2: A Family of Versatile VLMs for Transfer",
https://arxiv.org/abs/2412.03555

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/forkme.py \
    --workdir workdirs/forkme

The data are JSON lines with a path `image` and a text `suffix`; `size=''` is
PaliGemma 1. Your own, with a `prefix` such as "answer en what is it?" or without, from a
terminal, by adapters on one GPU:

  --config big_vision/configs/proj/paligemma/transfers/forkme.py:train=data/train.jsonl,val=data/val.jsonl,lora=16

Paths of images are relative to the file that names them. `source=csv,path=…`, and others,
read other formats, see `../own_data.py`. `:demo` trains a tiny model from
scratch, in minutes on a CPU, on questions, captions, boxes and masks of pictures of one
object, see `../demo.py`; `:demo,data=shapes/64` on pictures of up to five, best from what
the former has learned (docs/paligemma.md).
"""

import json
import os.path

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision import lookup
from big_vision.configs import demo
from big_vision.configs.proj.paligemma import demo as paligemma_demo
from big_vision.configs.proj.paligemma import own_data
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  TOKENIZER,
  combine_and_keep_eval,
  combine_and_keep_packed,
  combine_and_keep_train,
  packs,
)

_LLMS = {"3b": "gemma2_2b", "10b": "gemma2_9b", "28b": "gemma2_27b"}
# Not in the config.
_OWN = dict(
  train="",
  tokenizer="",
  lora=0,
  pack=0,
  data="shapes/closeup",
  **own_data.ARGS,
)


def _data(fname: str, folder: str | None = None) -> dict:
  """Returns arguments of a data source."""
  if folder is None:
    folder = os.path.join(os.path.dirname(fname), "")
  return dict(name="bv:jsonl", fname=fname, fopen_keys={"image": folder})


def training_data(
  res: int, text_len: int, before: list[str], data: dict, batch_size: int
) -> dict:
  """Makes `config.input`.

  Args:
    res: pixels.
    text_len: tokens.
    before: ops that make `prefix`.
    data: arguments of a data source.
    batch_size: examples of a batch.

  Returns:
    The dict.
  """
  return dict(
    data=data,
    cache_raw=True,
    shuffle_buffer_size=1000,
    batch_size=batch_size,
    pp=combine_and_keep_train(text_len, before=[transfer.image(res), *before]),
  )


def shared(config: mlc.ConfigDict) -> None:
  """Sets what all configs with this model have, in place.

  Args:
    config: the config, with the arguments `freeze_vit` and `freeze_llm`.
  """
  config.grad_clip_norm = 1.0
  config.label_smoothing = 0.0
  config.schedule = transfer.schedules(config.freeze_vit, config.freeze_llm)
  config.log_training_steps = 1
  transfer.model(config)
  config.seed = 0


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res` pixels, `size` of PaliGemma 2 or '', `text_len` tokens, `batch_size`,
      `freeze_vit`, `freeze_llm`, `run_local` to try it out; `train` and `val`, JSON
      lines of your own, or `source` and others of `own_data`; `tokenizer`, the path
      of a copy; `lora`, the rank of adapters; `pack`, how many examples share a
      sequence of `text_len` tokens; `demo`, and its `data`.

  Returns:
    The config.
  """
  arg, is_demo = demo.split_arg(arg)
  c = bvcc.parse_arg(
    arg,
    res=224,
    size="3b",
    text_len=128,
    batch_size=32,
    freeze_vit=False,
    freeze_llm=False,
    run_local=False,
    **_OWN,
  )
  own = mlc.ConfigDict({name: c[name] for name in _OWN})
  for name in _OWN:
    del c[name]
  prefix = [transfer.CAPTION]
  train = _data("gs://longcap100/data_train90.jsonl")
  val = _data("gs://longcap100/data_val10.jsonl")
  if own.source:
    train, val, prefix = own_data.find(own)
  elif own.train:
    prefix = ['setdefault("prefix", "caption en")']
    train, val = _data(own.train), _data(own.val or own.train)
  c.input = training_data(c.res, c.text_len, prefix, train, c.batch_size)
  if own.pack:
    c.input.pp = combine_and_keep_packed(
      c.res, [transfer.image(c.res), *prefix]
    )
    c.input.pack = packs(c.text_len, own.pack)
  c.total_epochs = 15
  c.optax_name = "scale_by_adam"
  c.lr = 1e-5
  c.wd = 3e-7
  c.ckpt_steps = 200
  shared(c)
  if c.size:
    if c.size not in _LLMS:
      raise lookup.unknown("size of PaliGemma 2", c.size, [*_LLMS, ""])
    c.model.llm.variant = _LLMS[c.size]
    c.model.llm.final_logits_softcap = 0.0
    c.model_init = f"pt_{c.size}_{c.res}"
  else:
    c.model.llm.variant = "gemma_2b"
    c.model_init = f"pt_{c.res}"
  if own.lora:
    # The projection of images is small, and is trained as a whole.
    c.lora = dict(rank=own.lora, train=["img/head/.*"], dtype="bfloat16")
    c.precision = "bfloat16"
    c.lr = 1e-4  # Adapters begin with zeros.

  before = [transfer.image(c.res), *prefix]
  c.evals = {}
  c.evals["val/pplx"] = dict(
    type="proj.paligemma.perplexity",
    pred="logits",
    key="text",
    shift_labels=True,
    log_percent=0.1,
    data=val,
    pp_fn=combine_and_keep_eval(c.text_len, before=before),
  )
  c.evals["val/store"] = dict(
    type="proj.paligemma.transfers.storepreds",
    pred="decode",
    pred_kw=dict(max_decode_len=c.text_len),
    log_percent=0.5,
    data=val,
    tokenizer=TOKENIZER,
    pp_fn=combine_and_keep_eval(c.text_len, keep=("id",), before=before),
  )
  if own.train and not (own.val or own.source):
    del c.evals["val/pplx"], c.evals["val/store"]  # Nothing is held out.
  if c.run_local:
    c.input.update(batch_size=2, shuffle_buffer_size=None)
    c.log_training_steps = 1
  if own.tokenizer:
    which = f"{TOKENIZER[:-1]}, model={json.dumps(own.tokenizer)})"
    paligemma_demo.set_tokenizer(c, which)
  if is_demo:
    larger = dict(size=64, total_steps=2000, lr=2e-3, optax=dict(b2=0.98))
    kw = {} if own.data == "shapes/closeup" else larger
    paligemma_demo.apply(c, data=own.data, **kw)
  return c
