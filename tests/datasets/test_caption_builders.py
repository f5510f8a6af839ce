"""Builders of captions, counts and pairs of images, on small source trees."""

import bz2
import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from big_vision import lookup
from big_vision.datasets import building, core
from big_vision.datasets.coco35l import coco35l
from big_vision.datasets.countbenchqa import countbenchqa
from big_vision.datasets.scicap import scicap
from big_vision.datasets.widgetcap import widgetcap
from big_vision.datasets.xm3600 import xm3600
from big_vision.pp import builder as pp_builder
from big_vision.pp import (  # noqa: F401 (registers ops)
  ops_general,
  ops_image,
  ops_text,
)
from big_vision.pp.proj.paligemma import video  # noqa: F401
from big_vision.pp.proj.paligemma import widgetcap as _widgetcap  # noqa: F401
from tests.datasets import source_trees as trees

pytestmark = pytest.mark.tf


def json_lines(rows):
  return "".join(json.dumps(row) + "\n" for row in rows)


def by(key, examples):
  """Examples by one of their features, without what the source adds."""
  added = ("tfds_id", "_id")
  found = {
    e[key]: {k: v for k, v in e.items() if k not in added} for e in examples
  }
  assert len(found) == len(examples)
  return found


def preprocess(name, split, tmp_path, pp):
  """Examples of a dataset that is built, after ops of a transfer's config."""
  data = core.get(name, split=split, data_dir=str(tmp_path / "tfds"))
  pp = pp_builder.get_preprocess_fn(pp)
  ds = data.get_tfdata(ordered=True).map(pp).as_numpy_iterator()
  return [trees.plain(e) for e in ds]


@pytest.fixture
def source(tmp_path):
  return tmp_path / "source"


def write_coco35l(source, languages=coco35l.LANGUAGES):
  """Two images with two captions in `train`, one of each in `dev`."""
  captions = {
    "train": [("7_0", "a cat"), ("12_0", "two dogs"), ("7_1", "one cat")],
    "dev": [("COCO_val2014_000000000030", "a bird")],
  }
  for part, rows in captions.items():
    text = json_lines(
      {
        "image_id": image_id,
        "caption_tokenized": english,
        "trg_lang": language,
        "translation_tokenized": f"{english} ({language})",
      }
      for image_id, english in rows
      for language in languages
      if language != "en"
    )
    data = bz2.compress(text.encode())
    trees.write(source / f"coco_mt_{part}.jsonl.bz2", data)
  return {
    image_id: trees.image(
      source / folder / f"COCO_{folder}_{image_id:012d}.jpg", image_id
    )
    for image_id, folder in {
      7: "train2014",
      12: "val2014",
      30: "val2014",
    }.items()
  }


def test_coco35l(source, tmp_path):
  images = write_coco35l(source)
  read = trees.build("coco35l", source, tmp_path)
  assert by("image/id", read("train_th")) == {
    "7_th": {
      "image/id": "7_th",
      "image": images[7],
      "captions": ["a cat (th)", "one cat (th)"],
      "language": "th",
    },
    "12_th": {
      "image/id": "12_th",
      "image": images[12],
      "captions": ["two dogs (th)"],
      "language": "th",
    },
  }
  english = by("image/id", read("train_en"))
  assert english["7_en"]["captions"] == ["a cat", "one cat"]
  assert english["7_en"]["language"] == "en"
  (dev,) = read("dev_en")
  assert dev["captions"] == ["a bird"] and dev["image"] == images[30]
  assert read("dev_de")[0]["captions"] == ["a bird (de)"]
  ops = (
    "flatten|decode|resize(8)|value_range(-1, 1)"
    '|choice_no_replacement(inkey="captions", outkey="suffix")'
    '|strfmt("caption {language}", outkey="prefix")|keep("prefix", "suffix")'
  )
  found = preprocess("coco35l", "dev_fr", tmp_path, ops)
  assert found == [{"prefix": "caption fr", "suffix": "a bird (fr)"}]
  assert len(coco35l.LANGUAGES) == 35


def test_coco35l_bad_files(source, tmp_path):
  write_coco35l(source, ("de", "fr", "xx"))
  with pytest.raises(lookup.ConfigError, match="no captions in ar, bn, cs"):
    trees.build("coco35l", source, tmp_path)
  path = source / "coco_mt_train.jsonl.bz2"
  content = path.read_bytes()
  path.write_bytes(content[:-9])
  with pytest.raises(lookup.ConfigError, match="train.jsonl.bz2 is damaged"):
    trees.build("coco35l", source, tmp_path)
  path.write_bytes(bz2.compress(b'{"image_id": "x", "trg_lang": "de"}\n'))
  with pytest.raises(lookup.ConfigError, match="'x' has no number of COCO"):
    trees.build("coco35l", source, tmp_path)
  path.unlink()
  with pytest.raises(lookup.ConfigError) as e:
    trees.build("coco35l", source, tmp_path)
  assert "storage.googleapis.com/crossmodal-3600/coco_mt_train" in str(e.value)


def write_xm3600(source, languages=xm3600.LANGUAGES):
  rows = [
    {
      "image/key": key,
      "image/locale": "quz",
      **{
        k: {
          "caption": [f"{key} in {k}.", "More."],
          "caption/tokenized": [f"{key} in {k} .", "More ."],
          "caption/tokenized/lowercase": [f"{key} in {k} .", "more ."],
        }
        for k in languages
      },
    }
    for key in ("00a", "00b")
  ]
  trees.write(source / "captions.jsonl", json_lines(rows))
  return [
    trees.image(source / "images" / f"{row['image/key']}.jpg", 40 * i)
    for i, row in enumerate(rows)
  ]


def test_xm3600(source, tmp_path):
  images = write_xm3600(source)
  read = trees.build("xm3600", source, tmp_path)
  assert len(xm3600.LANGUAGES) == 36
  quechua = by("image/id", read("quz"))
  assert sorted(quechua) == ["00a_quz", "00b_quz"]
  assert quechua["00b_quz"] == {
    "image/id": "00b_quz",
    "image": images[1],
    "captions": ["00b in quz.", "More."],
    "captions/tokenized": ["00b in quz .", "More ."],
    "language": "quz",
  }
  assert (tmp_path / "tfds" / "xm3600" / "1.0.1").is_dir()


def test_xm3600_bad_files(source, tmp_path):
  write_xm3600(source, xm3600.LANGUAGES[:-1])
  with pytest.raises(
    lookup.ConfigError, match="split 'zh' in .*KeyError: 'zh'"
  ):
    trees.build("xm3600", source, tmp_path)
  write_xm3600(source)
  (source / "images" / "00a.jpg").unlink()
  with pytest.raises(lookup.ConfigError, match="00a.jpg.*images.tgz"):
    trees.build("xm3600", source, tmp_path)


def write_nocaps(source):
  """Of three images each, the second is missing and the third is damaged."""
  names = {
    "val": "nocaps_val_4500_captions.json",
    "test": "nocaps_test_image_info.json",
  }
  images = {}
  for k, (split, name) in enumerate(names.items()):
    numbers = range(3 * k, 3 * k + 3)
    content = {"images": [{"id": i, "file_name": f"{i}.jpg"} for i in numbers]}
    if split == "val":
      content["annotations"] = [
        {"image_id": i, "caption": f"{text} {i}"}
        for text in ("a", "b")
        for i in numbers
      ]
    trees.write_json(source / name, content)
    image = trees.image(source / split / f"{3 * k}.jpg", 50)
    trees.write(source / split / f"{3 * k + 2}.jpg", image[:200])
    images[split] = image
  return images


def test_nocaps(source, tmp_path, caplog):
  images = write_nocaps(source)
  read = trees.build("nocaps", source, tmp_path)
  assert by("image/id", read("val")) == {
    0: {"image/id": 0, "image": images["val"], "texts": ["a 0", "b 0"]}
  }
  assert by("image/id", read("test")) == {
    3: {"image/id": 3, "image": images["test"], "texts": ["N/A"]}
  }
  left_out = [m for m in caplog.messages if "Left out" in m]
  assert len(left_out) == 4
  assert "(1 so far)" in left_out[0] and "1.jpg" in left_out[0]
  assert "not an image" in left_out[1] and "2.jpg" in left_out[1]


def test_nocaps_without_images(source, tmp_path):
  write_nocaps(source)
  (source / "val" / "0.jpg").unlink()
  with pytest.raises(lookup.ConfigError, match="none of the 3 .*coco_url"):
    trees.build("nocaps", source, tmp_path)
  (source / "nocaps_val_4500_captions.json").unlink()
  with pytest.raises(lookup.ConfigError, match="nocaps.s3.amazonaws.com"):
    trees.build("nocaps", source, tmp_path)


def write_text_caps(source):
  images = {}
  rows = {"train": ("t1", "t2", "t1"), "val": ("v1",), "test": ("x1", "x1")}
  for split, names in rows.items():
    data = [
      {"image_id": name, "caption_str": f"{name} {i}"}
      for i, name in enumerate(names)
    ]
    if split == "test":
      data = [{"image_id": name} for name in names]
    trees.write_json(source / f"TextCaps_0.1_{split}.json", {"data": data})
    folder = "test_images" if split == "test" else "train_images"
    for i, name in enumerate(sorted(set(names))):
      images[name] = trees.image(source / folder / f"{name}.jpg", 90 * i)
  return images


def test_text_caps(source, tmp_path):
  images = write_text_caps(source)
  read = trees.build("text_caps", source, tmp_path)
  train = by("image/id", read("train"))
  assert train == {
    "t1": {"image/id": "t1", "image": images["t1"], "texts": ["t1 0", "t1 2"]},
    "t2": {"image/id": "t2", "image": images["t2"], "texts": ["t2 1"]},
  }
  assert [e["texts"] for e in read("val")] == [["v1 0"]]
  ops = (
    'decode|resize(8)|value_range(-1, 1)|flatten|copy("texts", "captions")'
    '|keep("image/id", "captions")'
  )
  found = preprocess("text_caps", "val", tmp_path, ops)
  assert found == [{"image/id": "v1", "captions": ["v1 0"]}]
  assert by("image/id", read("test")) == {
    "x1": {"image/id": "x1", "image": images["x1"], "texts": []}
  }


def test_text_caps_bad_files(source, tmp_path):
  write_text_caps(source)
  (source / "test_images" / "x1.jpg").unlink()
  with pytest.raises(lookup.ConfigError, match="x1.jpg.*test_images.zip"):
    trees.build("text_caps", source, tmp_path)


def write_scicap(source, figures, collection, subfigures, capitals=False):
  """Figures: split -> names and whether they have parts."""
  root = source / "scicap_data"
  for kind in ("No", "Yes"):
    (root / f"SciCap-{kind}-Subfig-Img").mkdir(parents=True, exist_ok=True)
  images = {}
  for split, rows in figures.items():
    part = split.capitalize() if capitals else split
    lists = root / "List-of-Files-for-Each-Experiments" / collection
    trees.write_json(lists / subfigures / part / "file_idx.json", [*rows])
    for i, (name, has_parts) in enumerate(rows.items()):
      normalized = {
        "2-1-basic-num": {"caption": f"num {name}", "token": []},
        "2-2-advanced-euqation-bracket": {"caption": f"eq {name}"},
      }
      caption = {
        "contains-subfigure": has_parts,
        "figure-ID": name,
        "0-originally-extracted": f"Figure 1: {name}",
        "1-lowercase-and-token-and-remove-figure-index": {"caption": name},
        "2-normalized": normalized,
      }
      file = root / "SciCap-Caption-All" / part / name.replace("png", "json")
      trees.write_json(file, caption)
      folder = f"SciCap-{'Yes' if has_parts else 'No'}-Subfig-Img"
      images[name] = trees.image(root / folder / part / name, 20 * i)
  return images


@pytest.mark.parametrize("capitals", [False, True])
def test_scicap(source, tmp_path, capitals):
  figures = {
    "train": {"1v1-Figure1-1.png": False, "1v1-Figure2-1.png": True},
    "val": {"2v1-Figure1-1.png": False},
    "test": {"3v1-Figure1-1.png": True},
  }
  images = write_scicap(
    source, figures, "First-Sentence", "Yes-Subfig", capitals
  )
  config = "first_sentence_subfig_yes"
  read = trees.build("scicap", source, tmp_path, config)
  train = by("image/id", read("train"))
  assert sorted(train) == sorted(figures["train"])
  name = "1v1-Figure2-1.png"
  assert train[name] == {
    "image/id": name,
    "image": images[name],
    "caption/originally_extracted": f"Figure 1: {name}",
    "caption/lowercase_and_token_and_remove_figure_index": name,
    "caption/normalized/basic_num": f"num {name}",
    "caption/normalized/advanced_equation_bracket": f"eq {name}",
  }
  for split in ("val", "test"):
    assert [e["image/id"] for e in read(split)] == [*figures[split]]
  ops = (
    'reshape([1], inkey="caption/lowercase_and_token_and_remove_figure_index", '
    'outkey="captions")|decode|resize(8)|value_range(-1, 1)'
    '|keep("image/id", "captions")'
  )
  (name,) = figures["val"]
  found = preprocess(f"scicap/{config}", "val", tmp_path, ops)
  assert found == [{"image/id": name, "captions": [name]}]


def test_scicap_configs_and_bad_files(source, tmp_path):
  names = {c.name for c in scicap.SciCap.BUILDER_CONFIGS}
  assert len(names) == 6 and "first_sentence_subfig_no" in names
  figures = {s: {f"{s}.png": False} for s in ("train", "val", "test")}
  write_scicap(source, figures, "Caption-No-More-Than-100-Tokens", "No-Subfig")
  with pytest.raises(lookup.ConfigError, match="Single-Sentence-Caption"):
    trees.build("scicap", source, tmp_path, "single_sentence_subfig_no")
  root = source / "scicap_data" / "SciCap-Caption-All"
  trees.write_json(root / "train" / "train.json", {"0-originally": "a"})
  with pytest.raises(lookup.ConfigError, match="one key .* '1-', not 0"):
    trees.build("scicap", source, tmp_path, "leq_100_tokens_subfig_no")
  with pytest.raises(ValueError, match="leq_100_tokens_subfig_no"):
    trees.build("scicap", source, tmp_path, "leq_100_token_subfig_no")


def write_csv(path, rows):
  out = io.StringIO(newline="")
  writer = csv.DictWriter(out, rows[0])
  writer.writeheader()
  writer.writerows(rows)
  trees.write(path, out.getvalue())


def write_screen2words(source):
  rows = [(3, "a list, long"), (5, "settings"), (3, "items"), (9, 'a "shop"')]
  write_csv(
    source / "screen_summaries.csv",
    [{"screenId": i, "summary": text} for i, text in rows],
  )
  for split, screens in {"train": "3\n5\n", "dev": "9\n", "test": "5"}.items():
    trees.write(source / "split" / f"{split}_screens.txt", screens)
  return {
    i: trees.image(source / "combined" / f"{i}.jpg", i) for i in (3, 5, 9)
  }


def test_screen2_words(source, tmp_path):
  images = write_screen2words(source)
  read = trees.build("screen2_words", source, tmp_path)
  assert by("image/id", read("train")) == {
    3: {
      "image/id": 3,
      "image": images[3],
      "summary": ["a list, long", "items"],
    },
    5: {"image/id": 5, "image": images[5], "summary": ["settings"]},
  }
  assert [e["summary"] for e in read("dev")] == [['a "shop"']]
  assert [e["image/id"] for e in read("test")] == [5]


def test_screen2_words_bad_files(source, tmp_path):
  write_screen2words(source)
  trees.write(source / "split" / "dev_screens.txt", "9\n10\n")
  with pytest.raises(lookup.ConfigError, match="no summary of the screen 10"):
    trees.build("screen2_words", source, tmp_path)
  (source / "combined" / "3.jpg").unlink()
  with pytest.raises(lookup.ConfigError, match="unique_uis.tar.gz"):
    trees.build("screen2_words", source, tmp_path)


def write_widgetcap(source, bounds=(288, 640, 576, 1280)):
  """Screens of 1440 x 2560 units, in images of 18 x 32 pixels."""
  leaf = {"bounds": bounds, "children": []}
  sheet = {"bounds": [0, 0, 1440, 2560], "children": [None, leaf]}
  root = {"bounds": [0, 0, 1440, 2560], "children": [sheet]}
  rows = [(4, "0.0.1", "go back|back button"), (4, "0.0", "menu")]
  rows += [(6, "0", "whole screen"), (8, "0.0", "list")]
  write_csv(
    source / "widget_captions.csv",
    [{"screenId": i, "nodeId": n, "captions": c} for i, n, c in rows],
  )
  for split, screens in {
    "train": "4\n",
    "dev": "6\n",
    "test": "8\n7\n",
  }.items():
    trees.write(source / "split" / f"{split}.txt", screens)
  for i in (4, 6, 8):
    path = source / "combined" / f"{i}.json"
    trees.write_json(path, {"activity": {"root": root}})
  return {
    i: trees.image(source / "combined" / f"{i}.jpg", i, (18, 32))
    for i in (4, 6, 8)
  }


def test_widgetcap(source, tmp_path):
  images = write_widgetcap(source)
  read = trees.build("widgetcap", source, tmp_path)
  train = by("image/id", read("train"))
  assert sorted(train) == ["4_0.0", "4_0.0.1"]
  back = train["4_0.0.1"]
  np.testing.assert_allclose(back.pop("bbox"), [0.25, 0.2, 0.5, 0.4], rtol=1e-6)
  assert back == {
    "image/id": "4_0.0.1",
    "image": images[4],
    "texts": ["go back", "back button"],
    "screen_id": 4,
    "node_id": "0.0.1",
    "height": 32,
    "width": 18,
  }
  assert [e["bbox"] for e in read("dev")] == [[0, 0, 1, 1]]
  assert [e["texts"] for e in read("test")] == [["list"]]
  ops = (
    'copy("texts", "captions")|decode|resize(16, antialias=True)|draw_bbox'
    '|value_range(-1, 1)|keep("image", "captions")'
  )
  (found,) = preprocess("widgetcap", "dev", tmp_path, ops)
  is_red = np.asarray(found["image"])[..., 0] == 1.0
  assert is_red[0].all() and is_red[:, -1].all() and not is_red[8, 8]
  assert found["captions"] == ["whole screen"]


def test_widgetcap_boxes():
  # Of a screen that is not 9:16, and of a part that is not all on the screen.
  box = widgetcap.relative_box([-10, 256, 2560, 5120], height=1280, width=1600)
  assert box == pytest.approx((0.1, 0.0, 1.0, 0.8))
  assert box._fields == ("ymin", "xmin", "ymax", "xmax")


def test_widgetcap_bad_files(source, tmp_path):
  write_widgetcap(source)
  path = source / "combined" / "6.json"
  trees.write_json(path, {"activity": {"root": {"children": []}}})
  with pytest.raises(lookup.ConfigError, match="6.json has no part '0'"):
    trees.build("widgetcap", source, tmp_path)
  path.unlink()
  with pytest.raises(lookup.ConfigError, match="6.json.*unique_uis.tar.gz"):
    trees.build("widgetcap", source, tmp_path)


def write_nlvr2(source):
  """Two sentences about one pair of images in `train`, one in the others."""
  images = {}
  parts = {
    "train": (["train-5-0-0", "train-5-0-1"], "images/train/42"),
    "dev": (["dev-1-2-0"], "dev"),
    "test1": (["test1-3-1-0"], "test1"),
  }
  for part, (names, folder) in parts.items():
    extra = {"directory": 42} if part == "train" else {}
    rows = [
      {
        "identifier": name,
        "sentence": f"about {name}",
        "label": ["True", "False"][i],
        **extra,
      }
      for i, name in enumerate(names)
    ]
    trees.write(source / f"{part}.json", json_lines(rows))
    pair = names[0][:-2]
    for i in range(2):
      name = f"{pair}-img{i}.png"
      images[name] = 30 + 60 * i
      trees.image(source / folder / name, images[name], (16, 8 + 8 * i))
  return images


def test_nlvr2(source, tmp_path):
  write_nlvr2(source)
  read = trees.build("nlvr2", source, tmp_path)
  train = by("example_id", read("train"))
  assert {k: e["label"] for k, e in train.items()} == {
    "train-5-0-0": "True",
    "train-5-0-1": "False",
  }
  (test,) = read("test")
  assert test["example_id"] == "test1-3-1-0"
  assert test["sentence"] == "about test1-3-1-0"
  # Images are decoded, as the config of the transfer expects.
  expected = [np.full([8, 16, 3], 30), np.full([16, 16, 3], 90)]
  for example in [*train.values(), test, *read("dev")]:
    np.testing.assert_array_equal(example["image_left"], expected[0])
    np.testing.assert_array_equal(example["image_right"], expected[1])


def test_nlvr2_bad_files(source, tmp_path):
  write_nlvr2(source)
  (source / "dev" / "dev-1-2-img1.png").unlink()
  with pytest.raises(lookup.ConfigError, match="lil.nlp.cornell.edu/nlvr"):
    trees.build("nlvr2", source, tmp_path)


def write_marvl(source):
  for language in ("id", "sw", "ta", "tr", "zh"):
    folder = source / language
    rows = [
      {
        "concept": "39-Panci",
        "language": language,
        "caption": f"{language} {i}",
        "left_img": "39-2.jpg",
        "right_img": "39-11.jpg",
        "id": f"{language}-{i}",
        "label": i == 1,
      }
      for i in range(2)
    ]
    name = f"marvl-{language}.jsonl"
    trees.write(folder / "annotations" / name, json_lines(rows))
    trees.image(folder / "images" / "39-Panci" / "39-2.jpg", 255)
    trees.image(folder / "images" / "39-Panci" / "39-11.jpg", 0, (8, 16))


def test_marvl_in_the_transfer(source, tmp_path):
  write_marvl(source)
  read = trees.build("marvl", source, tmp_path)
  examples = by("example_id", read("test_ta"))
  example = examples["ta-1"]
  assert sorted(examples) == ["ta-0", "ta-1"]
  assert example["label"] == "True" and examples["ta-0"]["label"] == "False"
  assert example["sentence"] == "ta 1" and example["concept"] == "39-Panci"
  ops = (
    'resize(4, key="image_left")|resize(4, key="image_right")'
    '|stack_images(inkeys=["image_left", "image_right"], outkey="image")'
    '|value_range(-1, 1)|video_ensure_shape("image", (2, 4, 4, 3))'
    '|strfmt("answer en {sentence}", outkey="prefix")'
    '|copy(inkey="label", outkey="answer")'
    '|copy(inkey="example_id", outkey="question_id")'
    '|keep("image", "prefix", "answer", "question_id")'
  )
  found = by("question_id", preprocess("marvl", "test_ta", tmp_path, ops))
  found = found["ta-1"]
  images = np.broadcast_to([[[[1.0]]], [[[-1.0]]]], [2, 4, 4, 3])
  np.testing.assert_array_equal(found.pop("image"), images)
  assert found == {
    "prefix": "answer en ta 1",
    "answer": "True",
    "question_id": "ta-1",
  }


def test_marvl_bad_files(source, tmp_path):
  write_marvl(source)
  (source / "zh" / "annotations" / "marvl-zh.jsonl").unlink()
  with pytest.raises(lookup.ConfigError, match="zh.*marvl-challenge.github.io"):
    trees.build("marvl", source, tmp_path)


def write_pope(source, kind):
  questions = {
    1: ("Is there a snowboard in the image?", "yes"),
    2: ("Is there an orange in the imange?", "no"),
    3: ("Is there a potted plant in the image?", "no"),
  }
  name = "COCO_val2014_000000000042.jpg"
  rows = [
    {"question_id": i, "image": name, "text": text, "label": answer}
    for i, (text, answer) in questions.items()
  ]
  trees.write(source / f"coco_pope_{kind}.json", json_lines(rows))
  return trees.image(source / "val2014" / name, 70)


@pytest.mark.parametrize("kind", ["random", "popular", "adversarial"])
def test_pope(source, tmp_path, kind):
  image = write_pope(source, kind)
  read = trees.build(f"pope_{kind}", source, tmp_path)
  examples = by("question_id", read("test"))
  assert examples[2] == {
    "question_id": 2,
    "image": image,
    "image/filename": "COCO_val2014_000000000042.jpg",
    "question": "Is there an orange in the imange?",
    "thing": "orange",
    "answer": "no",
  }
  things = [examples[i]["thing"] for i in (1, 3)]
  assert things == ["snowboard", "potted plant"] and len(examples) == 3


def test_pope_bad_files(source, tmp_path):
  write_pope(source, "random")
  with pytest.raises(lookup.ConfigError, match="coco_pope_popular.json"):
    trees.build("pope_popular", source, tmp_path)


def write_countbench(source, questions):
  """Row 1 has no image, and that of row 2 is gray."""
  pictures = [trees.picture(9), None, trees.picture(8), trees.picture(7)]
  gray = io.BytesIO()
  trees.Image.new("L", (16, 16)).save(gray, "JPEG")
  pictures[2] = gray.getvalue()
  rows = [
    {
      "image": image and {"bytes": image, "path": None},
      "text": f"caption {i}",
      "image_url": f"http://a.b/{i}.jpg",
      "number": i + 2,
    }
    for i, image in enumerate(pictures)
  ]
  source.mkdir(exist_ok=True)
  pq.write_table(pa.Table.from_pylist(rows), source / "countbench.parquet")
  path = source / "data" / "countbench_paired_questions.json"
  trees.write_json(path, questions)
  return pictures


def test_countbenchqa(source, tmp_path):
  questions = [{"question": f"How many of {i}?"} for i in range(4)]
  images = write_countbench(source, questions)
  read = trees.build("countbenchqa", source, tmp_path)
  examples = by("image_id", read("huggingface"))
  assert sorted(examples) == [0, 3]
  assert examples[3] == {
    "image_id": 3,
    "image": images[3],
    "image_url": "http://a.b/3.jpg",
    "text": "caption 3",
    "question": "How many of 3?",
    "number": 5,
  }


def test_countbenchqa_questions():
  rows = [
    {"image": image, "text": f"t{i}", "image_url": f"u{i}"}
    for i, image in enumerate([{"bytes": b"x"}, None, {"bytes": b"y"}])
  ]
  for questions in (
    ["a", "b", "c"],
    ["a", "c"],
    {"t2": "c", "t0": "a"},
    {"u2": "c", "u0": "a", "u7": "d"},
    [{"text": "t2", "question": "c"}, {"text": "t0", "question": "a"}],
    [{"image_url": u, "question": q} for u, q in (("u0", "a"), ("u2", "c"))],
  ):
    found = countbenchqa.match_questions(questions, rows, "q.json")
    assert found == {0: "a", 2: "c"}, questions
  for questions in ({"t0": "a"}, ["a", "b", None], [{"text": "t0"}]):
    with pytest.raises(lookup.ConfigError, match="q.json has no question for"):
      countbenchqa.match_questions(questions, rows, "q.json")
  with pytest.raises(lookup.ConfigError, match="1 questions for 3 rows"):
    countbenchqa.match_questions(["a"], rows, "q.json")


def test_countbenchqa_bad_files(source, tmp_path):
  write_countbench(source, {})
  with pytest.raises(lookup.ConfigError, match="no question for row 0"):
    trees.build("countbenchqa", source, tmp_path)
  table = pa.Table.from_pylist([{"image": None, "text": "a"}])
  pq.write_table(table, source / "countbench.parquet")
  with pytest.raises(lookup.ConfigError, match="no column 'image_url'"):
    trees.build("countbenchqa", source, tmp_path)


def write_tallyqa(source):
  """Two questions of one number in `train`; a simple and a complex one."""
  coco = "train2014/COCO_train2014_000000000005.jpg"
  rows = {
    "train": [(coco, 3, None), ("VG_100K/1.jpg", 0, None)],
    "test": [("VG_100K_2/2.jpg", 15, True), (coco, 1, False)],
  }
  for split, questions in rows.items():
    content = [
      {
        "image": name,
        "question": f"How many in {name}?",
        "question_id": 77,
        "answer": answer,
        "data_source": "amt",
        **({} if simple is None else {"issimple": simple}),
      }
      for name, answer, simple in questions
    ]
    trees.write_json(source / f"{split}.json", content)
  (source / "val2014").mkdir()
  names = (coco, "VG_100K/1.jpg", "VG_100K_2/2.jpg")
  return {n: trees.image(source / n, 80 * i) for i, n in enumerate(names)}


def test_tallyqa(source, tmp_path):
  images = write_tallyqa(source)
  read = trees.build("tallyqa", source, tmp_path)
  train = by("image/filename", read("train"))
  assert train["VG_100K/1.jpg"] == {
    "question_id": 77,
    "image": images["VG_100K/1.jpg"],
    "image/filename": "VG_100K/1.jpg",
    "question": "How many in VG_100K/1.jpg?",
    "answer": 0,
    "issimple": -1,
  }
  assert len(train) == 2
  test = {e["answer"]: e["issimple"] for e in read("test")}
  assert test == {15: 1, 1: 0}
  ops = (
    'strfmt("answer en {question}", outkey="prefix")'
    '|strfmt("{answer}", outkey="answer")|keep("prefix", "answer", "issimple")'
  )
  found = by("answer", preprocess("tallyqa", "test", tmp_path, ops))
  assert sorted(found) == ["1", "15"] and found["15"]["issimple"] == 1


def test_tallyqa_bad_files(source, tmp_path):
  write_tallyqa(source)
  (source / "VG_100K_2" / "2.jpg").unlink()
  with pytest.raises(lookup.ConfigError, match="2.jpg.*images2.zip"):
    trees.build("tallyqa", source, tmp_path)
  trees.write(source / "VG_100K" / "1.jpg", b"<html>")
  with pytest.raises(lookup.ConfigError, match="VG_100K/1.jpg is not an image"):
    trees.build("tallyqa", source, tmp_path)


@pytest.mark.parametrize(
  "name", ["coco35l", "marvl", "nlvr2", "nocaps", "pope_random", "widgetcap"]
)
def test_what_is_to_be_downloaded(name, tmp_path):
  cls = building.builder_class(name)
  builder = cls(source=tmp_path, data_dir=tmp_path)
  assert builder.missing() == list(cls.DOWNLOADS) and len(cls.DOWNLOADS) > 1
  with pytest.raises(lookup.ConfigError) as e:
    builder.check()
  assert all(d.url in str(e.value) for d in cls.DOWNLOADS)
