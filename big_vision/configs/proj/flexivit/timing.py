r"""How fast a FlexiViT of a given patch size is.

https://arxiv.org/abs/2212.08013 ("FlexiViT: One Model for All Patch Sizes")

  python -m big_vision.tools.eval_only \
    --config big_vision/configs/proj/flexivit/timing.py \
    --workdir /path/to/workdir --config.model.seqhw "(15,15)"

`timing/img_per_sec` and the others are explained in `evaluators/timing.py`.

Expected: 111 GFLOPs per image, two per multiplication and addition.

`:demo` takes a tiny model, see `demo.py`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import demo
from big_vision.configs.proj.flexivit import common


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: None or "demo".

  Returns:
    ConfigDict.
  """
  arg = bvcc.parse_arg(arg, demo=False)
  config = mlc.ConfigDict()

  config.batch_size = 8
  config.init_shapes = [(1, 240, 240, 3)]
  config.representation_layer = (
    "pre_logits"  # Kept from the published config; not read.
  )

  config.model_name = "xp.flexivit.vit"  # The name of the days of the paper.
  config.model = dict(
    variant="B", pool_type="tok", patch_size=(10, 10), seqhw=(24, 24)
  )
  config.num_classes = 0

  config.evals = dict(
    timing=dict(
      type="timing",
      input_shapes=[(240, 240, 3)],
      timing=True,
      pred_kw=dict(outputs=("pre_logits",)),
    )
  )
  if arg.demo:
    res = common.DEMO_RES
    config.init_shapes = [(1, res, res, 3)]
    config.evals.timing.input_shapes = [(res, res, 3)]
    config.model.seqhw = (6, 6)
    config.model.update(demo.MODELS["proj.flexi.vit"])
  return config
