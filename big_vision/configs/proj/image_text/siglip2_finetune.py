r"""SigLIP 2 fine-tuned on your own pairs of image and text.

https://arxiv.org/abs/2502.14786 ("SigLIP 2: Multilingual Vision-Language
Encoders with Improved Semantic Understanding, Localization, and Dense
Features").

  python -m big_vision.trainers.proj.image_text.siglip \
    --config big_vision/configs/proj/image_text/siglip2_finetune.py:source=webdataset,path=/data/mine-{000..123}.tar \
    --workdir /path/to/workdir

The pairs are named as in `siglip_pretrain.py` beside this file.

  init=hf://google/siglip2-base-patch16-256    from the Hugging Face hub (default)
  init=/data/siglip2-base-patch16-256          a clone of it, with its tokenizer
  init=SigLIP2 B/16 256                        public name, in a bucket
  variant=L/16,res=512,init=...                another model
  naflex                                       images of any aspect ratio, see below
  lit                                          only the text tower is trained

`naflex` starts with google/siglip2-base-patch16-naflex unless `init` is given.
`seqlen=128-256-576-784-1024` are the numbers of patches of an image, of which one
is drawn each time, as for SigLIP 2 (default: always 256).

Texts are lower-cased, as in the model's training. `vocab=/path/tokenizer.model` is
another place of the vocabulary.

Expected: without training (`--config.total_steps 0`), zero-shot and retrieval
are those of the paper: B/16 at 256 pixels has 79.1% on ImageNet (`imagenet`),
69.7% of texts and 53.2% of images found on COCO (`coco`).

`:runlocal` is for trying it on one machine: a small batch.

`:demo` really trains, in a minute or two on a CPU, tiny towers on captions of
generated pictures, see `demo.py` beside this file. Only the image tower has been
trained before. Expected: more than 80% zero-shot accuracy.
"""

import ml_collections as mlc

from big_vision.configs.proj.image_text import common, demo
from big_vision.models.proj.image_text import preprocessing

_GEMMA_VOCAB = "gs://big_vision/gemma_tokenizer.model"


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config of fine-tuning SigLIP 2.

  Args:
    arg: arguments listed here and of `common.parse_arg`.

  Returns:
    The config.
  """
  arg = common.parse_arg(
    arg,
    init="",
    res=256,
    vocab="",
    lit=False,
    batch_size=1024,
    steps=10_000,
  )
  config = mlc.ConfigDict()
  config.seed = 0
  config.total_steps = arg.steps

  kind = "naflex" if arg.naflex else "256"
  init = arg.init or f"hf://google/siglip2-base-patch16-{kind}"
  published = init.startswith("SigLIP2 ") or init.endswith(".npz")
  vocab = arg.vocab or (
    _GEMMA_VOCAB if published else f"{init}/tokenizer.model"
  )
  tokenize = lambda inkey: (
    f'lower("utf-8", key="{inkey}")|tokenize(max_len={arg.token_len}, '
    f'model="{vocab}", eos="sticky", pad_value=0, inkey="{inkey}")'
  )
  config.pp_modules = list(preprocessing.MODULES)
  common.set_pairs(config, arg, tokenize)

  config.log_training_steps = 50
  config.ckpt_steps = 1000

  config.model_name = "proj.image_text.two_towers"
  config.model = common.siglip_model(
    arg.variant, vocab_size=256_000, naflex=arg.naflex
  )
  config.model_init = init

  config.optax_name = "scale_by_adam"
  config.optax = dict(b2=0.95)
  config.grad_clip_norm = 1.0
  config.lr = 1e-5
  config.wd = 0.0
  schedule = dict(decay_type="cosine", warmup_percent=0.1)
  config.schedule = [("img/.*", None)] if arg.lit else []
  config.schedule += [(".*", schedule)]

  common.set_evals(config, arg, tokenize)
  if arg.demo:
    demo.apply(config, lr=0.003 if arg.naflex else 0.001)
    demo.shrink_two_towers(config)
    if not arg.naflex:  # The tower to start from has no NaFlex.
      config.model.image.pool_type = "tok"
      config.model_init = dict(image=demo.TOWER)
  return config
