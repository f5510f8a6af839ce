r"""NFNet from scratch on ImageNet-1k: no normalization, large batches.

https://arxiv.org/abs/2102.06171: adaptive gradient clipping, strong
regularization, evaluation at a higher resolution than training.

  python -m big_vision.train \
    --config big_vision/configs/nfnet_i1k.py:variant=F0 \
    --workdir /path/to/workdir

The paper reports from 83.6% for F0 to 86.0% for F5. It also uses CutMix and
averages of the weights, which this config does not.

`:runlocal` tries it on one machine: small batch, 16 images per evaluation.

`:source=folder,path=/data/pets` and others train on data of your own, see
`own_data.py`.

`:demo` trains a tiny model on generated data in a minute, see `demo.py`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision import lookup
from big_vision.configs import demo, own_data
from big_vision.models import nfnet

# Magnitude of four layers of RandAugment.
MAGNITUDES = dict(F0=5, F1=10, F2=10, F3=15, F4=15, F5=15, F6=15)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: the keys `variant`, `runlocal`, `demo`, and those of `own_data.ARGS`.

  Returns:
    ConfigDict.
  """
  arg = bvcc.parse_arg(
    arg, variant="F0", runlocal=False, demo=False, **own_data.ARGS
  )
  if arg.variant not in MAGNITUDES:
    raise lookup.unknown("variant of nfnet_i1k", arg.variant, MAGNITUDES)
  train_res, eval_res = nfnet.RESOLUTIONS[arg.variant]
  config = mlc.ConfigDict()

  config.seed = 0
  config.total_epochs = 360
  config.num_classes = 1000
  config.loss = "softmax_xent"

  # The network counts on inputs of about variance 1.
  pp_end = '|vgg_value_range|onehot(1000, key="{label}", key_result="labels"'
  config.input = dict(
    data=dict(name="imagenet2012", split="train[:99%]"),
    batch_size=4096,
    shuffle_buffer_size=250_000,
    pp=(
      f"decode_jpeg_and_inception_crop({train_res})|flip_lr"
      f"|randaug(4,{MAGNITUDES[arg.variant]})"
      # Labels are smoothed by 0.1.
      + pp_end.format(label="label")
      + ", on=0.9001, off=0.0001)"
      '|keep("image", "labels")'
    ),
  )
  config.pp_modules = bvcc.pp_modules("archive.randaug")

  config.log_training_steps = 50
  config.ckpt_steps = 1000

  config.model_name = "nfnet"
  # The variant also sets the dropout.
  config.model = dict(
    variant=arg.variant, stoch_depth=0.25, dtype_mm="bfloat16"
  )

  config.optax_name = "big_vision.momentum_hp"
  config.optax = dict(momentum=0.9, nesterov=True, dtype="float32")
  config.grad_clip_agc = 0.01
  config.lr = 0.1 * config.input.batch_size / 256
  # The paper adds 2e-5 * params to gradients, of which momentum makes 1 / (1 -
  # 0.9) times as much. Here decay is apart from both optimizer and lr.
  config.wd = 2e-5 * config.lr * 10
  config.schedule = dict(decay_type="cosine", warmup_epochs=5)
  config.mixup = dict(p=0.2)

  config.evals = bvcc.imagenet_evals(
    f"decode|resize_small({eval_res + 32})|central_crop({eval_res})"
    + pp_end
    + ')|keep("image", "labels")',
    runlocal=arg.runlocal,
    loss_name=config.loss,
    log_steps=2500,
    cache="final_data" if arg.runlocal else "none",
  )

  bvcc.input_for_quicktest(config.input, arg.runlocal)
  own_data.apply(config, arg, per_batch=("lr", "wd"))
  if arg.demo:
    demo.apply(config, lr=0.2, grad_clip_agc=0.1)
  return config
