"""One folder of images through every kind of source: same data, same training.

The folder of three classes is also written as tar shards, as Arrow and Parquet
files of Hugging Face and as a TFDS dataset.
"""

import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import hosts_in_turn
import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import pytest
from absl import logging
from PIL import Image

from big_vision import input_pipeline
from big_vision.datasets import core, embedded
from big_vision.pp import ops_general, ops_image  # noqa: F401 (registers ops)
from big_vision.tf import tfds

hf = pytest.importorskip("datasets")
pytestmark = pytest.mark.tf

ROOT = pathlib.Path(__file__).parent.parent.parent
CLASSES = ["cat", "cat-x", "dog"]  # "-" sorts before "/".
PER_CLASS = 9
N = PER_CLASS * len(CLASSES)
KINDS = [
  "folder",
  "webdataset",
  "hf_arrow",
  "hf_parquet",
  "tfds",
  "array_record",
]
PP = "decode|resize(12)|random_crop(8)|flip_lr|value_range(-1, 1)"
PP += "|keep('image', 'label')"


def write_folder(path):
  """Coloured noise; the mean colour tells the class, some files are PNG."""
  rng = np.random.default_rng(0)
  for k, name in enumerate(CLASSES):
    os.makedirs(path / name)
    for i in range(PER_CLASS):
      pixels = rng.integers(0, 150, (14, 16, 3))
      pixels[..., k] += 80
      image = Image.fromarray(pixels.astype(np.uint8))
      image.save(path / name / f"{i:02d}.{'png' if i % 4 == 0 else 'jpg'}")


def examples_of(folder):
  """(path below the folder, label), in the order of the class folders."""
  return [
    (f"{name}/{file}", k)
    for k, name in enumerate(CLASSES)
    for file in sorted(os.listdir(folder / name))
  ]


def write_shards(folder, out, num=3):
  os.makedirs(out)
  parts = np.array_split(np.array(examples_of(folder), object), num)
  for n, part in enumerate(parts):
    with tarfile.open(out / f"s-{n:03d}.tar", "w") as tar:
      for file, label in part:
        tar.add(folder / file, file)
        text = str(label).encode()
        info = tarfile.TarInfo(os.path.splitext(file)[0] + ".cls")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))


def write_hf(folder, arrow, parquet, num=3):
  rows = examples_of(folder)
  data = {
    "image": [
      {"bytes": (folder / f).read_bytes(), "path": os.path.basename(f)}
      for f, _ in rows
    ],
    "label": [label for _, label in rows],
  }
  features = hf.Features(
    {"image": hf.Image(), "label": hf.ClassLabel(names=CLASSES)}
  )
  ds = hf.Dataset.from_dict(data, features=features)
  hf.disable_progress_bars()
  ds.save_to_disk(arrow, num_shards=num)
  os.makedirs(parquet)
  for i in range(num):
    shard = ds.shard(num, i, contiguous=True)
    shard.to_parquet(parquet / f"train-{i:05d}-of-{num:05d}.parquet")


class Pets(embedded.Builder, skip_registration=True):
  """What TFDS makes of the folder, its order kept."""

  name = "pets"
  VERSION = tfds.core.Version("1.0.0")
  folder = None

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(),
          "label": tfds.features.ClassLabel(names=CLASSES),
        }
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for i, (file, label) in enumerate(examples_of(self.folder)):
      image = (self.folder / file).read_bytes()
      yield i, {"image": image, "label": label}


def write_tfds(folder, out, **kw):
  Pets.folder = folder
  embedded.prepare(lambda: Pets(data_dir=str(out), **kw), num_shards=3)


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
  """dict of kind -> `config.input.data`; in a fresh folder."""
  root = tmp_path_factory.mktemp("forms")
  old = os.environ.get("BV_CACHE_DIR")
  os.environ["BV_CACHE_DIR"] = str(root / "cache")
  folder = root / "pets" / "train"
  write_folder(folder)
  write_shards(folder, root / "tar")
  write_hf(folder, root / "arrow", root / "parquet")
  write_tfds(folder, root / "tfds")
  write_tfds(folder, root / "array_record", file_format="array_record")
  in_tfds = lambda kind: dict(
    name="pets", split="train", data_dir=str(root / kind)
  )
  in_hf = lambda kind: dict(
    name="bv:hf", path=str(root / kind), split="train",
    cache_dir=str(root / "hf"),
  )  # fmt: skip
  yield {
    "folder": dict(name="bv:folder", path=str(root / "pets"), split="train"),
    "webdataset": dict(
      name="bv:webdataset",
      path=str(root / "tar" / "s-{000..002}.tar"),
      num_classes=3,
    ),
    "hf_arrow": in_hf("arrow"),
    "hf_parquet": in_hf("parquet"),
    "tfds": in_tfds("tfds"),
    "array_record": in_tfds("array_record"),
  }
  if old is None:
    del os.environ["BV_CACHE_DIR"]
  else:
    os.environ["BV_CACHE_DIR"] = old


def config(data, **kw):
  default = {"batch_size": 6, "data": data, "pp": PP, "shuffle_buffer_size": 9}
  return mlc.ConfigDict(default | kw)


def batches(data, num, config_kw=None, **kw):
  ds, total = input_pipeline.training(config(data, **(config_kw or {})), **kw)
  assert total == N
  out = list(ds.take(num).as_numpy_iterator())
  return {k: np.stack([b[k] for b in out]) for k in out[0]}


@pytest.mark.parametrize("kind", KINDS)
def test_same_examples_in_the_same_order(forms, kind):
  folder = pathlib.Path(forms["folder"]["path"]) / "train"
  want = [((folder / f).read_bytes(), k) for f, k in examples_of(folder)]
  source = core.get(**forms[kind])
  assert source.random_access and source.total_examples == N
  rows = list(source.get_tfdata(ordered=True).as_numpy_iterator())
  assert [(e["image"], int(e["label"])) for e in rows] == want
  assert len({int(e["_id"]) for e in rows}) == N
  assert len({e["tfds_id"] for e in rows}) == N
  assert rows[0]["label"].dtype == np.int64


@pytest.mark.parametrize("kind", KINDS)
def test_hosts_share_the_evaluation(forms, kind, monkeypatch):
  source = core.get(**forms[kind])
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  assert source.num_examples_per_process() == [14, 13]
  parts = []
  for i in range(2):
    monkeypatch.setattr(jax, "process_index", lambda i=i: i)
    ds = source.get_tfdata(ordered=True, allow_cache=False)
    parts += [int(e["label"]) for e in ds.as_numpy_iterator()]
  assert parts == [k for k in range(3) for _ in range(PER_CLASS)]


@pytest.mark.parametrize("kind", KINDS)
def test_hosts_share_global_batches(forms, kind, monkeypatch):
  """In evaluation, with a random op that knows which example it has."""
  pp = "decode|resize(12)|random_crop(8)|keep('image', 'label')"
  args = forms[kind], pp, 6, monkeypatch
  one, two = (hosts_in_turn.global_batches(n, *args) for n in (1, 2))
  jax.tree.map(np.testing.assert_array_equal, two, one)
  assert one["_mask"].sum() == N


@pytest.fixture(scope="module")
def reference(forms):
  return batches(forms["folder"], 10)


@pytest.mark.parametrize("kind", KINDS)
def test_same_batches(forms, reference, kind):
  """Shuffled and augmented: bit by bit, from any step, on any host."""
  for start, num in ((0, 10), (7, 3)):
    got = batches(forms[kind], num, start_step=start)
    for k, x in got.items():
      np.testing.assert_array_equal(x, reference[k][start : start + num])
  got = batches(forms[kind], 2, start_step=6, process_index=1, process_count=2)
  np.testing.assert_array_equal(got["image"], reference["image"][6:8, 3:])
  unshuffled = batches(forms[kind], 2, {"shuffle_buffer_size": None})
  assert (unshuffled["label"].ravel() == np.arange(12) // PER_CLASS).all()


def train(data, params, start_step, num):
  """Losses and weights of a linear classifier under plain gradient descent."""
  got = batches(data, num, start_step=start_step)

  @jax.jit
  def step(params, image, label):
    def loss_fn(params):
      logits = image.reshape(len(image), -1) @ params
      picked = jnp.take_along_axis(
        jax.nn.log_softmax(logits), label[:, None], 1
      )
      return -picked.mean()

    loss, grad = jax.value_and_grad(loss_fn)(params)
    return params - 0.05 * grad, loss

  losses = []
  for image, label in zip(got["image"], got["label"], strict=True):
    params, loss = step(params, image, label)
    losses.append(float(loss))
  return np.array(losses), params


@pytest.fixture(scope="module")
def curve(forms):
  return train(forms["folder"], jnp.zeros([8 * 8 * 3, 3]), 0, 27)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_same_training_curve_also_when_resumed(forms, curve, kind):
  assert curve[-5:].mean() < 0.7 * curve[:5].mean()
  first, params = train(forms[kind], jnp.zeros([8 * 8 * 3, 3]), 0, 11)
  rest, _ = train(forms[kind], params, 11, 16)
  np.testing.assert_array_equal(np.concatenate([first, rest]), curve)


# What follows breaks a copy of the data in one way each.

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF"


def break_image_of_folder(path):
  (path / "train/dog/03.jpg").write_bytes(b"\xff\xd8\xff no image")
  return "train/dog/03.jpg", 1


def lose_file_of_folder(path):
  """A file that is gone since it was listed."""
  return "train/dog/03.jpg", 1


def break_shard(path):
  tar = path / "s-001.tar"
  data = tar.read_bytes()
  at = data.index(JPEG)
  tar.write_bytes(data[:at] + b"x" * len(JPEG) + data[at + len(JPEG) :])
  return "s-001.tar/cat-x/01", 1


def lose_shard(path):
  (path / "s-001.tar").unlink()
  return "s-001.tar is missing", 1


def cut_shard(path):
  os.truncate(path / "s-001.tar", 9000)
  return "s-001.tar is cut off", 1


def change_label(path):
  tar = path / "s-001.tar"
  with tarfile.open(tar) as t:
    at = t.getmember("cat-x/03.cls").offset_data
  data = tar.read_bytes()
  tar.write_bytes(data[:at] + b"7" + data[at + 1 :])
  return r"label 7 of \S*s-001.tar/cat-x/03 is outside of \[0, 3\)", 1


def break_arrow(path):
  file = path / "data-00001-of-00003.arrow"
  data = file.read_bytes()
  at = data.index(JPEG)
  file.write_bytes(data[:at] + b"x" * len(JPEG) + data[at + len(JPEG) :])
  return r"data-00001-of-00003.arrow:1 \(01.jpg\)", 1


def lose_arrow(path):
  (path / "data-00001-of-00003.arrow").unlink()
  return "data-00001-of-00003.arrow is missing", 1


def cut_arrow(path):
  file = path / "data-00001-of-00003.arrow"
  os.truncate(file, file.stat().st_size // 2)
  return "data-00001-of-00003.arrow is cut off or damaged", 1


def lose_parquet(path):
  (path / "train-00001-of-00003.parquet").unlink()
  return "train-00001-of-00003.parquet is missing", 1


def cut_parquet(path):
  file = path / "train-00001-of-00003.parquet"
  os.truncate(file, file.stat().st_size // 2)
  return "train-00001-of-00003.parquet is cut off or damaged", 1


DAMAGES = [
  ("folder", break_image_of_folder),
  ("folder", lose_file_of_folder),
  ("webdataset", break_shard),
  ("webdataset", lose_shard),
  ("webdataset", cut_shard),
  ("webdataset", change_label),
  ("hf_arrow", break_arrow),
  ("hf_arrow", lose_arrow),
  ("hf_arrow", cut_arrow),
  ("hf_parquet", lose_parquet),
  ("hf_parquet", cut_parquet),
]


def run_epochs(cfg, num_steps, after_open=None):
  ds, _ = input_pipeline.training(cfg)
  if after_open:
    after_open()
  it = input_pipeline.start_global(ds, np.array(jax.devices()[:1]))
  try:
    return [next(it) for _ in range(num_steps)]
  finally:
    it.close()  # Else it goes on logging while the next test runs.


@pytest.mark.parametrize("kind, damage", DAMAGES)
def test_errors_name_the_file_and_are_counted(
  forms, kind, damage, tmp_path, caplog
):
  data = dict(forms[kind])
  glob = os.path.basename(data["path"]) if kind == "webdataset" else ""
  copy = tmp_path / "copy"
  shutil.copytree(data["path"].removesuffix("/" + glob), copy)
  data["path"] = str(copy / glob) if glob else str(copy)
  what, num = damage(copy)
  after = None
  if damage is lose_file_of_folder:
    after = lambda: (copy / what).unlink(missing_ok=True)
  # One epoch is 27 examples, what is missing less.
  with pytest.raises(ValueError, match=what):
    run_epochs(config(data), 5, after)
  if damage is lose_file_of_folder:
    shutil.copyfile(copy / "train/dog/02.jpg", copy / what)
  logging.set_verbosity(logging.INFO)
  with caplog.at_level("WARNING", logger="absl"):
    run_epochs(config(data, skip_errors=True), 9, after)
  dropped = [r.getMessage() for r in caplog.records if "dropped" in r.msg]
  assert any(f"{num} since the start" in text for text in dropped)


def test_labels_outside_the_range_in_csv_and_arrow(forms, tmp_path, caplog):
  folder = forms["folder"]["path"]
  rows = examples_of(pathlib.Path(folder) / "train")
  lines = [f"train/{f},{k}" for f, k in rows]
  lines[5] = lines[5][:-1] + "3"
  labels = tmp_path / "labels.csv"
  labels.write_text("\n".join(["file,label", *lines]))
  data = dict(forms["folder"], labels=str(labels), num_classes=3)
  message = r"label 3 of \S*cat/05.jpg in \S*labels.csv is outside of \[0, 3\)"
  (problem,) = core.get(**data).bad_examples()
  assert "cat/05.jpg" in problem
  with pytest.raises(ValueError, match=message):
    run_epochs(config(data), 5)
  with caplog.at_level("WARNING", logger="absl"):
    run_epochs(config(data, skip_errors=True), 5)
  assert any("dropped 1 of" in r.getMessage() for r in caplog.records)
  arrow = dict(forms["hf_arrow"], num_classes=2)
  with pytest.raises(ValueError, match=r"label 2 of \S*-of-00003.arrow:\d"):
    run_epochs(config(arrow), 5)


CONFIG = """
import ml_collections as mlc

def get_config():
  pp = (
    "decode|resize(12)|random_crop(8)|flip_lr|value_range(-1, 1)"
    "|onehot(3, key='label', key_result='labels')|keep('image', 'labels')"
  )
  return mlc.ConfigDict(dict(
    seed=0, total_steps=30, num_classes=3, loss="softmax_xent",
    input=dict(batch_size=6, data={data!r}, shuffle_buffer_size=9, pp=pp),
    log_training_steps=1, ckpt_steps=5, model_name="vit",
    model=dict(variant="mu", patch_size=(4, 4), pool_type="gap"),
    optax_name="scale_by_adam", lr=0.003, wd=0.0,
    schedule=dict(decay_type="cosine", warmup_steps=2),
  ))
"""


def losses(workdir):
  path = workdir / "big_vision_metrics.txt"
  lines = path.read_text().splitlines() if path.exists() else []
  rows = [json.loads(line) for line in lines]
  return {r["step"]: r["training_loss"] for r in rows if "training_loss" in r}


@pytest.mark.slow
def test_same_curve_from_the_command_line(forms, tmp_path):
  """The trainer itself, killed on its way and started again."""
  curves = {}
  for kind in ("folder", "webdataset", "hf_arrow", "tfds"):
    path, workdir = tmp_path / f"{kind}.py", tmp_path / kind
    path.write_text(CONFIG.format(data=forms[kind]))
    command = [
      sys.executable, "-m", "big_vision.train",
      "--config", str(path), "--workdir", str(workdir),
    ]  # fmt: skip
    if curves:  # Of the first, the curve of one uninterrupted run.
      p = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
      while p.poll() is None and len(losses(workdir)) < 12:
        time.sleep(0.01)
      p.kill()
      assert p.wait() == -signal.SIGKILL
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    curves[kind] = losses(workdir)
  assert len(curves["folder"]) == 30
  assert curves["folder"][30] < 0.8 * curves["folder"][1]
  assert all(c == curves["folder"] for c in curves.values())
