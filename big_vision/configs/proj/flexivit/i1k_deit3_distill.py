r"""FlexiViT on ImageNet-1k, from a DeiT-III that it also starts from.

https://arxiv.org/abs/2212.08013 ("FlexiViT: One Model for All Patch Sizes")

  python -m big_vision.trainers.proj.flexi.distill \
    --config big_vision/configs/proj/flexivit/i1k_deit3_distill.py \
    --workdir /path/to/workdir --config.total_epochs 90 --config.variant S

Expected: S takes about 10 hours on a TPU v3-32, almost half of it evaluation at
ten patch sizes; B about 16 hours.

`:runlocal` is for trying it on one machine: small batch, 16 images per
evaluation. `:res=` is the size of the student's images.

`:source=folder,path=/data/pets` and others are data of your own, see
`own_data.py`. They need a teacher with the same classes, such as a run of
`transfer.py:model=vit-i21k-augreg-b/32` on them: its checkpoint is the key
`prof_init`, its patches are `prof.patch_size`, (32, 32). The student starts from
DeiT-III with a new head.

`:demo` really trains, in a minute or two on a CPU, a tiny student of a tiny
random teacher on generated data with three patch sizes, see `demo.py`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import own_data
from big_vision.configs.proj.flexivit import common

SPLITS = dict(
  minitrain=("imagenet2012", "train[:2%]", "label"),
  minival=("imagenet2012", "train[99%:]", "label"),
  **common.I1K,
)
LABELS = (
  '|onehot(1000, key="{label}", key_result="labels")'
  '|keep("image", "prof", "labels")'
)


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
  config.num_classes = 1000
  config.loss = "softmax_xent"

  config.input = dict(
    data=dict(name="imagenet2012", split="train[:99%]"),
    batch_size=1024 if not arg.runlocal else 8,
    cache_raw=False,
    shuffle_buffer_size=250_000 if not arg.runlocal else 10,
    # Student and teacher see the same crop, each in its own size.
    pp='decode|inception_crop|flip_lr|copy("image", "prof")'
    f"|resize({arg.res})|value_range"
    '|resize(384, key="prof")|value_range(key="prof")'
    + LABELS.format(label="label"),
  )
  config.aggressive_cache = False  # Kept from the published config; not read.

  config.log_training_steps = 50
  config.ckpt_steps = 1000

  # What depends on the variant follows --config.variant.
  config.variant = "B"
  init = bvcc.format_str("deit3_{variant}_384_1k", config)
  model = dict(
    variant=config.get_ref("variant"), pool_type="tok", patch_size=(16, 16)
  )
  config.student_name = "proj.flexi.vit"
  config.student_init = init
  config.student = model
  config.teachers = ["prof"]
  config.prof_name = "vit"
  config.prof_init = init
  config.prof = model
  config.flexi = common.seqhw(arg)

  config.mixup = dict(p=1.0, n=2)
  config.distance = "kl"
  config.distance_kw = dict(t=1.0)

  config.grad_clip_norm = 1.0
  config.optax_name = "scale_by_adam"
  config.optax = dict(mu_dtype="bfloat16")
  config.lr = 1e-4
  config.wd = 1e-5
  config.schedule = dict(warmup_steps=5000, decay_type="cosine")

  config.evals = _evals(arg, config.flexi.seqhw.v)
  common.set_own_data(config, arg)
  return common.finish(
    config,
    arg,
    lr=0.003,
    student=dict(patch_size=(8, 8)),
    prof=dict(patch_size=(6, 6)),
  )


def _evals(arg, sizes):
  """All evaluators, of the student at every size."""
  larger = common.resize_for(arg.res)
  student = (
    f"decode|resize({larger})|central_crop({arg.res})|value_range(-1, 1)"
  )
  teacher = 'decode|resize(432)|central_crop(384)|value_range(outkey="prof")'
  both = (
    'decode|copy("image", "prof")|'
    f"|resize({larger})|central_crop({arg.res})|value_range"
    '|resize(432, key="prof")|central_crop(384, key="prof")'
    '|value_range(key="prof")||keep("image", "prof")'
  )

  def data(short):
    name, split, _ = SPLITS[short]
    return dict(name=name, split=common.local_split(split, arg.runlocal))

  def classification(short, pp, **kw):
    return dict(
      type="classification",
      data=data(short),
      pp_fn=(pp + LABELS).format(label=SPLITS[short][-1]),
      loss_name="sigmoid_xent",
      cache_final=False,
      **kw,
    )

  evals = {
    f"teacher_{short}": classification(
      short, teacher, pred="prof", log_percent=0.5
    )
    for short in SPLITS
  }
  for s in sizes:
    pred = f"student_seqhw={s}"
    for short in SPLITS:
      evals[f"student_{short}_{s:02}"] = classification(
        short, student, pred=pred, log_percent=0.05
      )
    for short in ("minitrain", "val"):
      evals[f"dist_{short}_{s:02}"] = dict(
        type="proj.distill.distance",
        pred=f"{pred}_prof",
        data=data(short),
        pp_fn=both,
        log_percent=0.05,
        distances=common.DISTANCES,
        cache_final=False,
      )
  return evals
