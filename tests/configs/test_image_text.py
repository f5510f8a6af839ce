"""What configs of image-text models share."""

import json

import numpy as np
import pytest

from big_vision import lookup
from big_vision.configs import common as bvcc
from big_vision.configs.proj.clippo import train_clippo
from big_vision.configs.proj.image_text import (
  common,
  demo,
  siglip2_finetune,
  siglip_lit_coco,
  siglip_pretrain,
)
from big_vision.datasets import core


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


def test_where_pairs_are_from():
  parse = lambda text: bvcc.parse_arg(text, **common.PAIRS)
  assert common.pairs(parse(""), "train") == (
    dict(name="coco_captions", split="train"),
    "captions/text",
  )
  arg = parse("source=webdataset,path=/x-{00..12}.tar")
  assert common.pairs(arg, arg.split) == (
    dict(
      name="bv:webdataset",
      path="/x-{00..12}.tar",
      features=dict(image="jpg;jpeg;png;webp", text="txt"),
    ),
    "text",
  )
  arg = parse("source=hf,path=org/x,image=img,text=caption")
  assert common.pairs(arg, "train[:99%]") == (
    dict(
      name="bv:hf",
      path="org/x",
      features=dict(image="img", text="caption"),
      split="train[:99%]",
    ),
    "text",
  )
  with pytest.raises(ValueError, match="source.*'webdata'.*'webdataset'"):
    common.pairs(parse("source=webdata"), "train")


def test_pretraining_on_own_pairs():
  config = siglip_pretrain.get_config(
    "source=hf,path=/data/mine,variant=L/16,res=256,val_split=test,coco"
  )
  assert config.input.data.path == "/data/mine"
  assert 'inkey="text")|keep(' in config.input.pp
  assert config.evals.val.data.split == "test"
  assert set(config.evals) == {"val", "retrieval", "retrieval_coco"}
  retrieval = config.evals.retrieval
  assert retrieval.data == config.evals.val.data
  assert retrieval.txt_name == ("text",)
  assert retrieval.pp_img == "decode|resize(256)|value_range(-1, 1)"
  assert config.model.text.variant == "L"
  assert config.model.out_dim == (None, 1024)
  assert config.input.batch_size == 32_768


def test_demo_has_its_own_pairs():
  for own in ("source=csv,path=/data/pairs.csv", "path=my_dataset"):
    with pytest.raises(lookup.ConfigError, match="demo has its own data"):
      siglip_pretrain.get_config(f"demo,{own}")


def test_pretraining_with_what_siglip2_adds():
  config = siglip_pretrain.get_config("captioning,self_distill,variant=L/16")
  assert config.captioning.to_dict() == dict(
    variant="L", depth=12, vocab_size=32_000
  )
  assert config.self_distill.weight == 0.5
  assert "locca(" in config.input.pp and '"cap_mask"' in config.input.pp
  assert "proj.image_text.ops_locca" in config.pp_modules
  assert "captioning" not in siglip_pretrain.get_config()
  config = siglip_pretrain.get_config("captioning,demo")
  assert "caption='captions'" in config.input.pp
  assert config.captioning.width == 64 and config.captioning.depth == 1


def test_images_of_any_aspect_ratio():
  config = siglip_pretrain.get_config(
    "naflex,variant=L/14,seqlen=256-64,coco,imagenet"
  )
  patches = (
    'value_range(-1, 1)|patchify(14)|pad_patches(256)|tuplify(["image/patches", '
    '"image/type", "image/yidx", "image/xidx"], "image")'
  )
  assert config.input.pp.startswith(
    f"flatten|decode|resize_to_sequence(14, [64, 256])|{patches}|tokenize("
  )
  want = f"resize_to_sequence(14, 256)|{patches}"
  evals = config.evals
  assert evals.retrieval_coco.pp_img == evals.disclf.pp_img == want
  assert config.embed.pp_img == want
  assert config.model.image_model == "proj.image_text.naflex_vit"
  assert config.model.image.to_dict() == dict(
    variant="L", pool_type="map", nposemb=16
  )
  one = siglip2_finetune.get_config("naflex,init=/x,seqlen=100")
  assert "resize_to_sequence(16, 100)" in one.input.pp
  assert one.model_init == "/x"
  for name, arg in (("naflex", "naflex"), ("256", "")):
    got = siglip2_finetune.get_config(arg).model_init
    assert got == f"hf://google/siglip2-base-patch16-{name}"
  with pytest.raises(ValueError, match="seqlen='a-b' should be a number"):
    siglip_pretrain.get_config("naflex,seqlen=a-b")


def test_fine_tuning_of_a_clone_or_a_public_name():
  config = siglip2_finetune.get_config("init=/data/so400m,lit")
  assert 'model="/data/so400m/tokenizer.model"' in config.input.pp
  assert config.schedule[0] == ("img/.*", None)
  config = siglip2_finetune.get_config("init=SigLIP2 B/16 256")
  assert "gemma_tokenizer.model" in config.input.pp
  assert [pattern for pattern, _ in config.schedule] == [".*"]


def test_lit_of_published_models():
  config = siglip_lit_coco.get_config("img_head,init=gs://x/LiT-B16B.npz")
  assert config.model_init == "gs://x/LiT-B16B.npz"
  assert 'vocab_path="gs://x/LiT-B16B.txt"' in config.input.pp
  assert config.model.out_dim == (768, 768)


def test_clippo_needs_data_for_other_sizes():
  with pytest.raises(ValueError, match="variant='L/16'.*test_with_coco=False"):
    train_clippo.get_config("variant=L/16")
  with pytest.raises(ValueError, match="path: which data"):
    train_clippo.get_config("test_with_coco=False")
  config = train_clippo.get_config(
    "test_with_coco=False,source=webdataset,path=/x.tar,variant=L/16"
  )
  assert config.input.data.path == "/x.tar"
  assert 'render_unifont(inkey="text"' in config.input.pp
  assert "val" not in config.evals and "model_init" not in config


def test_kinds_that_demos_hold_out():
  held_out = [k for k in demo._KINDS if demo.is_held_out(*k)]
  shapes, colors = zip(*held_out, strict=True)
  assert shapes == tuple(range(8)) and sorted(colors) == list(range(8))
  example = dict(label=np.int64(3), color=np.int64(5))
  assert demo.held_out(example) and not demo.for_training(example)
  disclf = siglip_pretrain.get_config("demo").evals.disclf
  names = disclf.dataset_overrides.heldout.class_names
  assert len(names) == 8 and names[3] == "purple diamond"


@pytest.mark.tf
def test_pairs_in_files_and_folders(tmp_path):
  parse = lambda arg: bvcc.parse_arg(arg, **common.PAIRS)
  pictures, table = tmp_path / "p", tmp_path / "t.csv"
  (pictures / "a dog").mkdir(parents=True)
  (pictures / "a dog/1.png").write_bytes(b"1")
  arg = parse(f"source=folder,path={pictures}")
  assert common.pairs(arg, "train") == (
    dict(name="bv:folder", path=str(pictures)),
    "class_name",
  )
  data, _ = common.pairs(arg, "all[:50%]")
  assert (data["split"], data["split_seed"]) == ("all[:50%]", 0)

  table.write_text("file,text\np/a dog/1.png,two dogs\n")
  arg = parse(f"source=csv,path={table}")
  data, text = common.pairs(arg, "train")
  assert data == dict(
    name="bv:folder",
    path=str(tmp_path),
    labels=str(table),
    features=dict(image="file", text="text"),
  )
  (row,) = core.get(**data).get_tfdata().as_numpy_iterator()
  assert (row["image"], row[text]) == (b"1", b"two dogs")
  assert "label" not in row

  rows = tmp_path / "t.jsonl"
  rows.write_text(
    json.dumps(dict(image="1.png", caption="a dog", split="train"))
  )
  arg = parse(f"source=jsonl,path={rows},root={pictures}/a dog,text=caption")
  data, text = common.pairs(arg, "train")
  assert data["split"] == "train"
  (row,) = core.get(**data).get_tfdata().as_numpy_iterator()
  assert (row["image"], row[text]) == (b"1", b"a dog")

  config = siglip_lit_coco.get_config(f"source=csv,path={table},val_split=all")
  assert config.input.data.labels == str(table)
  assert 'inkey="text"' in config.input.pp
  assert "randaug" not in config.evals.val.pp_fn
  config = siglip_pretrain.get_config(f"source=folder,path={pictures}")
  assert 'inkey="class_name"' in config.input.pp
  assert config.input.batch_size == 1  # Of one picture.
