"""Configs of the fault runner: each method on a model that trains in seconds.

  python -m big_vision.train --config big_vision/faults/config.py:train \
    --workdir DIR

Everything that a restart has to find again is there: shuffled data, a random
augmentation, dropout or mixup where the method has it, momentum, an average of the
parameters, an evaluator and frequent checkpoints. The pictures are of the generated
dataset `shapes/tiny`, made smaller.
"""

from typing import Any

import ml_collections as mlc

from big_vision import lookup

SIZE, PATCH = 8, 4  # Pixels.
NUM_CLASSES = 8  # Colors.
TOTAL_STEPS, CKPT_STEPS, KEEP_STEPS, EVAL_STEPS = 40, 5, 10, 20
# Divisible by 2, 4, 6 and 8 devices.
BATCH_SIZE = 24

_SMALL = dict(width=16, depth=1, mlp_dim=16, num_heads=2)
_VIT = dict(_SMALL, patch_size=(PATCH, PATCH))
_IMAGE = f"decode|resize({SIZE})|value_range(-1, 1)"
_TRAIN = f"decode|resize({SIZE + 2})|random_crop({SIZE})|value_range(-1, 1)"
_LABELS = f'|onehot({NUM_CLASSES}, key="color", key_result="labels")'
_LABELS += '|keep("image", "labels")'
_TEXT = (
  '|choice(inkey="captions", outkey="text")'
  '|tokenize(max_len=8, eos="sticky", model="shapes", inkey="text", '
  'outkey="labels")|keep("image", "labels")'
)
_TOK = 'tok(model="gemma(model=\\"shapes\\")", '
_PROMPT = (
  '|choice(inkey="captions", outkey="suffix")'
  f'|{_TOK}text="caption en", bos="yes", outkey="prefix")'
  f'|{_TOK}key="suffix", eos="yes")'
  '|masked_concat(["prefix", "suffix"], mask_ar=[0, 1], mask_loss=[0, 1])'
  '|tolen(17, pad_value=0, key="text")|tolen(17, pad_value=1, key="mask_ar")'
  '|tolen(17, pad_value=0, key="mask_loss")'
  '|keep("image", "text", "mask_ar", "mask_loss")'
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: a key of `METHODS`.

  Returns:
    ConfigDict.

  Raises:
    lookup.ConfigError: there is no such method.
  """
  arg = arg or "train"
  if arg not in METHODS:
    raise lookup.unknown("method", arg, METHODS, "argument of the config")
  config = _common()
  METHODS[arg][1](config)
  return config


def _common() -> mlc.ConfigDict:
  """Makes what all methods share."""
  config = mlc.ConfigDict()
  config.seed = 0
  config.total_steps = TOTAL_STEPS
  config.log_training_steps = 1
  config.ckpt_steps = CKPT_STEPS
  config.keep_ckpt_steps = (
    KEEP_STEPS  # What damage to the newest one falls back to.
  )
  config.input = dict(
    data=dict(name="shapes/tiny", split="train"),
    batch_size=BATCH_SIZE,
    shuffle_buffer_size=64,
    pp=_TRAIN + _LABELS,
  )
  config.optax_name = "scale_by_adam"
  # Some gradients are zero but for rounding; of these, too, Adam would make a step of
  # full size, in a direction that depends on the order of sums.
  config.optax = dict(b2=0.99, eps=1e-4)
  config.grad_clip_norm = 1.0
  config.lr = 1e-3  # Larger ones multiply rounding beyond the tolerance.
  config.wd = 1e-3
  config.schedule = dict(decay_type="cosine", warmup_steps=5)
  config.ema_decay = 0.9
  config.evals = {}
  return config


def _evaluate(config: Any, name: str = "classification", **kw: Any) -> None:
  config.evals.val = dict(
    type=name,
    data=dict(name="shapes/tiny", split="validation"),
    pp_fn=_IMAGE + _LABELS,
    log_steps=EVAL_STEPS,
    **kw,
  )


def _classify(config: Any) -> None:
  config.num_classes = NUM_CLASSES
  config.loss = "softmax_xent"
  config.model_name = "vit"
  config.model = dict(_VIT, dropout=0.1)
  config.mixup = dict(p=0.2)
  _evaluate(config, loss_name="softmax_xent")


def _gsam(config: Any) -> None:
  _classify(config)
  del config.ema_decay
  lr = config.get_ref("lr")
  config.gsam = dict(
    rho_max=0.1, rho_min=0.02, alpha=0.6, lr_max=lr, lr_min=0.1 * lr
  )


def _flexi(config: Any) -> None:
  _classify(config)
  config.model_name = "proj.flexi.vit"
  config.model = dict(
    _VIT, posemb_size=(2, 2), seqhw=None, pool_type="tok", posemb="learn"
  )
  config.flexi = dict(seqhw=dict(v=(2, 4), p=(1, 1)))
  _evaluate(config, loss_name="softmax_xent", pred="predict_seqhw=2")


def _distill(config: Any) -> None:
  config.num_classes = NUM_CLASSES
  config.student_name = "vit"
  config.student = dict(_VIT)
  config.teachers = ["teacher"]
  config.teacher_name = "vit"
  config.teacher = dict(_VIT, depth=2, head_zeroinit=False)
  config.teacher_init = ""
  config.mixup = dict(p=1.0)
  config.distance = "kl"
  config.distance_kw = dict(t=2.0)
  _evaluate(config, loss_name="softmax_xent", pred="student_fwd")


def _siglip(config: Any) -> None:
  config.input.pp = _TRAIN + _TEXT
  config.model_name = "proj.image_text.two_towers"
  config.model = dict(
    image_model="vit",
    text_model="proj.image_text.text_transformer",
    image=dict(_VIT, pool_type="map"),
    text=dict(_SMALL, vocab_size=512),
    out_dim=(None, 16),
    temperature_init=10.0,
    bias_init=-2.7,
  )
  config.evals.val = dict(
    type="proj.image_text.contrastive",
    data=dict(name="shapes/tiny", split="validation"),
    pp_fn=_IMAGE + _TEXT,
    use_global_batch=True,
    log_steps=EVAL_STEPS,
  )


def _cappa(config: Any) -> None:
  config.input.pp = _TRAIN + _TEXT
  config.model_name = "proj.cappa.cappa"
  config.model = dict(
    num_heads=2,
    num_layers=1,
    mlp_dim=16,
    emb_dim=16,
    vocab_size=512,
    seq_len=8,
    patches=(PATCH, PATCH),
    dec_dropout_rate=0.1,
    masked_pred_prob=0.5,
    masking_ratio=0.75,
  )
  config.evals.val = dict(
    type="proj.cappa.perplexity",
    pred="perplexity",
    data=dict(name="shapes/tiny", split="validation"),
    pp_fn=_IMAGE + _TEXT,
    log_steps=EVAL_STEPS,
  )


def _paligemma(config: Any) -> None:
  config.input.pp = _TRAIN + _PROMPT
  config.pp_modules = [
    "ops_general", "ops_image", "ops_text", "proj.paligemma.ops"
  ]  # fmt: skip
  config.label_smoothing = 0.1
  config.model_name = "proj.paligemma.paligemma"
  config.model = dict(
    img=dict(_VIT, pool_type="none"),
    llm=dict(_SMALL, vocab_size=512, num_kv_heads=1, head_dim=8, dropout=0.1),
  )
  config.evals.val = dict(
    type="proj.paligemma.perplexity",
    pred="logits",
    key="text",
    shift_labels=True,
    data=dict(name="shapes/tiny", split="validation"),
    pp_fn=_IMAGE + _PROMPT,
    log_steps=EVAL_STEPS,
  )


def _uvim(config: Any) -> None:
  config.input.pp = (
    f'decode|resize({SIZE})|copy("image", "labels")'
    '|value_range(-1, 1, key="labels")|rgb_to_grayscale_to_rgb'
    '|value_range(-1, 1)|keep("image", "labels")'
  )
  config.pp_modules = [
    "ops_general", "ops_image", "ops_text", "proj.uvim.pp_ops"
  ]  # fmt: skip
  config.task = "proj.uvim.colorization_task"
  config.model_name = "proj.uvim.vit"
  channels = dict(color=(3, PATCH * PATCH))
  config.model = dict(
    input_size=(SIZE, SIZE),
    patch_size=(PATCH, PATCH),
    code_len=4,
    width=16,
    mlp_dim=16,
    num_heads=2,
    enc_depth=1,
    dec_depth=1,
    dict_size=16,
    codeword_dim=4,
    dict_momentum=0.9,
    with_decoder_ctx=True,
    bottleneck_resize=True,
    inputs=channels,
    outputs=channels,
  )
  config.freeze_dict = False
  config.w_commitment = 0.25
  del config.ema_decay
  config.evals.val = dict(
    type="mean",
    pred="validation",
    data=dict(name="shapes/tiny", split="validation"),
    pp_fn=config.input.pp,
    log_steps=EVAL_STEPS,
  )


# Name -> (module that trains, function that completes the config).
METHODS = {
  "train": ("big_vision.train", _classify),
  "siglip": ("big_vision.trainers.proj.image_text.siglip", _siglip),
  "distill": ("big_vision.trainers.proj.distill.distill", _distill),
  "flexi": ("big_vision.trainers.proj.flexi.train", _flexi),
  "gsam": ("big_vision.trainers.proj.gsam.train", _gsam),
  "cappa": ("big_vision.trainers.proj.cappa.generative", _cappa),
  "paligemma": ("big_vision.trainers.proj.paligemma.train", _paligemma),
  "uvim": ("big_vision.trainers.proj.uvim.vqvae", _uvim),
}
