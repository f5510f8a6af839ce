"""The configs of PaliGemma's transfers: evaluators, sweeps, demos that run."""

import dataclasses
import functools
import importlib
import os
import pathlib

import jax
import numpy as np
import pytest

import toy
from big_vision import input_pipeline, lookup
from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.evaluators import build as eval_build
from big_vision.pp import builder
from big_vision.trainers.proj.paligemma import train
from big_vision.training import cli, config_check

pytestmark = pytest.mark.usefixtures("quick_compilation")

FOLDER = pathlib.Path(transfer.__file__).parent
# What is shared, and templates for data of one's own.
OTHERS = ("__init__", "common", "transfer", "video", "forkme", "vertexai_l4")
NAMES = [p.stem for p in sorted(FOLDER.glob("*.py")) if p.stem not in OTHERS]
# The others are slow: a mixture, one that only evaluates, masks, videos.
TRAINED = ("chartqa", "pope", "refcoco_seg", "msvd_qa")
# The metrics of each kind of evaluator, of which some can be empty.
SCORES = ("acc", "acc_any", "anls")
METRICS = {
  "proj.paligemma.perplexity": ("avg", "sum"),
  "chartqa": ("acc", "relaxed_acc", "num"),
  "coco_caption": ("cider",),
  "pope": ("acc", "valid_percent", "num"),
  "rsvqa": (*SCORES, "acc_avg", "acc_avg_nonum", "num"),
  "science_qa": ("acc", "parsefail", "num"),
  "segmentation": ("miou", "boxacc/0.5", "boxacc/0.75", "invalid", "total"),
  "tallyqa": ("acc", "num"),
  "vqa": (*SCORES, "num"),
  "vqav2": ("acc", "num"),
}
# Those of a part of the questions.
OF_SOME = {"tallyqa": ("acc/simple", "acc/complex")}


def module(name):
  return importlib.import_module(
    f"big_vision.configs.proj.paligemma.transfers.{name}"
  )


def kind(cfg):
  return cfg.type.removeprefix("proj.paligemma.transfers.")


def found(config, table=METRICS):
  """The names of metrics that evaluators yield."""
  return {
    f"{name}/{metric}"
    for name, cfg in config.evals.items()
    for metric in table.get(kind(cfg), ())
  }


def training_pp(config):
  parts = [config.input, *map(config.input.get, config.input.data)]
  return {x["pp"] for x in parts if hasattr(x, "keys") and "pp" in x}


def preprocessing(config):
  return training_pp(config) | {cfg.pp_fn for cfg in config.evals.values()}


def compared(name):
  """What the module asks to compare, without what it is drawn over."""
  names = module(name).metrics()
  return {x if isinstance(x, str) else x[1] for x in names}


def test_all_are_found():
  assert {"ai2d", "okvqa", "vqav2"} <= set(NAMES)


@pytest.mark.tf
@pytest.mark.parametrize("name", NAMES)
def test_passes_checks(data, name):
  """Of the original, all that needs no data."""
  config = module(name).get_config("")
  config_check.check_training(config)
  demo.set_tokenizer(config, demo.TOKENIZER)
  lookup.preprocessing(config)
  for pp in preprocessing(config):
    # Those of the original are a download.
    pp = pp.replace("mask2str|", f"mask2str({demo.MASKS!r})|")
    builder.get_preprocess_fn(pp, log_data=False)
  assert {kind(cfg) for cfg in config.evals.values()} <= set(METRICS)

  config = module(name).get_config("demo")
  config_check.check(config)
  assert "model_init" not in config


@pytest.mark.parametrize("name", NAMES)
def test_metrics_are_those_of_evaluators(name):
  config, names = module(name).get_config(), compared(name)
  assert len(names) > 1
  known = found(config) | found(config, OF_SOME) | {"training_loss"}
  assert names <= known, names - known


@pytest.mark.parametrize("name", NAMES)
def test_best_settings_are_configs(name):
  """In full length, and with the arguments of all runs."""
  calls = []
  add = lambda **kw: calls.append(kw)
  m = module(name)
  m.sweep_best(add)
  assert m.sweep is m.sweep_best and calls
  num = len(calls)
  m.sweep_best(add, "mode=mock")
  assert len(calls) == 2 * num
  for i, kw in enumerate(calls):
    config_arg = kw.pop("config_arg")
    config = m.get_config(config_arg)
    assert f"res={config.res}" in config_arg
    assert (config.mode == "mock") == (i >= num)
    for key, value in kw.items():
      if key != "mode":
        config.update_from_flattened_dict({key: value})
  resolutions = [c["res"] for c in calls[:num]]
  assert len(set(resolutions)) == num or name == "coco35l"


@pytest.mark.parametrize(
  "name, split",
  [
    ("ai2d", "train"),
    ("aokvqa_da", "train + val"),
    ("aokvqa_mc", "train + val"),
    ("docvqa", "train+val"),
    ("gqa", "train_balanced+val_balanced"),
    ("infovqa", "train+val"),
    ("ocrvqa", "train+val"),
    ("okvqa", "train"),
    ("rsvqa_hr", "train + val"),
    ("rsvqa_lr", "train + val"),
    ("stvqa", "train+val"),
    ("textvqa", "train+val"),
    ("vizwizvqa", "train+val"),
    ("vqav2", "train + validation"),
  ],
)
def test_final_split(name, split):
  """It changes nothing but the training data."""
  got = module(name).get_config("final_split")
  assert got.input.data.split == split
  want = module(name).get_config()
  got.input.data.split, got.final_split = want.input.data.split, False
  assert got.to_dict() == want.to_dict()


def test_final_split_of_a_mixture():
  config = module("chartqa").get_config("final_split,res=448")
  for name in config.input.data:
    assert config.input[name].data.to_dict() == dict(
      name=name, split="train+val"
    )
    assert "resize(448, antialias=True)" in config.input[name].pp
  assert config.model_init == "pt_448"


@pytest.mark.parametrize("name", ["okvqa", "rsvqa_hr", "stvqa"])
def test_mode_mock(name):
  """Little is read, but batches and durations are those of the real run."""
  got, want = module(name).get_config("mock"), module(name).get_config()
  assert got.input.shuffle_buffer_size is None
  for cfg in got.evals.values():
    assert cfg.data.split.endswith("[:16]") and cfg.data.split.count("[") == 1
  for key in ("total_epochs", "log_training_steps"):
    assert got[key] == want[key]
  assert got.input.batch_size == want.input.batch_size


def test_arguments():
  config = module("gqa").get_config("freeze_vit=False,freeze_llm,prefix=q {x}")
  assert [bool(s) for _, s in config.schedule] == [True, False]
  for pp in preprocessing(config):
    assert '|strfmt("q {x}", outkey="prefix")|' in pp
  config = module("stvqa").get_config("res=224,text_len=20")
  assert config.input.batch_size == 256 and "tolen(21, " in config.input.pp
  cfg = config.evals["stvqa/minival"]
  assert cfg.pred_kw.max_decode_len == 20 and "tolen(20, " in cfg.pp_fn


def test_bad_arguments():
  with pytest.raises(ValueError, match=r"config.mode.*'runlocl'.*'runlocal'"):
    module("okvqa").get_config("runlocl")
  for name in ("infovqa", "stvqa"):
    with pytest.raises(KeyError, match=r"config.res: .*448.*896"):
      module(name).get_config("res=300")
  with pytest.raises(ValueError, match="Unhandled config args"):
    module("vqav2").get_config("crop=rs")


def test_arguments_of_a_demo():
  """Small images, and nothing that stays random."""
  config = module("gqa").get_config("demo")
  assert config.res == demo.SIZE and all(s for _, s in config.schedule)
  config = module("gqa").get_config("demo,res=64,freeze_vit")
  assert config.res == 64 and config.schedule[0][1] is None
  for pp in preprocessing(config):
    assert "|resize(64)|" in pp
  assert config.optax_name == "scale_by_adam" and config.input.batch_size == 128


def test_sweep():
  """Arguments of all runs come before those of a resolution."""
  calls = []
  add = lambda **kw: calls.append(kw)
  module("gqa").sweep_best(add, "freeze_llm=True,freeze_vit=True,res=1")
  assert [c["config_arg"] for c in calls] == [
    "freeze_vit=True,freeze_llm=True,res=224",
    "freeze_vit=True,freeze_llm=True,res=448",
  ]
  module("textvqa").sweep_best(add)
  assert calls[3] == dict(
    config_arg="res=448", res=448, lr=3e-6, wd=3e-7, total_epochs=10
  )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Sets TFDS_DATA_DIR to the dataset of demos, with few examples of it."""
  from big_vision.datasets import embedded, shapes

  few = dict(num_train=64, num_validation=32, num_test=8)
  config = dataclasses.replace(shapes.make_config("closeup"), **few)

  class Shapes(shapes.Shapes, skip_registration=True):
    name = "shapes"
    BUILDER_CONFIGS = [config]

  folder = str(tmp_path_factory.mktemp("tfds"))
  embedded.prepare(functools.partial(Shapes, data_dir=folder, config="closeup"))
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(os.environ, "TFDS_DATA_DIR", folder)
    yield


def distinct(config):
  """Leaves one evaluator of each preprocessing, and few of one kind."""
  kinds = {}
  for name, cfg in config.evals.items():
    kinds.setdefault(cfg.type, {}).setdefault(cfg.pp_fn, name)
  kept = [n for names in kinds.values() for n in [*names.values()][:2]]
  for name in set(config.evals) - set(kept):
    del config.evals[name]


def decode(train_state, batch, *, devices, eos_token, max_decode_len, **kw):
  """Answers at random, in place of a model."""
  shape = len(batch["_mask"]), max_decode_len
  tokens = np.random.default_rng(0).integers(4, demo.VOCAB_SIZE, shape)
  tokens[:, 5:] = eos_token
  return tokens


def logits(train_state, batch):
  text = batch["text"][:, :-1]
  return jax.nn.one_hot(text, demo.VOCAB_SIZE), {}


@pytest.mark.tf
@pytest.mark.parametrize("name", NAMES)
def test_demo_reads(data, name, tmp_path):
  """A batch of training; evaluators, with answers of no model."""
  config = module(name).get_config("demo")
  for ops in config.pp_modules:
    importlib.import_module(f"big_vision.pp.{ops}")
  config.input.batch_size = 4
  batches, _ = input_pipeline.training(config.input)
  batch = next(batches.as_numpy_iterator())
  frames = batch["image"].shape[1:-3]
  assert batch["image"].shape == (4, *frames, demo.SIZE, demo.SIZE, 3)
  assert abs(batch["image"]).max() <= 1.001
  # There is something to learn in all texts, and none is cut.
  assert (batch["mask_loss"].sum(1) > 1).all()
  assert not batch["text"][:, -1].any()
  assert batch["text"].max() < demo.VOCAB_SIZE

  distinct(config)
  trained = training_pp(config)
  for name, cfg in list(config.evals.items()):
    cfg.batch_size = 32
    if cfg.pp_fn in trained:  # It has just run.
      del config.evals[name]
  fns = dict(decode=decode, beam_decode=decode, logits=logits)
  entries = eval_build.from_config(
    config,
    fns,
    get_steps=lambda key, cfg: 1,
    devices=np.array(jax.devices()[:1]),
    workdir=str(tmp_path),
    get_step=lambda: 1,
  )
  got = {}
  for _, evaluator, _, prefix in entries:
    got |= {prefix + key: value for key, value in evaluator.run(None)}
  assert found(config) <= got.keys()
  assert np.isfinite([*got.values()]).all()


@pytest.mark.tf
@pytest.mark.multidevice
@pytest.mark.parametrize(
  "name",
  [
    pytest.param(n, marks=() if n in TRAINED else pytest.mark.slow)
    for n in NAMES
  ],
)
def test_demo_trains(data, name, tmp_path):
  """Two steps, and evaluators of the kinds that there are."""
  config = module(name).get_config("demo")
  distinct(config)
  if config.get("total_steps"):
    config.total_steps = 2
  config.input.batch_size = 8
  for part in config.model.img, config.model.llm:
    part.depth = 1
  for cfg in config.evals.values():
    cfg.batch_size = 32
    if "pred_kw" in cfg:
      cfg.pred_kw.max_decode_len = 8
  cli.train(train.build, config, str(tmp_path / "w"))
  rows = toy.rows(tmp_path / "w")
  got = rows[max(rows)]
  assert found(config) <= got.keys()
  names = {x for x in compared(name) if x.rpartition("/")[0] in config.evals}
  assert names <= got.keys()
