r"""CapPa: captioners as vision encoders.

Tschannen et al. 2023, "Image Captioners Are Scalable Vision Learners Too",
https://arxiv.org/abs/2306.07915.

  python -m big_vision.trainers.proj.cappa.generative \
    --config big_vision/configs/proj/cappa/pretrain.py \
    --workdir /path/to/workdir

The recipe is that of the paper, which trains on a billion pairs of image and
caption; `coco_captions`, which has 83,000 images, stands in for them. Cap, which
predicts all captions token by token, is `--config.model.masked_pred_prob=0.0`.

`:runlocal` is for trying it on one machine: a small batch, and a small buffer.

`:demo` really trains, in minutes on a CPU, a tiny model on captions of generated
pictures of one object each. Expected: it names color and shape of more than 85% of
the objects, among 64 names.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import demo
from big_vision.configs.common_fewshot import get_fewshot_lsr

_DEMO = dict(
  num_layers=3,
  num_heads=4,
  mlp_dim=128,
  emb_dim=64,
  vocab_size=512,
  patches=(8, 8),
  seq_len=16,
  decoder_num_layers=2,
  masked_pred_prob=0.25,  # What scores names learns more quickly then.
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config of CapPa.

  Args:
    arg: `runlocal`, `total_steps`, `batch_size`, `warmup_steps`, `demo`.

  Returns:
    The config.
  """
  arg, is_demo = demo.split_arg(arg)
  config = bvcc.parse_arg(
    arg,
    runlocal=False,
    total_steps=366_500,
    batch_size=8192,
    warmup_steps=10_000,
  )
  config.seed = 0

  tokenize = lambda inkey: (
    f'tokenize(max_len=64, model="c4_en", eos="sticky", inkey="{inkey}", '
    'outkey="labels")'
  )
  image = "decode|resize(224)|value_range(-1,1)"
  pp = (
    f'{image}|coco_captions("captions")|choice(inkey="captions", outkey="text")|'
    f'{tokenize("text")}|keep("image", "labels")'
  )
  config.input = dict(
    data=dict(name="coco_captions", split="train"),
    batch_size=8 if config.runlocal else config.batch_size,
    shuffle_buffer_size=50 if config.runlocal else 50_000,
    pp=pp,
  )
  config.log_training_steps = 50
  config.ckpt_steps = 1000
  config.keep_ckpt_steps = None

  config.model_name = "proj.cappa.cappa"
  config.model = dict(
    num_layers=12,
    num_heads=12,
    mlp_dim=3072,
    emb_dim=768,
    vocab_size=32_000,
    patches=(16, 16),
    seq_len=64,
    posemb_type="learn",
    decoder_num_layers=6,
    decoder_num_heads=0,  # 0 is that of the encoder.
    decoder_mlp_dim=0,
    decoder_emb_dim=0,
    dec_dropout_rate=0.0,
    masked_pred_prob=0.75,
    masking_ratio=1.0,
    decoder_bias=False,
  )

  config.optax_name = "big_vision.scale_by_adafactor"
  config.optax = dict(beta2_cap=0.999)
  config.grad_clip_norm = 1.0
  config.label_smoothing = 0.0
  config.schedule = dict(
    decay_type="cosine",
    warmup_steps=5 if config.runlocal else config.warmup_steps,
  )
  config.lr = 0.001
  config.wd = 0.0001

  config.evals = {}
  config.evals.val_coco = dict(
    type="proj.cappa.perplexity",
    pred="perplexity",
    data=dict(name="coco_captions", split="val"),
    pp_fn=pp,
    log_steps=1000,
    skip_first=True,
  )
  config.evals.fewshot = get_fewshot_lsr(
    target_resolution=224, resize_resolution=256
  )
  config.evals.fewshot.update(
    type="fewshot_lsr",
    pred="enc_rep",
    representation_layer="pre_logits",
    log_steps=5 if config.runlocal else 5000,
    skip_first=True,
  )
  config.evals.fewshot.pp_eval = config.evals.fewshot.pp_train
  config.evals["imagenet/scoring"] = dict(
    type="proj.cappa.scoring_classifier",
    pred="score",
    data=dict(name="imagenet2012", split="validation"),
    pp_fn=f'{image}|keep("image", "label")',
    pp_txt=tokenize("label"),
    log_percent=0.1,
    skip_first=True,
  )
  if is_demo:
    _shrink(config)
  return config


def _shrink(config):
  """Makes the config small, in place."""
  config.update(model=_DEMO, lr=0.006)
  demo.shorten(config, total_steps=2000)
  del config.batch_size, config.warmup_steps  # Of the argument.

  image = "decode|resize(32)|value_range(-1,1)"
  tokenize = lambda inkey: (
    'tokenize(max_len=16, model="shapes", eos="sticky", '
    f'inkey="{inkey}", outkey="labels")'
  )
  pp = (
    f'{image}|choice(inkey="captions", outkey="text")|{tokenize("text")}|'
    'keep("image", "labels")'
  )
  data = lambda split: dict(name="shapes/closeup", split=split)
  config.input.update(
    data=data("train"), batch_size=128, shuffle_buffer_size=4096, pp=pp
  )
  label = '|copy("shape_color", "label")|keep("image", "label")'
  scoring = config.evals["imagenet/scoring"]
  del scoring.log_percent
  scoring.update(
    data=data("validation"),
    pp_fn=image + label,
    pp_txt=tokenize("label"),
    class_names="dataset_info:shape_color",
    pred_kw=dict(prompt="a", prompt_tokenizer="shapes"),
    log_percent=0.5,
  )
  config.evals.val_coco.update(data=data("validation"), pp_fn=pp)
  config.evals = dict(val=config.evals.val_coco, scoring=scoring)
  for cfg in config.evals.values():
    demo.set_duration(cfg, "log", log_percent=0.5)
    cfg.skip_first = False
