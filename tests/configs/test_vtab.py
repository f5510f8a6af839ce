"""VTAB: definitions of the tasks against TFDS, their labels against NumPy."""

import re

import numpy as np
import pytest

from big_vision import lookup
from big_vision.configs import vtab, vtab_tasks
from big_vision.pp import builder, ops_general, ops_vtab  # noqa: F401  (Registers.)
from big_vision.tf import tf, tfds

pytestmark = pytest.mark.tf

# Sizes of splits of TFDS, as its catalog has them.
SIZES = {
  "caltech101": dict(train=3060, test=6084),
  "cifar100": dict(train=50_000, test=10_000),
  "dtd": dict(train=1880, validation=1880, test=1880),
  "oxford_flowers102": dict(train=1020, validation=1020, test=6149),
  "oxford_iiit_pet": dict(train=3680, test=3669),
  "sun397/tfds": dict(train=76_128, validation=10_875, test=21_750),
  "svhn_cropped": dict(train=73_257, test=26_032, extra=531_131),
  "patch_camelyon": dict(train=262_144, validation=32_768, test=32_768),
  "eurosat/rgb": dict(train=27_000),
  "resisc45": dict(train=31_500),
  "diabetic_retinopathy_detection/btgraham-300": dict(
    train=35_126, validation=10_906, test=42_670
  ),
  "clevr": dict(train=70_000, validation=15_000, test=15_000),
  "dmlab": dict(train=65_550, validation=22_628, test=22_735),
  "kitti": dict(train=6347, validation=423, test=711),
  "dsprites": dict(train=737_280),
  "smallnorb": dict(train=24_300, test=24_300),
}
# Of the paper, where the test set is not a whole split.
TESTS = {
  "eurosat": 5400,
  "resisc45": 6300,
  "dsprites_location": 73_728,
  "dsprites_orientation": 73_728,
  "smallnorb_azimuth": 12_150,
  "smallnorb_elevation": 12_150,
}


def examples(sizes, split):
  """Set of (name of the split, number of the example)."""
  found = []
  for part in split.split("+"):
    name, low, high = re.fullmatch(
      r"(\w+)(?:\[(\w*%?):(\w*%?)\])?", part
    ).groups()
    size = sizes[name]

    def position(text, default, size=size):
      if text and text.endswith("%"):
        return size * int(text[:-1]) // 100
      return int(text) if text else default

    span = range(position(low, 0), position(high, size))
    assert span.stop <= size
    found += [(name, i) for i in span]
  return found


def test_all_tasks():
  """800 + 200 examples and the test set, which have none in common."""
  assert len(vtab_tasks.TASKS) == 19
  groups = [t.group for t in vtab_tasks.TASKS.values()]
  assert [groups.count(g) for g in vtab_tasks.GROUPS] == [7, 4, 8]
  for name, task in vtab_tasks.TASKS.items():
    sizes = SIZES[task.dataset]
    got = {k: examples(sizes, s) for k, s in task.splits.items()}
    assert len(got["train800"]) == 800 and len(got["val200"]) == 200, name
    assert got["train800val200"] == got["train800"] + got["val200"]
    assert len({*got["train800val200"], *got["test"]}) == 1000 + len(
      got["test"]
    )
    whole = sizes.get(task.test)
    assert len(got["test"]) == TESTS.get(name, whole), name


@pytest.mark.parametrize("name", vtab_tasks.TASKS)
def test_features(name, tmp_path_factory, tfds_data_dir):
  """TFDS has the features that labels come from, with as many classes."""
  task = vtab_tasks.TASKS[name]
  features = tfds.builder(
    task.dataset, data_dir=tfds_data_dir, try_gcs=False
  ).info.features
  assert "image" in features
  if not task.label:
    assert features["label"].num_classes == task.num_classes
  elif match := re.match(r'copy\("(\w+)", "label"\)', task.label):
    num = features[match[1]].num_classes
    bins = re.search(r"bin_label\((\d+), (\d+)\)", task.label)
    assert not bins or int(bins[2]) == num
    assert task.num_classes == (int(bins[1]) if bins else num)
  else:
    assert {"size", "pixel_coords"} <= set(features["objects"].feature) or {
      "type", "location",
    } <= set(features["objects"].feature)  # fmt: skip
    if "kitti" in name:
      names = features["objects"].feature["type"].names
      assert names[: ops_vtab._KITTI_VEHICLES] == ["Car", "Van", "Truck"]


def labels_of(task, values):
  fn = builder.get_preprocess_fn(vtab_tasks.TASKS[task].label.rstrip("|"))
  return [int(fn(v)["label"]) for v in values]


def test_labels():
  coords = lambda z: tf.constant([[9.0, 9.0, x] for x in z], tf.float32)
  clevr = [
    dict(objects=dict(size=tf.zeros(len(z), tf.int64), pixel_coords=coords(z)))
    for z in ([12, 7.9, 11], [8.2, 9, 9, 9], [8.5, 20, 20], [8.6, 30, 20], [9.3] * 10,
              [9.7] * 3, [10.1] * 3)
  ]  # fmt: skip
  copy = lambda values: [dict(v) for v in values]
  assert labels_of("clevr_count", copy(clevr)) == [0, 1, 0, 0, 7, 0, 0]
  want = [0, 1, 1, 2, 3, 4, 5]
  assert labels_of("clevr_distance", copy(clevr)) == want

  def kitti(*objects):
    kinds, z = zip(*objects, strict=True) if objects else ((), ())
    location = coords(z) if z else tf.zeros((0, 3))
    return dict(
      objects=dict(type=tf.constant(kinds, tf.int64), location=location)
    )

  got = labels_of(
    "kitti_distance",
    [
      kitti((0, 30.0), (3, 2.0)),  # The pedestrian is nearer.
      kitti((1, 19.0), (2, 40.0)),
      kitti((2, 7.0)),
      kitti((5, 7.0)),
      kitti(),
    ],
  )
  assert got == [2, 1, 0, 3, 3]
  values = np.arange(40)
  got = labels_of(
    "dsprites_orientation",
    [dict(label_orientation=tf.constant(v)) for v in values],
  )
  assert got == np.floor(values / 2.5).astype(int).tolist()
  with pytest.raises(ValueError, match="clevr_counts.*clevr_count"):
    ops_vtab.get_vtab_label("clevr_counts")


def test_configs():
  for name, task in vtab_tasks.TASKS.items():
    config = vtab.get_config(f"task={name},model=vit-s16")
    assert config.num_classes == task.num_classes
    assert config.evals.test.data["split"] == task.test
    assert config.input.data["split"].endswith(task.val)
    config = vtab.get_config(f"task={name},model=vit-s16,mode=linear,res=96")
    cfg = config.evals.test
    assert (cfg.train["split"], cfg.val["split"]) == (task.train, task.val)
    assert "|resize(96)|" in cfg.pp_fn and cfg.methods == ["ridge", "lbfgs"]
  for arg, text in (("task=dtt", "'dtt'.*dtd"), ("mode=half", "'half'.*full")):
    with pytest.raises(lookup.ConfigError, match=text):
      vtab.get_config(arg)
