"""Parts that configs of distillation share: teachers, models, evaluators.

https://arxiv.org/abs/2106.05237
"""

from typing import Any

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision import lookup
from big_vision.configs import demo, own_data

# Checkpoints of the paper's teachers, by their training data: rc128 is a
# random crop of 128 pixels, ic224 an inception crop of 224.
inits = {
  f"BiT-M R152x2 {name}": f"gs://bit_models/distill/R152x2_T_{file}.npz"
  for name, file in {
    "imagenet2012 ic224": "224",
    "imagenet2012 rc384": "384",
    "flowers rc128": "flowers128",
    "pet rc128": "pet128",
    "food rc128": "food128",
    "sun rc128": "sun128",
  }.items()
}


def set_models(config: mlc.ConfigDict, teacher: str) -> None:
  """Sets the models: a ResNet-50 learns from a ResNet-152x2.

  Args:
    config: changed in place.
    teacher: key of `inits`, the checkpoint of the teacher.
  """
  config.student_name = "bit_paper"
  config.student = dict(depth=50, width=1)
  config.teachers = ["prof_m"]
  config.prof_m_name = "bit_paper"
  config.prof_m_init = inits[teacher]
  config.prof_m = dict(depth=152, width=2)


def set_method(
  config: mlc.ConfigDict, t: float, lr: float, wd: float, warmup_steps: int
) -> None:
  """Sets function matching: mixup, KL divergence at a temperature, Adam.

  Args:
    config: changed in place.
    t: temperature of the distance.
    lr: learning rate.
    wd: weight decay.
    warmup_steps: steps of the warm-up.
  """
  config.mixup = dict(p=1.0)
  config.distance = "kl"
  config.distance_kw = dict(t=t)

  config.grad_clip_norm = 1.0
  config.optax_name = "scale_by_adam"
  config.optax = dict(mu_dtype="bfloat16")
  config.lr = lr
  config.wd = wd
  config.schedule = dict(warmup_steps=warmup_steps, decay_type="cosine")


def distance_eval(data: dict[str, Any], pp: str) -> dict[str, Any]:
  """Makes the evaluator of the distances between student and teacher.

  Args:
    data: dataset, as `data` of an evaluator.
    pp: preprocessing without `keep`.

  Returns:
    Settings of the evaluator.
  """
  return dict(
    type="proj.distill.distance",
    pred="student_prof_m_fwd",
    data=data,
    pp_fn=f'{pp}|keep("image")',
    log_steps=1000,
    distances=(
      dict(kind="kl"),
      dict(kind="euclidean"),
      dict(kind="agree", k=1),
      dict(kind="agree", k=5),
    ),
  )


def model_evals(evals: dict[str, Any], student_steps: int) -> dict[str, Any]:
  """Makes evaluators that measure the student often and the teacher rarely.

  Args:
    evals: dict of short name -> evaluator without interval.
    student_steps: interval of the evaluators of the student, in steps.

  Returns:
    dict of `student_<name>` and `teacher_<name>`.
  """
  models = {
    "student": dict(pred="student_fwd", log_steps=student_steps),
    "teacher": dict(pred="prof_m_fwd", log_steps=100_000),
  }
  return {
    f"{model}_{name}": {**evaluator, **kw}
    for model, kw in models.items()
    for name, evaluator in evals.items()
  }


def bigsweep(
  arg: str | None, data: dict[str, Any], log_training_steps: int
) -> mlc.ConfigDict:
  """Returns the config of a sweep over small datasets.

  Args:
    arg: argument of the config, or None.
    data: dict of the values of the argument `data`, the default first, -> dict of
      `name`: TFDS name,
      `split`: split for training,
      `classes`: number of classes,
      `schedules`: dict of the values of `variant` -> (epochs, temperature of the
        distance, learning rate, weight decay),
      `splits`: splits for the evaluators `train`, `val` and `test`,
      `splits_local`: the same for `runlocal`.
    log_training_steps: interval of logs in steps.

  Returns:
    The ConfigDict.
  """
  arg = bvcc.parse_arg(
    arg,
    runlocal=False,
    data=next(iter(data)),
    variant="medium",
    crop="inception_crop(128)",
    demo=False,
    **own_data.ARGS,
  )
  if arg.data not in data:
    raise lookup.unknown("dataset", arg.data, data)
  d = data[arg.data]
  if arg.variant not in d["schedules"]:
    raise lookup.unknown("variant", arg.variant, d["schedules"])
  config = mlc.ConfigDict()

  config.input = dict(
    data=dict(name=d["name"], split=d["split"]),
    batch_size=512 if not arg.runlocal else 8,
    cache_raw=True,
    shuffle_buffer_size=50_000 if not arg.runlocal else 10,
    pp=f"decode|{arg.crop}|flip_lr|value_range(-1, 1)"
    + bvcc.pp_labels(d["classes"]),
  )
  config.prefetch_to_device = 4
  config.num_classes = d["classes"]
  config.log_training_steps = log_training_steps
  config.ckpt_steps = 2500
  config.optim_name = (
    "adam_hp"  # Kept from the published config; nothing reads it.
  )

  config.total_epochs, t, lr, wd = d["schedules"][arg.variant]
  set_models(config, f"BiT-M R152x2 {arg.data} rc128")
  set_method(config, t, lr, wd, warmup_steps=1500)

  pp = "decode|resize_small(160)|central_crop(128)|value_range(-1, 1)"
  pp += bvcc.pp_labels(d["classes"])
  evals = {
    name: bvcc.classification(d["name"], split, pp, loss_name="softmax_xent")
    for name, split in d["splits_local" if arg.runlocal else "splits"].items()
  }
  config.evals = model_evals(evals, student_steps=500)
  for name, evaluator in evals.items():
    config.evals[f"dist_{name}"] = distance_eval(evaluator["data"], pp)
  own_data.apply(config, arg)
  if arg.demo:
    demo.apply(config)
  return config
