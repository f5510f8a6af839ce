"""What `test_core.py` does not check of the configs of UViM."""

import pytest

from big_vision import lookup
from big_vision.configs.proj.uvim import (
  train_coco_panoptic_pretrained,
  train_imagenet2012_colorization_pretrained,
  train_nyu_depth_pretrained,
  vqvae_coco_panoptic,
  vqvae_imagenet2012_colorization,
  vqvae_nyu_depth,
)
from big_vision.pp import builder as pp_builder
from big_vision.tf import tf
from big_vision.trainers.proj.uvim import common as planned
from big_vision.training import config_check, config_keys

STAGE_1 = (
  vqvae_coco_panoptic, vqvae_imagenet2012_colorization, vqvae_nyu_depth
)  # fmt: skip
STAGE_2 = (
  train_coco_panoptic_pretrained,
  train_imagenet2012_colorization_pretrained,
  train_nyu_depth_pretrained,
)
name = lambda module: module.__name__.split(".")[-1]


@pytest.mark.parametrize("arg", ["", "singlehost", "runlocal,res=64"])
def test_stage_1_of_depth(arg):
  """The published one is not Python; this is what its parts say."""
  config = vqvae_nyu_depth.get_config(*[arg] if arg else ())
  res = 64 if "res" in arg else 512
  small = "runlocal" in arg
  data = dict(name="nyu_depth_v2", split="train")
  resize = (
    f'resize({res})|resize({res},key="labels",method="nearest")'
    "|value_range(-1, 1)"
  )
  inputs = dict(depth=(256, 256))
  assert config.to_dict() == dict(
    task="proj.uvim.depth_task",
    min_depth=1e-3,
    max_depth=10,
    total_epochs=50 if arg == "singlehost" else 200,
    input=dict(
      data=data,
      pp='decode|nyu_depth|randu("fliplr")|det_fliplr(key="image")'
      '|det_fliplr(key="labels")|inception_box|crop_box(key="image")'
      f'|crop_box(key="labels")|{resize}|keep("image","labels")',
      batch_size=16 if small else 128 if arg else 1024,
      shuffle_buffer_size=10 if small else 25_000,
    ),
    log_training_steps=5 if small else 50,
    ckpt_steps=1000,
    keep_ckpt_steps=20_000,
    model_name="proj.uvim.vit",
    model=dict(
      input_size=(res, res),
      patch_size=(16, 16),
      code_len=256,
      width=768,
      enc_depth=1 if small else 6,
      dec_depth=1 if small else 12,
      mlp_dim=3072,
      num_heads=12,
      dict_size=4096,
      codeword_dim=768,
      dict_momentum=0.995,
      with_encoder_ctx=True,
      with_decoder_ctx=True,
      code_dropout="random",
      bottleneck_resize=True,
      inputs=inputs,
      outputs=inputs,
    ),
    freeze_dict=False,
    w_commitment=0.0,
    optax_name="big_vision.scale_by_adafactor",
    optax=dict(beta2_cap=0.95),
    schedule=dict(decay_type="cosine", warmup_steps=4000),
    grad_clip_norm=1.0,
    lr=1e-3,
    wd=1e-5,
    seed=0,
    evals=dict(
      val=dict(
        type="proj.uvim.compute_mean",
        pred="validation",
        data=data | dict(split="validation[:16]" if small else "validation"),
        pp_fn=f'decode|nyu_depth|nyu_eval_crop|{resize}|keep("image","labels")',
        log_steps=20 if small else 250,
      ),
      nyu_depth_val=dict(
        type="proj.uvim.nyu_depth",
        dataset="nyu_depth_v2",
        pp_fn='nyu_depth|nyu_eval_crop|copy("labels","ground_truth")'
        f'|{resize}|keep("image","labels","ground_truth")',
        log_steps=2000,
        min_depth=1e-3,
        max_depth=10,
        split="validation",
      ),
    ),
  )


def test_runlocal_of_stage_2():
  config = train_nyu_depth_pretrained.get_config("runlocal")
  assert config.evals.to_dict() == {}
  assert config.input.batch_size == 1
  assert config.oracle.model_init == "/tmp/checkpoint.npz"
  assert config.model_init.to_dict() == {"encoder": "/tmp/enc_checkpoint.npz"}
  config = train_coco_panoptic_pretrained.get_config("runlocal")
  assert config.evals.val.data.split == "train[:16]"
  assert config.input.batch_size == 4
  both = train_coco_panoptic_pretrained.get_config("runlocal,singlehost")
  assert both == train_coco_panoptic_pretrained.get_config("singlehost")


@pytest.mark.parametrize("module", [*STAGE_1, *STAGE_2], ids=name)
def test_demo_has_sizes_of_its_own(module):
  for other in ("runlocal", "singlehost"):
    config = module.get_config(f"demo,{other}")
    assert config.to_dict() == module.get_config("demo").to_dict()


@pytest.mark.parametrize("module", STAGE_2, ids=name)
def test_stage_2_follows_the_oracle(module):
  config = module.get_config()
  config.oracle.model.dict_size = 100
  config.oracle.model.code_len = 16
  assert (config.model.vocab_size, config.model.seq_len) == (101, 16)


@pytest.mark.parametrize("module", STAGE_1, ids=name)
def test_outputs_are_the_inputs(module):
  config = module.get_config("patch_size=8,res=64")
  key, (channels, pixels) = next(iter(config.model.inputs.items()))
  assert pixels == 64
  config.model.inputs[key] = (channels + 1, pixels)
  assert config.model.outputs[key] == (channels + 1, pixels)


@pytest.mark.parametrize("module", STAGE_1, ids=name)
@pytest.mark.parametrize("arg", ["", "singlehost", "runlocal"])
def test_checks_of_configs(module, arg):
  config_check.check_training(module.get_config(arg))


@pytest.mark.parametrize("module", [*STAGE_1, *STAGE_2], ids=name)
def test_keys_are_known(module):
  config = module.get_config()

  def visit(part, path):
    for key, value in part.items():
      config_keys.type_of(config, [*path, key])
      if hasattr(value, "items") and key != "evals":
        visit(value, [*path, key])

  visit(config, [])


def test_unknown_keys():
  config = train_nyu_depth_pretrained.get_config()
  for path, hint in (
    ("oracle.model_int", "'model_init'"),
    ("oracle.model.dict_sise", "'dict_size'"),
    ("freeze_dic", "'freeze_dict'"),
  ):
    with pytest.raises(lookup.ConfigError, match=f"config.{path}.*{hint}"):
      config_keys.type_of(config, path.split("."))
  assert config_keys.type_of(config, ["oracle", "model", "dict_size"]) is int


@pytest.mark.tf
@pytest.mark.parametrize("module", [*STAGE_1, *STAGE_2], ids=name)
def test_preprocessing_of_the_original_data(module, tmp_path):
  """TFDS knows what raw examples are, without having any.

  The published configs have no `pp_modules`.
  """
  tfds = pytest.importorskip("tensorflow_datasets")
  from big_vision.datasets import tfds as ds_tfds

  config = module.get_config()
  lookup.preprocessing(config)
  builder = tfds.builder(
    config.input.data.name, data_dir=tmp_path, try_gcs=False
  )
  spec = dict(
    ds_tfds.example_spec(builder), tfds_id=tf.TensorSpec([], tf.string)
  )
  shapes = planned.batch_shapes(config, 1, (512, 512))
  channels, dtype = shapes["labels"].shape[-1], shapes["labels"].dtype

  def shape_of(pp):
    op = pp_builder.get_preprocess_fn(pp, log_data=False)
    copied = lambda example: op(dict(example))
    fn = tf.function(copied, autograph=False).get_concrete_function(spec)
    return {k: (v.shape, v.dtype) for k, v in fn.structured_outputs.items()}

  pixels = [512, 512, 3], tf.float32
  images = {"image": pixels} | (
    {"image_ctx": pixels} if "oracle" in config else {}
  )
  labels = {"labels": ([512, 512, channels], dtype)}
  assert shape_of(config.input.pp) == images | labels
  for cfg in config.evals.values():
    pp = cfg.get("pp_fn", "")
    # Some evaluators decode pictures themselves.
    pp = pp if not pp or pp.startswith("decode") else f"decode|{pp}"
    if not pp:
      continue
    got = shape_of(pp)
    assert images.items() <= got.items()
    if "labels" in got:
      assert got["labels"] == labels["labels"]
    if "ground_truth" in got:
      assert got["ground_truth"] == ([426, 560, 1], tf.float32)
    if "image/id" in got:
      assert got["image/id"] == ([], tf.int64)
