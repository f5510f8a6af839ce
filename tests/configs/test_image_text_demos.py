"""What the demos of image-text configs promise, in full length."""

import os
import pathlib
import subprocess
import sys

import pytest

import toy

ROOT = pathlib.Path(__file__).parents[2]
TRAINER = "big_vision.trainers.proj.image_text."
HELD_OUT, ALL = "z/0shot/heldout_accuracy", "z/0shot/all_accuracy"
RECALL = "z/retr/coco_img2txt_recall@1"


@pytest.fixture(scope="module")
def env(tmp_path_factory):
  data_dir = str(tmp_path_factory.mktemp("tfds"))
  return {**os.environ, "TFDS_DATA_DIR": data_dir}


@pytest.mark.slow
@pytest.mark.tf
@pytest.mark.parametrize(
  "trainer, config, least",
  [
    ("siglip", "image_text/siglip_pretrain", {HELD_OUT: 0.9, RECALL: 0.8}),
    ("siglip", "image_text/siglip_lit_coco", {HELD_OUT: 0.8, ALL: 0.8}),
    ("siglip", "image_text/siglip2_finetune", {HELD_OUT: 0.8, ALL: 0.8}),
    ("contrastive", "clippo/train_clippo", {HELD_OUT: 0.8}),
  ],
)
def test_reaches(env, tmp_path, trainer, config, least):
  command = [
    sys.executable, "-m", TRAINER + trainer, "--workdir", str(tmp_path / "w"),
    "--config", f"big_vision/configs/proj/{config}.py:demo",
  ]  # fmt: skip
  done = subprocess.run(
    command, cwd=ROOT, env=env, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-4000:]
  rows = toy.rows(tmp_path / "w")
  final = rows[max(rows)]
  for name, value in least.items():
    assert final[name] >= value, (name, final)
