r"""CLIPPO: one tower for images and for pictures of text.

https://arxiv.org/abs/2212.08045 ("CLIPPO: Image-and-Language Understanding from
Pixels Only").

  python -m big_vision.trainers.proj.image_text.contrastive \
    --config big_vision/configs/proj/clippo/train_clippo.py \
    --workdir /path/to/workdir

trains shortly on COCO, a check of everything. For the real thing, `path` and
others say what to train on, see `siglip_pretrain.py` and docs/datasets.md:

  :test_with_coco=False,source=webdataset,path=/data/yfcc-{00000..01242}.tar

The glyphs are those of GNU Unifont; big_vision/pp/proj/clippo/README.md says
where they come from.

Expected: 43.4% zero-shot on ImageNet, 34.7% of texts and 19.7% of images found
on COCO after 250,000 steps on YFCC-100M (47.4 / 36.1 / 21.3 if initialized from
ImageNet-21k).

`:i1k_eval` evaluates zero-shot classification, too. `:runlocal` is for trying
it on one machine: ten steps with a small batch.

`:demo` really trains, in minutes on a CPU, a tiny model on captions of
generated pictures, see `configs/proj/image_text/demo.py`. Expected: more than
80% zero-shot accuracy among eight objects that were not trained on in these
colors, and about 74% among all 64.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs.common_fewshot import get_fewshot_lsr
from big_vision.configs.proj.image_text import common, demo


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: the keys of `parse_arg` below.

  Returns:
    ConfigDict.
  """
  arg = bvcc.parse_arg(
    arg,
    res=224,
    runlocal=False,
    variant="B/16",
    test_with_coco=True,
    i1k_eval=False,
    **(common.PAIRS | dict(path="", text="")),
    demo=False,
  )
  config = mlc.ConfigDict()
  res = arg.res

  def render(inkey, outkey="labels"):
    return (
      f'render_unifont(inkey="{inkey}", outkey="{outkey}", image_size={res}, '
      "lower=True, font_size=16, text_brightness=0, background_brightness=127)"
      f'|value_range(-1, 1, inkey="{outkey}", outkey="{outkey}")'
    )

  keep = '|keep("image", "labels")'
  pp_image = f"decode|resize({res})|value_range(-1,1)"
  pp_coco = f"{pp_image}|flatten|{render('captions/text')}{keep}"

  if arg.test_with_coco:
    pp = pp_coco.replace(
      "|value_range", "|flip_lr|randaug(2,10)|value_range", 1
    )
    data = dict(name="coco_captions", split="train")
    val_data = dict(name="coco_captions", split="val")
    batch_size, buffer, steps = 4000, 50_000, 400
    config.lr, config.wd = 0.0001, 0.0003
    timescale = warmup = 100
    if arg.variant != "B/16":
      raise ValueError(
        f"Config arg variant={arg.variant!r}: test_with_coco starts with "
        "weights of B/16; use test_with_coco=False for other sizes."
      )
    config.model_init = dict(image="howto-i21k-B/16")
    config.model_load = dict(
      img_load_kw=dict(dont_load=["^head/.*", "^MAPHead_0/.*", "cls"])
    )
  else:
    if not arg.path:
      raise ValueError(
        "Config arg path: which data to train on? For example "
        "test_with_coco=False,source=webdataset,path=/data/train-{000..123}.tar"
      )
    data, text = common.pairs(arg, arg.split)
    val_data = common.pairs(arg, arg.val_split)[0] if arg.val_split else None
    pp = f"{pp_image}|flatten|{render(text)}{keep}"
    batch_size, buffer, steps = 8192, 250_000, 100_000
    config.lr, config.wd = 0.001, 0.0001
    timescale = warmup = 10_000

  config.input = dict(
    data=data,
    batch_size=batch_size if not arg.runlocal else 32,
    shuffle_buffer_size=buffer if not arg.runlocal else 50,
    pp=pp,
  )
  config.pp_modules = [
    "ops_general",
    "ops_image",
    "ops_text",
    "proj.clippo.pp_ops",
  ]
  config.total_steps = steps if not arg.runlocal else 10

  config.log_training_steps = 50
  config.ckpt_steps = 1000
  config.keep_ckpt_steps = 5000

  config.loss_use_global_batch = True
  config.model_name = "proj.clippo.one_tower"
  config.model = dict(
    image_model="vit",
    image=dict(variant=arg.variant, pool_type="map", head_zeroinit=False),
    temperature_init=10.0,
    out_dim=768,
  )
  config.optax_name = "big_vision.scale_by_adafactor"
  config.grad_clip_norm = 1.0
  config.schedule = dict(
    decay_type="rsqrt",
    timescale=timescale,
    warmup_steps=warmup if not arg.runlocal else 5,
    cooldown_steps=warmup if not arg.runlocal else 5,
  )
  config.seed = 0

  often = 1000 if not arg.runlocal else 5
  rarely = 5000 if not arg.runlocal else 5
  few = "[:4]" if arg.runlocal else ""
  contrastive = lambda name, split, pp: common.get_contrastive(
    dict(name=name, split=split + few), pp, log_steps=often
  )
  config.evals = {}
  if val_data:
    config.evals.val = common.get_contrastive(val_data, pp, log_steps=often)
  config.evals.coco = contrastive("coco_captions", "val", pp_coco)
  if arg.i1k_eval:
    config.evals.imagenet = contrastive(
      "imagenet2012",
      "validation",
      f"{pp_image}|clip_i1k_label_names|{render('labels')}{keep}",
    )
    config.evals.disclf = dict(
      type="proj.image_text.discriminative_classifier",
      pp_txt=render("texts"),
      prefix="z/0shot/",
      log_steps=rarely,
    )
  config.evals.retrieval_coco = common.get_coco(
    pp_img=f"resize({res})|value_range(-1, 1)",
    pp_txt=render("texts"),
    log_steps=rarely,
  )
  config.evals.fewshot = get_fewshot_lsr()
  config.evals.fewshot.log_steps = rarely
  config.evals.fewshot.representation_layer = "img/pre_logits"
  if arg.demo:
    # Large enough to read; a row of text is a row of patches.
    demo.apply(config, size=64, total_steps=1800, lr=0.003)
    config.model.image.update(demo.IMAGE, variant="mu/16", pool_type="gap")
    config.model.out_dim = demo.WIDTH
  return config
