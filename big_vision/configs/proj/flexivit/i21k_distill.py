r"""FlexiViT on ImageNet-21k, from a ViT-B/8 that it also starts from.

https://arxiv.org/abs/2212.08013 ("FlexiViT: One Model for All Patch Sizes")

  python -m big_vision.trainers.proj.flexi.distill \
    --config big_vision/configs/proj/flexivit/i21k_distill.py:dist_data=imagenet21k \
    --workdir /path/to/workdir --config.total_epochs 90

The published config evaluates distances on splits of ImageNet-21k but says
`imagenet2012`, which has none of these names; `:dist_data=imagenet21k` mends it.

Expected: figure 3 of the paper, better than from scratch at all patch sizes; the
checkpoints after 90, 300 and 1000 epochs are public (`models/proj/flexi/vit.py`).

`:runlocal` is for trying it on one machine: small batch, 16 images per
evaluation. `:res=` is the size of the student's images.

`:source=folder,path=/data/pets` and others are data of your own, see
`own_data.py`. They need a teacher with the same classes, such as a run of
`transfer.py:model=vit-i21k-augreg-b/32` on them: its checkpoint is the key
`prof_init`, its size `prof.variant`, B/32. The student starts from the ViT-B/8 with a
new head.

`:demo` really trains, in a minute or two on a CPU, a tiny student of a tiny
random teacher on generated data with three patch sizes, see `demo.py`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import own_data
from big_vision.configs.proj.flexivit import common

KEEP = '|keep("image", "prof", "labels")'


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: the keys `runlocal`, `res`, `dist_data`, `demo`, and those of
      `own_data.ARGS`.

  Returns:
    ConfigDict.
  """
  arg = bvcc.parse_arg(
    arg,
    runlocal=False,
    res=240,
    dist_data="imagenet2012",
    demo=False,
    **own_data.ARGS,
  )
  config = mlc.ConfigDict()

  config.seed = 0
  config.total_epochs = 90
  config.num_classes = 21843
  config.init_head_bias = -10.0
  config.loss = "sigmoid_xent"

  config.input = dict(
    data=dict(name="imagenet21k", split="full[51200:]"),
    batch_size=4096 if not arg.runlocal else 8,
    shuffle_buffer_size=250_000 if not arg.runlocal else 25,
    prefetch=8,
    # Student and teacher see the same crop, each in its own size.
    pp='decode|inception_crop|flip_lr|copy("image", "prof")'
    f"|resize({arg.res})|value_range(-1, 1)"
    '|resize(224, outkey="prof")|value_range(-1, 1, key="prof")'
    f"|onehot({config.num_classes})" + KEEP,
  )
  config.prefetch_to_device = 4

  config.log_training_steps = 50
  config.ckpt_steps = 1000

  config.student_name = "proj.flexi.vit"
  config.student_init = "howto-i21k-B/8"
  config.student = dict(variant="B", pool_type="tok", patch_size=(8, 8))
  config.teachers = ["prof"]
  config.prof_name = "vit"
  config.prof_init = "howto-i21k-B/8"
  config.prof = dict(variant="B/8", pool_type="tok")
  config.flexi = common.seqhw(arg)

  config.mixup = dict(p=1.0)
  config.distance = "kl"
  config.distance_kw = dict(t=1.0)

  config.optax_name = "scale_by_adam"
  config.optax = dict(mu_dtype="bfloat16")
  config.grad_clip_norm = 1.0
  config.lr = 1e-4
  config.wd = 1e-5
  config.schedule = dict(warmup_steps=5000, decay_type="cosine")

  config.evals = _evals(arg, config.flexi.seqhw.v, config.num_classes)
  common.set_own_data(config, arg)
  return common.finish(config, arg, lr=0.003, prof=dict(variant="mu/6"))


def _evals(arg, sizes, num_classes):
  """All evaluators, of the student at every size."""
  larger = common.resize_for(arg.res)
  student = (
    f"decode|resize({larger})|central_crop({arg.res})|value_range(-1, 1)"
  )
  teacher = (
    'decode|resize(256)|central_crop(224)|value_range(-1, 1, outkey="prof")'
  )
  both = (
    'decode|copy("image", "prof")|'
    f"|resize_small({larger})|central_crop({arg.res})|value_range(-1, 1)"
    '|resize_small(256, key="prof")|central_crop(224, key="prof")'
    '|value_range(-1, 1, key="prof")||keep("image", "prof")'
  )
  onehot_i21k = f"|onehot({num_classes})" + KEEP
  onehot_i1k = '|onehot(1000, key="{label}", key_result="labels")' + KEEP

  def classification(pp, name, **kw):
    evals = common.i21k_evals(
      pp + onehot_i21k, pp + onehot_i1k, arg.runlocal, log_steps=5000, **kw
    )
    evals["minitrain"] = evals.pop("train")
    return {name.format(short): e for short, e in evals.items()}

  evals = classification(teacher, "teacher_{}", pred="prof")
  for short in common.I1K:
    del evals[f"teacher_i1k_{short}"]["log_steps"]
    evals[f"teacher_i1k_{short}"]["log_percent"] = 0.5
  for s in sizes:
    pred = f"student_seqhw={s}"
    evals |= classification(student, f"student_{{}}{s:02}", pred=pred)
    for short, of in (("minitrain", "train"), ("val", "val")):
      split = common.local_split(common.I21K[of], arg.runlocal)
      evals[f"dist_{short}_{s:02}"] = dict(
        type="proj.distill.distance",
        pred=f"{pred}_prof",
        data=dict(name=arg.dist_data, split=split),
        pp_fn=both,
        log_percent=0.05,
        distances=common.DISTANCES,
      )
  return evals
