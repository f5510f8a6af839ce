"""Pictures with texts of one's own, in six formats, for PaliGemma."""

import csv
import io
import json
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import forkme
from big_vision.training import config_check

pytestmark = pytest.mark.tf

NUM = 4
# Of picture i: its gray level, and what is said about it.
LEVELS = [40 * i for i in range(NUM)]
QUESTION = "answer en what color is the ring?"
ANSWERS = ["red", "green", "blue", "red ring"]


def png(level):
  out = io.BytesIO()
  Image.fromarray(np.full([8, 8, 3], level, np.uint8)).save(out, "png")
  return out.getvalue()


def write_pictures(folder):
  for i, level in enumerate(LEVELS):
    (folder / f"{i}.png").write_bytes(png(level))


def of_csv(path):
  write_pictures(path)
  with open(path / "qa.csv", "w") as f:
    w = csv.writer(f)
    w.writerow(["photo", "question", "answer"])
    w.writerows([f"{i}.png", QUESTION, a] for i, a in enumerate(ANSWERS))
  return f"path={path}/qa.csv,image=photo,prefix=question,suffix=answer"


def of_jsonl(path):
  write_pictures(path)
  rows = [
    dict(image=f"{i}.png", prefix=QUESTION, suffix=a)
    for i, a in enumerate(ANSWERS)
  ]
  (path / "qa.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return f"path={path}/qa.jsonl"


def of_jsonl_renamed(path):
  of_jsonl(path)
  text = (path / "qa.jsonl").read_text()
  for old, new in dict(image="photo", prefix="question", suffix="ans").items():
    text = text.replace(f'"{old}"', f'"{new}"')
  (path / "qa.jsonl").write_text(text)
  return f"path={path}/qa.jsonl,image=photo,prefix=question,suffix=ans"


def of_hf(path):
  import datasets

  rows = dict(
    img=[dict(bytes=png(level), path=None) for level in LEVELS],
    question=[QUESTION] * NUM,
    answers=[[a] for a in ANSWERS],
  )
  features = datasets.Features(
    img=datasets.Image(),
    question=datasets.Value("string"),
    answers=datasets.List(datasets.Value("string")),
  )
  table = datasets.Dataset.from_dict(rows, features=features)
  table.save_to_disk(str(path / "hf"))
  return f"path={path}/hf,image=img,prefix=question,suffix=answers"


def of_webdataset(path):
  with tarfile.open(path / "0.tar", "w") as tar:
    for i, a in enumerate(ANSWERS):
      parts = dict(png=png(LEVELS[i]), txt=a.encode(), ask=QUESTION.encode())
      for kind, content in parts.items():
        info = tarfile.TarInfo(f"{i:04}.{kind}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
  return f"path={path}/0.tar,prefix=ask"


def of_folder(path):
  for level, answer in zip(LEVELS, ANSWERS, strict=True):
    (path / answer).mkdir()
    (path / answer / "x.png").write_bytes(png(level))
  return f"path={path},prompt={QUESTION}"


SOURCES = dict(
  csv=of_csv,
  jsonl=of_jsonl,
  jsonl_renamed=of_jsonl_renamed,
  hf=of_hf,
  webdataset=of_webdataset,
  folder=of_folder,
)


def config(arg):
  c = forkme.get_config(f"res=8,text_len=24,batch_size=8,{arg}")
  demo.shrink_model(c)
  config_check.check(c)
  return c


def examples(data, pp):
  """All examples of a split, preprocessed."""
  from big_vision.datasets import core
  from big_vision.pp import builder, ops_general, ops_image, ops_text  # noqa: F401
  from big_vision.pp.proj.paligemma import ops  # noqa: F401

  fn = builder.get_preprocess_fn(pp, log_data=False)
  found = core.get(**data).get_tfdata(ordered=True).map(fn)
  return list(found.as_numpy_iterator())


def texts(example):
  from big_vision.pp import tokenizer

  tok = tokenizer.get_tokenizer(demo.TOKENIZER)
  text = tok.to_str(example["text"].tolist(), stop_at_eos=True)
  return re.sub(r"\s*⁇\s*", "\n", text)  # It is not in the vocabulary.


@pytest.mark.parametrize("source", SOURCES)
def test_examples(source, tmp_path):
  arg = SOURCES[source](tmp_path)
  name = source.removesuffix("_renamed")
  c = config(f"source={name},{arg},split=all,val_split=all[:50%]")
  found = {}
  for e in examples(c.input.data, c.input.pp):
    level = (e["image"][0, 0, 0] + 1) / 2 * 255
    found[round(float(level))] = texts(e)
  want = [f"{QUESTION}\n{a}" for a in ANSWERS]
  assert found == dict(zip(LEVELS, want, strict=True))
  cfg = c.evals["val/store"]
  held_out = examples(cfg.data, cfg.pp_fn)
  assert len(held_out) == NUM // 2
  assert len({e["id"] for e in held_out}) == NUM // 2


def test_a_copy_of_the_tokenizer():
  c = forkme.get_config("tokenizer=/data/gemma.model")
  want = 'gemma(tokensets=("loc", "seg"), model="/data/gemma.model")'
  assert c.evals["val/store"].tokenizer == want
  assert c.input.pp.count(f"model={want!r}") == 3


def test_a_tfds_dataset():
  c = config(
    "source=tfds,path=shapes/tiny,suffix=captions,prompt=caption en,lora=4"
  )
  assert c.input.data.split == "train"
  assert c.evals["val/store"].data.split == "validation"
  c.input.data.split = "train[:2]"
  for e in examples(c.input.data, c.input.pp):
    assert texts(e).startswith("caption en\n") and len(texts(e)) > 12


def test_held_out_by_default(tmp_path):
  c = config(f"source=csv,{of_csv(tmp_path)},val=25%")
  assert c.input.data.split == "all[25%:]"
  assert c.evals["val/pplx"].data.split == "all[:25%]"
  sizes = [
    len(examples(data, c.input.pp))
    for data in (c.input.data, c.evals["val/pplx"].data)
  ]
  assert sizes == [3, 1]


@pytest.mark.parametrize(
  "arg, message",
  [
    ("source=cvs,path=x", "source.*cvs.*csv"),
    ("source=csv", "path: source=csv needs"),
    ("source=csv,path=/missing.csv", "no file '/missing.csv'"),
    ("source=folder,path=x,suffix=y", "prefix and suffix"),
  ],
)
def test_wrong_arguments(arg, message):
  with pytest.raises(ValueError, match=message):
    forkme.get_config(arg)


def test_a_column_that_is_not_there(tmp_path):
  arg = of_csv(tmp_path).replace("suffix=answer", "suffix=anser")
  with pytest.raises(ValueError, match="anser.*answer"):
    c = config(f"source=csv,{arg}")
    examples(c.input.data, c.input.pp)
