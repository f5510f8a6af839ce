r"""FlexiViT from scratch on ImageNet-21k, from labels.

https://arxiv.org/abs/2212.08013 ("FlexiViT: One Model for All Patch Sizes")

  python -m big_vision.trainers.proj.flexi.train \
    --config big_vision/configs/proj/flexivit/i21k_sup.py \
    --workdir /path/to/workdir --config.total_epochs 90

A plain ViT, evaluated at all patch sizes after training at one, is
`--config.flexi.seqhw.p "(0,0,0,0,0,1,0,0,0,0)"`. The plot of a run has its
accuracy against the patch size: `python -m big_vision.tools.plot WORKDIR`.

Expected: the paper trains so for its comparisons; no figure of this config is
published. The loss of one size is about that of a plain ViT of this size.

`:runlocal` is for trying it on one machine: small batch, 16 images per
evaluation. `:res=` is the size of images.

`:source=folder,path=/data/pets` and others train on data of your own, see
`own_data.py`.

`:demo` really trains, in a minute or two on a CPU, a tiny model on generated
data with three patch sizes, see `demo.py`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import own_data
from big_vision.configs.proj.flexivit import common


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: the keys `runlocal`, `res`, `demo`, and those of `own_data.ARGS`.

  Returns:
    ConfigDict.
  """
  arg = bvcc.parse_arg(
    arg, runlocal=False, res=240, demo=False, **own_data.ARGS
  )
  config = mlc.ConfigDict()

  config.seed = 0
  config.total_epochs = 90
  config.num_classes = 21843
  config.init_head_bias = -10.0
  config.loss = "sigmoid_xent"

  pp_i21k = (
    f'|value_range(-1, 1)|onehot({config.num_classes})|keep("image", "labels")'
  )
  pp_i1k = "|value_range(-1, 1)" + bvcc.pp_labels(1000, "{label}")
  config.input = dict(
    data=dict(name="imagenet21k", split="full[51200:]"),
    batch_size=4096 if not arg.runlocal else 8,
    shuffle_buffer_size=250_000 if not arg.runlocal else 25,
    prefetch=8,
    pp=f"decode_jpeg_and_inception_crop({arg.res})|flip_lr|randaug(2,10)"
    + pp_i21k,
  )
  config.pp_modules = bvcc.pp_modules("archive.randaug")
  config.prefetch_to_device = 4

  config.log_training_steps = 50
  config.ckpt_steps = 1000

  config.model_name = "proj.flexi.vit"
  config.model = dict(
    variant="B",
    pool_type="tok",
    posemb="learn",
    # What is stored; patches and positions are resampled from it.
    patch_size=(8, 8),
    posemb_size=(7, 7),
    seqhw=None,
  )
  config.flexi = common.seqhw(arg)

  config.optax_name = "scale_by_adam"
  config.optax = dict(mu_dtype="bfloat16")
  config.grad_clip_norm = 1.0
  config.lr = 0.001
  config.wd = 0.0001
  config.schedule = dict(warmup_steps=10_000, decay_type="cosine")
  config.mixup = dict(p=0.2, fold_in=None)

  crop = (
    f"decode|resize_small({common.resize_for(arg.res)})|central_crop({arg.res})"
  )
  config.evals = {}
  for s in config.flexi.seqhw.v:
    evals = common.i21k_evals(
      crop + pp_i21k,
      crop + pp_i1k,
      arg.runlocal,
      pred=f"predict_seqhw={s}",
      log_steps=5000,
    )
    config.evals.update({f"{name}{s:02}": e for name, e in evals.items()})

  own_data.apply(config, arg)
  return common.finish(config, arg, lr=0.003, total_steps=800)
