r"""Linear probes and nearest neighbors: how good are the features of a model?

  python -m big_vision.train --workdir /path/to/workdir \
    --config big_vision/configs/linear_probe.py:model=vit-i21k-augreg-b/32,dataset=cifar100

The model stays as it is. Its features are computed once, and kept in the workdir;
then classifiers are fitted to them: ridge regression, logistic regression by
L-BFGS, and SGD with DINOv2's learning rates. Settings, and the layers that they
read, are chosen on held-out training examples. Expected: a table of methods and
layers, which is also in `linear_probe.csv`; metrics `probe/prec@1` (of what was
best on held-out examples), `probe/lbfgs/prec@1` and so on, `knn/k20/prec@1`.
docs/probing.md says which choices are whose.

On pictures of one's own; `model` may also be the workdir of a run:

  python -m big_vision.train --workdir /path/to/workdir \
    --config big_vision/configs/linear_probe.py:model=vit-s16,source=folder,path=/data/pets

Arguments:
  model, res: the model and the side of pictures, see `frozen.py`.
  dataset: one of `transfer.DATASETS`; `source`, `path` and so on, see
    `own_data.py`, take its place.
  methods: some of `ridge`, `lbfgs`, `sgd`, for example methods=ridge+lbfgs.
  layers: features to choose from, such as `layers=cls1,cls4+mean`; see
    `evaluators/layers.py`. By default those of DINOv2's evaluation if the model has
    a class token.
  batch_size: of the computation of features.
  demo: a tiny model and generated data, see `demo.py`; random unless
    `--config.model_init` is the checkpoint of another demo with this model, such
    as `vit_s16_i1k.py:demo`.
"""

import re

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import (
  demo,
  frozen,
  load_and_eval,
  own_data,
  own_labels,
  own_sources,
  transfer,
)

METHODS = ("ridge", "lbfgs", "sgd")
_KS = (10, 20)


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
    dataset="cifar10",
    methods=("+".join(METHODS), bvcc.Names),
    layers=("", bvcc.Names),
    batch_size=256,
    demo=False,
    **own_data.ARGS,
  )
  model = frozen.find(arg)
  data, pp, ks = _data(arg)
  pp = pp.format(image=model.pp)

  config = mlc.ConfigDict(type_safe=False)
  load_and_eval.eval_only(config, arg.batch_size, {})
  # It is not trained on, but tells the size of pictures.
  config.input = dict(data=data["train"], pp=pp, batch_size=arg.batch_size)
  config.update(model.config)

  shared = dict(
    pp_fn=pp,
    log_steps=1,
    norm_eps=model.norm_eps,
    train=data["train"],
    data=data["test"],
  )
  config.evals = dict(
    probe=dict(
      type="linear_probe",
      val=data["val"],
      methods=arg.methods.split("+"),
      layers=_layers(arg.layers),
      cache_features=True,
      **shared,
    ),
    knn=dict(type="knn", ks=ks, representation_layer="pre_logits", **shared),
  )
  if arg.demo:
    _shrink(config)
  return config


def _data(arg):
  """Returns data of train, val (or None) and test, preprocessing, and ks."""
  keep = '|keep("image", "label")'
  own_labels.refuse(arg, "a linear probe")
  if own := own_sources.find(arg):
    held_out = dict(own.held_out)
    # What there is one of is for the test.
    test = held_out.pop("test", None) or held_out.pop("val")
    data = dict(train=own.train, val=held_out.get("val"), test=test)
    ks = sorted({min(k, own.num_train) for k in _KS})
    return data, own.pp + "{image}" + keep, ks
  train, val, test, *_ = transfer.find_dataset(arg.dataset)
  splits = dict(train=train, val=val, test=test)
  data = {k: dict(name=arg.dataset, split=s) for k, s in splits.items()}
  return data, "{image}" + keep, _KS


def _layers(text):
  """Reads names of layers, of which some contain a plus."""
  # A plus separates them, unless it belongs to "+mean".
  return re.split(r"\+(?!mean(?:\+|$))", text) if text else None


def _shrink(config):
  """Makes the config a demo."""
  demo.apply(config)
  pp = f"decode|resize({demo.SIZE})|value_range(-1, 1)"
  pp += f"|copy('{demo.LABEL}', 'label')"
  pp += '|keep("image", "label")'
  splits = dict(train="train[:512]", data="test[:128]")
  data = {k: dict(name=demo.DATASET, split=s) for k, s in splits.items()}
  config.input.update(data=data["train"], pp=pp)
  for cfg in config.evals.values():
    cfg.update(pp_fn=pp, **data)
  config.evals.probe.val = None
  config.evals.probe.update(sgd_steps=50, max_iter=50)
