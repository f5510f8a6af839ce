r"""ViT from scratch on ImageNet-21k, with the recipes of AugReg.

https://arxiv.org/abs/2106.10270 ("How to train your ViT?"), without dropout and
stochastic depth. Differs from `vit_i1k.py`: more data, hence less augmentation;
global average pooling without a representation layer.

  python -m big_vision.train \
    --config big_vision/configs/vit_i21k.py:variant=B/16 \
    --workdir /path/to/workdir

Expected: the upstream models of the paper. The TFDS dataset `imagenet21k` with
its 21 843 classes has to be prepared first, see `docs/datasets.md`.

`aug=medium1` chooses another augmentation; `runlocal` is for trying it on one
machine: small batch, 16 images per evaluation.

`:source=folder,path=/data/pets` and others train on data of your own, see
`own_data.py`.

`:demo` really trains, in a minute or two on a CPU, a tiny model on generated
data, see `demo.py`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import demo, own_data, vit_i1k
from big_vision.configs.common_fewshot import get_fewshot_lsr

AUG_FOR_VARIANT = {
  "Ti/16": "none",
  "S/32": "none",
  "S/16": "light1",
  "B/32": "light2",
  "B/16": "light2",
  "L/16": "medium2",
}


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: the keys `variant`, `runlocal`, `aug`, `demo`, and those of
      `own_data.ARGS`.

  Returns:
    ConfigDict.
  """
  arg = bvcc.parse_arg(
    arg,
    variant="B/16",
    runlocal=False,
    aug="",
    demo=False,
    **own_data.ARGS,
  )
  randaug, mixup_p = vit_i1k.get_aug(arg.aug, arg.variant, AUG_FOR_VARIANT)
  config = mlc.ConfigDict()

  config.seed = 0
  config.total_epochs = 300
  config.num_classes = 21843
  config.init_head_bias = -10.0  # About log(1 / num_classes).
  config.loss = "sigmoid_xent"

  pp_common = (
    f'|value_range(-1, 1)|onehot({config.num_classes})|keep("image", "labels")'
  )
  config.input = dict(
    data=dict(name="imagenet21k", split="full[51200:]"),
    batch_size=4096,
    shuffle_buffer_size=250_000,
    prefetch=8,
    pp=f"decode_jpeg_and_inception_crop(224)|flip_lr|{randaug}" + pp_common,
  )
  config.pp_modules = bvcc.pp_modules("archive.randaug")
  config.prefetch_to_device = 4

  config.log_training_steps = 50
  config.ckpt_steps = 1000

  config.model_name = "vit"
  config.model = dict(variant=arg.variant, pool_type="gap", posemb="learn")

  config.optax_name = "scale_by_adam"
  config.optax = dict(mu_dtype="bfloat16")
  config.grad_clip_norm = 1.0
  config.lr = 0.001
  config.wd = 0.0001
  config.schedule = dict(warmup_steps=10_000, decay_type="cosine")
  config.mixup = dict(p=mixup_p, fold_in=None)

  config.evals = bvcc.imagenet21k_evals(
    "decode|resize_small(256)|central_crop(224)" + pp_common,
    runlocal=arg.runlocal,
    loss_name=config.loss,
    log_steps=1000,
  )
  config.evals.fewshot = get_fewshot_lsr(runlocal=arg.runlocal)

  if arg.runlocal:
    config.input.batch_size = 8
    config.input.shuffle_buffer_size = 10
  own_data.apply(config, arg)
  if arg.demo:
    demo.apply(config, lr=0.003)
  return config
