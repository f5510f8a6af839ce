"""RefCOCO, and questions about diagrams, charts, science and the earth."""

import io
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from big_vision.datasets import building, core, rsvqa
from big_vision.datasets.ai2d import ai2d
from big_vision.datasets.refcoco import refcoco
from big_vision.lookup import ConfigError
from big_vision.pp import builder as pp_builder
from big_vision.pp import ops_choice, ops_general, ops_image  # noqa: F401
from tests.datasets import source_trees as trees

# pycocotools warns about itself with NumPy 2.
pytestmark = [
  pytest.mark.tf, pytest.mark.filterwarnings("ignore:__array__ implementation")
]  # fmt: skip

CONFIGS = [c.name for c in refcoco.RefCoco.BUILDER_CONFIGS]


def pixels(content):
  return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def by(examples, key):
  found = {e[key]: e for e in examples}
  assert len(found) == len(examples)
  return found


# RefCOCO: objects `ann`, each a rectangle, in images of 20 x 10 pixels.

# id -> image, (left, top, width, height), category.
THINGS = {
  101: (1, (2, 1, 10, 4), 1),
  102: (1, (12, 5, 6, 5), 2),
  201: (2, (0, 0, 20, 10), 1),
  301: (3, (5, 5, 5, 5), 2),
  401: (4, (1, 1, 3, 3), 1),
}
CATEGORIES = [
  {"id": 1, "name": "person", "supercategory": "person"},
  {"id": 2, "name": "dog", "supercategory": "animal"},
]


def thing(ann_id):
  image_id, (x, y, w, h), category = THINGS[ann_id]
  polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
  return {
    "id": ann_id,
    "image_id": image_id,
    "category_id": category,
    "bbox": [float(v) for v in (x, y, w, h)],
    "area": w * h + 0.5,
    "iscrowd": 0,
    "segmentation": polygon,
  }


def mask(ann_id):
  x, y, w, h = THINGS[ann_id][1]
  truth = np.zeros((10, 20), np.uint8)
  truth[y : y + h, x : x + w] = 255
  return truth


def ref(split, ann_id, *sentences):
  rows = [
    {
      "sent_id": 10 * ann_id + i,
      "raw": s.upper(),
      "sent": s,
      "tokens": s.split(),
    }
    for i, s in enumerate(sentences)
  ]
  return {
    "ref_id": ann_id,
    "ann_id": ann_id,
    "image_id": THINGS[ann_id][0],
    "split": split,
    "sentences": rows,
  }


def coco_tree(source, refs, instances=None):
  """Writes images, annotations, and `refs`: (folder, by) -> rows."""
  for image_id in (1, 2, 3, 4):
    name = f"{image_id:012d}.jpg"
    trees.image(source / "train2017" / name, 50 * image_id, (20, 10))
  instances = instances or {
    "images": [{"id": i, "height": 10, "width": 20} for i in (1, 2, 3, 4)],
    "categories": CATEGORIES,
    "annotations": [thing(i) for i in THINGS],
  }
  for (folder, by_), rows in refs.items():
    trees.write_json(source / folder / "instances.json", instances)
    content = pickle.dumps(rows, protocol=0)
    trees.write(source / folder / f"refs({by_}).p", content)


UNC = [
  ref("train", 101, "the man", "guy on the left"),
  ref("train", 102, "dog"),
  ref("val", 201, "everything"),
  ref("testA", 401, "small person"),
  ref("testB", 301, "brown dog", "not a cat"),
]


@pytest.fixture(scope="module")
def unc(tmp_path_factory):
  """Folder with `source`, and in `tfds` with refcoco_unc; the function `read`."""
  root = tmp_path_factory.mktemp("refcoco")
  coco_tree(root / "source", {("refcoco", "unc"): UNC})
  return root, trees.build("ref_coco_bv", root / "source", root, "refcoco_unc")


def test_refcoco_has_the_objects_that_texts_are_about(unc):
  root, read = unc
  (example,) = read("train")
  file = root / "source" / "train2017" / "000000000001.jpg"
  assert example["image"] == file.read_bytes()
  assert (example["width"], example["height"]) == (20, 10)
  assert example["image/id"] == 1
  objects = example["objects"]
  assert objects["id"] == [101, 102]
  assert objects["category"] == ["person", "dog"]
  assert objects["supercategory"] == ["person", "animal"]
  assert objects["area"] == [40.5, 30.5]
  assert objects["iscrowd"] == [False, False]
  assert objects["refs"] == {
    "id": [[1010, 1011], [1020]],
    "sentence": [["the man", "guy on the left"], ["dog"]],
  }
  want = [[0.1, 0.1, 0.5, 0.6], [0.5, 0.6, 1, 0.9]]  # y, x, y, x.
  np.testing.assert_allclose(objects["bbox"], want, rtol=1e-6)
  assert objects["mask"].shape == (2, 10, 20, 3)
  for found, ann_id in zip(objects["mask"], (101, 102), strict=True):
    np.testing.assert_array_equal(found, np.dstack([mask(ann_id)] * 3))
  assert [e["image/id"] for e in read("validation")] == [2]
  assert [e["image/id"] for e in read("testA")] == [4]
  assert [e["image/id"] for e in read("testB")] == [3]


def test_refcoco_flat_has_one_text_per_example(unc):
  _, read = unc
  texts = {}
  for e in read("train_flat"):
    (number,), ((sentence,),) = (
      e["objects"]["id"],
      e["objects"]["refs"]["sentence"],
    )
    texts[sentence] = number
    np.testing.assert_array_equal(e["objects"]["mask"][0, ..., 0], mask(number))
  assert texts == {"the man": 101, "guy on the left": 101, "dog": 102}
  assert len(read("testB_flat")) == 2 and len(read("testA_flat")) == 1


def test_refcoco_combined_trains_on_no_image_of_other_splits(tmp_path):
  source = tmp_path / "source"
  umd = [
    ref("train", 101, "a tall man"),
    ref("train", 301, "a dog that is brown"),  # testB of RefCOCO.
    ref("test", 401, "a person that is small"),
  ]
  plus = [ref("train", 101, "the man"), ref("val", 301, "dog")]
  refs = {
    ("refcocog", "umd"): umd,
    ("refcoco", "unc"): UNC,
    ("refcoco+", "unc"): plus,
  }
  coco_tree(source, refs)
  read = trees.build("ref_coco_bv", source, tmp_path, "refcocox_combined")
  (example,) = read("train")
  assert example["image/id"] == 1
  assert example["objects"]["id"] == [101, 102]
  assert example["objects"]["refs"]["sentence"] == [
    ["a tall man", "the man", "guy on the left", "the man"],
    ["dog"],
  ]
  assert len(read("train_flat")) == 5
  ids = lambda split: sorted(e["image/id"] for e in read(split))
  assert ids("validation") == [2, 3]
  assert ids("test") == [3, 4]
  assert len(read("test_flat")) == 4


def test_refcoco_split_by_objects_with_crowds_and_boxes_at_the_border(tmp_path):
  source = tmp_path / "source"
  group, wide = thing(101), thing(102)
  # The first 15 pixels in the order of columns, of 10 each.
  group |= {
    "iscrowd": 1, "segmentation": {"size": [10, 20], "counts": [0, 15, 185]}
  }  # fmt: skip
  wide["bbox"] = [12.0, 5.0, 8.01, 5.0]  # COCO's numbers are rounded.
  instances = {
    "images": [{"id": 1, "height": 10, "width": 20}],
    "categories": CATEGORIES,
    "annotations": [group, wide],
  }
  rows = [ref("train", 101, "crowd"), ref("val", 102, "dog")]
  coco_tree(source, {("refcocog", "google"): rows}, instances)
  read = trees.build("ref_coco_bv", source, tmp_path, "refcocog_google")
  (train,), (validation,) = read("train"), read("validation")
  assert train["image"] == validation["image"]
  assert train["objects"]["id"] == [101]
  assert validation["objects"]["id"] == [102]
  assert train["objects"]["iscrowd"] == [True]
  want = np.zeros((20, 10), np.uint8)
  want.ravel()[:15] = 255
  np.testing.assert_array_equal(train["objects"]["mask"][0, ..., 0], want.T)
  box = validation["objects"]["bbox"][0]
  np.testing.assert_allclose(box, [0.5, 0.6, 1, 1], rtol=1e-6)


def test_refcoco_fits_the_preprocessing_of_the_transfer(unc):
  root, _ = unc
  keys = '"objects/mask", "objects/bbox", "objects/refs/sentence"'
  pp = pp_builder.get_preprocess_fn(
    f"flatten|choice_no_replacement(key=[{keys}])"
    '|choice(key=["objects/refs/sentence"])|decode|resize(8)'
  )
  for split, known in (
    ("train", {"the man", "guy on the left", "dog"}),
    ("testB_flat", {"brown dog", "not a cat"}),
  ):
    source_ = core.get(
      name="ref_coco_bv/refcoco_unc:1.4.0",
      split=split,
      data_dir=str(root / "tfds"),
    )
    for e in source_.get_tfdata(ordered=True).map(pp).as_numpy_iterator():
      assert e["objects/refs/sentence"].decode() in known
      assert e["objects/mask"].shape == (10, 20, 3)
      assert e["objects/bbox"].shape == (4,)
      assert e["image"].shape == (8, 8, 3)


class Evil:
  """Runs a command where a pickle is read without care."""

  def __reduce__(self):
    return os.system, ("true",)


@pytest.mark.parametrize(
  "content", [pickle.dumps([Evil()]), b"", b"<html>", b"\x80\x02]"]
)
def test_refcoco_runs_nothing_that_a_file_has(tmp_path, content):
  path = tmp_path / "refs(unc).p"
  trees.write(path, content)
  with pytest.raises(ConfigError, match=r"refs\(unc\)\.p cannot be read"):
    refcoco.read_refs(str(path))


def test_refcoco_reads_texts_of_python_2(tmp_path):
  path = tmp_path / "refs(unc).p"
  # What `pickle.dumps([u'caf\xe9', 'caf\xc3\xa9'])` was.
  trees.write(path, b"(lp0\nVcaf\xe9\np1\naS'caf\\xc3\\xa9'\np2\na.")
  assert refcoco.read_refs(str(path)) == ["café", "café"]


def test_refcoco_has_no_other_splits(tmp_path):
  rows = [ref("train", 101, "the man"), ref("minival", 102, "the dog")]
  coco_tree(tmp_path / "source", {("refcocog", "umd"): rows})
  with pytest.raises(ConfigError, match="authors publish .KeyError: 'minival'"):
    trees.build("ref_coco_bv", tmp_path / "source", tmp_path, "refcocog_umd")


@pytest.mark.parametrize("config", CONFIGS)
def test_refcoco_needs_only_the_files_of_the_config(tmp_path, config):
  builder = refcoco.RefCoco(
    source=str(tmp_path), data_dir=str(tmp_path), config=config
  )
  needed = {d.path for d in builder.missing()} - {"train2017"}
  if config == "refcocox_combined":
    assert needed == {"refcoco", "refcoco+", "refcocog"}
  else:
    assert needed == {config.split("_")[0].replace("plus", "+")}


# AI2D.


def diagram(source, number, questions, text=None, color=200, size=(60, 40)):
  name = f"{number}.png"
  root = source / "ai2d"
  image = trees.image(root / "images" / name, color, size)
  rows = {
    q: {
      "abcLabel": abc,
      "answerTexts": answers,
      "correctAnswer": right,
      "questionId": f"{name}-{i}",
    }
    for i, (q, abc, answers, right) in enumerate(questions)
  }
  trees.write_json(
    root / "questions" / f"{name}.json", {"imageName": name, "questions": rows}
  )
  trees.write_json(root / "annotations" / f"{name}.json", {"text": text or {}})
  return image


def test_ai2d(tmp_path):
  source = tmp_path / "source"
  plain = ("What is it?", False, ["a cat", "a dog", "an owl", "a cow"], 2)
  lettered = ("What is at A?", True, ["A", "B", "C", "D"], 0)
  text = {
    "T0": {"rectangle": [[10, 4], [39, 24]], "replacementText": "A"},
    "T1": {"rectangle": [[45, 30], [55, 38]], "replacementText": "B"},
  }
  first = diagram(source, 3, [plain, lettered], text)
  second = diagram(source, 12, [plain])
  trees.write(source / "ai2d_test_ids.csv", "12\n40\n")
  read = trees.build("ai2d", source, tmp_path)
  (test,) = read("test")
  assert test.pop("image") == second
  del test["tfds_id"], test["_id"]
  assert test == {
    "id": "12.png-0",
    "question": "What is it?",
    "label": 2,
    "answer": "an owl",
    "possible_answers": plain[2],
    "abc_label": False,
    "image_name": "12.png",
  }
  train = by(read("train"), "id")
  assert train["3.png-0"]["image"] == first
  assert train["3.png-1"]["abc_label"] and train["3.png-1"]["answer"] == "A"
  found = pixels(train["3.png-1"]["image"])
  boxes = np.zeros((40, 60), bool)
  boxes[4:25, 10:40] = boxes[30:39, 45:56] = True
  assert (found[~boxes] == 200).all()
  for y, x in ((slice(4, 25), slice(10, 40)), (slice(30, 39), slice(45, 56))):
    assert found[y, x].min() < 50 and (found[y, x] == 255).any(-1).mean() > 0.3


@pytest.mark.parametrize("box", [(10, 20, 90, 60), (5, 5, 25, 85)])
@pytest.mark.parametrize("text", ["A", "O"])
def test_letters_are_centered_and_as_large_as_fits(box, text):
  picture = Image.new("RGB", (100, 100), (0, 0, 255))
  ai2d.draw_text(picture, text, box)
  found = np.asarray(picture)
  left, top, right, bottom = box
  outside = np.ones((100, 100), bool)
  outside[top : bottom + 1, left : right + 1] = False
  assert (found[outside] == (0, 0, 255)).all()
  ink = ~outside & (found[..., 0] < 128)
  y, x = np.nonzero(ink)
  assert abs((x.min() + x.max()) / 2 - (left + right) / 2) <= 1.5
  filled = max(
    (np.ptp(x) + 1) / (right - left), (np.ptp(y) + 1) / (bottom - top)
  )
  assert 0.85 < filled <= 1.05


def test_letters_of_huge_and_of_no_boxes():
  picture = Image.new("RGB", (400, 300), "blue")
  ai2d.draw_text(picture, "A", (0, 0, 399, 299))
  ink = np.asarray(picture)[..., 0] < 128
  assert 60 < np.ptp(np.nonzero(ink)[0]) < 100  # Font size 100 at most.
  for text, box in (("A", (5, 5, 5, 5)), ("", (0, 0, 9, 9))):
    ai2d.draw_text(Image.new("RGB", (20, 20)), text, box)


def test_ai2d_refuses_a_font_that_is_none(tmp_path):
  picture = Image.new("RGB", (20, 20))
  for path in (str(tmp_path / "no.ttf"), __file__):
    with pytest.raises(ConfigError, match="font_path="):
      ai2d.draw_text(picture, "A", (0, 0, 9, 9), path)
  builder = ai2d.Ai2d(
    font_path=__file__, source=str(tmp_path / "s"), data_dir=str(tmp_path)
  )
  lettered = ("What is A?", True, ["A", "B", "C", "D"], 0)
  text = {"T0": {"rectangle": [[1, 1], [9, 9]], "replacementText": "A"}}
  diagram(tmp_path / "s", 1, [lettered], text)
  trees.write(tmp_path / "s" / "ai2d_test_ids.csv", "1\n")
  with pytest.raises(ConfigError, match="font_path="):
    builder.download_and_prepare()


# ChartQA.


def test_chartqa(tmp_path):
  source = tmp_path / "source"
  images = {}
  for i, split in enumerate(("train", "val", "test")):
    root = source / "ChartQA Dataset" / split
    for j in range(2):
      name = f"c{i}{j}.png"
      images[name] = trees.image(root / "png" / name, 20 * i + j)
    row = lambda j, q, a, i=i: {
      "imgname": f"c{i}{j}.png",
      "query": q,
      "label": a,
    }
    human = [
      row(0, "Highest?", "12%"),
      row(1, "Lowest?", "3"),
      row(0, "a", "b"),
    ]
    trees.write_json(root / f"{split}_human.json", human)
    trees.write_json(root / f"{split}_augmented.json", [row(1, split, "Yes")])
  read = trees.build("chartqa", source, tmp_path)
  for split, i in (("train", 0), ("val", 1), ("test", 2)):
    human = by(read(split, "human"), "question_id")
    assert sorted(human) == [0, 1, 2]
    assert [human[n]["answer"] for n in range(3)] == ["12%", "3", "b"]
    assert human[1]["question"] == "Lowest?"
    assert human[2]["image/filename"] == f"c{i}0.png"
    assert human[2]["image"] == images[f"c{i}0.png"]
    (augmented,) = read(split, "augmented")
    assert augmented["question"] == split
    assert augmented["image"] == images[f"c{i}1.png"]


# ScienceQA.


def problem(answer, choices, image="image.png", **kw):
  return {
    "question": "Which one?",
    "choices": choices,
    "answer": answer,
    "hint": "",
    "image": image,
    "task": "closed choice",
    "grade": "grade2",
    "subject": "natural science",
    "topic": "physics",
    "category": "Materials",
    "skill": "Compare",
    "lecture": "Matter is\nsolid.",
    "solution": "Look.",
    "split": "unused",
    **kw,
  }


def test_science_qa(tmp_path):
  source = tmp_path / "source"
  problems = {
    "7": problem(1, ["ice", "wax"]),
    "8": problem(0, ["a", "b", "c"], image=None),
    "20": problem(2, ["x", "y", "z"], hint="Look at it."),
    "3": problem(0, ["up", "down"]),
  }
  trees.write_json(source / "problems.json", problems)
  splits = {"train": ["7", "8"], "val": ["20"], "test": ["3"], "minival": []}
  trees.write_json(source / "pid_splits.json", splits)
  files = {
    pid: trees.image(source / "images" / split / pid / "image.png", int(pid))
    for split, pid in (("train", "7"), ("val", "20"), ("test", "3"))
  }
  read = trees.build("science_qa", source, tmp_path)
  (train,), (val,), (test,) = read("train"), read("val"), read("test")
  for example, pid in ((train, "7"), (val, "20"), (test, "3")):
    assert example["id"] == pid and example["image"] == files[pid]
  texts = {
    k: v for k, v in train.items() if k not in ("image", "tfds_id", "_id")
  }
  unused = ("image", "split")
  want = {k: v for k, v in problems["7"].items() if k not in unused}
  assert texts == want | {
    "id": "7",
    "hint": "N/A",
    "indexed_choices": "(A) ice, (B) wax",
    "indexed_answer": "B",
  }
  assert val["hint"] == "Look at it."
  assert val["indexed_choices"] == "(A) x, (B) y, (C) z"
  assert val["indexed_answer"] == "C"


# RSVQA.


def earth_tree(source, prefix, folder, parts, suffixes=("tif",)):
  """Six questions per part, one of them inactive, about two images."""
  images = {}
  for p, part in enumerate(parts):
    rows = [
      ("presence", "Is there a road?", "yes"),
      ("count", "How many roads?", "12"),
      ("area", "How large?", "0m2"),
      ("comp", "More roads than houses?", "no"),
      ("rural_urban", "Where?", "rural"),
    ]
    questions, answers = [{"id": 99, "active": False}], []
    for i, (kind, question, answer) in enumerate(rows):
      number = 100 * p + i
      questions.append(
        {
          "id": number,
          "img_id": 2 * p + i % 2,
          "type": kind,
          "question": question,
          "answers_ids": [number + 1000],
          "active": True,
        }
      )
      answers.append({"id": number + 1000, "answer": answer, "active": True})
    answers.append({"id": 5, "active": False})
    stem = f"{prefix}_split_{part}"
    trees.write_json(
      source / f"{stem}_questions.json", {"questions": questions}
    )
    trees.write_json(source / f"{stem}_answers.json", {"answers": answers})
    suffix = suffixes[p % len(suffixes)]
    for i in (2 * p, 2 * p + 1):
      images[i] = trees.image(source / folder / f"{i}.{suffix}", (i, 99, 2))
  return images


def test_rsvqa_lr(tmp_path):
  source = tmp_path / "source"
  images = earth_tree(source, "LR", "Images_LR", ("train", "val", "test"))
  read = trees.build("rsvqa_lr", source, tmp_path)
  for p, split in enumerate(("train", "val", "test")):
    found = by(read(split, "all"), "question_id")
    assert sorted(found) == [100 * p + i for i in range(5)]
    e = found[100 * p + 1]
    assert e["question"] == "How many roads?" and e["question_type"] == "count"
    assert e["answers"] == ["between 11 and 100"]
    assert e["raw_answers"] == ["12"]
    image_id = e["image/id"]
    assert image_id == 2 * p + 1
    assert e["image"].startswith(b"\x89PNG")
    np.testing.assert_array_equal(pixels(e["image"]), pixels(images[image_id]))
    kinds = {e["question_type"] for e in read(split, "nonum")}
    assert kinds == {"presence", "area", "comp", "rural_urban"}


def test_rsvqa_hr(tmp_path):
  source = tmp_path / "source"
  parts = ("train", "val", "test", "test_phili")
  images = earth_tree(source, "USGS", "Data", parts, ("tif", "jpg", "png"))
  read = trees.build("rsvqa_hr", source, tmp_path)
  for p, split in enumerate(("train", "val", "test", "test_2")):
    found = by(read(split, "all"), "question_id")
    e = found[100 * p + 2]
    assert e["answers"] == ["0 m2"] and e["raw_answers"] == ["0m2"]
    if p in (0, 3):
      np.testing.assert_array_equal(pixels(e["image"]), pixels(images[2 * p]))
    else:
      assert e["image"] == images[2 * p]
    kinds = {e["question_type"] for e in read(split, "nonum")}
    assert kinds == {"presence", "comp", "rural_urban"}


@pytest.mark.parametrize(
  "raw,want",
  [
    ("0", "0"),
    ("1", "between 1 and 10"),
    ("10", "between 1 and 10"),
    ("11", "between 11 and 100"),
    ("100", "between 11 and 100"),
    ("101", "between 101 and 1000"),
    ("1000", "between 101 and 1000"),
    ("1001", "more than 1000"),
    ("0m2", "0 m2"),
    ("7m2", "between 1 m2 and 10 m2"),
    ("10.5m2", "between 11 m2 and 100 m2"),
    ("100 m2", "between 11 m2 and 100 m2"),
    ("412m2", "between 101 m2 and 1000 m2"),
    ("52340m2", "more than 1000 m2"),
    ("yes", "yes"),
    ("rural", "rural"),
  ],
)
def test_bins(raw, want):
  assert rsvqa.bin_numbers(raw) == want


# What all have in common.

TREES = {
  "ref_coco_bv": lambda s: coco_tree(s, {("refcoco", "unc"): UNC}),
  "ai2d": lambda s: (
    diagram(s, 1, [("What?", False, ["a"], 0)]),
    trees.write(s / "ai2d_test_ids.csv", "1"),
  ),
  "rsvqa_lr": lambda s: earth_tree(
    s, "LR", "Images_LR", ("train", "val", "test")
  ),
}


@pytest.mark.parametrize(
  "name,file,url",
  [
    ("ref_coco_bv", "train2017/000000000003.jpg", "train2017.zip"),
    ("ref_coco_bv", "refcoco/refs(unc).p", "refcoco.zip"),
    ("ref_coco_bv", "refcoco/instances.json", "refcoco.zip"),
    ("ai2d", "ai2d_test_ids.csv", "prior-datasets"),
    ("ai2d", "ai2d/images/1.png", "ai2d-all.zip"),
    ("rsvqa_lr", "LR_split_val_answers.json", "zenodo.org/records/6344334"),
    ("rsvqa_lr", "Images_LR/2.tif", "Images_LR.zip"),
  ],
)
def test_missing_and_damaged_files_are_named(tmp_path, name, file, url):
  source = tmp_path / "source"
  TREES[name](source)
  config = "refcoco_unc" if name == "ref_coco_bv" else None
  path = source / file
  is_image = path.suffix in (".jpg", ".png", ".tif")
  if is_image or path.suffix == ".json":
    trees.write(path, path.read_bytes()[:-30])
    with pytest.raises(ConfigError, match=path.name):
      trees.build(name, source, tmp_path, config)
  path.unlink()
  with pytest.raises(ConfigError) as e:
    trees.build(name, source, tmp_path, config)
  assert path.name in str(e.value) and url in str(e.value)


@pytest.mark.parametrize(
  "name",
  ["ai2d", "chartqa", "ref_coco_bv", "rsvqa_hr", "rsvqa_lr", "science_qa"],
)
def test_nothing_downloaded_lists_the_downloads(tmp_path, name):
  with pytest.raises(ConfigError, match="tools.prepare") as e:
    building.prepare(name, str(tmp_path / "none"), str(tmp_path))
  builder = building.builder_class(name)(source="none", data_dir=str(tmp_path))
  assert builder.missing() == list(builder.downloads())
  for download in builder.missing():
    assert download.url in str(e.value)
