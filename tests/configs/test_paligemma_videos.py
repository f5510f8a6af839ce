"""The configs of PaliGemma's transfers to videos: recipes, data, texts."""

import importlib
import json

import numpy as np
import pytest
from PIL import Image

from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import video
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

# dataset_name, text_len, (num_frames, stride), (train, valid), (epochs, lr, wd),
# freeze_vit.
TABLE = {
  "activitynet_cap": (
    "activitynet_captions_mr", 64, (16, 30), (30545, 14338), (3, 3e-6, 3e-7),
    False,
  ),
  "activitynet_qa": (
    "activitynet_qa", 64, (16, 70), (27610, 15760), (3, 1e-5, 1e-6), False,
  ),
  "msrvtt_cap": ("msrvtt", 32, (16, 9), (4663, 316), (10, 1e-5, 1e-6), False),
  "msrvtt_qa": ("msrvtt_qa", 64, (16, 9), (114080, 7936), (1, 1e-5, 0.0), True),
  "msvd_qa": ("msvd_qa", 64, (8, 26), (24670, 5107), (3, 3e-6, 3e-7), False),
  "vatex_cap": ("vatex", 64, (16, 7), (22315, 2584), (3, 3e-6, 3e-7), False),
}  # fmt: skip
IDS = {
  "activitynet_cap": 'strfmt("{example/video_id}[{segment_start}-'
  '{segment_end}]", outkey="image/id")',
  "activitynet_qa": 'strfmt("{id}#{example/video_id}: {question}", '
  '"question_id")',
  "msrvtt_cap": 'strfmt("{example/video_id}[{clip/start/timestamp}-'
  '{clip/end/timestamp}]", outkey="image/id")',
  "msrvtt_qa": 'strfmt("{id}#{example/video_id}: {question}", "question_id")',
  "msvd_qa": 'strfmt("{id}#{example/video_id}[{clip/start/timestamp}-'
  '{clip/end/timestamp}]: {question}", outkey="question_id")',
  "vatex_cap": 'copy("example/video_id", "image/id")',
}
# Of which the loss of what is held out is not evaluated.
ONE_LOSS = ("activitynet_cap", "vatex_cap")
# freeze_vit, lr, wd, epochs.
BEST = {
  "activitynet_cap": (True, 1e-5, 1e-6, 1),
  "activitynet_qa": (False, 1e-5, 1e-6, 1),
  "msrvtt_cap": (True, 1e-5, 0.0, 20),
  "msrvtt_qa": (True, 1e-5, 0.0, 1),
  "msvd_qa": (False, 3e-6, 3e-7, 1),
  "vatex_cap": (False, 3e-6, 3e-7, 10),
}
PARTS = {
  "minitrain": ("train", 1 / 8),
  "minival": ("valid", 1 / 4),
  "val": ("valid", 1.0),
  "eval": ("test", 1.0),
}


def module(name):
  return importlib.import_module(
    f"big_vision.configs.proj.paligemma.transfers.{name}"
  )


def texts(name, answer):
  """The ops in front of the tokens, written by hand."""
  if name.endswith("_cap"):
    ops = ['strfmt("caption en", outkey="prefix")']
    if answer:
      ops.append('video_choice(inkey="caption/string", outkey="suffix")')
      return ops
    return [*ops, IDS[name], 'copy("caption/string", "captions")']
  ops = [
    'reshape([], key="question")',
    'reshape([], key="answer")',
    'strfmt("answer en {question}", outkey="prefix")',
  ]
  return [*ops, 'copy("answer", "suffix")' if answer else IDS[name]]


@pytest.mark.parametrize("name", TABLE)
def test_recipe(name):
  _, _, frames, _, (epochs, lr, wd), freeze_vit = TABLE[name]
  c = module(name).get_config()
  assert (c.mode, c.res, c.final_split) == ("xm", 224, False)
  assert (c.num_frames, c.stride) == frames
  assert (c.freeze_vit, c.freeze_llm) == (freeze_vit, False)
  assert (c.total_epochs, c.lr, c.wd) == (epochs, lr, wd)
  assert (c.label_smoothing, c.model.llm.dropout) == (0.0, 0.0)
  assert c.pp_modules[-1] == "proj.paligemma.video"
  cosine = dict(decay_type="cosine", warmup_percent=0.05)
  assert [(k, s and dict(s)) for k, s in c.schedule] == [
    ("img/.*", None if freeze_vit else cosine),
    ("llm/.*", cosine),
  ]
  assert c.model_init == "pt_224"


@pytest.mark.parametrize("name", TABLE)
def test_training_data(name):
  dataset, text_len, (n, stride), sizes, *_ = TABLE[name]
  frames = [
    "video_decode(224)",
    f"video_replicate_img({n},{n})",
    f'video_ensure_shape("image", ({n}, 224, 224, 3))',
  ]
  pp = combine_and_keep_train(text_len, before=[*frames, *texts(name, True)])
  part = lambda split: dict(
    pp=pp,
    data=dict(
      name="bv:video",
      dataset_name=dataset,
      split=split,
      num_frames=n,
      stride=stride,
      deterministic_fs=False,
    ),
    shuffle_buffer_size=10_000,
  )
  want = dict(data=dict(train=sizes[0]), batch_size=128, train=part("train"))
  assert module(name).get_config().input.to_dict() == want
  want["data"]["valid"], want["valid"] = sizes[1], part("valid")
  assert module(name).get_config("final_split").input.to_dict() == want


@pytest.mark.parametrize("name", TABLE)
def test_evaluators(name):
  dataset, text_len, (n, stride), *_ = TABLE[name]
  shards = 1 if name == "msvd_qa" else 2
  c = module(name).get_config()

  def data(part):
    limit = {"first_k_shards": shards} if part.startswith("mini") else {}
    return dict(
      name="bv:video",
      dataset_name=dataset,
      split=PARTS[part][0],
      num_frames=n,
      stride=stride,
      deterministic_fs=True,
      **limit,
    )

  losses = ["minitrain"] if name in ONE_LOSS else ["minitrain", "minival"]
  names = {f"{name}/{x}" for x in [*PARTS, *(f"{x}/pplx" for x in losses)]}
  assert set(c.evals) == names
  for part in losses:
    got = c.evals[f"{name}/{part}/pplx"].to_dict()
    assert got == dict(
      type="proj.paligemma.perplexity",
      pred="logits",
      key="text",
      shift_labels=True,
      log_percent=1 / 8,
      data=data(part),
      pp_fn=c.input.train.pp,
    )

  is_cap = name.endswith("_cap")
  kept = ("image/id", "captions") if is_cap else ("question_id", "answer")
  before = c.input.train.pp.split("|")[:3] + texts(name, False)
  for part, (_, log_percent) in PARTS.items():
    want = dict(
      type=f"proj.paligemma.transfers.{'coco_caption' if is_cap else 'vqa'}",
      pred="decode",
      pred_kw=dict(max_decode_len=text_len),
      log_percent=log_percent,
      data=data(part),
      pp_fn=combine_and_keep_eval(text_len, keep=kept, before=before),
      tokenizer='gemma(tokensets=("loc", "seg"))',
    )
    if not is_cap:
      want["outfile"] = f"{{workdir}}/{name}_{part}.json"
    if name == "activitynet_qa" and part in ("val", "eval"):
      want["skip_first"] = True
    assert c.evals[f"{name}/{part}"].to_dict() == want


@pytest.mark.parametrize("name", TABLE)
def test_best_settings(name):
  calls = []
  module(name).sweep_best(lambda **kw: calls.append(kw))
  freeze_vit, lr, wd, epochs = BEST[name]
  (kw,) = calls
  assert (kw["lr"], kw["wd"], kw["total_epochs"]) == (lr, wd, epochs)
  assert kw["res"] == 224
  c = module(name).get_config(kw["config_arg"])
  assert c.freeze_vit == (freeze_vit or TABLE[name][-1])


@pytest.mark.parametrize("mode", ["runlocal", "mock"])
def test_modes(mode):
  c = module("vatex_cap").get_config(f"mode={mode},final_split")
  is_local = mode == "runlocal"
  assert c.input.batch_size == (2 if is_local else 128)
  assert c.log_training_steps == (1 if is_local else 50)
  for split in ("train", "valid"):
    assert c.input[split].shuffle_buffer_size is None
  for cfg in c.evals.values():
    assert cfg.data.first_k_shards == 1
    assert cfg.data.split in ("train", "valid", "test")


def test_arguments():
  c = module("msvd_qa").get_config("num_frames=4,stride=3,res=448,freeze_llm")
  assert c.input.train.pp.startswith(
    'video_decode(448)|video_replicate_img(4,4)|video_ensure_shape("image", '
    "(4, 448, 448, 3))|"
  )
  assert c.model_init == "pt_448"
  assert c.schedule[1] == ("llm/.*", None)
  for cfg in (c.input.train, *c.evals.values()):
    assert (cfg.data.num_frames, cfg.data.stride) == (4, 3)


@pytest.fixture
def small(tmp_path, monkeypatch):
  """`name -> config` of four frames, of a video that has six images."""
  monkeypatch.setenv("BV_VIDEO_DIR", str(tmp_path))
  row = {
    "video": "clip",
    "fps": 1,
    "example/video_id": "v1",
    "clip/start/timestamp": "00:00:00",
    "clip/end/timestamp": "00:01:00",
    "segment_start": 0.0,
    "segment_end": 60.0,
    "caption/string": ["a red ring", "a ring"],
    "question": "what color is the ring?",
    "answer": "red",
  }

  def make(name):
    folder = tmp_path / TABLE[name][0]
    (folder / "clip").mkdir(parents=True)
    for i in range(6):
      image = Image.fromarray(np.full((40, 48, 3), 20 * i, np.uint8))
      image.save(folder / "clip" / f"{i}.jpg")
    for split in ("train", "valid"):
      (folder / f"{split}-00000.jsonl").write_text(json.dumps(row) + "\n")
    c = module(name).get_config(
      "num_frames=4,stride=2,res=32,final_split,mode=mock"
    )
    for ops in c.pp_modules:
      importlib.import_module(f"big_vision.pp.{ops}")
    demo.set_tokenizer(c, demo.TOKENIZER)
    return c

  return make


@pytest.mark.tf
@pytest.mark.parametrize("name", ["msrvtt_cap", "msvd_qa"])
def test_trains_on_videos(small, name):
  from big_vision import input_pipeline

  c = small(name)
  c.input.batch_size = 4
  batches, num = input_pipeline.training(c.input)
  batch = next(batches.as_numpy_iterator())
  assert num == 2  # One of each split.
  assert batch["image"].shape == (4, 4, 32, 32, 3)
  levels = np.round((batch["image"].mean((2, 3, 4)) + 1) * 255 / 40)
  # At a distance of two; the first one again, for want of a fourth.
  np.testing.assert_array_equal(levels[:, 1:3] - levels[:, :2], 2)
  np.testing.assert_array_equal(levels[:, 3], levels[:, 0])
  assert (batch["mask_loss"].sum(1) > 1).all()


@pytest.mark.tf
@pytest.mark.parametrize(
  "name, want",
  [
    ("activitynet_cap", "v1[0-60]"),
    ("activitynet_qa", "0#v1: what color is the ring?"),
    ("msrvtt_cap", "v1[00:00:00-00:01:00]"),
    ("msrvtt_qa", "0#v1: what color is the ring?"),
    ("msvd_qa", "0#v1[00:00:00-00:01:00]: what color is the ring?"),
    ("vatex_cap", "v1"),
  ],
)
def test_ids(small, name, want):
  from big_vision.datasets import core
  from big_vision.pp import builder

  cfg = small(name).evals[f"{name}/minival"]
  raw = next(iter(core.get(**cfg.data).get_tfdata(ordered=True)))
  example = builder.get_preprocess_fn(cfg.pp_fn, log_data=False)(raw)
  key = "image/id" if name.endswith("_cap") else "question_id"
  assert example[key].numpy().decode() == want


def test_demo():
  """It has a few frames, of pictures of another dataset."""
  c = module("msrvtt_qa").get_config("demo")
  assert (c.num_frames, c.res) == (video.DEMO_FRAMES, demo.SIZE)
  for cfg in (c.input.train, *c.evals.values()):
    assert set(cfg.data) == {"name", "split"}
  assert module("msrvtt_qa").get_config("demo,num_frames=2").num_frames == 2
