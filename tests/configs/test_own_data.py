"""The arguments `source` and `path`: recipes on data of your own."""

import csv
import importlib
import io
import json
import os
import re
import tarfile

import jax
import numpy as np
import pytest
from PIL import Image

import big_vision.configs.common as bvcc
from big_vision import lookup, train
from big_vision.configs import (
  bit_i1k,
  load_and_eval,
  mlp_mixer_i1k,
  own_data,
  own_sources,
)
from big_vision.datasets import core
from big_vision.training import cli, config_check, label_check

pytestmark = [
  pytest.mark.tf,
  pytest.mark.usefixtures("quick_compilation"),
]

CLASSES = ["blue", "green", "red"]  # Sorted.
COLORS = dict(red=0, green=1, blue=2)
N = 20  # Per class.


def picture(name, i):
  """Noise in the color of the class."""
  pixels = np.random.default_rng(i).integers(0, 120, (24, 30, 3))
  pixels[..., COLORS[name]] += 100
  out = io.BytesIO()
  Image.fromarray(pixels.astype(np.uint8)).save(out, "png")
  return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """60 pictures, class by class."""
  root = tmp_path_factory.mktemp("pets")
  for name in CLASSES:
    os.makedirs(root / name)
    for i in range(N):
      (root / name / f"{i:02d}.png").write_bytes(picture(name, i))
  return root


@pytest.fixture(scope="module")
def split_folder(tmp_path_factory):
  """With the splits `train` and `valid`, of which the latter lacks a class."""
  root = tmp_path_factory.mktemp("split")
  for split, names in dict(train=CLASSES, valid=CLASSES[:2]).items():
    for name in names:
      os.makedirs(root / split / name)
      for i in range(4):
        path = root / split / name / f"{i}.png"
        path.write_bytes(picture(name, i))
  return root


def find(**kw):
  arg = bvcc.parse_arg(bvcc.pack_arg(**kw), **own_data.ARGS)
  return own_sources.find(arg)


def get_config(name, **kw):
  module = importlib.import_module(f"big_vision.configs.{name}")
  return module.get_config(bvcc.pack_arg(**kw))


def keys_of(data):
  """Labels by what tells an example from the others."""
  rows = core.get(**data).get_tfdata(ordered=True).as_numpy_iterator()
  key = lambda r: r["tfds_id"] if "tfds_id" in r else r["id"]
  return {key(r): int(r["label"]) for r in rows}


def check_parts(own, num, num_held_out, num_classes=3):
  """Parts are disjoint, cover everything, and have all classes."""
  train_rows, val_rows = keys_of(own.train), keys_of(own.held_out["val"])
  assert not train_rows.keys() & val_rows.keys()
  assert len(train_rows) + len(val_rows) == num
  assert len(val_rows) == num_held_out
  assert own.num_classes == num_classes
  assert own.num_train == len(train_rows)
  assert set(train_rows.values()) == set(range(num_classes))
  return train_rows, val_rows


def test_folder_without_splits(folder):
  own = find(source="folder", path=folder)
  _, val_rows = check_parts(own, 60, 6)
  assert own.train == dict(
    name="bv:folder", path=str(folder), split="all[10%:]", split_seed=0
  )
  assert own.held_out["val"]["split"] == "all[:10%]"
  assert len(set(val_rows.values())) > 1  # Though it is sorted by class.
  assert core.get(**own.train).class_names == CLASSES
  again = find(source="folder", path=folder)
  assert keys_of(again.held_out["val"]) == val_rows
  other = find(source="folder", path=folder, split_seed=1, val=20)
  _, other_rows = check_parts(other, 60, 20)
  assert other_rows.keys() != val_rows.keys()


def test_folder_with_splits(split_folder):
  own = find(source="folder", path=split_folder)
  train_rows, val_rows = check_parts(own, 20, 8)
  assert all(b"/train/" in key for key in train_rows)
  assert all(b"/valid/" in key for key in val_rows)
  assert own.train["split"] == "train"
  assert "split_seed" not in own.train


def test_test_split_besides_val_and_without(split_folder, tmp_path):
  for new in ("train", "test"):
    os.symlink(split_folder / "train", tmp_path / new)
  own = find(source="folder", path=tmp_path)
  assert {k: v["split"] for k, v in own.held_out.items()} == {"val": "test"}
  os.symlink(split_folder / "valid", tmp_path / "val")
  own = find(source="folder", path=tmp_path)
  splits = {k: v["split"] for k, v in own.held_out.items()}
  assert splits == {"val": "val", "test": "test"}
  config = get_config("vit_s16_i1k", source="folder", path=tmp_path)
  assert set(config.evals) == {"val", "test"}


def test_class_called_train(folder, tmp_path):
  for new, old in dict(train="red", bus="blue").items():
    os.symlink(folder / old, tmp_path / new)
  own = find(source="folder", path=tmp_path)
  assert own.num_classes == 2
  assert own.train["split"] == "all[10%:]"


def test_given_splits(split_folder):
  own = find(
    source="folder", path=split_folder, split="valid", val_split="train[:50%]"
  )
  assert own.train["split"] == "valid"
  assert own.held_out["val"]["split"] == "train[:50%]"
  assert own.held_out["val"]["split_seed"] == 0
  assert len(keys_of(own.held_out["val"])) == 6
  with pytest.raises(lookup.ConfigError, match=r"split=train\[:50%\].*val_spl"):
    find(source="folder", path=split_folder / "train", split="train[:50%]")


def write_csv(path, rows):
  with open(path, "w", newline="") as f:
    csv.writer(f).writerows(rows)
  return path


def test_csv(folder, tmp_path):
  rows = [(f"{c}/{i:02d}.png", c) for c in CLASSES for i in range(N)]
  header = ("file", "label")
  path = write_csv(tmp_path / "l.csv", [header, *rows])
  own = find(source="csv", path=path, root=folder)
  _, val_rows = check_parts(own, 60, 6)
  assert len(set(val_rows.values())) > 1

  split = lambda i: "val" if i % 4 == 0 else "train"
  absolute = [(f"{folder}/{f}", c, split(i)) for i, (f, c) in enumerate(rows)]
  path = write_csv(
    tmp_path / "s.csv", [("path", "species", "split"), *absolute]
  )
  own = find(source="csv", path=path, image="path", label="species")
  train_rows, val_rows = check_parts(own, 60, 15)
  assert own.train["split"] == "train"
  for row, (file, c, name) in enumerate(absolute):
    want = train_rows if name == "train" else val_rows
    assert want[file.encode()] == CLASSES.index(c), row


def write_jsonl(path, rows):
  path.write_text("\n".join(map(json.dumps, rows)))
  return path


@pytest.mark.parametrize("text", [True, False])
def test_jsonl(folder, text):
  label = lambda k: CLASSES[k] if text else k
  rows = [
    dict(image=f"{CLASSES[k]}/{i:02d}.png", kind=label(k))
    for k in range(3)
    for i in range(N)
  ]
  path = write_jsonl(folder / f"all-{text}.jsonl", rows)
  own = find(source="jsonl", path=path, label="kind")
  _, val_rows = check_parts(own, 60, 6)
  assert len(set(val_rows.values())) > 1
  names = core.get(**own.train).class_names
  assert names == (CLASSES if text else None)
  example = next(core.get(**own.train).get_tfdata().as_numpy_iterator())
  assert example["image"].startswith(b"\x89PNG")


def test_jsonl_with_splits(folder, tmp_path):
  rows = [dict(image=f"{c}/00.png", label=c) for c in CLASSES]
  named = [{**r, "split": s} for s in ("train", "val") for r in rows]
  path = write_jsonl(folder / "named.jsonl", named)
  check_parts(find(source="jsonl", path=path), 6, 3)
  # One file each; `id` counts in each of them.
  write_jsonl(tmp_path / "train.jsonl", rows)
  write_jsonl(tmp_path / "val.jsonl", rows[:2])
  own = find(source="jsonl", path=tmp_path, root=folder)
  assert own.num_classes == 3
  assert own.num_train == 3
  assert sorted(keys_of(own.held_out["val"]).values()) == [0, 1]


@pytest.mark.parametrize("label", ["ClassLabel", "text", "int"])
def test_hf(tmp_path, label):
  hf = pytest.importorskip("datasets")
  hf.disable_progress_bars()
  labels = [k for k in range(3) for _ in range(N)]
  kind = dict(
    ClassLabel=hf.ClassLabel(names=CLASSES),
    text=hf.Value("string"),
    int=hf.Value("int64"),
  )[label]
  data = dict(
    img=[
      dict(bytes=picture(CLASSES[k], i), path=None)
      for i, k in enumerate(labels)
    ],
    species=[CLASSES[k] if label == "text" else k for k in labels],
  )
  features = hf.Features(dict(img=hf.Image(), species=kind))
  ds = hf.Dataset.from_dict(data, features=features)
  ds.save_to_disk(tmp_path / "all")
  kw = dict(source="hf", image="img", label="species")
  own = find(path=tmp_path / "all", **kw)
  _, val_rows = check_parts(own, 60, 6)
  assert len(set(val_rows.values())) > 1
  hf.DatasetDict(dict(train=ds, test=ds.select([0, 1]))).save_to_disk(
    tmp_path / "two"
  )
  own = find(path=tmp_path / "two", **kw)
  assert check_parts(own, 62, 2)[1].keys()
  assert own.held_out["val"]["split"] == "test"


def test_tfds(tfds_data_dir):
  own = find(source="tfds", path="digits")
  check_parts(own, 1797, 297, num_classes=10)
  assert own.train == dict(name="digits", split="train")
  own = find(source="tfds", path="digits", val_split="train[90%:]")
  assert own.held_out["val"]["split"] == "train[90%:]"
  config = get_config(
    "vit_s16_i1k", source="tfds", path="shapes/tiny", label="color"
  )
  assert config.num_classes == 8
  assert config.input.pp.startswith('copy("color", "label")|')


def test_files_and_features_that_are_not_there(folder, tmp_path, tfds_data_dir):
  table = write_csv(tmp_path / "t.csv", [("file", "label"), ("a.png", "cat")])
  with pytest.raises(lookup.ConfigError, match="root: there is no '.*a.png'"):
    find(source="csv", path=table)
  rows = write_jsonl(tmp_path / "t.jsonl", [dict(image="a.png", label=0)])
  with pytest.raises(lookup.ConfigError, match="root: there is no '.*a.png'"):
    find(source="jsonl", path=rows)
  with pytest.raises(ValueError, match="feature of digits 'lable'.*'label'"):
    find(source="tfds", path="digits", label="lable")


def test_webdataset(folder, tmp_path):
  for k, name in enumerate(CLASSES):
    with tarfile.open(tmp_path / f"shard-{k}.tar", "w") as tar:
      for i in range(N):
        tar.add(folder / name / f"{i:02d}.png", f"{i}.png")
        info = tarfile.TarInfo(f"{i}.cls")
        info.size = 1
        tar.addfile(info, io.BytesIO(str(k).encode()))
  path = f"{tmp_path}/shard-*.tar"
  with pytest.raises(lookup.ConfigError, match="add num_classes=N") as e:
    find(source="webdataset", path=path)
  assert "\n" not in str(e.value)
  own = find(source="webdataset", path=path, num_classes=3)
  _, val_rows = check_parts(own, 60, 6)
  assert len(set(val_rows.values())) > 1
  check_parts(find(source="webdataset", path=tmp_path, num_classes=3), 60, 6)
  os.rename(tmp_path / "shard-0.tar", tmp_path / "train-0.tar")
  os.rename(tmp_path / "shard-1.tar", tmp_path / "val-0.tar")
  own = find(source="webdataset", path=tmp_path, num_classes=3, val_split="val")
  assert own.num_train == N


@pytest.mark.parametrize(
  "kw, message",
  [
    (dict(path="/data"), "path=/data.*add source="),
    (dict(source="foldr", path="/x"), "'foldr'.*'folder'"),
    (dict(source="folder"), "path: source=folder needs"),
    (dict(source="folder", path="/none"), "path: no folder '/none'"),
    (dict(source="csv", path="/none.csv"), "path: no file '/none.csv'"),
    (dict(source="csv", path="/tmp"), "'/tmp' is a folder.*source=folder"),
    (dict(source="folder", path="/tmp", val="x"), "val='x'"),
    (dict(source="folder", path="/tmp", label="x"), "label=x: source=folder"),
    (dict(source="tfds", path="digit"), "'digit'"),
    (dict(source="folder", path="/tmp", val="100%"), "val='100%'"),
  ],
)
def test_errors(kw, message):
  with pytest.raises(ValueError, match=message) as e:
    find(**kw)
  assert "\n" not in str(e.value)


def test_one_class(folder, tmp_path):
  os.symlink(folder / "red", tmp_path / "red")
  with pytest.raises(lookup.ConfigError, match=r"one class only \(\('red'"):
    find(source="folder", path=tmp_path)


NAMES = [
  "bit_i1k",
  "bit_i21k",
  "mlp_mixer_i1k",
  "nfnet_i1k",
  "quickstart",
  "transfer",
  "vit_i1k",
  "vit_i21k",
  "vit_s16_i1k",
  "proj.flexivit.i21k_sup",
  "proj.gsam.vit_i1k_gsam_no_aug",
  "proj.scaling_laws.train_vit_g",
]


@pytest.mark.parametrize("name", NAMES)
def test_configs(folder, name):
  more = dict(model="vit-s16") if name == "transfer" else {}
  config = get_config(name, source="folder", path=folder, **more)
  assert config.num_classes == 3
  assert config.input.data.path == str(folder)
  assert config.input.batch_size == 32
  assert "onehot(3, " in config.input.pp
  vals = [n for n in config.evals if n.startswith("val")]
  assert len(vals) == (10 if "flexi" in name else 1)
  others = set(config.evals) - set(vals)
  assert others <= {"fewshot"}
  for n in vals:
    assert config.evals[n].data.split == "all[:10%]"
    assert "onehot(3, " in config.evals[n].pp_fn
  text = str(config.to_dict())
  for word in ("imagenet", "onehot(1000", "21843", "oxford", "cifar"):
    assert word not in text
  total = config.get("total_steps") or config.total_epochs * 54 // 32
  schedule = config.schedule
  if "warmup_steps" in schedule:
    assert schedule.warmup_steps <= total // 10
  elif "warmup_epochs" not in schedule:
    assert schedule.warmup_percent == 0.1
  config_check.check(config)
  label_check.check(config)
  if name == "quickstart":
    return
  size = 240 if "flexi" in name else 192 if "nfnet" in name else 224
  assert f"crop({size})" in config.input.pp


@pytest.mark.parametrize("name", ["bit_i1k", "bigsweep_flowers_pet"])
def test_distillation(folder, name):
  config = get_config(f"proj.distill.{name}", source="folder", path=folder)
  config_check.check(config, "student")
  label_check.check(config)
  assert {"student_val", "teacher_val", "dist_val"} <= set(config.evals)
  kinds = [(d["kind"], d.get("k")) for d in config.evals.dist_val.distances]
  assert kinds == [("kl", None), ("euclidean", None), ("agree", 1)]
  for cfg in config.evals.values():
    if "data" in cfg:
      assert cfg.data.split == "all[:10%]"
  assert config.num_classes == 3
  assert config.input.batch_size == 32


@pytest.mark.parametrize("name", ["i1k_deit3_distill", "i21k_distill"])
def test_distillation_into_flexible_models(folder, name):
  config = get_config(f"proj.flexivit.{name}", source="folder", path=folder)
  config_check.check(config, "student")
  label_check.check(config)
  sizes = "05 06 08 10 12 15 16 20 24 30".split()
  kinds = (
    "student_val_{}" if "deit3" in name else "student_val{}",
    "dist_val_{}",
  )
  wanted = {kind.format(size) for kind in kinds for size in sizes}
  assert set(config.evals) == wanted | {"teacher_val"}
  for cfg in config.evals.values():
    assert cfg.data.split == "all[:10%]"
  assert config.input.data.path == str(folder)
  assert config.num_classes == 3 and config.input.batch_size == 32
  assert list(config.student_load.dont_load) == ["head/.*"]
  text = str(config.to_dict())
  assert "imagenet" not in text and "onehot(1000" not in text


def test_steps_and_schedule_of_the_largest_recipe(folder):
  name = "proj.scaling_laws.train_vit_g"
  config = get_config(name, source="folder", path=folder)
  assert config.total_steps == 100 * 54 // 32
  assert config.schedule.to_dict() == dict(
    decay_type="rsqrt", timescale=16, cooldown_percent=0.1, warmup_percent=0.1
  )


def test_smoothed_labels(folder):
  """Of 0.1, whatever the number of classes."""
  pp = get_config("nfnet_i1k", source="folder", path=folder).input.pp
  on, off = map(float, re.search(r"on=(.*?), off=(.*?)\)", pp).groups())
  assert on + 2 * off == pytest.approx(1.0)
  assert off == pytest.approx(0.1 / 3)


def test_transfer(folder):
  kw = dict(model="vit-s16", source="folder", path=folder)
  config = get_config("transfer", **kw)
  assert config.total_steps == 100 * 54 // 32
  assert config.schedule.to_dict() == dict(
    warmup_percent=0.1, decay_type="cosine"
  )
  assert config.model_init == "i1k-s16-300ep"
  assert "resize_small(256)|random_crop(224)" in config.input.pp
  config = get_config("transfer", l_res=112, batch_size=8, **kw)
  assert "resize_small(128)|random_crop(112)" in config.input.pp
  assert config.input.batch_size == 8
  assert config.total_steps == 500
  config = get_config("transfer", probe=True, fewshot=True, **kw)
  assert [rule for rule, _ in config.schedule] == ["head/.*", ".*"]
  assert config.schedule[1][1] is None
  own = config.evals.fewshot.datasets.own
  assert own.test.split == "all[:10%]"
  with pytest.raises(lookup.ConfigError, match="demo has its own data"):
    get_config("transfer", demo=True, **kw)


def tiny(config, **changes):
  """Makes the ViT of `transfer` tiny, to be trained from scratch."""
  with config.unlocked(), config.ignore_type():
    config.model.update(
      variant="mu/8", width=32, depth=1, mlp_dim=64, num_heads=2
    )
    config.update(model_init="", optax_name="scale_by_adam", lr=0.01, **changes)
  return config


def metrics_of(workdir):
  lines = (workdir / "big_vision_metrics.txt").read_text().splitlines()
  metrics = {}
  for line in lines:
    metrics.update(json.loads(line))
  return metrics


def test_trains(folder, tmp_path):
  """60 pictures in 3 classes, 6 of them held out."""
  config = get_config(
    "transfer",
    model="vit-s16",
    source="folder",
    path=folder,
    l_res=16,
    h_res=18,
    fewshot=True,
  )
  config = tiny(config, total_steps=40)
  config.evals.val.log_percent = 0.5
  cli.train(train.build, config, str(tmp_path))
  metrics = metrics_of(tmp_path)
  assert metrics["val/prec@1"] == 1.0
  assert metrics["a/own_10shot-seed-0"] > 0.6


def test_probe(folder, tmp_path):
  config = get_config(
    "transfer",
    model="vit-s16",
    source="folder",
    path=folder,
    l_res=16,
    probe=True,
  )
  config = tiny(config, total_steps=0)
  before = cli.train(train.build, config)["params"]
  with config.unlocked():
    config.total_steps = 3
  after = cli.train(train.build, config)["params"]
  same = {
    name: all(
      map(np.array_equal, *map(jax.tree.leaves, (before[name], after[name])))
    )
    for name in before
  }
  assert not same.pop("head")
  assert same and all(same.values())


def test_few_shot_of_a_model(folder):
  arg = bvcc.pack_arg(name="vit_i1k", source="folder", path=folder)
  config = load_and_eval.get_config(arg)
  assert list(config.evals) == ["fewshot"]
  assert config.num_classes == 1000  # Of the model.
  datasets = config.evals.fewshot.datasets.to_dict()
  assert datasets["own"]["train"]["split"] == "all[10%:]"
  assert set(config.to_dict()) == set(
    load_and_eval.get_config("name=vit_i1k").to_dict()
  )


def test_words_without_keys(folder):
  """`bit_i1k` takes any word, `mlp_mixer_i1k` a mode."""
  own = f"source=folder,path={folder}"
  assert bit_i1k.get_config(f"runlocal,{own}").input.batch_size == 32
  assert bit_i1k.get_config(own).lr == pytest.approx(0.1 / 256 * 32)
  config = mlp_mixer_i1k.get_config(f"regression_test,{own}")
  assert config.total_epochs == 60
  assert config.num_classes == 3
