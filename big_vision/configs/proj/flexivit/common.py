"""Parts that configs of FlexiViT share: patch sizes, data to evaluate on.

https://arxiv.org/abs/2212.08013
"""

from typing import Any

import ml_collections as mlc

from big_vision.configs import demo, own_data

# Tokens per side. Images of 240 pixels have patches of 48, 40, 30, 24, 20, 16,
# 15, 12, 10 and 8 pixels.
SEQHW = (5, 6, 8, 10, 12, 15, 16, 20, 24, 30)

# Of `demo`: patches of 6, 5 and 3 pixels.
DEMO_RES = 30
DEMO_SEQHW = (5, 6, 10)

# A name per evaluator -> dataset, split, key of the label.
I1K = dict(
  val=("imagenet2012", "validation", "label"),
  v2=("imagenet_v2", "test", "label"),
  a=("imagenet_a", "test", "label"),
  r=("imagenet_r", "test", "label"),
  real=("imagenet2012_real", "validation", "real_label"),
)
# Which of the 21 843 outputs stand for the classes of these datasets.
I21K_MAPPING = dict(
  val="i1k_i21k", v2="i1k_i21k", a="i1ka_i21k", r="i1kr_i21k", real="i1k_i21k"
)
I21K = dict(
  test="full[:25_600]", val="full[25_600:51_200]", train="full[51_200:76_800]"
)

DISTANCES = (
  dict(kind="kl"),
  dict(kind="logsoftmax_euclidean"),
  dict(kind="agree", k=1),
  dict(kind="agree", k=5),
)


def seqhw(arg: mlc.ConfigDict) -> dict[str, Any]:
  """Makes `config.flexi`, in which all sizes have the same probability.

  Args:
    arg: parsed arguments of the config; reads `demo`.

  Returns:
    Value of `config.flexi`.
  """
  sizes = DEMO_SEQHW if arg.demo else SEQHW
  return dict(seqhw=dict(v=sizes, p=(1,) * len(sizes)))


def resize_for(res: int) -> int:
  """Computes the size before a central crop.

  Args:
    res: side of the crop in pixels.

  Returns:
    Side of the image in pixels.
  """
  return res // 7 * 8


def local_split(split: str, runlocal: bool) -> str:
  """Shortens a split for a test run.

  Args:
    split: TFDS split.
    runlocal: whether to shorten it.

  Returns:
    A split of 16 examples, or `split`.
  """
  return f"{split.split('[')[0]}[:16]" if runlocal else split


def i21k_evals(
  pp_i21k: str, pp_i1k: str, runlocal: bool, prefix_i1k: str = "i1k_", **kw: Any
) -> dict[str, Any]:
  """Makes evaluators of an ImageNet-21k classifier, also on ImageNet-1k.

  Args:
    pp_i21k: preprocessing of ImageNet-21k.
    pp_i1k: preprocessing of ImageNet-1k with `{label}`, the key of the label.
    runlocal: whether to use 16 images.
    prefix_i1k: prefix of the names of evaluators on ImageNet-1k.
    **kw: settings that all share.

  Returns:
    dict of name -> evaluator.
  """
  kw = dict(kw, loss_name="sigmoid_xent")
  evals = {
    name: dict(
      type="classification",
      data=dict(name="imagenet21k", split=local_split(split, runlocal)),
      pp_fn=pp_i21k,
      **kw,
    )
    for name, split in I21K.items()
  }
  for name, (dataset, split, label) in I1K.items():
    evals[prefix_i1k + name] = dict(
      type="classification_with_labelmap",
      label_mapping=I21K_MAPPING[name],
      data=dict(name=dataset, split=local_split(split, runlocal)),
      pp_fn=pp_i1k.format(label=label),
      **kw,
    )
  return evals


def set_own_data(config: mlc.ConfigDict, arg: mlc.ConfigDict) -> None:
  """Makes a config of distillation use data of one's own, if arguments name it.

  Args:
    config: the complete config, changed in place.
    arg: parsed arguments, those of `own_data.ARGS` among them.
  """
  if own_data.apply(config, arg):  # The student's checkpoint has other classes.
    config.student_load = dict(dont_load=["head/.*"])


def finish(
  config: mlc.ConfigDict, arg: mlc.ConfigDict, **changes: Any
) -> mlc.ConfigDict:
  """Writes the arguments to the top level and applies `demo`.

  Args:
    config: the complete config, changed in place.
    arg: parsed arguments.
    **changes: for `demo.apply`.

  Returns:
    `config`.
  """
  config.runlocal, config.res = arg.runlocal, arg.res
  if arg.demo:
    demo.apply(config, size=DEMO_RES, res=DEMO_RES, **changes)
    _drop_repetitions(config.evals)
  return config


def _drop_repetitions(evals):
  """Keeps one evaluator of a kind and model for each split of the data.

  All datasets are the same in `demo`, and evaluation at many sizes takes most of
  the time there.
  """
  found = set()
  # The usual ones first.
  for name, cfg in sorted(evals.items(), key=lambda kv: "val" not in kv[0]):
    key = cfg.type, cfg.data.split.split("[")[0], cfg.pred
    if key in found:
      del evals[name]
    found.add(key)
