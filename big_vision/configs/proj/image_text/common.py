"""What configs of image-text models share: checkpoints of towers, evaluators."""

import ml_collections as mlc

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


def pp_square(size):
  """Preprocessing of images that ignores their aspect ratio."""
  return f"resize({int(size / 0.875)})|central_crop({size})|value_range(-1,1)"


def pp_aspect(size):
  """Preprocessing of images that keeps their aspect ratio."""
  return (
    f"resize_small({int(size / 0.75)})|central_crop({size})|value_range(-1,1)"
  )


def _has_real_label(example):
  """Whether anybody found a class in an image of ImageNet ReaL."""
  return len(example["real_label"]) > 0


# What differs from the defaults of the zero-shot classifier, by dataset. `pp_img`
# is a function of the size.
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


def get_disclf(size, *, pp_txt=None, dataset_names=("imagenet2012",), **kw):
  """Config of zero-shot classification.

  Args:
    size: int, pixels of the images.
    pp_txt: str, preprocessing of prompts; None is that of the evaluator.
    dataset_names: sequence of str, TFDS names or keys of
      `DISCLF_DATASET_OVERRIDES`.
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
  pp_img="resize(224)|value_range(-1, 1)",
  pp_txt='tokenize(max_len=16, inkey="texts", eos="sticky", pad_value=1)',
  prefix="z/retr/coco_",
  **kw,
):
  """Config of retrieval on COCO captions.

  Args:
    pp_img: str, preprocessing of images.
    pp_txt: str, preprocessing of captions.
    prefix: str, before the names of the metrics.
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
