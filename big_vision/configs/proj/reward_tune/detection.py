r"""A detector that is tuned by rewards: boxes as tokens, on COCO.

Pinto et al. 2023, "Tuning computer vision models with task rewards",
https://arxiv.org/abs/2302.08242. First it learns to imitate the boxes of
people:

  python -m big_vision.trainers.proj.reward_tune.train \
    --config big_vision/configs/proj/reward_tune/detection.py --workdir FIRST

then boxes that it draws are rewarded:

  python -m big_vision.trainers.proj.reward_tune.train \
    --config big_vision/configs/proj/reward_tune/detection.py:reward \
    --config.model_init FIRST/checkpoint.bv --workdir SECOND

Rewards are those of the paper. The release has no config of its training:
model, optimizer and lengths are choices of this one, which were not tried at
this size.

`:demo` really trains, in minutes on a CPU, a tiny model on generated pictures
of one object each, and `:demo,reward` tunes it; see docs/reward_tune.md for
what they reach.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import demo

RES, MAX_BOXES = 640, 100
REWARD = dict(
  name="detection_reward",
  max_level=1000,
  max_conf=2,
  num_cls=80,
  nms_w=0.3,
  cls_smooth=0.05,
  reward_thr=tuple(i / 100 for i in range(50, 100, 5)),
  correct_thr=0.5,
  conf_w=0.3,
  num_samples=0,
  num_grads=1,
)
_DEMO = dict(
  num_layers=2,
  num_heads=4,
  mlp_dim=64,
  emb_dim=32,
  decoder_num_layers=1,
  patches=(8, 8),
)
_DEMO_RES, _DEMO_BOXES = 32, 2
# With as few tokens, confidences would otherwise outweigh rewards.
_DEMO_REWARD = dict(max_level=64, num_cls=8, conf_w=0.1)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config of either phase.

  Args:
    arg: `reward` for the second phase, `res`, `runlocal`, `demo`.

  Returns:
    The config.
  """
  arg = bvcc.parse_arg(arg, reward=False, res=RES, runlocal=False, demo=False)
  config = mlc.ConfigDict()
  config.seed = 0
  config.total_epochs = 10 if arg.reward else 100

  config.reward = dict(REWARD, num_samples=8 * arg.reward)
  image = f"decode|resize({arg.res})|value_range(-1, 1)"
  _set_data(config, "coco/2017", image, "objects", MAX_BOXES, crowds=True)
  config.input.batch_size = 8 if arg.runlocal else 256
  config.input.shuffle_buffer_size = 50 if arg.runlocal else 20_000

  config.model_name = "proj.cappa.cappa"
  config.model = dict(
    num_layers=12,
    num_heads=12,
    mlp_dim=3072,
    emb_dim=768,
    patches=(16, 16),
    decoder_num_layers=6,
    vocab_size=_vocab_size(config.reward),
    seq_len=6 * MAX_BOXES,
  )
  config.model_init = "" if arg.reward else {"encoder": "howto-i21k-B/16"}

  config.optax_name = "big_vision.scale_by_adafactor"
  config.optax = dict(beta2_cap=0.999)
  config.grad_clip_norm = 1.0
  config.lr = 1e-6 if arg.reward else 1e-3
  config.wd = 0.0 if arg.reward else 1e-4
  config.schedule = dict(decay_type="cosine", warmup_steps=1000)

  config.log_training_steps = 50
  config.ckpt_steps = 1000
  for cfg in config.evals.values():
    cfg.log_percent = 0.1
  if arg.demo:
    _shrink(config, bool(arg.reward))
  return config


def _vocab_size(reward):
  return reward.max_conf + 1 + reward.max_level + 1 + reward.num_cls


def _set_data(config, name, image, objects, max_boxes, crowds=False):
  """Sets what is read for training and evaluation."""
  reward, box, label = config.reward, f"{objects}/bbox", f"{objects}/label"
  pp = f"{image}|flatten" + "|drop_objects" * crowds
  jitter = f'|jitter_boxes(key="{box}")'
  to_seq = (
    f"|boxes2seq({max_boxes}, {reward.max_level}, {reward.max_conf}, "
    f'random_conf=True, inkey="{box}", labels_key="{label}")'
  )
  # All true boxes count in evaluation, however many there is room for.
  room = max(max_boxes, 100) if crowds else max_boxes
  pp_eval = (
    f"{pp}{to_seq}"
    f'|pad_to_shape([{room}, 4], inkey="{box}", outkey="objects/bbox")|'
    f'pad_to_shape([{room}], -1, inkey="{label}", outkey="objects/label")|'
    'keep("image", "labels", "objects/bbox", "objects/label")'
  )
  config.pp_modules = ["ops_general", "ops_image", "proj.reward_tune.ops"]
  config.input = dict(
    data=dict(name=name, split="train"),
    pp=f'{pp}{jitter}{to_seq}|keep("image", "labels")',
  )
  val = dict(data=dict(name=name, split="validation"), pp_fn=pp_eval)
  config.evals = dict(
    loss=dict(type="mean", pred="validation", **val),
    val=dict(type="proj.reward_tune.detection", pred="detect", **val),
    sampled=dict(
      type="proj.reward_tune.detection",
      pred="detect",
      pred_kw=dict(temperature=1.0),
      **val,
    ),
  )


def _shrink(config, is_reward):
  """Makes the config small, in place."""
  with config.ignore_type():
    config.reward.update(_DEMO_REWARD)
    config.reward.num_grads = config.reward.num_samples or 1
    image = f"decode|resize({_DEMO_RES})|value_range(-1, 1)"
    _set_data(config, "shapes/closeup", image, "boxes", _DEMO_BOXES)
    config.input.update(batch_size=128, shuffle_buffer_size=4096)
    vocab_size = _vocab_size(config.reward)
    config.model.update(_DEMO, vocab_size=vocab_size, seq_len=6 * _DEMO_BOXES)
    config.model_init = ""
    demo.shorten(config, 2000)
    config.optax_name, config.optax = "scale_by_adam", {}
    config.lr = 1e-3 if is_reward else 2e-3
    config.evals.sampled.seeds = (0, 1, 2, 3)
    for cfg in config.evals.values():
      cfg.batch_size, cfg.log_percent = 128, 0.5
