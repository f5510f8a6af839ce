"""The argument `demo`: every config trains in small, with its evaluators."""

import concurrent.futures
import dataclasses
import functools
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys

import ml_collections as mlc
import numpy as np
import pytest

import toy
from big_vision import train
from big_vision.configs import common_fewshot, demo
from big_vision.training import cli

pytestmark = pytest.mark.tf

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = ROOT / "big_vision/configs"
# Not configs but what they share.
SHARED = (
  "__init__",
  "common",
  "common_fewshot",
  "demo",
  "demo_masks",
  "demo_pp",
  "demo_tower",
  "detection_reward",
  "frozen",
  "own_data",
  "own_labels",
  "own_sources",
  "vtab_tasks",
)
# Those of PaliGemma's transfers run in test_paligemma_transfers.py.
TRANSFERS = CONFIGS / "proj/paligemma/transfers"
NAMES = [
  ".".join(p.relative_to(CONFIGS).with_suffix("").parts)
  for p in sorted(CONFIGS.rglob("*.py"))
  if p.stem not in SHARED
  and (p.parent != TRANSFERS or p.stem in ("forkme", "vertexai_l4"))
]

# What tests add to the command, to take less time. Convolutions are slow on
# CPUs but learn fast; quickstart counts epochs.
STEPS = ["--config.total_steps=150"]
FLAGS = {
  "bit_i1k": ["--config.total_steps=80"],
  "bit_i21k": ["--config.total_steps=80"],
  "nfnet_i1k": ["--config.total_steps=100"],
  "quickstart": ["--config.total_epochs=6"],
  "proj.distill.bit_i1k": ["--config.total_steps=30"],
  "proj.distill.bigsweep_flowers_pet": ["--config.total_steps=40"],
  "proj.distill.bigsweep_food_sun": ["--config.total_steps=40"],
  # Each patch size that is trained is compiled.
  "proj.flexivit.i1k_deit3_distill": ["--config.total_steps=40"],
  "proj.flexivit.i21k_distill": [
    "--config.total_steps=40",
    "--config.flexi.seqhw.p=(0, 1, 0)",
  ],
  "proj.flexivit.i21k_sup": [
    "--config.total_steps=80",
    "--config.flexi.seqhw.p=(1, 0, 1)",
  ],
  "proj.image_text.siglip_pretrain": ["--config.total_steps=60"],
  "proj.paligemma.transfers.forkme": ["--config.total_steps=20"],
  "proj.paligemma.transfers.vertexai_l4": ["--config.total_steps=20"],
  "proj.uvim.vqvae_nyu_depth": ["--config.total_steps=40"],
}
SLOW = (
  "bit_i1k",
  "bit_i21k",
  "dense_probe",
  "linear_probe",
  "load_and_eval",
  "mlp_mixer_i1k",
  "nfnet_i1k",
  "proj.clippo.train_clippo",
  "proj.distill.bigsweep_flowers_pet",
  "proj.distill.bigsweep_food_sun",
  "proj.distill.bit_i1k",
  "proj.flexivit.i1k_deit3_distill",
  "proj.flexivit.i21k_distill",
  "proj.flexivit.i21k_sup",
  "proj.flexivit.timing",
  "proj.gsam.vit_i1k_gsam_no_aug",
  "proj.image_text.siglip2_finetune",
  "proj.image_text.siglip_lit_coco",
  "proj.image_text.siglip_pretrain",
  "proj.image_text.zeroshot_suite",
  "proj.jet.imagenet64",
  "proj.paligemma.transfers.vertexai_l4",
  "proj.reward_tune.detection",
  "proj.scaling_laws.train_vit_g",
  "proj.uvim.train_coco_panoptic_pretrained",
  "proj.uvim.train_imagenet2012_colorization_pretrained",
  "proj.uvim.train_nyu_depth_pretrained",
  "proj.uvim.vqvae_coco_panoptic",
  "proj.uvim.vqvae_imagenet2012_colorization",
  "proj.uvim.vqvae_nyu_depth",
  "vit_i1k",
  "vit_i21k",
  "vtab",
)
# Metrics of PaliGemma's evaluators.
ANSWERS = {
  "coco_caption": ("cider",),
  "detection": ("map", "map/0.5", "map/0.75", "miou", "invalid", "total"),
  "segmentation": ("miou", "boxacc/0.5", "boxacc/0.75", "invalid", "total"),
  "storepreds": ("num_examples",),
  "vqa": ("acc", "acc_any", "anls", "num"),
}
EVAL_ONLY = (
  "dense_probe",
  "linear_probe",
  "load_and_eval",
  "proj.flexivit.timing",
  "proj.image_text.zeroshot_suite",
)
FLAGS |= {name: [] for name in EVAL_ONLY}


def get_config(name, arg="demo"):
  return importlib.import_module(f"big_vision.configs.{name}").get_config(arg)


def trainer(name):
  """The module that a config's own documentation says to run."""
  doc = importlib.import_module(f"big_vision.configs.{name}").__doc__
  return re.search(r"python -m (\S+)", doc).group(1)


@pytest.mark.parametrize(
  "split, evaluated, trained",
  [
    ("train", "train[:512]", "train"),
    ("train[:99%]", "train[:99%]", "train[:99%]"),
    ("train[98%:]", "train[98%:]", "train[98%:]"),
    ("full[51200:]", "train[1024:1536]", "train[1024:]"),
    ("full[:25_600]", "train[:512]", "train[:512]"),
    ("full[25_600:51_200]", "train[512:1024]", "train[512:1024]"),
    ("train[:16]", "train[:1]", "train[:1]"),
    ("train[-100:]", "train[-2:]", "train[-2:]"),
    ("validation", "validation", "validation"),
    ("validation[:49152]", "validation[:128]", "validation[:128]"),
    ("val", "validation", "validation"),
    ("test2017[:1000]", "test[:20]", "test[:20]"),
    ("trainval+test", "train[:512]+test", "train+test"),
  ],
)
def test_splits(split, evaluated, trained):
  assert demo._split(split) == evaluated
  assert demo._split(split, train=True) == trained


def test_mixture_durations_and_rules():
  """What no config of the core has: mixtures, several schedules, cooldowns."""
  part = lambda name: dict(
    data=dict(name=name, split="train", data_dir="/x"),
    pp="decode|resize(64)",
    shuffle_buffer_size=10**6,
  )
  config = mlc.ConfigDict(
    dict(
      input=dict(data=dict(a=0.5, b=2), a=part("x"), b=part("y"), batch_size=1024),
      total_examples=10**9,
      log_training_epochs=1,
      keep_ckpt_percent=0.1,
      schedule=[
        ("head/.*", None),
        (".*", dict(decay_type="rsqrt", timescale=10_000, warmup_examples=10**6,
                    cooldown_steps=50_000)),
      ],
      model_name="my.model",
      model=dict(width=1024),
      evals=dict(
        mine=dict(type="my.evaluator", log_examples=7, batch_size=4096),
        fewshot=common_fewshot.get_fewshot_lsr(log_epochs=1),
      ),
      lr=1.0,
    )
  )  # fmt: skip
  with pytest.raises(ValueError, match="config.model_name.*'my.model'"):
    demo.apply(config)
  demo.apply(config, model=dict(width=8), lr=0.1)
  assert config.input.data.to_dict() == dict(a=0.5, b=2)
  for key in "ab":
    assert config.input[key].data.to_dict() == dict(
      name=demo.DATASET, split="train"
    )
    assert config.input[key].pp == "decode|resize(32)"
    assert config.input[key].shuffle_buffer_size == 4096
  assert config.input.batch_size == config.evals.mine.batch_size == 64
  assert (config.model.width, config.lr) == (8, 0.1)
  assert config.total_steps == demo.TOTAL_STEPS
  assert config.schedule[0] == ("head/.*", None)
  assert dict(config.schedule[1][1]) == dict(
    decay_type="rsqrt",
    timescale=50,
    warmup_percent=0.1,
    cooldown_percent=0.2,
  )
  for cfg in config.evals.values():
    assert [k for k in cfg if k.startswith("log_")] == ["log_percent"]
  assert config.evals.fewshot.datasets.cars == (
    demo.DATASET, "train[:512]", "test",
  )  # fmt: skip
  durations = [k for k in config if k.split("_")[-1] in ("examples", "epochs")]
  assert not durations and "keep_ckpt_percent" not in config


def test_split_arg():
  assert demo.split_arg("demo") == ("", True)
  assert demo.split_arg("gpu8,demo") == ("gpu8", True)
  assert demo.split_arg("demonstration") == ("demonstration", False)
  assert demo.split_arg(None) == (None, False)
  assert demo.split_arg(True) == (True, False)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "quickstart"])
def test_only_small_things(name):
  """Nothing of the original data, sizes or weights is left."""
  config = get_config(name).to_dict()
  config.pop("fewshot", None)  # Nobody reads it.
  text = json.dumps(config, default=lambda fn: fn.__name__)
  for word in (
    "imagenet2", "imagenet_", "oxford", '"cifar10"', "howto", "i1k-",
    "224", "256", "384", "448", "1000", "21843", "demo",
  ):  # fmt: skip
    if word == "256" and name.startswith("proj.uvim."):
      continue  # Codes, and pictures to evaluate on.
    assert word not in text, word


def test_demo_of_other_arguments():
  config = get_config("vit_i1k", "variant=g/14,aug=strong1,demo")
  assert "|randaug(1, 5)|" in config.input.pp
  assert config.mixup.p == demo.MAX_MIXUP_P
  config = get_config("mlp_mixer_i1k", "gpu8,demo")
  assert config.evals.val.cache_final is False
  for model in ("vit-i21k-augreg-b/32", "vit-s16", "bit-m-r50x1"):
    config = get_config(
      "transfer", f"model={model},dataset=imagenet2012,h_res=256,l_res=224,demo"
    )
    assert set(config.evals) == {"minival", "val", "test", "real", "v2"}
    for cfg in config.evals.values():
      assert "|resize_small(37)|central_crop(32)|" in cfg.pp_fn
    assert config.model_init == ""


@pytest.fixture(scope="module")
def env(tmp_path_factory):
  """Environment of runs: the dataset of the demo, with fewer examples of it."""
  from big_vision.datasets import embedded, shapes

  configs = {c.name: c for c in shapes.Shapes.BUILDER_CONFIGS}
  few = dict(num_train=1600, num_validation=128, num_test=128)
  fewer = dict(num_train=320, num_validation=256, num_test=256)
  sizes = {"32": few, "closeup": few, "64": fewer}

  class Shapes(shapes.Shapes, skip_registration=True):
    name = "shapes"
    BUILDER_CONFIGS = [
      dataclasses.replace(configs[name], **n) for name, n in sizes.items()
    ]

  data_dir = str(tmp_path_factory.mktemp("tfds"))
  for name in sizes:
    embedded.prepare(functools.partial(Shapes, data_dir=data_dir, config=name))
  return {**os.environ, "TFDS_DATA_DIR": data_dir}


@pytest.fixture(scope="module")
def run(env, tmp_path_factory, request):
  """Function that returns the workdir of a config's demo, when it is done."""
  # Two at a time: most of a run is start-up, which uses a single core.
  pool = concurrent.futures.ThreadPoolExecutor(2)

  def start(name):
    workdir = tmp_path_factory.mktemp(name) / "w"
    command = [
      sys.executable, "-m", trainer(name), "--workdir", str(workdir),
      "--config", f"big_vision/configs/{name.replace('.', '/')}.py:demo",
      *FLAGS.get(name, STEPS),
    ]  # fmt: skip
    done = subprocess.run(
      command, cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return workdir

  names = ["vit_s16_i1k", "transfer"]  # Others build on these.
  for item in request.session.items:
    if getattr(item, "function", None) is test_trains:
      names.append(item.callspec.params["name"])
  started = {name: pool.submit(start, name) for name in dict.fromkeys(names)}
  yield lambda name: started[name].result()
  pool.shutdown(cancel_futures=True)


def expected_metrics(config):
  """Names of the metrics that the evaluators of a config write."""
  names = set()
  for name, cfg in config.evals.items():
    if cfg.type in ("classification", "classification_with_labelmap"):
      names |= {f"{name}/prec@1", f"{name}/loss"}
    elif cfg.type == "fewshot_lsr":
      first = [tuple(pair) for pair in cfg.display_first]
      names |= {
        f"{cfg.get('prefix', name + '/')}{'a' if (short, n) in first else 'z'}"
        f"/{short}_{n}shot-seed-{seed}"
        for short in cfg.datasets
        for n in cfg.shots
        for seed in range(cfg.num_seeds)
      }
    elif cfg.type == "mean":
      of_flow = config.model_name == "proj.jet.jet"
      measured = ("bits", "nll", "logdet") if of_flow else ("loss",)
      names |= {f"{name}/{x}" for x in measured}
    elif cfg.type == "proj.reward_tune.detection":
      names |= {f"{name}/map", f"{name}/reward"}
    elif cfg.type == "proj.cappa.perplexity":
      names.add(f"{name}/perplexity")
    elif cfg.type == "proj.cappa.scoring_classifier":
      names.add(f"{name}/prec@1")
    elif cfg.type == "proj.paligemma.perplexity":
      names |= {f"{name}/avg", f"{name}/sum"}
    elif cfg.type.startswith("proj.paligemma.transfers."):
      names |= {f"{name}/{x}" for x in ANSWERS[cfg.type.rpartition(".")[2]]}
    elif cfg.type == "proj.image_text.contrastive":
      names |= {f"{name}/loss", f"{name}/ncorrect_minibatch"}
    elif cfg.type in (
      "proj.image_text.discriminative_classifier",
      "proj.image_text.zeroshot_suite",
    ):
      names |= {f"{cfg.prefix}{x}_accuracy" for x in cfg.dataset_names}
    elif cfg.type == "proj.image_text.retrieval":
      names |= {
        f"{cfg.prefix}{way}_recall@{k}"
        for way in ("img2txt", "txt2img")
        for k in (1, 5, 10)
      }
    elif cfg.type == "timing":
      names |= {f"{name}/img_per_sec", f"{name}/gflops_per_img"}
    elif cfg.type == "linear_probe":
      names |= {f"{name}/{m}/prec@1" for m in cfg.methods}
      names |= {f"{name}/{x}" for x in ("prec@1", "val_prec@1", "sgd/lr")}
    elif cfg.type == "dense_probe":
      names |= {f"{name}/mIoU", f"{name}/pixel_acc"}
    elif cfg.type == "knn":
      names |= {f"{name}/k{k}/prec@{top}" for k in (10, 20) for top in (1, 5)}
    elif cfg.type == "proj.uvim.coco_panoptic":
      names |= {
        f"{name}/{part}_{x}q"
        for part in ("All", "Stuff", "Things")
        for x in "prs"
      }
    elif cfg.type == "proj.uvim.compute_mean":
      losses = ["loss"]
      if "task" in config:  # Stage I.
        losses = [
          "loss_commitment",
          *(f"loss_{k}" for k in config.model.outputs),
        ]
      names |= {f"{name}/{x}" for x in losses}
    elif cfg.type == "proj.uvim.nyu_depth":
      measured = ("RMSE", "abs_RE", "log10", "delta1", "delta2", "delta3")
      names |= {f"{name}/{x}" for x in measured}
    elif cfg.type == "proj.uvim.pictures":
      pass  # They are files.
    elif cfg.type == "proj.uvim.psnr":
      names.add(f"{name}/PSNR")
    elif cfg.type == "proj.distill.cka":
      names.add(f"{name}/cka")
    elif cfg.type == "proj.distill.distance":
      for kw in cfg.distances:
        of = "_".join(f"{k}={v}" for k, v in kw.items())
        names |= {f"{name}/{of}/{x}" for x in ("all", "avg", "min", "max")}
    else:
      raise NotImplementedError(cfg.type)
  return names


def training_losses(workdir):
  rows = toy.rows(workdir).values()
  return [r["training_loss"] for r in rows if "training_loss" in r]


@pytest.mark.parametrize(
  "name",
  [
    # Together these take half an hour; one of each kind is run every time.
    pytest.param(n, marks=pytest.mark.slow if n in SLOW else ())
    for n in NAMES
  ],
)
def test_trains(run, name):
  """From the command line: the loss falls, every evaluator reports."""
  workdir, config = run(name), get_config(name)
  rows, losses = toy.rows(workdir), training_losses(workdir)
  assert expected_metrics(config) <= rows[max(rows)].keys()
  if name in EVAL_ONLY:
    assert not losses
    return
  assert np.mean(losses[-3:]) < 0.92 * losses[0], losses
  initial = toy.rows(workdir, "big_vision_initial_metrics.txt")[0]
  assert expected_metrics(config) <= initial.keys()


@pytest.fixture
def in_process(env, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", env["TFDS_DATA_DIR"])


@pytest.mark.multidevice
def test_load_and_eval_of_a_demo(run, in_process, tmp_path):
  """The checkpoint of one demo in another: the same accuracy again."""
  trained = run("vit_s16_i1k")
  config = get_config("load_and_eval", "name=vit_i1k,demo")
  config.model_init = f"{trained}/checkpoint.bv"
  cli.train(train.build, config, str(tmp_path / "w"))
  got = toy.rows(tmp_path / "w")[0]
  rows = toy.rows(trained)
  want = rows[max(rows)]
  assert abs(got["val/prec@1"] - want["val/prec@1"]) < 1e-6
  assert abs(got["val/loss"] - want["val/loss"]) < 1e-4


@pytest.mark.multidevice
def test_transfer_of_a_demo(run, in_process, tmp_path):
  """Fine-tuning starts where another demo has ended."""
  config = get_config("transfer")
  config.total_steps = 30
  config.model_init = f"{run('vit_s16_i1k')}/checkpoint.bv"
  cli.train(train.build, config, str(tmp_path / "w"))
  tuned = training_losses(tmp_path / "w")
  scratch = toy.rows(run("transfer"))
  assert tuned[-1] < scratch[30]["training_loss"] - 0.1
