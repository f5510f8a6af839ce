"""Labels of training and evaluators are compared at the start of a run."""

import json
import os

import ml_collections as mlc
import numpy as np
import pytest
from PIL import Image

from big_vision.pp import ops_general, ops_image, ops_text  # noqa: F401
from big_vision.training import label_check

pytestmark = pytest.mark.tf

PP = "decode|resize(4)|value_range(-1, 1)"


def onehot(n, key="label", pp=PP, more=""):
  return f"{pp}|{more}onehot({n}, key='{key}', key_result='labels')"


def check(data, pp, mixture=None, pre_filter_fn=None, **evals):
  """Checks a config of one dataset and its evaluators (data, pp, ...)."""
  train = dict(data=data, pp=pp, pre_filter_fn=pre_filter_fn)
  if mixture:
    train = dict(data=dict(a=1, b=1), a=train, b=mixture)
  evals = {
    name: dict(dict(type="classification"), **cfg)
    for name, cfg in evals.items()
  }
  label_check.check(mlc.ConfigDict(dict(input=train, evals=evals)))


def folder(root, *classes):
  for name in classes:
    os.makedirs(root / name)
    Image.fromarray(np.zeros([4, 4, 3], np.uint8)).save(root / name / "1.png")
  return dict(name="bv:folder", path=str(root))


DIGITS = dict(name="digits", split="train")
TEST = dict(name="digits", split="test")


@pytest.mark.parametrize(
  "pp, message",
  [
    (onehot(5), r"config.input.pp: onehot\(5, key='label'\) is for 5 classes, but"
     " 'label' of config.input.data has 10 classes, 0 to 9. Write onehot.10, "),
    (onehot(9, "labels", more="copy('label', 'labels')|"), "key='labels'.*is for 9"),
    (onehot(10, "labl"), "config.input.pp: there is no feature 'labl'.*'label'"),
    (onehot(10, pp="decode(key='img')"), "config.input.pp: .* no feature 'img'.*image"),
    (onehot(10, "id"), "config.input.pp: onehot.*'id' holds text.*lookup"),
  ],
)  # fmt: skip
def test_more_classes_than_onehot(pp, message):
  with pytest.raises(ValueError, match=message) as e:
    check(DIGITS, pp)
  assert "\n" not in str(e.value)
  message = message.replace("input.pp", "evals.val.pp_fn")
  message = message.replace("input.data", "evals.val.data")
  with pytest.raises(ValueError, match=message):
    check(DIGITS, onehot(10), val=dict(data=TEST, pp_fn=pp))


def test_what_is_fine_stays_so():
  check(DIGITS, onehot(10), val=dict(data=TEST, pp_fn=onehot(10)))
  check(DIGITS, onehot(1000))  # More outputs than classes.
  check(DIGITS, PP)  # Nothing reads the labels.
  check(DIGITS, onehot(5), pre_filter_fn=lambda e: e["label"] < 5)
  image = dict(
    image=dict(shape=(4, 4, 3), dtype="uint8"), label=dict(dtype="int64")
  )
  dummy = dict(name="bv:dummy", spec=image)
  check(dummy, onehot(3, pp="value_range(-1, 1)"))
  few = dict(type="fewshot_lsr", datasets=dict(d=("digits", "train", "test")))
  mapped = dict(
    type="classification_with_labelmap", data=TEST, pp_fn=onehot(10)
  )
  check(DIGITS, onehot(10), few=few, mapped=mapped)


def test_what_is_compared_is_what_onehot_reads(tmp_path):
  """Labels that are mapped before it: those of all classes are computed."""
  table = tmp_path / "odd.txt"
  table.write_text("\n".join(f"{i} {i % 2}" for i in range(10)))
  odd = f"strfmt('{{label}}', outkey='text')|lookup('{table}', sep=' ', key='text')|"
  check(DIGITS, onehot(2, "text", more=odd))
  with pytest.raises(
    ValueError, match="'text' gets labels up to 1: 'label' of"
  ):
    check(DIGITS, onehot(1, "text", more=odd))
  # Features of other names, and in structs.
  shapes = dict(name="shapes/tiny", split="train")
  check(shapes, onehot(64, "shape_color"))
  with pytest.raises(
    ValueError, match="'shape_color' of config.input.data has 64"
  ):
    check(shapes, onehot(8, "shape_color"))
  with pytest.raises(ValueError, match="key='boxes/label'.* has 8 classes"):
    check(shapes, onehot(7, "boxes/label", pp="flatten"))


def test_two_folders(tmp_path):
  train = folder(tmp_path / "train", "ant", "bee", "cat_fish")
  first = folder(tmp_path / "first", "ant", "bee")
  last = folder(tmp_path / "last", "bee", "cat_fish")
  pp = onehot(3)
  check(train, pp, val=dict(data=first, pp_fn=pp))
  check(train, pp, val=dict(data=train, pp_fn=pp))
  both = dict(last, classes=["ant", "bee", "cat_fish"])
  check(train, pp, val=dict(data=both, pp_fn=pp))
  message = (
    r"config.evals.val.data: the label 0 means 'bee' here, but 'ant' in "
    r"config.input.data. Classes here are 'bee', 'cat_fish'; there 'ant', 'bee', "
    r"'cat_fish'. Give both"
  )
  with pytest.raises(ValueError, match=message) as e:
    check(train, pp, val=dict(data=last, pp_fn=pp))
  assert "\n" not in str(e.value)
  with pytest.raises(
    ValueError, match="config.input.b.data: the label 0 means"
  ):
    check(train, pp, mixture=dict(data=last, pp=pp))
  # Filters leave out examples, but do not change what a label means.
  with pytest.raises(ValueError, match=message):
    check(
      train, pp, pre_filter_fn=lambda e: True, val=dict(data=last, pp_fn=pp)
    )
  # The evaluator may have a name of its own for the labels.
  own = dict(data=last, pp_fn=pp.replace("'labels'", "'y'"), label_key="y")
  with pytest.raises(ValueError, match=message):
    check(train, pp, val=own)
  # The other splits of one root are seen by each.
  root = dict(name="bv:folder", path=str(tmp_path))
  check(
    dict(root, split="train"),
    pp,
    val=dict(data=dict(root, split="last"), pp_fn=pp),
  )


def test_folder_and_csv(tmp_path):
  train = folder(tmp_path / "train", *map(str, range(11)))
  rows = [f"{i}/1.png,{i}" for i in range(11)]
  labels = tmp_path / "labels.csv"
  labels.write_text("\n".join(["file,label", *rows]))
  as_ints = dict(train, labels=str(labels))
  pp = onehot(11)
  check(as_ints, pp, val=dict(data=as_ints, pp_fn=pp))
  # As names of folders they are sorted as text.
  with pytest.raises(ValueError, match="label 2 means '2' here, but '10' in"):
    check(train, pp, val=dict(data=as_ints, pp_fn=pp))
  with pytest.raises(ValueError, match=r"onehot\(10.* has 11 classes"):
    check(as_ints, onehot(10))
  labels.write_text("\n".join(["file,label", *(r + "a" for r in rows)]))
  named = dict(as_ints, split="all")
  check(named, pp, val=dict(data=named, pp_fn=pp))


def test_numbers_in_a_csv_file_and_names_of_folders(tmp_path, caplog):
  """They cannot be compared, which is said; names of the numbers can."""
  named = folder(tmp_path / "train", "ant", "bee")
  labels = tmp_path / "labels.csv"
  labels.write_text("file,label\nant/1.png,1\nbee/1.png,0\n")
  ints, pp = dict(named, labels=str(labels)), onehot(2)
  with caplog.at_level("WARNING", logger="absl"):
    check(ints, pp, val=dict(data=named, pp_fn=pp))
  (record,) = caplog.records
  text = "labels of config.input.data are numbers (0 to 1), those of config.evals.val"
  assert text in record.getMessage()
  caplog.clear()
  ints |= dict(classes=["ant", "bee"])
  check(ints, pp, val=dict(data=named, pp_fn=pp))
  assert not caplog.records


def test_names_that_have_nothing_in_common(tmp_path, caplog, tfds_data_dir):
  """Of folders they are other classes; elsewhere they may be spelled otherwise."""
  digits = dict(DIGITS, data_dir=tfds_data_dir)
  insects = folder(tmp_path / "a", "ant", "bee")
  fish = folder(tmp_path / "b", "carp", "eel")
  with pytest.raises(
    ValueError, match="label 0 means 'carp' here, but 'ant' in"
  ):
    check(insects, onehot(2), val=dict(data=fish, pp_fn=onehot(2)))
  upper = folder(tmp_path / "c", "ANT", "Bee")
  names = folder(tmp_path / "d", *(f"digit {i}" for i in range(10)))
  shapes = dict(name="shapes/tiny", split="train")
  eight = folder(tmp_path / "e", *"abcdefgh")
  with caplog.at_level("WARNING", logger="absl"):
    check(insects, onehot(2), val=dict(data=upper, pp_fn=onehot(2)))
    check(digits, onehot(10), val=dict(data=names, pp_fn=onehot(10)))
    assert not caplog.text
    check(shapes, onehot(8), val=dict(data=eight, pp_fn=onehot(8)))
  assert "have no class name in common ('circle', " in caplog.text


def test_spelling(tmp_path):
  """Outside of folders, a name that is only spelled otherwise is the same."""

  def data(name, *names):
    features = datasets.Features(label=datasets.ClassLabel(names=list(names)))
    rows = datasets.Dataset.from_dict({"label": [0, 1]}, features)
    rows.save_to_disk(tmp_path / name)
    return dict(name="bv:hf", path=str(tmp_path / name))

  datasets = pytest.importorskip("datasets")
  pp = onehot(3, pp="")
  animals = data("a", "ant", "bee", "crab")
  check(animals, pp, val=dict(data=data("b", "ant", "bee", "cra"), pp_fn=pp))
  with pytest.raises(ValueError, match="label 1 means 'crab' here, but 'bee'"):
    moved = data("c", "ant", "crab")
    check(animals, pp, val=dict(data=moved, pp_fn=pp))


def test_bad_labels_of_evaluators(tmp_path):
  """They would stop the run at its first evaluation."""
  data = folder(tmp_path / "a", "ant", "bee")
  labels = tmp_path / "labels.csv"
  labels.write_text("file,label\nant/1.png,0\nbee/1.png,2\n")
  data |= dict(labels=str(labels), num_classes=2)
  message = (
    "config.evals.val.data: 1 examples cannot be .* label 2 of .*bee/1.png"
  )
  with pytest.raises(ValueError, match=message):
    check(DIGITS, onehot(10), val=dict(data=data, pp_fn=onehot(2)))


def test_json_lines(tmp_path):
  path = tmp_path / "x.jsonl"
  rows = [{"x": "a", "y": i, "name": "b", "label": 0.5 * i} for i in range(4)]
  path.write_text("\n".join(map(json.dumps, rows)))
  data = dict(name="bv:jsonl", fname=str(path))
  check(data, onehot(4, "y", pp=""))
  with pytest.raises(
    ValueError, match="'y' of config.input.data has 4 classes"
  ):
    check(data, onehot(3, "y", pp=""))
  with pytest.raises(ValueError, match="'name' holds text"):
    check(data, onehot(3, "name", pp=""))
  path.write_text('{"label": true}\n{"label": false}')
  check(data, onehot(2, pp=""))
  with pytest.raises(ValueError, match="'label' of .* has 2 classes"):
    check(data, onehot(1, pp=""))


def zero_shot(**kw):
  return dict(
    type="proj.image_text.discriminative_classifier",
    dataset_names=("digits",),
    dataset_overrides={},
    pp_img="value_range(-1, 1)",
    **kw,
  )


def test_zero_shot_names(tmp_path):
  names = [f"number {i}" for i in range(10)]
  check(DIGITS, PP, zs=zero_shot(class_names=names))
  check(DIGITS, PP, zs=zero_shot(class_names=[*names, "none of them"]))
  check(DIGITS, PP, zs=zero_shot())
  message = "config.evals.zs.class_names: there are 9 names, but digits has labels up to 9"
  with pytest.raises(ValueError, match=message):
    check(DIGITS, PP, zs=zero_shot(class_names=names[:9]))
  check(
    DIGITS,
    PP,
    zs=zero_shot(class_names=names[:9], pre_filter_fn=lambda e: e["label"] < 9),
  )
  other = zero_shot(class_names=names) | dict(pp_img="copy('labl', 'label')")
  with pytest.raises(ValueError, match="evals.zs.pp_img: of digits, .*'labl'"):
    check(DIGITS, PP, zs=other)
  table = tmp_path / "odd.txt"
  table.write_text("\n".join(f"{i} {i % 2}" for i in range(10)))
  odd = "value_range(-1, 1)|strfmt('{label}', outkey='text')|"
  odd += f"lookup('{table}', sep=' ', inkey='text', outkey='label')"
  two = zero_shot(class_names=["even", "odd"]) | dict(pp_img=odd)
  check(DIGITS, PP, zs=two)
  with pytest.raises(ValueError, match="1 names, but .* up to 1 after pp_img"):
    check(DIGITS, PP, zs=two | dict(class_names=["number"]))


@pytest.mark.parametrize("oracle", [False, True])
def test_more_classes_of_pixels_than_the_model(tfds_data_dir, oracle):
  def check(semantics, pp="decode|coco_panoptic"):
    model = dict(inputs=dict(semantics=(semantics, 64), instances=(9, 64)))
    config = dict(
      input=dict(data=dict(name="shapes/tiny", split="train"), pp=pp)
    )
    config |= dict(oracle=dict(model=model)) if oracle else dict(model=model)
    label_check.check(mlc.ConfigDict(config))

  check(11)
  check(134)
  check(5, pp="decode")  # Labels of another kind.
  where = "oracle.model" if oracle else "model"
  error = rf"config.{where}.inputs.semantics = \(10, 64\) is for 9 .* has 10. Write \(11, 64"
  with pytest.raises(ValueError, match=error):
    check(10)
