"""Sixty steps of a small ViT on digits, without any randomness in the data.

The curves of this config are recorded in train_digits.npz.
"""

import ml_collections as mlc


def get_config():
  c = mlc.ConfigDict()
  c.seed = 0
  c.total_steps = 60
  c.num_classes = 10
  c.loss = "softmax_xent"
  c.log_training_steps = 1
  c.ckpt_steps = 5

  pp = (
    "decode(channels=1)|reshape((8, 8, 1))|value_range(-1, 1)"
    "|onehot(10, key='label', key_result='labels')|keep('image', 'labels')"
  )
  c.input = dict(
    data=dict(name="digits", split="train"),
    batch_size=64,
    tfdata=dict(shuffle_seed=0),
    pp=pp,
  )
  c.model_name = "vit"
  c.model = dict(
    patch_size=(2, 2), width=64, depth=2, mlp_dim=128, num_heads=4,
    posemb="learn", pool_type="gap", rep_size=False,
  )  # fmt: skip
  c.optax_name = "scale_by_adam"
  c.optax = dict(b2=0.99)
  c.grad_clip_norm = 1.0
  c.lr = 3e-3
  c.wd = 1e-3
  c.schedule = dict(warmup_steps=10, decay_type="cosine")
  c.evals = {}
  c.evals.val = dict(
    type="classification",
    data=dict(name="digits", split="test"),
    pp_fn=pp,
    loss_name="softmax_xent",
    log_steps=20,
  )
  return c
