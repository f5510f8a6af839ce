r"""LiT on COCO captions: a text tower for a frozen image tower.

https://arxiv.org/abs/2111.07991 ("LiT: Zero-Shot Transfer with Locked-image
Text Tuning"), with the sigmoid loss of https://arxiv.org/abs/2303.15343.

  python -m big_vision.trainers.proj.image_text.siglip \
    --config big_vision/configs/proj/image_text/siglip_lit_coco.py:batch_size=512 \
    --workdir /path/to/workdir

`:source=csv,path=/data/pairs.csv,val_split=...` and others are pairs of your own,
see `siglip_pretrain.py`. `:txt=bert_large,img=L/16` chooses the towers. `init=` evaluates published models,
whose vocabulary lies beside them:

  python -m big_vision.tools.eval_only \
    --config big_vision/configs/proj/image_text/siglip_lit_coco.py:txt=bert_base,img=B/16,img_head,init=gs://vit_models/lit/LiT-B16B.npz \
    --workdir /path/to/workdir

Expected: COCO alone gives (bert_base, B/16) 20.7% zero-shot on ImageNet, 47.2%
of texts and 32.1% of images found on COCO. The models of the paper, from
billions of pairs, have 72.1 / 49.4 / 31.1 (LiT-B16B), 73.9 / 51.5 / 31.8
(LiT-B16B_2, no `img_head`) and 75.7 / 48.5 / 31.2 (LiT-L16L).

`:runlocal` is for trying it on one machine: one step with a small batch.

`:demo` really trains, in a minute or two on a CPU, a tiny text tower on captions
of generated pictures, see `demo.py` beside this file, for a tiny image tower
that comes with the package. Expected: more than 80% zero-shot accuracy.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs.proj.image_text import common, demo


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config of LiT on COCO.

  Args:
    arg: arguments of `parse_arg` below.

  Returns:
    The config.
  """
  arg = bvcc.parse_arg(
    arg,
    res=224,
    runlocal=False,
    token_len=16,
    txt="bert_base",
    img="B/16",
    init="",
    img_head=False,
    batch_size=512,
    **common.PAIRS,
    demo=False,
  )
  img_variant, img_init = common.inits[arg.img]
  txt_config, txt_init = common.inits[arg.txt]
  config = mlc.ConfigDict()

  vocab = f"{arg.init.rpartition('.')[0]}.txt" if arg.init else None
  vocab = vocab or f"{txt_init}/vocab.txt"
  tokenize = lambda inkey: (
    f'bert_tokenize(inkey="{inkey}", max_len={arg.token_len}, '
    f'vocab_path="{vocab}")'
  )
  data, text = common.pairs(arg, arg.split)
  config.input = dict(
    data=data,
    batch_size=common.fit_batch(
      arg, data, arg.batch_size if not arg.runlocal else 32
    ),
    shuffle_buffer_size=250_000 if not arg.runlocal else 50,
    pp=(
      f"decode|resize({arg.res})|flip_lr|randaug(2,10)|value_range(-1,1)"
      f'|flatten|{tokenize(text)}|keep("image", "labels")'
    ),
  )
  config.pp_modules = [
    "ops_general",
    "ops_image",
    "ops_text",
    "proj.flaxformer.bert_ops",
    "archive.randaug",
  ]
  config.total_steps = 5000 if not arg.runlocal else 1
  config.init_shapes = [(1, arg.res, arg.res, 3), (1, arg.token_len)]
  config.init_types = ["float32", "int32"]

  config.log_training_steps = 50
  config.ckpt_steps = 1000

  config.model_name = "proj.image_text.two_towers"
  if arg.init:
    config.model_init, config.model_load = arg.init, {}
  else:
    config.model_init = dict(image=img_init, text=txt_init)
    no_head = dict(dont_load=["head/kernel", "head/bias"])
    config.model_load = dict(txt_load_kw=no_head)
    if not arg.img_head:
      config.model_load.img_load_kw = no_head
  width = {"B": 768, "L": 1024}[arg.img[0]]
  config.model = dict(
    image_model="vit",
    image=dict(variant=img_variant, pool_type="tok", head_zeroinit=False),
    text_model="proj.flaxformer.bert",
    text=dict(config=txt_config, head_zeroinit=False),
    # Without a head for images, the frozen tower's output is the embedding.
    out_dim=(width if arg.img_head else None, width),
    temperature_init=10.0,
    bias_init=-2.71,
  )

  config.optax_name = (
    "scale_by_adam" if txt_config == "base" else "big_vision.scale_by_adafactor"
  )
  config.lr = 0.001
  config.wd = 0.01
  warmup = max(int(0.03 * config.total_steps), 100)
  config.schedule = [
    ("img/.*", None),  # The locked image tower.
    (".*", dict(decay_type="cosine", warmup_steps=warmup)),
  ]
  config.grad_clip_norm = 1.0

  config.evals = dict(
    retrieval_coco=common.get_coco(
      pp_img=f"resize({arg.res})|value_range(-1, 1)",
      pp_txt=tokenize("texts"),
      log_steps=1000,
    )
  )
  if arg.val_split:
    config.evals.val = common.get_contrastive(
      common.pairs(arg, arg.val_split)[0],
      config.input.pp.replace("|flip_lr|randaug(2,10)", ""),
      log_steps=1000,
    )
  if arg.demo:
    demo.apply(config)
    config.model.image.update(demo.IMAGE)
    config.model.text.config = "tiny"
    config.model.out_dim = (None, demo.WIDTH)
    config.model_init = dict(image=demo.TOWER)
  return config
