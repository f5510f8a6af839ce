"""Builders of questions about images, on tiny sources in published layouts."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from big_vision import lookup
from big_vision.datasets import building
from big_vision.datasets.gqa import gqa
from big_vision.datasets.infovqa import infovqa
from big_vision.datasets.stvqa import stvqa
from big_vision.datasets.textvqa import textvqa
from big_vision.datasets.xgqa import xgqa
from tests.datasets import source_trees as trees

pytestmark = pytest.mark.tf


def without(example, *keys):
  """An example without what TFDS adds, and without `keys`."""
  drop = {"tfds_id", "_id", *keys}
  return {k: v for k, v in example.items() if k not in drop}


def by(examples, key):
  """Examples by the value of a feature, which all differ in."""
  found = {e[key]: without(e) for e in examples}
  assert len(found) == len(examples)
  return found


def test_okvqa(tmp_path):
  src, images = tmp_path / "src", {}
  for split, part, number in (("train", "train2014", 9), ("val", "val2014", 7)):
    file = f"COCO_{part}_{number:012d}.jpg"
    images[split] = trees.image(src / part / file, number)
    texts = [("yes", "pony", "ponies"), ("maybe", "horse", "a horse")] * 5
    answers = [
      dict(answer_id=i, answer=a, raw_answer=raw, answer_confidence=sure)
      for i, (sure, a, raw) in enumerate(texts, 1)
    ]
    ids = dict(image_id=number, question_id=10 * number + 5)
    trees.write_json(
      src / f"OpenEnded_mscoco_{part}_questions.json",
      {"questions": [{**ids, "question": f"What of {split}?"}]},
    )
    row = dict(ids, answer_type="other", answers=answers, question_type="eight")
    trees.write_json(
      src / f"mscoco_{part}_annotations.json", {"annotations": [row]}
    )
  read = trees.build("okvqa", src, tmp_path)
  (row,) = read("train")
  assert without(row) == {
    "image": images["train"],
    "image/id": 9,
    "question_id": 95,
    "question": "What of train?",
    "question_type": "eight",
    "question_type_readable": "Plants and Animals",
    "answer_type": "other",
    "answers": ["pony", "horse"] * 5,
    "raw_answers": ["ponies", "a horse"] * 5,
    "answer_confidences": [True, False] * 5,
  }
  (row,) = read("val")
  assert (row["question_id"], row["image"]) == (75, images["val"])


def test_aokvqa(tmp_path):
  src, images = tmp_path / "src", {}
  for number, split in enumerate(("train", "val", "test"), 3):
    file = src / f"{split}2017" / f"{number:012d}.jpg"
    images[split] = trees.image(file, number)
    row = dict(
      split=split,
      image_id=number,
      question_id=f"22jbM6gDxdaMaunuzgrsB{split}",
      question="Where?",
      choices=["a", "b", "c", "d"],
      difficult_direct_answer=split == "val",
    )
    if split != "test":
      row |= dict(
        correct_choice_idx=2,
        direct_answers=["here"] * 9 + ["there"],
        rationales=["x", "y", "z"],
      )
    trees.write_json(src / f"aokvqa_v1p0_{split}.json", [row])
  read = trees.build("aokvqa", src, tmp_path)
  for number, split in enumerate(("train", "val", "test"), 3):
    is_test = split == "test"
    (row,) = read(split)
    assert without(row) == {
      "image": images[split],
      "image/id": number,
      "question_id": f"22jbM6gDxdaMaunuzgrsB{split}",
      "question": "Where?",
      "direct_answers": [] if is_test else ["here"] * 9 + ["there"],
      "direct_answer_is_difficult": split == "val",
      "multiple_choice_possible_answers": ["a", "b", "c", "d"],
      "multiple_choice_correct_idx": -1 if is_test else 2,
      "answer_rationales": [] if is_test else ["x", "y", "z"],
    }


def test_vqa(tmp_path, caplog):
  src = tmp_path / "src"
  jpeg = trees.image(src / "train2014/COCO_train2014_000000000001.jpg", 1)
  trees.image(src / "val2014/COCO_val2014_000000000002.jpg", 2)
  trees.image(src / "test2015/COCO_test2015_000000000003.jpg", 3)
  parts = {"train2014": [1], "val2014": [2], "test2015": [3, 4]}
  for part, ids in {**parts, "test-dev2015": [3]}.items():
    rows = [
      dict(image_id=i, question_id=100 * i, question=f"Is it {i}?") for i in ids
    ]
    path = src / f"v2_OpenEnded_mscoco_{part}_questions.json"
    trees.write_json(path, {"questions": rows})
  for part in ("train2014", "val2014"):
    (i,) = parts[part]
    answers = [
      dict(answer=a, answer_confidence=c, answer_id=1)
      for a, c in (("yes", "maybe"), ("no", "no"))
    ]
    row = dict(
      question_type="is it",
      multiple_choice_answer="yes",
      answers=answers,
      image_id=i,
      answer_type="yes/no",
      question_id=100 * i,
    )
    path = src / f"v2_mscoco_{part}_annotations.json"
    trees.write_json(path, {"annotations": [row]})
  read = trees.build("vqa", src, tmp_path)
  (row,) = read("train")
  assert without(row) == {
    "image": jpeg,
    "image/id": 1,
    "question_id": 100,
    "question_text": "Is it 1?",
    "question_type": "is it",
    "answer_type": "yes/no",
    "answers": ["yes", "no"],
    "answer_confidences": ["maybe", "no"],
    "top_answer": "yes",
  }
  # As the config asks for them; an image of the test is missing.
  assert [r["question_id"] for r in read("test + test-dev")] == [300, 300]
  assert "left out 1 questions of 'test'" in caplog.text
  (row,) = read("test-dev")
  empty = ("question_type", "answer_type", "top_answer")
  assert [row[k] for k in empty] == [""] * 3 and row["answers"] == []
  assert len(read("train + validation")) == 2
  # Those of other splits may not be missing.
  (src / "val2014/COCO_val2014_000000000002.jpg").unlink()
  with pytest.raises(lookup.ConfigError, match="000002.jpg.*zips/val2014.zip"):
    trees.build("vqa", src, tmp_path / "2")


def gqa_rows(*ids, **kw):
  return {
    i: {
      "imageId": "n5",
      "question": f"Is {i} red?",
      "isBalanced": True,
      "answer": "yes",
      "fullAnswer": "Yes, it is.",
      "semantic": [{"operation": "select"}],
      **kw,
    }
    for i in ids
  }


def test_gqa(tmp_path):
  src = tmp_path / "src"
  jpeg = trees.image(src / "images" / "n5.jpg", 5)
  number = itertools.count(1)
  for split, files in gqa.SPLITS.items():
    for file in files:
      rows = gqa_rows(f"0{next(number)}")
      if split.startswith("challenge"):
        rows = {k: {**v} for k, v in rows.items()}
        for row in rows.values():
          del row["answer"], row["fullAnswer"]
      trees.write_json(src / file, rows)
  read = trees.build("gqa", src, tmp_path)
  expected = ["train", "val", "testdev", "challenge"]
  assert set(gqa.SPLITS) == {
    f"{s}_{kind}" for s in expected for kind in ("all", "balanced")
  }
  rows = by(read("train_all"), "example_id")
  assert sorted(rows) == list(range(1, 11))  # Of ten files.
  assert rows[3] == {
    "image": jpeg,
    "image/id": "n5",
    "example_id": 3,
    "question": "Is 03 red?",
    "answer": "yes",
    "full_answer": "Yes, it is.",
    "is_balanced": True,
  }
  assert len(read("testdev_balanced")) == 1
  (row,) = read("challenge_balanced")
  assert (row["answer"], row["full_answer"]) == ("", "")
  (src / "train_balanced_questions.json").write_text('{"1": {"question": ')
  with pytest.raises(lookup.ConfigError, match="train_balanced_.*is damaged"):
    trees.build("gqa", src, tmp_path / "2")


def test_xgqa(tmp_path):
  src = tmp_path / "src"
  trees.image(src / "images" / "n5.jpg", 5)
  for number, file in enumerate(xgqa.SPLITS.values()):
    rows = gqa_rows(str(number), question=f"{file}?")
    trees.write_json(src / file, rows)
  read = trees.build("xgqa", src, tmp_path)
  assert len(xgqa.SPLITS) == 8 * (3 + 6)
  for split, file in {
    "test_zs_bn": "zero_shot/testdev_balanced_questions_bn",
    "dev_fs_de": "few_shot/de/dev",  # Not the file of the test.
    "test_fs_de": "few_shot/de/test",
    "train_fs25_zh": "few_shot/zh/train_25",
  }.items():
    (row,) = read(split)
    assert row["question"] == f"data/{file}.json?"


def picture_of_halves():
  """Encoded image: red above blue."""
  pixels = np.zeros([16, 32, 3], np.uint8)
  pixels[:8, :, 0] = pixels[8:, :, 2] = 255
  out = io.BytesIO()
  Image.fromarray(pixels).save(out, "JPEG", quality=95, subsampling=0)
  return out.getvalue()


def test_textvqa(tmp_path):
  src = tmp_path / "src"
  ids = {"train": "aa", "val": "bb", "test": "cc"}
  halves = picture_of_halves()
  for number, (split, image_id) in enumerate(ids.items(), 40):
    row = dict(
      question="what?", image_id=image_id, question_id=number, set_name=split
    )
    if split != "test":
      row["answers"] = ["x"] * 9 + ["y"]
    trees.write_json(
      src / f"TextVQA_0.5.1_{split}.json",
      {"data": [row, {**row, "question_id": 7}]},
    )
    folder = "test_images" if split == "test" else "train_images"
    trees.write(src / folder / f"{image_id}.jpg", halves)
  csv = "ImageID,Subset,Title,Rotation\nzz,train,,90.0\naa,train,t,90.0\n"
  trees.write(
    src / "image_ids_and_rotation.csv", csv + "bb,train,t,\ncc,test,t,0.0\n"
  )
  read = trees.build("textvqa", src, tmp_path)
  rows = by(read("train"), "question_id")
  image = rows[40].pop("image")
  assert rows[40] == {
    "image/id": 40,
    "question_id": 40,
    "question": "what?",
    "answers": ["x"] * 9 + ["y"],
  }
  # Turned against the clock, what was above is left.
  pixels = np.asarray(Image.open(io.BytesIO(image)), np.int32)
  assert pixels.shape == (32, 16, 3)
  assert np.abs(pixels[:, :7] - [255, 0, 0]).max() < 20
  assert np.abs(pixels[:, 9:] - [0, 0, 255]).max() < 20
  assert rows[7]["image"] == image and read("val")[0]["image"] == halves
  assert by(read("test"), "question_id")[42]["answers"] == []
  upside = Image.open(io.BytesIO(textvqa.turned(halves, 180)))
  assert np.asarray(upside)[2, 2, 2] > 200
  trees.write(src / "image_ids_and_rotation.csv", csv.replace("90.0", "45"))
  with pytest.raises(
    lookup.ConfigError, match="image aa has the rotation '45'"
  ):
    trees.build("textvqa", src, tmp_path / "2")


def test_docvqa(tmp_path):
  src = tmp_path / "src"
  png = trees.image(src / "documents" / "xnbl0037_1.png", 200)
  # Two layouts that were published.
  files = ["train_v1.0_withQT.json", "val/val_v1.0.json", "test_v1.0.json"]
  for number, file in enumerate(files):
    row = dict(
      questionId=300 + number,
      question="Who?",
      image="documents/xnbl0037_1.png",
      docId=5,
    )
    if "test" not in file:
      row["answers"] = ["Me", "me"]
    trees.write_json(src / file, {"dataset_name": "SP-DocVQA", "data": [row]})
  read = trees.build("docvqa", src, tmp_path)
  (row,) = read("train")
  assert without(row) == {
    "image": png,
    "image/filename": "xnbl0037_1.png",
    "question_id": 300,
    "question": "Who?",
    "answers": ["Me", "me"],
  }
  assert read("val")[0]["answers"] == ["Me", "me"]
  assert read("test")[0]["answers"] == []


def test_infovqa(tmp_path):
  src = tmp_path / "src"
  jpeg = trees.image(src / "infographicsvqa_images" / "38589.jpeg", 9)
  files = dict(train="train_v1.0", val="val_v1.0_withQT", test="test_v1.0")
  for split, file in files.items():
    row = dict(questionId=9, question="Which?", image_local_name="38589.jpeg")
    if split != "test":
      row["answers"] = ["a, b", "c"]
    trees.write_json(src / f"infographicsVQA_{file}.json", {"data": [row]})
  read = trees.build("infovqa", src, tmp_path)
  (row,) = read("train")
  assert (row["question_id"], row["image"]) == (9, jpeg)
  assert row["answers"] == ["a, b", "c"]
  assert read("val")[0]["answers"] == ["a, b", "b, a", "c"]
  assert read("test")[0]["answers"] == []
  three = infovqa.in_each_order(["x, y, z", "1,2"])
  assert sorted(three) == sorted(
    ["1,2", "x, y, z", "x, z, y", "y, x, z", "y, z, x", "z, x, y", "z, y, x"]
  )


def stvqa_source(src, num=20):
  coco = "coco-text/COCO_train2014_000000000001.jpg"
  jpeg = trees.image(src / "train2014/COCO_train2014_000000000001.jpg", 1)
  paths = [coco, *(f"icdar/{i}.jpg" for i in range(1, num))]
  for number, path in enumerate(paths):
    trees.image(src / "images" / path, 2 + number)
  rows = [
    dict(file_path=p, question="q?", answers=["a"], question_id=i)
    for i, p in enumerate(paths)
  ]
  trees.write_json(src / "train_task_3.json", {"data": rows})
  row = dict(file_path=coco, question="t?", question_id=900)
  trees.write_json(src / "test_task_3.json", {"data": [row]})
  return jpeg, paths


def test_stvqa(tmp_path):
  src = tmp_path / "src"
  jpeg, paths = stvqa_source(src)
  read = trees.build("stvqa", src, tmp_path)
  # 20 * 2628 / 26074 = 2.
  assert (len(read("train")), len(read("val"))) == (18, 2)
  rows = by(read("train+val"), "question_id")
  assert sorted(rows) == list(range(20))
  assert rows[0] == {
    "image": jpeg,  # COCO's own.
    "image/filename": "COCO_train2014_000000000001.jpg",
    "question_id": 0,
    "question": "q?",
    "answers": ["a"],
  }
  assert rows[5]["image"] == (src / "images" / paths[5]).read_bytes()
  (row,) = read("test")
  assert row["answers"] == [] and row["image"] == jpeg
  # A division of one's own.
  trees.write(src / "val_images.txt", f"{paths[3]}\n{paths[4]}\n{paths[0]}\n")
  read = trees.build("stvqa", src, tmp_path / "2")
  assert sorted(by(read("val"), "question_id")) == [0, 3, 4]
  trees.write(src / "val_images.txt", "icdar/100.jpg")
  with pytest.raises(lookup.ConfigError, match="'icdar/100.jpg' is no `file_"):
    trees.build("stvqa", src, tmp_path / "3")


def test_stvqa_held_out():
  rng = np.random.default_rng(0)
  counts = {
    f"x/{i}.jpg": int(n) for i, n in enumerate(rng.integers(1, 4, 18921))
  }
  total = sum(counts.values())
  chosen = stvqa.held_out(counts)
  held_out = sum(counts[path] for path in chosen)
  assert held_out == round(total * 2628 / 26074)
  assert stvqa.held_out(dict(reversed(counts.items()))) == chosen


def test_ocrvqa(tmp_path):
  src = tmp_path / "src"
  rows = {
    f"00{i}": dict(
      imageURL=f"http://x/y{i}.{suffix}",
      questions=["Who?", "What?"],
      answers=[f"a{i}", f"b{i}"],
      title="t",
      split=split,
    )
    for i, (suffix, split) in enumerate([("jpg", 3), ("gif", 1), ("jpg", 2)])
  }
  trees.write_json(src / "dataset.json", rows)
  files = ("000.jpg", "001.gif", "002.jpg")
  images = [trees.image(src / "images" / f, 50) for f in files]
  read = trees.build("ocrvqa_id", src, tmp_path)
  rows = by(read("train"), "int_id")
  assert sorted(rows) == [2, 3]
  assert rows[3] == {
    "image": images[1],
    "image/filename": "001.gif",
    "int_id": 3,
    "question": "What?",
    "answer": "b1",
  }
  assert sorted(by(read("val"), "int_id")) == [4, 5]
  assert sorted(by(read("test"), "int_id")) == [0, 1]


def test_vizwizvqa(tmp_path):
  src = tmp_path / "src"
  answers = [
    dict(answer="", answer_confidence="yes"),
    dict(answer="can", answer_confidence="maybe"),
  ]
  for split in ("train", "val", "test"):
    row = dict(image=f"VizWiz_{split}_00000012.jpg", question="Hi?")
    if split != "test":
      row |= dict(answers=answers, answer_type="other", answerable=1)
    trees.write_json(src / "Annotations" / f"{split}.json", [row])
    jpeg = trees.image(src / split / row["image"], 8)
  read = trees.build("vizwizvqa", src, tmp_path)
  (row,) = read("train")
  assert without(row) == {
    "image": jpeg,
    "image/filename": "VizWiz_train_00000012.jpg",
    "question_id": 12,
    "question": "Hi?",
    "answers": ["can"],
    "answer_confidences": ["maybe"],
    "answer_type": "other",
    "answerable": 1,
  }
  (row,) = read("test")
  assert (row["answers"], row["answerable"]) == ([], -1)
  trees.write_json(src / "Annotations" / "val.json", [dict(image="x.jpg")])
  with pytest.raises(
    lookup.ConfigError, match="val.json.*image 'x.jpg' is not"
  ):
    trees.build("vizwizvqa", src, tmp_path / "2")


OWN = (
  "okvqa aokvqa vqa gqa xgqa textvqa docvqa infovqa stvqa ocrvqa_id vizwizvqa"
)


@pytest.mark.parametrize("name", OWN.split())
def test_without_files(tmp_path, name):
  with pytest.raises(lookup.ConfigError) as e:
    building.prepare(name, str(tmp_path), str(tmp_path / "tfds"))
  for download in building.builder_class(name).DOWNLOADS:
    assert download.path in str(e.value) and download.url in str(e.value)
