r"""SigLIP from scratch, on your own pairs of image and text.

https://arxiv.org/abs/2303.15343 ("Sigmoid Loss for Language Image
Pre-Training").

  python -m big_vision.trainers.proj.image_text.siglip \
    --config big_vision/configs/proj/image_text/siglip_pretrain.py:path=coco_captions \
    --workdir /path/to/workdir

Sources of pairs, see docs/datasets.md:

  :path=coco_captions                                    TFDS, `captions/text`
  :path=my_dataset,text=caption,split=train[1%:]         TFDS
  :source=webdataset,path=/data/cc12m-{00000..01242}.tar
  :source=hf,path=org/dataset,image=image,text=caption
  :source=csv,path=/data/pairs.csv,image=file,text=caption   columns
  :source=jsonl,path=/data/pairs.jsonl,image=image,text=text
  :source=folder,path=/data/pets                         names of the classes

`val_split=train[:1%]` evaluates the loss on other pairs. `imagenet` and `coco`
evaluate zero-shot classification and retrieval; they need these datasets.

Expected: the paper has 73.4% zero-shot on ImageNet (B/16 at 224 pixels), after
9 billion pairs of WebLI in batches of 32,768. The accuracy depends on the data:
half of it takes hundreds of millions of pairs.

`naflex,seqlen=128-256-576` keeps the aspect ratio of images, which become at most
as many patches as one of these numbers, drawn for each image.

`captioning` and `self_distill` add the further losses of SigLIP 2, see
docs/siglip2.md. If your data has boxes, change `p` of the op `locca` for dense
captioning.

`:runlocal` is for trying it on one machine: a small batch.

`:demo` really trains, in minutes on a CPU, a tiny model on captions of
generated pictures, see `demo.py` beside this file. Expected: more than 90%
zero-shot accuracy among eight objects that no picture of the training data has
in these colors, and more than 80% of 64 captions found.
"""

import ml_collections as mlc

from big_vision.configs.proj.image_text import common, demo
from big_vision.models import vit
from big_vision.models.proj.image_text import preprocessing

# Weight by size, SigLIP 2, section 2.2.
_SELF_DISTILL = {"B": 0.25, "L": 0.5, "So400m": 1.0, "g-opt": 0.5}


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config of SigLIP from scratch.

  Args:
    arg: arguments listed here and of `common.parse_arg`.

  Returns:
    The config.
  """
  arg = common.parse_arg(
    arg,
    vocab="c4_en",
    vocab_size=32_000,
    batch_size=32_768,
    examples=9_000_000_000,
    captioning=False,
    self_distill=False,
  )
  config = mlc.ConfigDict()
  config.seed = 0
  config.total_examples = arg.examples

  tokenize = lambda inkey: (
    f'tokenize(max_len={arg.token_len}, model="{arg.vocab}", eos="sticky", '
    f'pad_value=1, inkey="{inkey}")'
  )
  caption = lambda key: (
    f"locca(max_len={arg.token_len}, tokenizer='sp(\"{arg.vocab}\")', "
    f'p=(1, 0, 0), caption="{key}")'
  )
  common.set_pairs(config, arg, tokenize, caption if arg.captioning else None)
  config.pp_modules = list(preprocessing.MODULES)
  if arg.captioning:
    config.pp_modules.append("proj.image_text.ops_locca")

  config.log_training_steps = 50
  config.ckpt_steps = 1000

  config.model_name = "proj.image_text.two_towers"
  config.model = common.siglip_model(arg.variant, arg.vocab_size, arg.naflex)

  size = arg.variant.partition("/")[0]
  if arg.captioning:
    # Half as deep as the towers.
    config.captioning = dict(
      variant=size,
      depth=vit.decode_variant(size)["depth"] // 2,
      vocab_size=arg.vocab_size,
    )
  if arg.self_distill:
    config.self_distill = dict(weight=_SELF_DISTILL.get(size, 1.0))

  config.optax_name = "scale_by_adam"
  config.optax = dict(b2=0.95)  # The default makes large batches unstable.
  config.grad_clip_norm = 1.0
  config.lr = 0.001
  config.wd = 0.0001
  config.schedule = dict(
    decay_type="cosine", warmup_examples=arg.examples // 20
  )

  common.set_evals(config, arg, tokenize)
  if arg.demo:
    demo.apply(config, lr=0.003, total_steps=1300)
    demo.shrink_two_towers(config)
    if arg.captioning:
      config.captioning.update(demo.TEXT, depth=1)
    if arg.self_distill:
      config.self_distill.update(
        start=0.5, views=2, hidden=64, bottleneck=32, prototypes=64
      )
  return config
