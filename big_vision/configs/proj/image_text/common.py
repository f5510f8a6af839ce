"""Parts shared by configs of image-text models: towers, pairs, evaluators.

Arguments of those that train on your own pairs:

  source: where the pairs come from, see docs/datasets.md.
  path: the TFDS name, the shards, or the Hugging Face dataset.
  split: of the data to train on.
  val_split: of the data, to evaluate the loss and retrieval on.
  image, text: feature, column or file name extension, if not the usual one.
  variant: size of the towers and of the patches.
  naflex: images keep their aspect ratio, and become at most `seqlen` patches.
  seqlen: number of patches, or several of which one is drawn for each image, as
    in 128-256-576.
  token_len: length of texts in tokens.
  imagenet: evaluates zero-shot classification.
  coco: evaluates retrieval.
"""

from collections.abc import Callable, Sequence
from typing import Any

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision import lookup
from big_vision.configs import own_sources
from big_vision.configs.proj.image_text import demo
from big_vision.models import vit
from big_vision.models.proj.image_text import preprocessing

_AUGREG = "gs://vit_models/augreg/{}-i21k-300ep-lr_0.001-aug_{}-wd_0.1-do_0.0-sd_0.0.npz"
_BERT = "gs://vit_models/lit/bert/uncased_L-{}"

# Name -> (config or variant of the tower, where its weights are).
inits = {
  "bert_base": ("base", _BERT.format("12_H-768_A-12")),
  "bert_large": ("large", _BERT.format("uncased_L-24_H-1024_A-16")),
  "B/32": ("B/32", _AUGREG.format("B_32", "light1")),
  "B/16": ("B/16", _AUGREG.format("B_16", "medium1")),
  "L/16": ("L/16", _AUGREG.format("L_16", "strong1")),
}


def pp_square(size: int) -> str:
  """Makes preprocessing of images that ignores their aspect ratio.

  Args:
    size: side in pixels.

  Returns:
    Preprocessing string.
  """
  return f"resize({int(size / 0.875)})|central_crop({size})|value_range(-1,1)"


def pp_aspect(size: int) -> str:
  """Makes preprocessing of images that keeps their aspect ratio.

  Args:
    size: side in pixels.

  Returns:
    Preprocessing string.
  """
  return (
    f"resize_small({int(size / 0.75)})|central_crop({size})|value_range(-1,1)"
  )


def _has_real_label(example):
  """Tells whether anybody found a class in an image of ImageNet ReaL."""
  return len(example["real_label"]) > 0


# Changes of the zero-shot classifier's defaults, by dataset. `pp_img` is a function
# of the size.
DISCLF_DATASET_OVERRIDES = {
  "imagenet2012": dict(class_names="clip", split="validation"),
  "imagenet2012_minival": dict(
    dataset_name="imagenet2012", class_names="clip", split="train[99%:]"
  ),
  "imagenet2012_real": dict(
    split="validation",
    class_names="clip",
    class_names_dataset_name="imagenet2012",
    pp_img=lambda size: (
      f"{pp_square(size)}|pad_to_shape("
      'inkey="real_label", outkey="label", shape=[10], pad_value=-1)'
      '|keep("label", "image")'
    ),
    pre_filter_fn=_has_real_label,
  ),
  "imagenet_v2": dict(class_names="clip"),
  "imagenet_a": dict(
    class_names="clip", pp_img=lambda size: pp_aspect(size) + '|map("i1k_i1ka")'
  ),
  "imagenet_r": dict(
    class_names="clip", pp_img=lambda size: pp_square(size) + '|map("i1k_i1kr")'
  ),
}


def get_disclf(
  size: int,
  *,
  pp_txt: str | None = None,
  dataset_names: Sequence[str] = ("imagenet2012",),
  **kw: Any,
) -> mlc.ConfigDict:
  """Makes the config of zero-shot classification.

  Args:
    size: pixels of the images.
    pp_txt: preprocessing of prompts; None is that of the evaluator.
    dataset_names: TFDS names or keys of `DISCLF_DATASET_OVERRIDES`.
    **kw: further settings, such as `log_steps`.

  Returns:
    ConfigDict.
  """
  config = mlc.ConfigDict(
    dict(
      dataset_names=list(dataset_names),
      type="proj.image_text.discriminative_classifier",
      prefix="z/0shot/",
      pp_img=pp_square(size),
      dataset_overrides={},
      cache_final=True,
      **kw,
    )
  )
  if pp_txt:
    config.pp_txt = pp_txt
  for name in dataset_names:
    if name in DISCLF_DATASET_OVERRIDES:
      overrides = dict(DISCLF_DATASET_OVERRIDES[name])
      if callable(overrides.get("pp_img")):
        overrides["pp_img"] = overrides["pp_img"](size)
      config.dataset_overrides[name] = overrides
  return config


def get_coco(
  *,
  pp_img: str = "resize(224)|value_range(-1, 1)",
  pp_txt: str = 'tokenize(max_len=16, inkey="texts", eos="sticky", pad_value=1)',
  prefix: str = "z/retr/coco_",
  **kw: Any,
) -> mlc.ConfigDict:
  """Makes the config of retrieval on COCO captions.

  Args:
    pp_img: preprocessing of images.
    pp_txt: preprocessing of captions.
    prefix: of the names of the metrics.
    **kw: further settings, such as `log_steps`.

  Returns:
    ConfigDict.
  """
  return mlc.ConfigDict(
    dict(
      type="proj.image_text.retrieval",
      pp_txt=pp_txt,
      pp_img=pp_img,
      prefix=prefix,
      dataset="coco_captions",
      txt_name=("captions", "text"),
      **kw,
    )
  )


# Arguments of configs for your own pairs of image and text.
PAIRS = dict(
  source="tfds",
  path="coco_captions",
  split="train",
  val_split="",
  image="",
  text="",
  root="",
)
# Names of the default features of images and texts.
_PLACES = {
  "tfds": ("image", "captions/text"),
  "webdataset": ("jpg;jpeg;png;webp", "txt"),
  "hf": ("image", "text"),
  "csv": ("file", "text"),
  "jsonl": ("image", "text"),
  "folder": ("image", "class_name"),
}


_COUNTED = ("csv", "jsonl", "folder")


def parse_arg(arg: str | None, **spec: Any) -> mlc.ConfigDict:
  """Parses arguments of configs that train two towers on your own pairs.

  With `naflex`, images keep their aspect ratio and become at most `seqlen`
  patches, or at most one of several numbers drawn for each image: `128-256-576`.

  Args:
    arg: the argument of `get_config`.
    **spec: further arguments and other defaults, see `bvcc.parse_arg`.

  Returns:
    ConfigDict.
  """
  shared = dict(
    **PAIRS,
    variant="B/16",
    res=224,
    naflex=False,
    seqlen="256",
    token_len=64,
    imagenet=False,
    coco=False,
    runlocal=False,
    demo=False,
  )
  arg = bvcc.parse_arg(arg, **(shared | spec))
  if arg.demo:
    arg.token_len = demo.TOKEN_LEN
    arg.seqlen = demo.SEQLEN
  return arg


def pp_image(arg: Any, train: bool = False) -> str:
  """Makes the preprocessing of decoded images.

  Args:
    arg: parsed arguments with `naflex`, `seqlen`, `variant`, `res` and `demo`.
    train: whether to draw one of several lengths; else it is the longest.

  Returns:
    Preprocessing string.

  Raises:
    ValueError: `seqlen` is not of numbers.
  """
  if not arg.naflex:
    return f"resize({arg.res})|value_range(-1, 1)"
  patch = demo.PATCH if arg.demo else int(arg.variant.partition("/")[2])
  try:
    lengths = sorted(map(int, arg.seqlen.split("-")))
  except ValueError:
    raise ValueError(
      f"Config arg seqlen={arg.seqlen!r} should be a number of patches, or "
      "several of which one is drawn, such as 128-256-576."
    ) from None
  several = train and len(lengths) > 1
  return preprocessing.naflex(patch, lengths if several else lengths[-1])


def pairs(arg: Any, split: str) -> tuple[dict[str, Any], str]:
  """Makes the config of a dataset of images and texts.

  Args:
    arg: parsed arguments of a config with `PAIRS`: `source` is one of "tfds",
      "webdataset", "hf", "csv", "jsonl" and "folder" (names of classes are the
      texts); `path` is the TFDS name, the shards, the Hugging Face dataset, the
      file or the folder; `image` and `text` are features, file name extensions,
      columns or keys; `root` is the folder that paths in a file are relative
      to, by default its own.
    split: of the dataset.

  Returns:
    (dict for `config.input.data`, str: feature of the text, which may have
    several).

  Raises:
    ValueError: unknown source, or one beside `demo`.
  """
  if arg.get("demo") and any(arg[k] != PAIRS[k] for k in ("source", "path")):
    raise lookup.ConfigError(
      "Config arg demo has its own data: leave out either demo or source and "
      "path. variant=mu/16,res=32 is a tiny model."
    )
  if arg.source not in _PLACES:
    raise lookup.unknown("source of pairs", arg.source, _PLACES, "source")
  image, text = _PLACES[arg.source]
  image, text = arg.image or image, arg.text or text
  if arg.source == "tfds":
    return dict(name=arg.path, split=split), text
  if arg.source in _COUNTED:
    parts = own_sources.open_splits(arg, "text")
    whole = split == "train" and "train" not in parts
    data = own_sources.data_of_split(arg, parts, "all" if whole else split)
    return data, "class_name" if arg.source == "folder" else "text"
  features = dict(image=image, text=text)
  data = dict(name=f"bv:{arg.source}", path=arg.path, features=features)
  if arg.source == "hf" or split != "train":  # Tar shards are one split.
    data["split"] = split
  return data, "text"


def fit_batch(arg: Any, data: dict[str, Any], batch_size: int) -> int:
  """Makes a batch no larger than the pairs, of sources that are quick to count.

  Args:
    arg: parsed arguments with `source`.
    data: config of the dataset.
    batch_size: the largest.

  Returns:
    The number of pairs in a batch.
  """
  if arg.source not in _COUNTED:
    return batch_size
  from big_vision.datasets import core  # The TensorFlow wing.

  num_pairs = core.get(**data).total_examples
  return own_sources.fit_batch(batch_size, num_pairs)


def get_contrastive(data: Any, pp: str, **kw: Any) -> mlc.ConfigDict:
  """Makes the config of the loss and accuracy on held-out pairs.

  Args:
    data: config of the dataset.
    pp: preprocessing string.
    **kw: further settings, such as `log_steps`.

  Returns:
    ConfigDict.
  """
  return mlc.ConfigDict(
    dict(
      type="proj.image_text.contrastive",
      data=data,
      pp_fn=pp,
      use_global_batch=True,
      **kw,
    )
  )


def set_pairs(
  config: Any,
  arg: Any,
  tokenize: Callable[[str], str],
  also: Callable[[str], str] | None = None,
) -> None:
  """Sets `config.input` to the pairs that the arguments name, see `PAIRS`.

  Args:
    config: ConfigDict.
    arg: parsed arguments, also those of `pp_image`, `batch_size`, `runlocal`.
    tokenize: function from the name of a feature to the op.
    also: the same, for a further op that makes `cap_tokens`, `cap_mask` and
      `cap_task`; None for none.
  """
  data, text = pairs(arg, arg.split)
  batch_size = arg.batch_size if not arg.runlocal else 32
  texts, keys = tokenize(text), '"image", "labels"'
  if also:
    texts = f"{also(text)}|{texts}"
    keys += ', "cap_tokens", "cap_mask", "cap_task"'
  config.input = dict(
    data=data,
    batch_size=fit_batch(arg, data, batch_size),
    shuffle_buffer_size=250_000 if not arg.runlocal else 50,
    # First `flatten`: afterwards it would take NaFlex apart.
    pp=f"flatten|decode|{pp_image(arg, train=True)}|{texts}|keep({keys})",
  )


def set_evals(config: Any, arg: Any, tokenize: Callable[[str], str]) -> None:
  """Sets `config.evals` to the evaluators that the arguments ask for.

  Also sets `config.embed`, the preprocessing of `big_vision/embedder.py`.

  Args:
    config: ConfigDict, of which `input.pp` is used.
    arg: parsed arguments with `val_split`, `imagenet`, `coco`, and those of
      `pp_image`.
    tokenize: function from the name of a feature to the op.
  """
  pp = dict(pp_img=pp_image(arg), pp_txt=tokenize("texts"))
  config.embed, config.evals = pp, {}
  if arg.val_split:
    data, text = pairs(arg, arg.val_split)
    config.evals.val = get_contrastive(data, config.input.pp, log_steps=1000)
    if arg.source != "folder":  # Its texts are names of classes.
      config.evals.retrieval = dict(
        type="proj.image_text.retrieval",
        data=data,
        txt_name=tuple(text.split("/")),
        prefix="z/retr/val_",
        pp_img=f"decode|{pp['pp_img']}",
        pp_txt=pp["pp_txt"],
        log_steps=1000,
      )
  if arg.imagenet:
    config.evals.disclf = get_disclf(
      arg.res, pp_txt=pp["pp_txt"], log_steps=5000
    )
    if arg.naflex:
      config.evals.disclf.pp_img = pp["pp_img"]
  if arg.coco or arg.demo:
    config.evals.retrieval_coco = get_coco(**pp, log_steps=5000)


def siglip_model(
  variant: str, vocab_size: int, naflex: bool = False
) -> dict[str, Any]:
  """Makes `config.model` of SigLIP, as of the published checkpoints.

  Args:
    variant: of the image tower, for example "B/16"; the text tower has the same
      size.
    vocab_size: number of tokens.
    naflex: whether images have any aspect ratio.

  Returns:
    dict.
  """
  size = variant.partition("/")[0]
  image = dict(variant=variant, pool_type="map")
  if naflex:  # Positions are those of the published ones, 16 x 16.
    image.update(variant=size, nposemb=16)
  return dict(
    image_model="proj.image_text.naflex_vit" if naflex else "vit",
    image=image,
    text_model="proj.image_text.text_transformer",
    text=dict(variant=size, vocab_size=vocab_size),
    # Images need no head, since MAP pooling ends in layers of its own.
    out_dim=(None, vit.decode_variant(size)["width"]),
    temperature_init=10.0,
    bias_init=-10.0,
  )
