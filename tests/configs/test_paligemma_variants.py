"""Arguments of PaliGemma's transfers that no stored config has."""

import importlib

import pytest

from big_vision.configs.proj.paligemma import demo


def module(name):
  return importlib.import_module(
    f"big_vision.configs.proj.paligemma.transfers.{name}"
  )


def config(name, arg=None):
  return module(name).get_config(arg)


@pytest.mark.parametrize(
  "name, prefix",
  [("cococap", "cococap"), ("textcaps", "textcaps"), ("coco35l", "coco35l")],
)
def test_crops(name, prefix):
  def pp(arg):
    c = config(name, arg)
    part = c.input.en if name == "coco35l" else c.input
    # Evaluators see whole images.
    pp_fn = c.evals[f"{prefix}/{'en' if name == 'coco35l' else 'eval'}"].pp_fn
    assert f"|resize({c.res})|value_range(-1, 1)|" in f"|{pp_fn}"
    assert c.evals[f"{prefix}/eval/pplx"].pp_fn == part.pp
    assert part.pp.startswith("flatten|decode|")
    return part.pp.removeprefix("flatten|decode|").split("|value_range")[0]

  assert pp("crop=rs") == "resize(224)"
  assert pp("crop=rc") == "resize_small(256)|random_crop(224)"
  assert pp("crop=rc,res=448") == "resize_small(512)|random_crop(448)"
  assert pp("crop=ic,res=448") == "inception_crop(448, area_min=50)"
  with pytest.raises(ValueError, match="unknown crop 'ri'.*rc"):
    config(name, "crop=ri")


@pytest.mark.parametrize("name", ["cococap", "textcaps", "coco35l"])
def test_beams(name):
  decoders = lambda arg: {
    (cfg.pred, cfg.pred_kw.get("beam_size"))
    for key, cfg in config(name, arg).evals.items()
    if not key.endswith("pplx")
  }
  assert decoders("beam_size=0") == {("decode", None)}
  assert decoders("beam_size=4") == {("beam_decode", 4)}


@pytest.mark.parametrize(
  "name, split",
  [
    ("cococap", "train+restval"),
    ("nlvr2", "train+dev"),
    ("science_qa", "train+val"),
    ("scicap", "train+val"),
    ("screen2words", "train+dev"),
    ("textcaps", "train"),
    ("widgetcap", "train+dev"),
  ],
)
def test_final_splits(name, split):
  """Nothing else changes."""
  c, final = config(name), config(name, "final_split")
  assert final.input.data.split == split != c.input.data.split
  c.input.data.split, c.final_split = split, True
  assert final.to_dict() == c.to_dict()


def test_languages():
  c = config("coco35l", "eval_xm3600=False")
  assert len(c.input.data) == 35
  assert not any(name.startswith("xm3600") for name in c.evals)
  assert len(c.evals) == 35 + 3
  c = config("coco35l")
  assert sum(name.startswith("xm3600/") for name in c.evals) == 36
  assert "xm3600/quz/cider" in dict(map(reversed, module("coco35l").metrics()))


@pytest.mark.parametrize("mode", ["runlocal", "mock"])
def test_modes_of_coco35l(mode):
  c = config("coco35l", mode)
  assert c.input.en.shuffle_buffer_size == 10_000
  assert c.input.batch_size == (2 if mode == "runlocal" else 256)
  assert c.evals["coco35l/minitrain/pplx"].data.split == "train_en[:16]"
  assert c.evals["xm3600/quz"].data.split == "quz[:16]"


def test_sweep_of_coco35l():
  calls = []
  module("coco35l").sweep_hyper(lambda **kw: calls.append(kw), "beam_size=2")
  assert len(calls) == 3 * 2 * 5
  assert all(c["config_arg"] == "beam_size=2,res=224" for c in calls)
  tried = {(c["lr"], c["wd"], c["total_examples"]) for c in calls}
  assert len(tried) == 30
  assert {(3e-6, 0.0, 566_435), (1e-5, 0.1 * 1e-5, 20 * 566_435)} <= tried


QUESTIONS = {
  "simple": r"{question}\nOptions: {indexed_choices}",
  "QM": r"Question: {question}\nOptions: {indexed_choices}\nAnswer:",
  "CQM": r"Context: {hint}\nQuestion: {question}\nOptions: {indexed_choices}\n"
  "Answer:",
}
ANSWERS = {
  "simple": "{indexed_answer}",
  "AL": "The answer is {indexed_answer}. BECAUSE: {solution}",
  "AE": "The answer is {indexed_answer}. BECAUSE: {lecture}",
  "ALE": "The answer is {indexed_answer}. BECAUSE: {lecture} {solution}",
}


def test_formats_of_science_qa():
  for name, text in QUESTIONS.items():
    c = config("science_qa", f"qfmt={name}")
    want = f'|strfmt("{text}", outkey="prefix")|'
    assert want in c.input.pp and want in c.evals["science_qa/eval"].pp_fn
  for name, text in ANSWERS.items():
    c = config("science_qa", f"afmt={name}")
    assert f'|strfmt("{text}", outkey="suffix")|' in c.input.pp
    want = f'|strfmt("{text}", outkey="answer")|'
    assert want in c.evals["science_qa/eval"].pp_fn
  with pytest.raises(ValueError, match="format 'QMC'.*QCM"):
    config("science_qa", "qfmt=QMC")
  with pytest.raises(ValueError, match="format 'B'"):
    config("science_qa", "afmt=B")


def test_zoom_of_refcoco():
  before, after = (
    config("refcoco_seg", arg).input.pp for arg in (None, "crop=zic_mild")
  )
  assert after == before.replace(
    "|resize(448)|",
    '|zoomout(max_f=1.5, key="image", bboxkey="objects/bbox", '
    'auxkeys=["objects/mask"])|inception_box(area=(0.1,1.0), '
    "aspect=(0.75,1.3333333333333333), min_obj_cover=1.0, "
    'bboxkey="objects/bbox")|box_crop_bbox|box_crop_img(key="objects/mask")|'
    'box_crop_img(key="image")|resize(448)|',
  )
  with pytest.raises(ValueError, match="unknown crop 'zic'.*zic_mild"):
    config("refcoco_seg", "crop=zic")


def test_pope():
  c = config("pope", "prefix=answer en {question},text_len=16,mode=mock")
  assert c.total_steps == 0
  for pp in (c.input.pope_random.pp, c.evals["pope/pope_random"].pp_fn):
    assert '|strfmt("answer en {question}", outkey="prefix")|' in pp
  assert "tolen(17, " in c.input.pope_random.pp
  cfg = c.evals["pope/pope_adversarial"]
  assert cfg.pred_kw.max_decode_len == 16 and cfg.data.split == "test[:16]"
  assert c.input.pope_popular.data.split == "test"


@pytest.mark.tf
def test_questions_of_demos():
  """Whether something is there; and how many, of one kind and of all."""
  from big_vision.datasets.shapes import builder
  from big_vision.pp import builder as pp_builder
  from big_vision.pp import ops_general, ops_text  # noqa: F401
  from big_vision.pp.proj.paligemma import ops  # noqa: F401
  from big_vision.tf import tf

  ask = demo.yes_no_question(question="sentence", answer="label")
  fn = pp_builder.get_preprocess_fn("|".join(ask), log_data=False)
  count = module("tallyqa")._DEMO
  fn2 = pp_builder.get_preprocess_fn("|".join(count), log_data=False)
  answers, simple = set(), set()
  for i in range(20):
    example = builder.make_example("train", i, image_size=32)
    qa = {
      k: tf.constant([q[k] for q in example["qa"]])
      for k in ("question", "answer")
    }
    got = fn({"qa": dict(qa)})
    assert got["sentence"].numpy().startswith(b"is there a")
    answers.add(got["label"].numpy())
    got = fn2({"qa": dict(qa)})
    is_total = got["question"].numpy() == b"how many shapes are there?"
    assert got["question"].numpy().startswith(b"how many")
    assert got["issimple"].numpy() == (not is_total)
    assert got["number"].numpy().isdigit()
    simple.add(int(got["issimple"]))
  assert answers == {b"yes", b"no"} and simple == {0, 1}
