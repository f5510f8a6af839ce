r"""One task of VTAB-1k: a model is adapted with 1000 examples.

  python -m big_vision.train --workdir /path/to/workdir \
    --config big_vision/configs/vtab.py:task=dtd,model=vit-i21k-augreg-b/32

All 19 tasks, with a table at the end:

  python -m big_vision.tools.vtab --model vit-i21k-augreg-b/32 --workdir DIR

Expected: `test/prec@1`, the accuracy on the whole test set. `vtab_tasks.py` has
datasets and splits, which have to be prepared as docs/datasets.md says.

Arguments:
  task: one of `vtab_tasks.TASKS`.
  model, res: the model and the side of pictures, see `frozen.py`. Pictures are
    resized to squares, and not augmented.
  mode: `full` trains all parameters on the 1000 examples, with one recipe for all
    tasks, that of the ViT paper: 2500 steps, batches of 512, SGD with momentum, a
    learning rate of 0.01 that falls like a cosine. `linear` fits linear probes to
    frozen features, whose settings are chosen on the 200 examples.
  batch_size: of mode=full; of the computation of features otherwise.
  demo: a tiny model and generated data, see `demo.py`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision import lookup
from big_vision.configs import demo, frozen, load_and_eval, vtab_tasks

MODES = ("full", "linear")
# The metric that is a task's result.
METRIC = "test/prec@1"

_PP_MODULES = ["ops_general", "ops_image", "ops_text", "ops_vtab"]


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: see the top of this file.

  Returns:
    ConfigDict.
  """
  arg = bvcc.parse_arg(
    arg, task="dtd", **frozen.ARGS, mode="full", batch_size=512, demo=False
  )
  task = vtab_tasks.find(arg.task)
  if arg.mode not in MODES:
    raise lookup.unknown("mode", arg.mode, MODES, "mode", lookup.ConfigError)
  square = lambda res: f"decode(channels=3)|resize({res})|value_range(-1, 1)"
  model = frozen.find(arg, square)
  pp_image = model.pp
  if task.in_max != 255:
    scale = f"value_range(0, 255, 0, {task.in_max})"
    pp_image = pp_image.replace("|", f"|{scale}|", 1)
  pp = f"{task.label}{pp_image}"
  data = {
    key: dict(name=task.dataset, split=split)
    for key, split in task.splits.items()
  }
  config = mlc.ConfigDict(type_safe=False)
  config.seed = 0
  make = _full if arg.mode == "full" else _linear
  make(config, arg, task, model, pp, data)
  modules = model.config.get("pp_modules", [])
  config.pp_modules = [*dict.fromkeys([*_PP_MODULES, *modules])]
  if arg.demo:
    _shrink(config)
  return config


def _full(config, arg, task, model, pp, data):
  """Fine-tunes."""
  config.update(model.config)
  config.num_classes = task.num_classes
  config.loss = "softmax_xent"
  pp += bvcc.pp_labels(task.num_classes, "label")
  config.input = dict(
    data=data["train800val200"],
    batch_size=arg.batch_size,
    shuffle_buffer_size=1000,
    cache_raw=True,
    pp=pp,
  )
  config.total_steps = 2500
  config.log_training_steps = 50
  config.ckpt_steps = 500
  config.optax_name = "big_vision.momentum_hp"
  config.grad_clip_norm = 1.0
  config.lr = 0.01
  config.schedule = dict(decay_type="cosine", warmup_steps=200)
  config.evals = dict(
    test=dict(
      type="classification",
      data=data["test"],
      pp_fn=pp,
      loss_name=config.loss,
      skip_first=True,
      log_percent=1.0,
    )
  )


def _linear(config, arg, task, model, pp, data):
  """Fits probes to frozen features."""
  load_and_eval.eval_only(config, arg.batch_size, {})
  config.update(model.config)
  pp += '|keep("image", "label")'
  config.input = dict(data=data["train800"], pp=pp, batch_size=arg.batch_size)
  config.evals = dict(
    test=dict(
      type="linear_probe",
      train=data["train800"],
      val=data["val200"],
      data=data["test"],
      pp_fn=pp,
      methods=["ridge", "lbfgs"],
      norm_eps=model.norm_eps,
      cache_features=True,
      log_steps=1,
    )
  )


def _shrink(config):
  """Makes the config a demo."""
  linear = config.evals.test.type == "linear_probe"
  demo.apply(config)
  pp = f"decode|resize({demo.SIZE})|value_range(-1, 1)|"
  label = f"copy('{demo.LABEL}', 'label')"
  if linear:
    pp += label + '|keep("image", "label")'
  else:
    pp += label + bvcc.pp_labels(demo.NUM_CLASSES, "label")
  train = dict(name=demo.DATASET, split="train[:900]")
  config.input.update(data=train, pp=pp)
  config.evals.test.update(
    pp_fn=pp, data=dict(name=demo.DATASET, split="test[:128]")
  )
  if not linear:
    config.evals.test.skip_first = False
    config.lr = 0.1  # From scratch.
  else:
    config.evals.test.update(
      train=dict(name=demo.DATASET, split="train[:800]"),
      val=dict(name=demo.DATASET, split="train[800:900]"),
      max_iter=50,
    )
