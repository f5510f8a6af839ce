"""Commands and Python of README and docs are run, in a folder beside the repository.

All pages share the folder, and blocks run in their order: later ones use what earlier
ones made. Commands run as they are written, by bash, with flags that make them short.
`test_documented_commands.py` parses what is not run here.
"""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import textwrap
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import trained_run
from big_vision import checkpoints, lookup
from big_vision.configs import quickstart
from big_vision.pp import builder
from big_vision.training import config_check

pytestmark = [pytest.mark.tf, pytest.mark.usefixtures("quick_compilation")]

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {p.name: p for p in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}

# Ops of preprocessing strings that are not part of a config.
PP_MODULES = ("ops_text", "ops_choice", "proj.clippo.pp_ops")

# Pattern of commands and blocks of Python that are not run -> why.
NOT_RUN = {
  r"gcloud |gsutil ": "device, Google Cloud",
  r"git clone ": "network",
  r"download_tfds_datasets (cifar10|imagenet21k)": "network, datasets",
  r"config\.model\.quantizer|uvim\.pictures": "of a model of another config",
  r"--from hf://": "network, weights",
  r"vit_s16_i1k\.py|vit_i1k\.py:variant=S/16 ": "dataset, ImageNet",
  r"convert_dataset imagenet2012": "dataset, ImageNet",
  r"JAX_NUM_PROCESSES=2": "device, two hosts",
  r"srun |scontrol |^exit ": "Slurm, see tests/launching/test_clusters_page.py",
  r"mpirun ": "Open MPI",
  r"setup\.sh pytest": "would run this test",
  r"tests/fuzz\.py": "takes long, see tests/test_untrusted.py",
  r"BV_GEMMA_DIR=": "weights, network",
  r"paligemma\.run ": "reads from the terminal, see tests/trainers/proj/paligemma",
  r"tools\.prepare (?!--list)": "datasets, downloaded by hand",
  r"tools\.demo ": "serves until it is stopped, see tests/tools/test_demo.py",
  r"m\.captions\(": "a run with config.captioning, see tests/pretrained/test_captions.py",
  r"my_project|workdirs/mine$": "files of the user, see tests/test_extend_page.py",
  r"clip-vit-base-patch32": "network, weights",
  r"workdirs/uvim/": "two stages of training, see tests/test_notebooks_uvim.py",
  r"--keep_going 3": "as without it, see tests/training/test_keep_going.py",
  r"my_siglip\.py": "a file of the user, see tests/tools/test_convert_hf.py",
}

# Pattern of a command -> flags that make it short.
CUT = {
  r"train .*workdirs/quickstart$": "--config.total_steps=8 --config.schedule.warmup_steps=1",
  r"train .*two_hosts$": "--config.total_steps=4 --config.schedule.warmup_steps=1"
  " --config.evals=None",
  r"train .*pets_quick$": "--config.total_steps=8 --config.schedule.warmup_steps=1",
  r"workdirs/trunk ": "--config.total_steps=6 --config.keep_ckpt_steps=2"
  " --config.schedule.warmup_steps=1 --config.evals=None",
  r"workdirs/cool-1400 ": "--config.total_steps=7 --config.schedule.cooldown_steps=3"
  " --config.schedule.warmup_steps=1 --config.evals=None"
  " --config.resume=workdirs/trunk/checkpoint.bv-000000004",
  r"big_vision\.train .*transfer\.py:model=vit-s16,": "--config.model.depth=1"
  " --config.model_init= --config.total_steps=8",
  r"train .*hf://facebook/dinov2-small": "--config.total_steps=8",
  r"train .*pets_lora": "--config.model_init=workdirs/pets/checkpoint.bv",
  r"pets_again": "--config.model.depth=1",
  r"workdirs/fewshot": "--config.model.depth=1 --config.model_init=",
  r"image_text\.siglip .*workdirs/siglip$": "--config.total_steps=4 --config.evals=None",
  r"workdirs/pairs .*pairs\.csv": "--config.total_steps=4"
  " --config.schedule.warmup_steps=1",
  r"cappa\.generative .*workdirs/cappa": "--config.total_steps=4 --config.evals=None",
  r"paligemma\.train .*workdirs/paligemma": "--config.total_steps=4 --config.evals=None"
  " --config.input.batch_size=16",
  r"reward_tune\.train .*workdirs/detector": "--config.total_steps=4"
  " --config.evals=None",
  r"uvim\.(vqvae|train) .*workdirs/panoptic": "--config.total_steps=4"
  " --config.schedule.warmup_steps=1 --config.ckpt_steps=4 --config.evals=None",
  r"tools\.(sweep|vtab|faults) ": "--dry_run",
  r"workdirs/linear_probe": "--config.model.depth=1 --config.model_init="
  " --config.evals.probe.sgd_steps=5 --config.evals.probe.max_iter=5",
  r"workdirs/dense_probe": "--config.model.depth=1 --config.evals.test.steps=5",
  r"tools\.plan (?!.*(uvim|paligemma))": "--config.model.depth=1",
  r"tools\.average .*--last": "--last=1",
  r"tools\.benchmark_gpu ": "--parts=sizes --sizes=mu/16 --batch=4 --res=32",
  r"tools\.benchmark ": "--variant=mu/16 --res=32 --steps=1 --rounds=1"
  " --images=8",
}

# The same in Python, in place of the text.
CUT_PYTHON = {"num_train=100_000": "num_train=8, num_validation=8, num_test=8"}

# What needs the work of another page.
AFTER = {
  "export.md": ["finetune.md"],
  "predict.md": ["finetune.md", "image_text.md"],
}
# Pages with commands that take long, and those whose Python needs what these made.
SLOW = {
  "README.md", "benchmarks.md", "clusters.md", "datasets.md", "export.md",
  "finetune.md", "image_text.md", "optimizers.md", "predict.md", "probing.md",
  "recipes.md", "uvim.md", "weights.md",
}  # fmt: skip
NEEDS_RUNS = {
  "export.md", "finetune.md", "image_text.md", "predict.md", "uvim.md",
  "weights.md",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Block:
  """A fenced block of a page."""

  page: str
  line: int
  language: str
  text: str

  def __str__(self):
    return f"{self.page}:{self.line}"

  def commands(self):
    """The commands of bash, without comments and line breaks."""
    lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
    lines = [re.sub(r"(^|\s+)# .*", "", line) for line in lines]
    return [line for line in lines if line]


def blocks(page):
  text = PAGES[page].read_text(encoding="utf-8")
  pattern = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
  for m in pattern.finditer(text):
    line = text[: m.start()].count("\n") + 1
    yield Block(page, line, m[2], textwrap.dedent(m[3]))


EVERY = [block for page in PAGES for block in blocks(page)]


def reason(text):
  """Why something is not run; None if it is."""
  return next((NOT_RUN[p] for p in NOT_RUN if re.search(p, text)), None)


def shortened(command):
  flags = [CUT[p] for p in CUT if re.search(p, command)]
  return " ".join([command, *flags])


class Folder:
  """Where the pages are tried, as a user would: data, pictures, `setup.sh`."""

  def __init__(self, root, tfds_data_dir):
    self.root, self.done = root, set()
    self.env = {
      **os.environ,
      "PATH": f"{root}/bv_venv/bin:{os.environ['PATH']}",
      "PYTHONPATH": str(ROOT),
      "TFDS_DATA_DIR": tfds_data_dir,
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
      "CUDA_VISIBLE_DEVICES": "",
    }
    self.write("setup.sh", 'exec python -m "$@"\n')
    self.write("bv_venv/bin/activate", "")
    self.write("bv_venv/bin/python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (root / "bv_venv/bin/python").chmod(0o755)
    pictures = trained_run.pictures(root / "data/pets", num=10)
    rows = [
      f"{path.relative_to(root / 'data')},{'furry;' * (i % 2)}small,{i},{i * i}"
      for i, path in enumerate(pictures)
    ]
    self.write("data/pets.csv", "\n".join(["file,tags,age,weight", *rows]))
    self._hub()
    (root / "photos").mkdir()
    for i, name in enumerate(("cat.jpg", "photos/1.jpg", "photos/2.jpg")):
      (root / name).write_bytes(pictures[4 * i].read_bytes())
    (root / "data/pictures").mkdir()
    rows = ["file,caption"]
    for i, picture in enumerate(pictures):
      (root / f"data/pictures/{i}.jpg").write_bytes(picture.read_bytes())
      rows.append(f"pictures/{i}.jpg,a picture")
    self.write("data/pairs.csv", "\n".join(rows))
    for i in (1, 2):
      self.write(f"folder/000{i}.cls", "1")
      (root / f"folder/000{i}.jpg").write_bytes(pictures[0].read_bytes())
    self.write(
      "run/big_vision_metrics.txt", '{"step": 1, "training_loss": 2}\n'
    )
    tree = {"params": {"head": {"kernel": jnp.ones([2, 3])}}, "step": 100}
    (root / "workdir").mkdir()
    manager = checkpoints.CheckpointManager()
    path = str(root / "workdir/checkpoint.bv")
    checkpoints.save_checkpoint_ts(manager, tree, path, 100)
    manager.close()

  def _hub(self):
    """Makes a hub of two repositories, which is a folder."""
    self.env["HF_ENDPOINT"] = f"file://{self.root}/hub"
    self.env["BV_CACHE_DIR"] = f"{self.root}/cache"
    tiny = ROOT / "tests/golden/weights/transformers/dinov2"
    for repo in ("dinov2-small", "dinov2-base"):
      target = self.root / f"hub/facebook/{repo}/resolve/main"
      target.mkdir(parents=True)
      for name in ("config.json", "model.safetensors"):
        (target / name).write_bytes((tiny / name).read_bytes())

  def write(self, name, text):
    path = self.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

  def page(self, name):
    """Runs all blocks of a page, once."""
    for other in AFTER.get(name, ()):
      self.page(other)
    if name not in self.done:
      self.done.add(name)
      self.blocks(name, ("bash", "python"))

  def blocks(self, name, languages):
    """Runs the blocks of a page that are in some languages."""
    config = quickstart.get_config(f"source=folder,path={self.root}/data/pets")
    names = {"config": config, "image": np.zeros([32, 32, 3], np.uint8)}
    for block in blocks(name):
      if block.language in languages:
        run = self.bash if block.language == "bash" else self.python
        run(block, names)

  def bash(self, block, names):
    del names
    lines = [shortened(c) for c in block.commands() if not reason(c)]
    script = "\n".join(lines).replace("/data/", f"{self.root}/data/")
    done = subprocess.run(
      ["bash", "-euo", "pipefail", "-c", script],
      cwd=self.root, env=self.env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}\n{script}\n{done.stderr[-3000:]}"

  def python(self, block, names: dict[str, Any]):
    if reason(block.text):
      return
    text = block.text.replace("/data/", f"{self.root}/data/")
    for old, new in CUT_PYTHON.items():
      text = text.replace(old, new)
    exec(compile(text, str(block), "exec"), names)
    config = names["config"]
    if "trackers" in config:
      del config.trackers  # Their packages are not installed here.
    config_check.check_training(config)
    lookup.preprocessing(config)
    lookup.preprocessing({"pp_modules": PP_MODULES})
    for pp in (names.pop("pp", None), config.input.pp):
      if pp:
        builder.get_preprocess_fn(pp)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tfds_data_dir):
  return Folder(tmp_path_factory.mktemp("beside"), tfds_data_dir)


@pytest.mark.parametrize("page", sorted(SLOW - NEEDS_RUNS))
def test_python_of_slow_pages(folder, monkeypatch, page):
  monkeypatch.chdir(folder.root)
  folder.blocks(page, ("python",))


@pytest.mark.parametrize(
  "page",
  [pytest.param(p, marks=[pytest.mark.slow] * (p in SLOW)) for p in PAGES],
)
def test_page(folder, monkeypatch, page):
  monkeypatch.chdir(folder.root)
  for name in ("HF_ENDPOINT", "BV_CACHE_DIR"):
    monkeypatch.setenv(name, folder.env[name])
  folder.page(page)


def test_blocks_say_their_language():
  known = {"bash", "python", "text", "csv", "json", "yaml"}
  assert not [str(b) for b in EVERY if b.language not in known]
  assert len([b for b in EVERY if b.language == "python"]) > 25


def test_tables_have_no_stale_entries():
  commands = [c for b in EVERY if b.language == "bash" for c in b.commands()]
  python = [b.text for b in EVERY if b.language == "python"]
  for pattern in NOT_RUN:
    assert any(re.search(pattern, x) for x in (*commands, *python)), pattern
  assert all(any(old in x for x in python) for old in CUT_PYTHON)
  for pattern in CUT:
    assert any(re.search(pattern, c) for c in commands), pattern
