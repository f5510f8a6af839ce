"""What configs of image-text models share."""

import numpy as np
import pytest

from big_vision.configs.proj.image_text import common


def test_retrieval_on_coco():
  got = common.get_coco(pp_img="decode", log_steps=7).to_dict()
  assert got == dict(
    type="proj.image_text.retrieval",
    pp_txt='tokenize(max_len=16, inkey="texts", eos="sticky", pad_value=1)',
    pp_img="decode",
    prefix="z/retr/coco_",
    dataset="coco_captions",
    txt_name=("captions", "text"),
    log_steps=7,
  )


def test_zero_shot():
  square = "resize(256)|central_crop(224)|value_range(-1,1)"
  got = common.get_disclf(224, pp_txt="x", log_steps=7).to_dict()
  assert got == dict(
    dataset_names=["imagenet2012"],
    type="proj.image_text.discriminative_classifier",
    prefix="z/0shot/",
    pp_img=square,
    pp_txt="x",
    dataset_overrides={
      "imagenet2012": dict(class_names="clip", split="validation")
    },
    cache_final=True,
    log_steps=7,
  )
  got = common.get_disclf(
    224, dataset_names=("imagenet_a", "imagenet_r", "cifar100")
  )
  assert "pp_txt" not in got
  assert got.dataset_overrides.to_dict() == {
    "imagenet_a": dict(
      class_names="clip",
      pp_img="resize_small(298)|central_crop(224)|value_range(-1,1)"
      '|map("i1k_i1ka")',
    ),
    "imagenet_r": dict(class_names="clip", pp_img=f'{square}|map("i1k_i1kr")'),
  }
  # The table does not change with a config.
  got.dataset_overrides.imagenet_a.class_names = "other"
  assert common.DISCLF_DATASET_OVERRIDES["imagenet_a"]["class_names"] == "clip"


@pytest.mark.tf
def test_images_without_real_labels_are_left_out():
  import tensorflow as tf

  rows = [[3], [], [1, 2]]
  ds = tf.data.Dataset.from_generator(
    lambda: ({"real_label": np.asarray(r, np.int64)} for r in rows),
    output_signature={"real_label": tf.TensorSpec([None], tf.int64)},
  )
  overrides = common.get_disclf(224, dataset_names=["imagenet2012_real"])
  keep = overrides.dataset_overrides.imagenet2012_real.pre_filter_fn
  left = [x["real_label"].tolist() for x in ds.filter(keep).as_numpy_iterator()]
  assert left == [[3], [1, 2]]
