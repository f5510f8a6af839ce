r"""Linear probes of patches: how much does a model know about each pixel?

  python -m big_vision.train --workdir /path/to/workdir \
    --config big_vision/configs/dense_probe.py:task=segmentation,dataset=ade20k,model=vit-i21k-augreg-b/32

A linear layer is fitted to the patches of the frozen model. Expected:
`test/mIoU` and `test/pixel_acc`, or `test/rmse`, `test/abs_rel` and `test/delta1`.
docs/probing.md says which choices are whose.

Arguments:
  model, res: a ViT and the side of pictures, see `frozen.py`. Pictures are resized
    to squares.
  task: `segmentation` or `depth`.
  dataset: `shapes` (generated, both tasks), `ade20k` (segmentation) or `nyu`
    (depth), which have to be prepared as docs/datasets.md says: in TFDS they are
    `scene_parse150` and `nyu_depth_v2`.
  blocks: of how many of the last blocks patches are used, 1 or 4 in papers.
  batch_size: of the computation of patches.
  demo: a tiny model, random unless `--config.model_init` is the checkpoint of
    another demo with this model, such as `vit_s16_i1k.py:demo`; few steps.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision import lookup
from big_vision.configs import demo, frozen, load_and_eval
from big_vision.datasets.shapes import render

TASKS = ("segmentation", "depth")
_keep = '|keep("image", "map")'
_SEMANTICS = len(render.SEMANTICS)  # Of which 0 is "void".

# (task, dataset) -> (TFDS name, splits of train and test, ops that make `map`,
# settings of the evaluator). {res} is the side of pictures.
DATASETS = {
  ("segmentation", "shapes"): (
    "shapes", "train", "test", 'copy("panoptic", "map")',
    dict(num_classes=_SEMANTICS, ignore_label=0, label_channel=0),
  ),
  ("depth", "shapes"): (
    "shapes", "train", "test", 'copy("depth", "map")',
    dict(max_depth=10.0),
  ),
  ("segmentation", "ade20k"): (
    "scene_parse150", "train", "test",
    'resize({res}, method="nearest", inkey="annotation", outkey="map")',
    dict(num_classes=151, ignore_label=0, label_channel=0),
  ),
  # With the part of pictures that Eigen et al. evaluate.
  ("depth", "nyu"): (
    "nyu_depth_v2", "train[:50%]", "validation",
    'copy("depth", "map")',
    dict(max_depth=10.0, crop=(45 / 480, 471 / 480, 41 / 640, 601 / 640)),
  ),
}  # fmt: skip


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: see the top of this file.

  Returns:
    ConfigDict.
  """
  arg = bvcc.parse_arg(
    arg,
    **frozen.ARGS,
    task="segmentation",
    dataset="shapes",
    blocks=1,
    batch_size=64,
    demo=False,
  )
  if arg.task not in TASKS:
    raise lookup.unknown("task", arg.task, TASKS, "task", lookup.ConfigError)
  name, train, test, make_map, settings = _find(arg.task, arg.dataset)
  size = []  # That `find` chooses.
  square = lambda res: (
    size.append(res) or (f"decode(channels=3)|resize({res})|value_range(-1, 1)")
  )
  model = frozen.find(arg, square)
  if "{res}" in make_map and not size:
    raise lookup.ConfigError(
      f"Config arg res: say to which size pictures and maps of {arg.dataset} are "
      "resized, for example res=224."
    )
  # Maps are those of the whole picture, as the model has to see it.
  pp = model.pp if not size else square(size[0])
  pp = f"{make_map.format(res=size[0] if size else 0)}|{pp}{_keep}"

  config = mlc.ConfigDict(type_safe=False)
  load_and_eval.eval_only(config, arg.batch_size, {})
  data = dict(name=name, split=train)
  config.input = dict(data=data, pp=pp, batch_size=arg.batch_size)
  config.update(model.config)
  config.evals = dict(
    test=dict(
      type="dense_probe",
      task=arg.task,
      train=data,
      data=dict(name=name, split=test),
      pp_fn=pp,
      num_blocks=arg.blocks,
      norm_eps=model.norm_eps,
      log_steps=1,
      **settings,
    )
  )
  if arg.demo:
    _shrink(config, arg.task)
  return config


def _find(task, dataset):
  """Returns the entry of `DATASETS`."""
  if (task, dataset) not in DATASETS:
    known = [d for t, d in DATASETS if t == task]
    raise lookup.unknown(
      f"dataset of task={task}", dataset, known, "dataset", lookup.ConfigError
    )
  return DATASETS[task, dataset]


def _shrink(config, task):
  """Makes the config a demo."""
  demo.apply(config)
  *_, make_map, _ = _find(task, "shapes")
  pp = f"{make_map}|decode|resize({demo.SIZE})|value_range(-1, 1){_keep}"
  splits = dict(train="train[:512]", data="test[:128]")
  data = {k: dict(name=demo.DATASET, split=s) for k, s in splits.items()}
  config.input.update(data=data["train"], pp=pp)
  config.evals.test.update(pp_fn=pp, steps=200, learning_rate=1e-2, **data)
