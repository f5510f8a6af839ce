"""A run that has learned to tell pictures of three classes apart."""

import pathlib

import ml_collections as mlc
import numpy as np
from PIL import Image
from sklearn import datasets

CLASSES = ("cat", "dog", "red panda")


def pictures(root: pathlib.Path, num: int = 4) -> list[pathlib.Path]:
  """Writes photographs, JPEG and PNG, of many sizes; returns sorted paths."""
  photos = datasets.load_sample_images().images
  rng = np.random.default_rng(0)
  for label, name in enumerate(CLASSES):
    (root / name).mkdir(parents=True)
    for i in range(num):
      top, left = rng.integers(0, 200, 2)
      image = photos[label % 2][top : top + 90 + 7 * i, left : left + 120]
      image = Image.fromarray(image[..., ::-1] if label == 2 else image)
      image.save(root / name / f"{i}.{('jpg', 'png')[i % 2]}")
  return sorted(root.rglob("*.*"))


def config(root: pathlib.Path, **kw) -> mlc.ConfigDict:
  """Trains a ViT of two layers for a few steps."""
  data = dict(name="bv:folder", path=str(root))
  pp = (
    'decode|resize_small(40)|central_crop(32)|value_range(-1, 1)|onehot(3, key="'
    'label", key_result="labels")'
  )
  keep = '|keep("image", "labels")'
  config = dict(
    seed=0,
    total_steps=6,
    log_training_steps=6,
    ckpt_steps=6,
    num_classes=3,
    loss="softmax_xent",
    input=dict(data=data, pp=f"{pp}|flip_lr{keep}", batch_size=8, shuffle_buffer_size=12),
    model_name="vit",
    model=dict(
      width=16, depth=2, mlp_dim=32, num_heads=2, patch_size=(8, 8),
      rep_size=True,
    ),
    init_head_bias=0.1,
    optax_name="scale_by_adam",
    lr=1e-2,
    wd=1e-4,
    schedule=dict(warmup_steps=1),
  )  # fmt: skip
  evals = dict(
    save=dict(
      type="save",
      data=data,
      pp_fn=pp + '|keep("image", "labels", "file_name")',
      outputs=("0", "1/pre_logits"),
      keep_on_cpu=("file_name",),
      log_steps=6,
      outfile="{workdir}/saved.npz",
      skip_first=True,
    ),
    val=dict(
      type="classification",
      data=data,
      pp_fn=pp + keep,
      loss_name="softmax_xent",
      confusion="{workdir}/val_confusion",
      log_steps=6,
      skip_first=True,
    ),
  )
  return mlc.ConfigDict({**config, "evals": evals, **kw})


def make(tmp_path: pathlib.Path, **kw) -> tuple[pathlib.Path, list]:
  """Trains; returns (workdir, paths of the pictures)."""
  from big_vision import train
  from big_vision.training import cli

  paths = pictures(tmp_path / "pets")
  workdir = tmp_path / "w"
  cli.train(train.build, config(tmp_path / "pets", **kw), str(workdir))
  return workdir, paths
