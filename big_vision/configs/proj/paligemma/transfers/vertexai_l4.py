r"""PaliGemma 1 on your own data with one small GPU, by plain SGD.

Beyer et al. 2024, https://arxiv.org/abs/2407.07726

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/vertexai_l4.py \
    --workdir workdirs/vertexai

SGD has no state besides the parameters. The data are those of `forkme.py`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import demo
from big_vision.configs.proj.paligemma import demo as paligemma_demo
from big_vision.configs.proj.paligemma.transfers import forkme, transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_train,
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res` pixels, `text_len` tokens, `batch_size`, `freeze_vit`, `freeze_llm`,
      `demo`.

  Returns:
    The config.
  """
  arg, is_demo = demo.split_arg(arg)
  c = bvcc.parse_arg(
    arg,
    res=224,
    text_len=128,
    batch_size=4,
    freeze_vit=False,
    freeze_llm=False,
  )
  c.input = dict(
    data=dict(
      name="bv:jsonl",
      fname="gs://longcap100/data_train90.jsonl",
      fopen_keys={"image": "gs://longcap100/"},
    ),
    cache_raw=True,
    shuffle_buffer_size=1000,
    batch_size=c.batch_size,
    pp=combine_and_keep_train(
      c.text_len,
      before=[transfer.image(c.res), transfer.CAPTION],
      outkey=None,
    ),
  )
  c.total_epochs = 1
  c.optax_name = "big_vision.sgd"
  c.lr = 0.1
  c.wd = 0.0
  c.ckpt_steps = 1000
  forkme.shared(c)
  c.model_init = f"pt_{c.res}"
  c.evals = {}
  if is_demo:
    paligemma_demo.apply(c, lr=0.3)
  return c
