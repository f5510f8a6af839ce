"""Config of the fork: digits, sharded parameters, two evaluators."""

import ml_collections as mlc


def get_config(arg=None):
  """Returns the config; the argument is the number of steps to stop after."""
  config = mlc.ConfigDict()
  config.seed, config.num_classes = 0, 10
  config.total_steps = 6
  config.pp_modules = ["ops_general", "ops_image"]
  pp = "decode(channels=1)|resize(8)|value_range(-1, 1)"
  pp_label = f"{pp}|keep('image', 'label')"
  pp = f"{pp}|onehot(10, key='label', key_result='labels')"
  pp = f"{pp}|keep('image', 'labels')"
  config.input = dict(
    data=dict(name="digits", split="train[:64]"),
    batch_size=16,
    shuffle_buffer_size=64,
    pp=pp,
  )
  config.model_name = "vit"
  config.model = dict(
    width=8, depth=1, mlp_dim=16, num_heads=2, patch_size=(4, 4), dropout=0.1
  )
  config.loss = "sigmoid_xent"
  config.mixup = dict(p=0.2)
  config.grad_accum_steps = 2
  config.optax_name = "scale_by_adam"
  config.optax = dict(mu_dtype="bfloat16")
  config.lr, config.wd, config.grad_clip_norm = 0.01, 1e-4, 1.0
  config.schedule = [
    ("embedding/.*", None),
    ("head/.*", dict(decay_type="stair", steps=[4], mults=[0.1])),
    (".*", dict(decay_type="cosine", warmup_steps=2)),
  ]
  config.mesh = [("data", 2), ("model", 2)]
  config.sharding_strategy = [
    (".*", 'fsdp(axis="data", min_size_to_shard_mb=0)')
  ]
  config.log_training_steps = 1
  config.ckpt_steps, config.keep_ckpt_steps = 2, 4
  data = dict(name="digits", split="test[:40]")
  config.evals = {}
  config.evals.val = dict(
    type="classification",
    data=data,
    pp_fn=pp,
    loss_name="sigmoid_xent",
    log_steps=3,
  )
  config.evals.fewshot = dict(
    type="fewshot_lsr",
    datasets={"digits": ("digits", "train[:64]", "test[:40]")},
    pp_train=pp_label,
    pp_eval=pp_label,
    representation_layer="pre_logits",
    display_first=[("digits", 2)],
    shots=(2,),
    l2_reg=1.0,
    num_seeds=1,
    log_steps=6,
  )
  config.stop_after = int(arg or 0)
  return config
