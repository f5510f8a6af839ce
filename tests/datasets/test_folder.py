"""Folders of images: classes, splits, lists of labels, errors."""

import io
import os

import jax
import numpy as np
import pytest
from PIL import Image

from big_vision import fs, input_pipeline, lookup
from big_vision.datasets import core, folder
from big_vision.datasets.classes import Classes
from big_vision.tf import tf

pytestmark = pytest.mark.tf


def png():
  out = io.BytesIO()
  Image.fromarray(np.zeros([2, 3, 3], np.uint8)).save(out, "png")
  return out.getvalue()


IMAGE = png()


def write(root, files, content=IMAGE):
  for file in files:
    path = root / file
    os.makedirs(path.parent, exist_ok=True)
    path.write_bytes(content)
  return str(root)


def rows(path, split=None, **kw):
  source = folder.DataSource(path, split, **kw)
  return [
    (e["file_name"].decode(), int(e["label"]))
    for e in source.get_tfdata(ordered=True).as_numpy_iterator()
  ]


@pytest.fixture
def pets(tmp_path):
  files = ["train/dog/2.PNG", "train/dog/10.jpg", "train/ant/a/x.bmp"]
  files += ["train/ant/b.gif", "train/cat/1.jpeg", "val/dog/9.png"]
  write(tmp_path, [*files, "val/cat/3.webp"])
  # What does not count.
  write(tmp_path, ["train/dog/.hidden.jpg", "train/.git/x.png", "val/n.txt"])
  write(tmp_path, ["train/ant/notes.txt", "train/__MACOSX/cat/1.jpg"], b"text")
  write(tmp_path, ["annotations/boxes/1.xml"], b"text")
  return str(tmp_path)


def test_classes_and_order(pets):
  train = [
    ("train/ant/a/x.bmp", 0),
    ("train/ant/b.gif", 0),
    ("train/cat/1.jpeg", 1),
    ("train/dog/10.jpg", 2),
    ("train/dog/2.PNG", 2),
  ]
  # No ants in this split, and the labels are the same all the same.
  val = [("val/cat/3.webp", 1), ("val/dog/9.png", 2)]
  assert rows(pets, "train") == train
  assert rows(pets, "val") == val
  assert rows(pets, "val+train") == val + train
  assert rows(pets + "/train") == [(f[6:], k) for f, k in train]
  source = core.get("bv:folder", path=pets, split="val")
  assert source.classes == ["ant", "cat", "dog"]
  e = next(source.get_tfdata(ordered=True).as_numpy_iterator())
  assert e["image"] == IMAGE and e["class_name"] == b"cat"
  assert e["tfds_id"].decode() == pets + "/val/cat/3.webp"
  assert e["label"].dtype == np.int64 and e["_id"].dtype == np.int32


def test_class_list(pets, tmp_path):
  names = ["fish", "dog", "cat", "ant"]
  assert [k for _, k in rows(pets, "val", classes=names)] == [2, 1]
  path = tmp_path / "classes.txt"
  path.write_text("\n".join(names) + "\n\n")
  assert [k for _, k in rows(pets, "val", classes=str(path))] == [2, 1]


def test_slices_are_samples_of_all_classes(tmp_path):
  files = [f"{c}/{i:03d}.png" for c in "abcd" for i in range(50)]
  path = write(tmp_path, files)
  first, rest = rows(path, "all[:80%]"), rows(path, "all[80%:]")
  assert len(first) == 160 and sorted(first + rest) == rows(path)
  assert first == sorted(first) and rest == sorted(rest)
  assert {k for _, k in rest} == {0, 1, 2, 3}
  # Another image moves few of the others to the other side.
  write(tmp_path, ["b/1000.png"])
  assert len(set(rows(path, "all[80%:]")) ^ set(rest)) <= 2


def test_csv_of_names(pets, tmp_path):
  labels = tmp_path / "labels.csv"
  labels.write_text(
    "\ufefflabel,  file,note\n"
    'wolf,train/dog/10.jpg,"x, y"\nant,train/ant/b.gif,\ndog,val/dog/9.png,\n'
  )
  want = [("train/dog/10.jpg", 2), ("train/ant/b.gif", 0)]
  assert rows(pets, "train", labels=str(labels)) == want  # "dog" counts, too.
  assert rows(pets, labels=str(labels)) == [*want, ("val/dog/9.png", 1)]
  kw = dict(labels=str(labels), classes=["ant", "dog", "wolff"])
  source = folder.DataSource(pets, **kw)
  (problem,) = source.bad_examples()
  assert "'wolf' of" in problem and "10.jpg" in problem
  assert "Did you mean 'wolff'" in problem
  with pytest.raises(tf.errors.InvalidArgumentError, match="10.jpg"):
    source.read(tf.constant(0, tf.int64))
  assert source.read(tf.constant(1, tf.int64))["label"] == 0


def test_csv_of_ints(pets, tmp_path):
  labels = tmp_path / "labels.csv"
  text = "file,label\nval/dog/9.png,4\nval/cat/3.webp,-1\nval/cat/3.webp, 3\n"
  labels.write_text(text)
  source = folder.DataSource(pets, labels=str(labels))
  assert source.classes is None and source.total_examples == 3
  assert source.read(tf.constant(0, tf.int64))["label"] == 4
  (problem,) = source.bad_examples()  # More is not known without num_classes.
  assert "label -1 of" in problem and "3.webp" in problem
  problems = folder.DataSource(
    pets, labels=str(labels), num_classes=4
  ).bad_examples()
  assert len(problems) == 2 and r"outside of [0, 4)" in problems[0]


def test_classes_do_not_depend_on_the_split(tmp_path):
  """One CSV file, one root: what is absent from val moves nothing."""
  files = ["train/ant/1.png", "train/bee/2.png", "train/cat/3.png",
           "val/bee/4.png", "val/cat/5.png"]  # fmt: skip
  write(tmp_path, files)
  labels = tmp_path / "labels.csv"
  text = "".join(f"{file},{file.split('/')[1]}\n" for file in files)
  labels.write_text("file,label\n" + text)
  for kw in (dict(labels=str(labels)), {}):
    val = folder.DataSource(str(tmp_path), "val", **kw)
    assert rows(str(tmp_path), "val", **kw) == [(files[3], 1), (files[4], 2)]
    assert val.classes_of("label") == Classes(3, ("ant", "bee", "cat"))
    assert val.classes_of("image") is None
  labels.write_text(f"file,label\n{files[0]},6\n{files[4]},2\n")
  val = folder.DataSource(str(tmp_path), "val", labels=str(labels))
  assert val.classes_of("label") == Classes(7)


@pytest.mark.parametrize(
  "labels, message",
  [
    (
      ["0", "1", "cat"],
      "line 4 of .*'cat', a name, but line 2 has '0', an int",
    ),
    (["cat", "", "3"], "line 4 of .*'3', an integer, but line 2 has 'cat'"),
    (["1", "2.0", "1"], "line 3 of .*'2.0', which is no integer"),
    (["1.0", "2.0", "1.5e3"], "line 2 of .*'1.0', which is no integer"),
  ],
)
def test_labels_are_of_one_type(pets, tmp_path, labels, message):
  path = tmp_path / "labels.csv"
  lines = [f"train/dog/10.jpg,{label}" for label in labels]
  path.write_text("\n".join(["file,label", *lines]))
  with pytest.raises(ValueError, match="config.input.data.labels: " + message):
    folder.DataSource(pets, labels=str(path))
  # Names are whatever is listed as one.
  named = folder.DataSource(
    pets, labels=str(path), classes=[label for label in set(labels) if label]
  )
  assert len(named.bad_examples()) == labels.count("")


def test_missing_labels_are_errors_of_their_rows(pets, tmp_path):
  path = tmp_path / "labels.csv"
  path.write_text("file,label\nval/dog/9.png,10\nval/cat/3.webp,\n")
  source = folder.DataSource(pets, labels=str(path))
  assert source.read(tf.constant(0, tf.int64))["label"] == 10
  (problem,) = source.bad_examples()
  assert "no label of" in problem and "3.webp" in problem


def test_names_in_a_file_with_a_byte_order_mark(pets, tmp_path):
  path = tmp_path / "names.txt"
  path.write_bytes("\ufeffant\r\ncat\r\ndog\r\n".encode())
  assert folder.read_classes(str(path)) == ["ant", "cat", "dog"]


@pytest.mark.parametrize("store", ["ram", "memory"])
def test_remote_folder(store):
  """File systems in memory, of TensorFlow and of fsspec, stand in for gs://."""
  root = f"{store}://pets"
  for file in ("train/b/2.png", "train/a/1.png", "train/a/deep/0.jpg"):
    fs.makedirs(f"{root}/{os.path.dirname(file)}")
    with fs.open(f"{root}/{file}", "wb") as f:
      f.write(IMAGE)
  source = folder.DataSource(root, "train")
  es = list(source.get_tfdata(ordered=True).as_numpy_iterator())
  names = [e["file_name"].decode() for e in es]
  assert names == ["train/a/1.png", "train/a/deep/0.jpg", "train/b/2.png"]
  assert [int(e["label"]) for e in es] == [0, 0, 1]
  assert all(e["image"] == IMAGE for e in es)


@pytest.mark.parametrize(
  "kw, message",
  [
    (dict(split="trian"), "input.data.split.*'trian'.*Did you mean 'train'"),
    (dict(split="val[:1%]"), "no examples"),
    (dict(split="val", classes=["dog", "car"]), "val/cat .*Did you mean 'car'"),
    (dict(split="val", classes=["a", "a"]), r"\['a'\] more than once"),
    (dict(split="val", classes="/none.txt"), "no file '/none.txt'"),
    (dict(labels="/none.csv"), "data.labels: there is no file"),
    (dict(split="annotations"), "no images.*'.xml'"),
  ],
)
def test_errors(pets, kw, message):
  with pytest.raises(ValueError, match=message):
    folder.DataSource(pets, **kw)


def test_more_errors(pets, tmp_path):
  with pytest.raises(ValueError, match="no folder '/not/here'"):
    folder.DataSource("/not/here")
  for name in ("0.png", "1.jpg"):
    write(tmp_path, [f"flat/{name}"])
  with pytest.raises(
    ValueError, match="not in folders of classes.*data.labels"
  ):
    folder.DataSource(str(tmp_path / "flat"))
  write(tmp_path, ["splits/train/a/1.png", "splits/val/a/2.png"])
  with pytest.raises(ValueError, match="look like splits.*'train.val'"):
    folder.DataSource(str(tmp_path / "splits"))
  labels = tmp_path / "labels.csv"
  labels.write_text("name,label\nx,1\n")
  with pytest.raises(ValueError, match="columns file and label; it has"):
    folder.DataSource(pets, labels=str(labels))
  labels.write_text("file,label\nx.png,1\n")
  with pytest.raises(ValueError, match="begins with 'train/'"):
    folder.DataSource(pets, "train", labels=str(labels))
  cfg = {"batch_size": 8, "data": {"name": "bv:folder", "pth": pets}}
  with pytest.raises(ValueError, match="Did you mean 'path'"):
    input_pipeline.validate(cfg)


NAMES = ["a\u2028b", "c\x85d", "e\x0bf", "g\x1ch"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_encodings_of_tables(tmp_path, encoding, delimiter):
  """Characters that Python takes for ends of lines belong to the cells."""
  path = write(tmp_path, [f"{n}.png" for n in NAMES])
  lines = [("label", "file"), *((n, f"{n}.png") for n in NAMES)]
  table = tmp_path / "table.csv"
  text = "\r\n".join(map(delimiter.join, lines))
  table.write_bytes(text.encode(encoding))
  got = rows(path, labels=str(table))
  assert got == [(f"{n}.png", i) for i, n in enumerate(NAMES)]


def test_line_breaks_in_quotes(tmp_path):
  path = write(tmp_path, ["a.png", "b.png"])
  (tmp_path / "t.csv").write_text(
    'file,label,note\na.png,0,"two\nlines"\nb.png,1,\n'
  )
  assert rows(path, labels=path + "/t.csv") == [("a.png", 0), ("b.png", 1)]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"file,label\na.png,caf\xe9\n", r"t.csv is not UTF-8: line 2 .*xe9"),
    ("file,label\na.png,1\n".encode("utf-16-le"), "t.csv has zero bytes"),
    (b'file,label\na.png,"1\nb.png,2\n', "line 3: the quote .* in line 2"),
    (b"name,label\na.png,1\n", r"columns file and label; it has \['name', "),
  ],
)
def test_tables_that_cannot_be_read(tmp_path, content, message):
  path = write(tmp_path, ["a.png"])
  (tmp_path / "t.csv").write_bytes(content)
  with pytest.raises(
    ValueError, match="config.input.data.labels: .*" + message
  ) as e:
    rows(path, labels=path + "/t.csv")
  assert "\n" not in str(e.value)


def test_class_names_in_files(tmp_path):
  path = tmp_path / "names.txt"
  for encoding in ("utf-8", "utf-8-sig", "utf-16"):
    path.write_bytes("\r\n".join(NAMES).encode(encoding))
    assert folder.read_classes(path) == NAMES


def test_names_that_are_no_utf8(tmp_path):
  """Files and folders named in Latin-1."""
  lookup.preprocessing({})
  root = os.fsencode(tmp_path) + b"/m\xfcll"
  for name in (b"caf\xe8/1.png", b"caf\xe9/\xe9.png"):
    os.makedirs(os.path.dirname(root + b"/" + name))
    with open(root + b"/" + name, "wb") as f:
      f.write(IMAGE if name.endswith(b"1.png") else b"no image")
  source = folder.DataSource(os.fsdecode(root))
  assert source.classes == [r"caf\xe8", r"caf\xe9"]
  got = list(source.get_tfdata(ordered=True).as_numpy_iterator())
  assert [e["image"] for e in got] == [IMAGE, b"no image"]
  assert [e["label"] for e in got] == [0, 1]
  assert [e["file_name"] for e in got] == [
    rb"caf\xe8/1.png",
    rb"caf\xe9/\xe9.png",
  ]
  config = {
    "data": {"name": "bv:folder", "path": os.fsdecode(root)},
    "batch_size": 1,
    "pp": "decode|keep('image')",
  }
  ds, _ = input_pipeline.training(config)
  it = input_pipeline.start_global(ds, np.array(jax.devices()[:1]))
  next(it)
  with pytest.raises(ValueError, match=r"ll/caf\\xe9/\\xe9.png.*not an image"):
    next(it)


def test_split_seed(tmp_path):
  write(tmp_path, [f"{c}/{i:02d}.png" for c in "abc" for i in range(10)])
  names = lambda split, seed: {
    name for name, _ in rows(str(tmp_path), split, split_seed=seed)
  }
  parts = [names("all[:20%]", seed) for seed in (None, 0, 1)]
  assert all(len(part) == 6 for part in parts)
  assert len(set(map(frozenset, parts))) == 3
  assert not names("all[20%:]", 0) & parts[1]
  assert len(names("all[20%:]", 0) | parts[1]) == 30
  # What is held out stays so if pictures are added.
  write(tmp_path, ["a/more.png"])
  assert len(names("all[:20%]", 0) & parts[1]) >= 5


def test_columns_of_a_csv(tmp_path):
  write(tmp_path, ["x/1.png", "x/2.png", "y/3.png"])
  table = tmp_path / "t.csv"
  absolute = tmp_path / "y/3.png"
  table.write_text(
    "kind,where,split,note\n"
    f"b,x/1.png,train,one\na,x/2.png,val,two\nb,{absolute},train,\n"
  )
  kw = dict(
    labels=str(table), features=dict(image="where", label="kind", text="note")
  )
  source = folder.DataSource(str(tmp_path), "train", **kw)
  got = list(source.get_tfdata(ordered=True).as_numpy_iterator())
  assert [(e["label"], e["text"]) for e in got] == [(1, b"one"), (1, b"")]
  assert all(e["image"] == IMAGE for e in got)
  assert got[1]["tfds_id"] == str(absolute).encode()
  assert source.class_names == ["a", "b"]
  assert folder.split_names(str(table)) == ["train", "val"]
  with pytest.raises(
    ValueError, match=r"'test/'.*'split' has \['train', 'val'"
  ):
    folder.DataSource(str(tmp_path), "test", **kw)
  kw["features"] = dict(image="where", text="note")
  source = folder.DataSource(str(tmp_path), **kw)
  assert source.classes_of("label") is None
  assert source.some_labels(2) is None
  assert "label" not in source.example_spec()
  with pytest.raises(ValueError, match="features.*as `image`"):
    folder.DataSource(str(tmp_path), **(kw | dict(features=dict(label="x"))))
  with pytest.raises(ValueError, match=r"data\.features.*not given"):
    folder.DataSource(str(tmp_path), features=kw["features"])
