r"""Loads a checkpoint and evaluates it, with the trainer and without training.

  python -m big_vision.train \
    --config big_vision/configs/load_and_eval.py:name=bit_paper,batch_size=8 \
    --config.model_init M-imagenet2012 \
    --config.model.width 1 --config.model.depth 50

  python -m big_vision.train \
    --config big_vision/configs/load_and_eval.py:name=vit_i21k,batch_size=8 \
    --config.model.variant B/32 --config.model_init howto-i21k-B/32

Expected: the metrics of every evaluator, once; with `--workdir` they are also
in its `big_vision_metrics.txt`. Without `model_init` a random model is
evaluated, which tells how good chance is.

Arguments: `name` is a function of this file that completes the config, so copy
one of them for a model of your own; `batch_size`;
`source=folder,path=/data/pets` and others, see `own_data.py`, evaluate few-shot
accuracy on data of your own, and nothing else; `demo` evaluates the tiny
models of the other configs' `demo` on its generated data:

  python -m big_vision.train --workdir /tmp/train \
    --config big_vision/configs/vit_s16_i1k.py:demo

  python -m big_vision.train \
    --config big_vision/configs/load_and_eval.py:name=vit_i1k,demo \
    --config.model_init /tmp/train/checkpoint.bv

For `name=bit_paper` train `bit_i21k.py:demo` first, for `name=mlp_mixer_i1k`
its namesake, for `name=vit_i21k` the file `transfer.py` with the argument
`model=vit-i21k-augreg-b/32,demo`.
"""

import inspect
from typing import Any

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision import lookup
from big_vision.configs import demo, own_data, own_labels, own_sources
from big_vision.configs.common_fewshot import get_fewshot_lsr


def get_config(arg: str = "") -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: the keys `name`, `batch_size`, `demo` and those of `own_data.ARGS`.

  Returns:
    ConfigDict.
  """
  parsed = bvcc.parse_arg(
    arg, name="bit_paper", batch_size=4, demo=False, **own_data.ARGS
  )
  config = mlc.ConfigDict(
    dict(name=parsed.name, batch_size=parsed.batch_size), type_safe=False
  )

  image = dict(shape=(224, 224, 3), dtype="float32")
  eval_only(config, config.batch_size, dict(image=image))
  config.evals = dict(fewshot=get_fewshot_lsr())
  _find(config.name)(config)
  own_labels.refuse(parsed, "few-shot evaluation")
  if own := own_sources.find(parsed):
    config.evals = dict(fewshot=config.evals.fewshot)
    own_data.set_fewshot(config.evals.fewshot, own)
  if parsed.demo:
    demo.apply(config)
  return config


def eval_only(
  config: mlc.ConfigDict, batch_size: int, spec_for_init: dict[str, Any]
) -> None:
  """Makes a config evaluate once and stop.

  Args:
    config: changed in place.
    batch_size: global.
    spec_for_init: dict of shapes and dtypes of the inputs of the model, the
      `spec` of the dataset `bv:dummy`.
  """
  config.total_steps = 0
  config.input = dict(
    batch_size=batch_size,
    data=dict(name="bv:dummy", spec=spec_for_init),
  )
  config.optax_name = "identity"
  config.lr = 0.0

  config.mesh = [("data", -1)]
  config.sharding_strategy = [("params/.*", 'fsdp(axis="data")')]
  config.sharding_rules = [("act_batch", ("data",))]


def bit_paper(config: mlc.ConfigDict) -> None:
  """Completes a config for BiT of the paper, fine-tuned on ImageNet-1k."""
  config.num_classes = 1000
  config.model_name = "bit_paper"
  config.model_init = "M-imagenet2012"  # M is pre-trained on ImageNet-21k.
  config.model = dict(width=1, depth=50)

  def evaluator(name, split, label):
    pp = "decode|resize(384)|value_range(-1, 1)"
    return _classification(name, split, pp + bvcc.pp_labels(1000, label))

  real = "imagenet2012_real", "validation"
  config.evals.test = evaluator(*real, "original_label")
  config.evals.real = evaluator(*real, "real_label")
  config.evals.v2 = evaluator("imagenet_v2", "test", "label")


def vit_i1k(config: mlc.ConfigDict) -> None:
  """Completes a config for the ViT of `vit_s16_i1k.py`."""
  config.num_classes = 1000
  config.model_name = "vit"
  config.model_init = ""
  config.model = dict(
    variant="S/16", pool_type="gap", posemb="sincos2d", rep_size=True
  )
  pp = bvcc.PP_EVAL_I1K.format(label="label")
  config.evals.val = _classification("imagenet2012", "validation", pp)


def mlp_mixer_i1k(config: mlc.ConfigDict) -> None:
  """Completes a config for MLP-Mixer."""
  vit_i1k(config)
  config.model_name = "mlp_mixer"
  config.model = dict(variant="L/16")


def vit_i21k(config: mlc.ConfigDict) -> None:
  """Completes a config for ViT of "How to train your ViT?", on ImageNet-21k."""
  config.num_classes = 21843
  config.model_name = "vit"
  config.model_init = ""
  config.model = dict(variant="B/32", pool_type="tok")
  pp = (
    "decode|resize_small(256)|central_crop(224)|value_range(-1, 1)"
    f'|onehot({config.num_classes})|keep("image", "labels")'
  )
  config.evals.val = _classification(
    "imagenet21k", "full[:51200]", pp, loss_name="sigmoid_xent"
  )


def _classification(name, split, pp_fn, loss_name="softmax_xent"):
  return bvcc.classification(
    name, split, pp_fn, loss_name=loss_name, cache="none"
  )


def _find(name):
  """Finds the function of this module that completes the config."""
  known = {
    key: fn
    for key, fn in globals().items()
    if inspect.isfunction(fn)
    and fn.__module__ == __name__
    and fn not in (get_config, eval_only)
    and not key.startswith("_")
  }
  if name not in known:
    raise lookup.unknown("name of load_and_eval", name, known, "name")
  return known[name]
