r"""The image tower that demos of LiT and of fine-tuning start from.

  python -m big_vision.train \
    --config big_vision/configs/proj/image_text/demo_tower.py --workdir DIR

A tiny ViT that has learned to name color and shape on the training data of
`demo.py`. `tower.npz`, which comes with the package, has its parameters without
the head, in half precision. Expected: 86% of the test pictures, of which one in
eight shows a combination that was not trained on.
"""

import ml_collections as mlc

from big_vision.configs.proj.image_text import demo

NUM_CLASSES = 64


def get_config() -> mlc.ConfigDict:
  """Makes the config of a classifier of color and shape."""
  config = mlc.ConfigDict()
  config.seed = 0
  config.total_steps = 2000
  config.num_classes = NUM_CLASSES
  config.loss = "softmax_xent"

  pp = (
    f"decode|resize({demo.SIZE})|value_range(-1, 1)|onehot({NUM_CLASSES}, "
    'key="shape_color", key_result="labels")|keep("image", "labels")'
  )
  config.input = dict(
    data=dict(name=demo.DATASET, split="train"),
    pre_filter_fn=demo.for_training,
    batch_size=demo.BATCH_SIZE,
    shuffle_buffer_size=4096,
    pp=pp,
  )
  config.log_training_steps = 50
  config.model_name = "vit"
  config.model = dict(pool_type="tok", **demo.IMAGE)
  config.optax_name = "scale_by_adam"
  config.optax = dict(b2=0.95)
  config.grad_clip_norm = 1.0
  config.lr = 0.003
  config.wd = 0.0001
  config.schedule = dict(decay_type="cosine", warmup_percent=0.1)
  config.ckpt_steps = 1000

  config.evals = dict(
    test=dict(
      type="classification",
      data=dict(name=demo.DATASET, split="test"),
      pp_fn=pp,
      loss_name=config.loss,
      log_percent=0.25,
    )
  )
  return config
