r"""Distillation of BiT-M R152x2 into R50 on ImageNet-1k.

https://arxiv.org/abs/2106.05237 ("A good teacher is patient and consistent")

  python -m big_vision.trainers.proj.distill.distill \
    --config big_vision/configs/proj/distill/bit_i1k.py \
    --workdir /path/to/workdir --config.total_epochs 1200

Expected: 300 epochs take about 15 hours on a TPU v3-32; the student of the paper
has 82.8% top-1 at 224 pixels, its teacher 83.0%.

`:runlocal` is for trying it on one machine: small batch, 16 images per
evaluation.

`:source=folder,path=/data/pets` and others are data of your own, see
`own_data.py`. They need a teacher with the same classes, such as a run of
`transfer.py:model=bit-m-r50x1` on them: its checkpoint is `--config.prof_m_init`,
its model `--config.prof_m.depth 50 --config.prof_m.width 1`.

`:demo` really trains, in a minute or two on a CPU, a tiny student of a tiny
random teacher on generated data, see `demo.py`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import demo, own_data
from big_vision.configs.common_fewshot import get_fewshot_lsr
from big_vision.configs.proj.distill import common

PP_EVAL = "decode|resize_small(256)|central_crop(224)|value_range(-1, 1)"


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: the keys `runlocal`, `demo`, and those of `own_data.ARGS`.

  Returns:
    ConfigDict.
  """
  arg = bvcc.parse_arg(arg, runlocal=False, demo=False, **own_data.ARGS)
  config = mlc.ConfigDict()

  config.input = dict(
    data=dict(name="imagenet2012", split="train[:98%]"),
    batch_size=4096 if not arg.runlocal else 8,
    shuffle_buffer_size=250_000 if not arg.runlocal else 10,
    pp="decode_jpeg_and_inception_crop(224)|flip_lr|value_range(-1, 1)"
    + bvcc.pp_labels(1000),
  )
  config.num_classes = 1000
  config.total_epochs = 1200
  config.log_training_steps = 50
  config.ckpt_steps = 1000
  config.keep_ckpt_steps = 20_000

  common.set_models(config, "BiT-M R152x2 imagenet2012 ic224")
  common.set_method(config, t=1.0, lr=0.03, wd=0.0003, warmup_steps=5000)

  evals = bvcc.imagenet_evals(runlocal=arg.runlocal, loss_name="softmax_xent")
  config.evals = common.model_evals(evals, student_steps=1000)
  fewshot = lambda **kw: dict(get_fewshot_lsr(runlocal=arg.runlocal), **kw)
  config.evals.student_fewshot = fewshot(pred="student_fwd", log_steps=10_000)
  config.evals.teacher_fewshot = fewshot(
    pred="prof_m_fwd", log_steps=100_000, prefix="z_teacher/"
  )

  pp = PP_EVAL + bvcc.pp_labels(1000)
  for name in ("train", "minival", "val", "v2"):
    config.evals[f"dist_{name}"] = common.distance_eval(evals[name]["data"], pp)

  # Whole batches of 4096.
  splits = dict(
    train="train[:24576]", minival="train[-24576:]", val="validation[:49152]"
  )
  if arg.runlocal:
    splits = dict(
      train="train[:16]", minival="train[:16]", val="validation[:16]"
    )
  for name, split in splits.items():
    config.evals[f"cka_{name}"] = dict(
      type="proj.distill.cka",
      pred="student_prof_m_fwd",
      data=dict(name="imagenet2012", split=split),
      pp_fn=f'{pp}|keep("image")',
      log_steps=1000,
    )
  own_data.apply(config, arg)
  if arg.demo:
    demo.apply(config)
  return config
