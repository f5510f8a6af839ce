r"""Fine-tunes pre-trained models, with one recipe for all datasets.

  python -m big_vision.train \
    --config big_vision/configs/transfer.py:model=vit-i21k-augreg-b/32,dataset=cifar10,crop=resmall_crop \
    --workdir /path/to/workdir --config.lr=0.03

Expected, mean and range of 5 runs of ViT-B/32 (`vit-i21k-augreg-b/32`):

| dataset           | crop           | lr    | accuracy on the test split |
|-------------------|----------------|-------|----------------------------|
| imagenet2012      | inception_crop | 0.03  | 83.27 [83.22, 83.33]       |
| cifar10           | resmall_crop   | 0.003 | 98.55 [98.46, 98.6]        |
| cifar100          | resmall_crop   | 0.01  | 91.35 [91.09, 91.62]       |
| oxford_iiit_pet   | inception_crop | 0.003 | 93.78 [93.62, 94.00]       |
| oxford_flowers102 | inception_crop | 0.003 | 99.43 [99.42, 99.45]       |

On data of your own, for example a folder with a sub-folder of pictures per class:

  python -m big_vision.train \
    --config big_vision/configs/transfer.py:model=vit-s16,source=folder,path=/data/pets \
    --workdir /path/to/workdir

counts the classes, holds out 10% if there is no `val`, and sets length and size of
batches by the number of pictures. `own_data.py` describes `source`, `path` and
their other arguments.

Arguments:
  model: one of `MODELS`, or any that `pretrained.load` takes: `hf://org/repo`,
    `timm/NAME`, a folder, a file or the workdir of a run; has to be given.
  dataset: one of `DATASETS`, prepared as `docs/datasets.md` says.
  crop: one of `CROPS`, of the training images.
  h_res, l_res: side of an image in pixels before and after the crop. By default
    448 and 384; on own data what the model was trained with.
  eval_res: side of the images of evaluators, if it differs from l_res: training at
    224 and testing at 288, for example; positions of ViTs are resampled.
  batch_size: global; on own data a power of two that is not above their number.
  probe: trains the head only, a linear probe of the frozen model.
  lora: rank of adapters, which are trained in place of the model, by Adam.
  layer_decay: ratio of the learning rates of neighboring layers, such as 0.75.
  drop_path: rate of stochastic depth in the last block, such as 0.1.
  fewshot: evaluates few-shot accuracy, too; on own data that of these.
  fsdp: shards parameters and optimizer over all devices; ViT then scans over
    its layers.
  runlocal: small batch.
  demo: fine-tunes a tiny model on generated data in a minute, see `demo.py`;
    from scratch unless `--config.model_init` is the checkpoint of another demo
    with this model, such as `vit_s16_i1k.py:demo` for `model=vit-s16`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision import lookup
from big_vision.configs import demo, own_data
from big_vision.configs.common_fewshot import get_fewshot_lsr

# Name: (splits for training, validation, test; classes; steps; warm-up steps).
DATASETS = dict(
  cifar10=("train[:98%]", "train[98%:]", "test", 10, 10_000, 500),
  cifar100=("train[:98%]", "train[98%:]", "test", 100, 10_000, 500),
  imagenet2012=(
    ("train[:99%]", "train[99%:]", "validation", 1000, 20_000, 500)
  ),
  oxford_iiit_pet=("train[:90%]", "train[90%:]", "test", 37, 500, 100),
  oxford_flowers102=("train[:90%]", "train[90%:]", "test", 102, 500, 100),
)

# {h} and {l} are the sizes before and after the crop.
CROPS = dict(
  inception_crop="decode|inception_crop({l})",
  resmall_crop="decode|resize_small({h})|random_crop({l})",
  resize_crop="decode|resize({h})|random_crop({l})",
)

# Name: (model_name, model_init, model). Sizes that are not 224 are in `SIZES`.
MODELS = {
  "vit-i21k-augreg-b/32": (
    "vit",
    "howto-i21k-B/32",
    dict(variant="B/32", pool_type="tok"),
  ),
  "vit-i21k-augreg-l/16": (
    "vit",
    "howto-i21k-L/16",
    dict(variant="L/16", pool_type="tok"),
  ),
  "vit-s16": (
    "vit",
    "i1k-s16-300ep",
    dict(variant="S/16", pool_type="gap", posemb="sincos2d", rep_size=True),
  ),
  "bit-m-r50x1": ("bit_paper", "M", dict(depth=50, width=1)),
}

# (h_res, l_res) of other datasets than `DATASETS`.
SIZES = {"bit-m-r50x1": (448, 384)}
USUAL_SIZE = (256, 224)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: see the top of this file.

  Returns:
    ConfigDict.
  """
  arg = bvcc.parse_arg(
    arg,
    model="vit",
    dataset="cifar10",
    crop="resmall_crop",
    h_res=0,
    l_res=0,
    eval_res=0,
    batch_size=512,
    fsdp=False,
    probe=False,
    lora=0,
    layer_decay=0.0,
    drop_path=0.0,
    fewshot=False,
    runlocal=False,
    demo=False,
    **own_data.ARGS,
  )
  if arg.demo and arg.model == "vit":
    arg.model = "vit-s16"
  if arg.model == "vit":  # The default, which is none of them.
    raise lookup.ConfigError(
      "Unknown model: 'vit'. One has to be given, for example model=vit-s16; "
      f"there are {', '.join(MODELS)}."
    )
  values, h_res, l_res = "value_range(-1, 1)", 448, 384
  dont_load = None
  if "/" in arg.model and arg.model not in MODELS:
    model, dont_load, values, l_res = _pretrained(arg.model)
    h_res = (arg.l_res or l_res) * 8 // 7
  else:
    model = _find("model", arg.model, MODELS)
    if arg.source:
      h_res, l_res = SIZES.get(arg.model, USUAL_SIZE)
      if arg.l_res:  # Not both: in the same proportion.
        h_res = arg.l_res * 8 // 7
  arg.h_res, arg.l_res = arg.h_res or h_res, arg.l_res or l_res
  train, val, test, num_classes, total_steps, warmup_steps = find_dataset(
    arg.dataset
  )
  crop = _find("crop", arg.crop, CROPS).format(h=arg.h_res, l=arg.l_res)
  config = mlc.ConfigDict()

  config.seed = 0
  config.total_steps = total_steps
  config.num_classes = num_classes
  config.loss = "softmax_xent"

  pp_common = f"|{values}" + bvcc.pp_labels(num_classes, "{label}")
  config.input = dict(
    data=dict(name=arg.dataset, split=train),
    batch_size=8 if arg.runlocal else arg.batch_size,
    shuffle_buffer_size=100 if arg.runlocal else 50_000,
    pp=f"{crop}|flip_lr{pp_common.format(label='label')}",
  )

  config.log_training_steps = 10
  config.ckpt_steps = 1000
  config.ckpt_timeout = 600

  config.model_name, config.model_init, config.model = model
  config.model_load = dict(dont_load=["head/kernel", "head/bias"])
  if dont_load:
    config.model_load.dont_load = dont_load
    side = arg.eval_res or arg.l_res
    config.init_shapes = [(1, side, side, 3)]  # For tools.eval_only.

  config.optax_name = "big_vision.momentum_hp"
  config.grad_clip_norm = 1.0
  config.lr = 0.01
  config.wd = mlc.config_dict.placeholder(float)  # None.
  schedule = dict(warmup_steps=warmup_steps, decay_type="cosine")
  config.schedule = (
    [("head/.*", schedule), (".*", None)] if arg.probe else schedule
  )
  config.mixup = dict(p=0.0)

  eval_size = arg.h_res, arg.l_res
  if arg.eval_res:
    eval_size = arg.eval_res * 8 // 7, arg.eval_res

  def evaluator(split, name=arg.dataset, size=eval_size, **kw):
    pp = "decode|resize_small({})|central_crop({})".format(*size)
    return bvcc.classification(
      name,
      split,
      pp + pp_common.format(**{"label": "label", **kw}),
      loss_name=config.loss,
      log_steps=100,
    )

  config.evals = dict(val=evaluator(val), test=evaluator(test))
  if arg.dataset == "imagenet2012":
    config.evals.minival = evaluator(val)
    config.evals.val = evaluator(test)
    # These two have the usual size whatever h_res and l_res are.
    usual = dict(size=(448, 384))
    config.evals.real = evaluator(
      "validation", "imagenet2012_real", label="real_label", **usual
    )
    config.evals.v2 = evaluator("test", "imagenet_v2", **usual)
  if arg.fewshot:
    config.evals.fewshot = get_fewshot_lsr(
      arg.l_res, arg.h_res, log_steps=total_steps
    )

  if arg.fsdp:
    config.mesh = [("data", -1)]
    config.sharding_strategy = [(".*", 'fsdp(axis="data")')]
    config.sharding_rules = [("act_batch", ("data",))]
    # The published config also sets it for BiT, whose model does not know it.
    if config.model_name == "vit":
      config.model.scan = True
  _set_method(config, arg)
  own_data.apply(config, arg, total_steps=_num_steps)
  if arg.demo:
    demo.apply(config)
  return config


def _pretrained(source):
  """Describes a model for fine-tuning.

  Returns:
    (model as in `MODELS`, what not to load, op for the range of values, side in
    pixels).
  """
  from big_vision.pp import builder
  from big_vision.pretrained import published  # Imports jax.

  if published.describe(source).config.model_name.endswith("two_towers"):
    source += ":img"
  about = published.describe(source)
  model, dont_load = about.with_head()
  values = [
    section
    for section in builder.split_pipeline(about.pp or "")
    if "value_range" in section
  ]
  if not values:
    raise lookup.ConfigError(
      f"model={source} is not a model of pictures: it has no preprocessing."
    )
  init = about.config.model_init
  return (
    (about.config.model_name, init, model),
    dont_load,
    values[-1],
    max(about.image_size),
  )


def _set_method(config, arg):
  """Applies the arguments that say how to fine-tune."""
  if config.model_name != "vit":
    for key in ("drop_path", "lora"):
      if arg[key]:
        raise lookup.ConfigError(
          f"{key}={arg[key]} is for ViTs, not for model={arg.model}."
        )
  if arg.layer_decay:
    config.layer_decay = arg.layer_decay
  if arg.drop_path:
    config.model.drop_path = arg.drop_path
  if arg.lora:
    if arg.probe:
      raise lookup.ConfigError("Either lora or probe: the head alone has none.")
    config.lora = dict(rank=arg.lora, alpha=2.0 * arg.lora)
    # Products of two factors learn badly with one step size for both.
    config.optax_name, config.lr = "scale_by_adam", 1e-3
  # The demo has images of one size.
  if arg.eval_res and config.model_name == "vit" and not arg.demo:
    from big_vision.models import vit_sizes  # Imports jax.

    variant = vit_sizes.decode_variant(config.model.get("variant"))
    patch = config.model.get("patch_size") or variant["patch_size"]
    config.model.posemb_size = tuple(arg.l_res // p for p in patch)


def _num_steps(num_examples, batch_size):
  """Returns how long to train on own data: as on a dataset of that size.

  At most 100 epochs, which is what matters for hundreds of pictures.
  """
  steps = 500 if num_examples < 20_000 else 10_000
  steps = 20_000 if num_examples >= 500_000 else steps
  return max(1, min(steps, 100 * num_examples // batch_size))


def find_dataset(name: str) -> tuple[str, str, str, int, int, int]:
  """Finds one of `DATASETS`.

  Args:
    name: TFDS name.

  Returns:
    Its entry.

  Raises:
    ValueError: there is none; suggests the nearest one.
  """
  return _find("dataset", name, DATASETS)


def _find(what, name, known):
  """Returns `known[name]`; raises a ValueError with the known names."""
  if name not in known:
    raise ValueError(
      f"Unknown {what}: {name!r}{lookup.did_you_mean(name, known)}"
    )
  return known[name]
