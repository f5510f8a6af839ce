"""Help of configs, and that forks have the help of the package."""

import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags

from big_vision.training import config_flag, run_help

ROOT = pathlib.Path(__file__).parents[2]


def page(monkeypatch, *args, module="big_vision.train"):
  argv = ["train", *args, "--help"]
  monkeypatch.setattr(sys, "argv", argv)
  spec = run_help._given_config(argv)
  return list(run_help.config_page(spec, argv, module))


def rows(text):
  return {line.split()[0]: line.split()[1:] for line in text.splitlines()[1:]}


def test_config(monkeypatch):
  about, arguments, keys, *more = page(
    monkeypatch,
    *("--workdir", "W", "--config", "configs/quickstart.py"),
    *("--config.lr", "0.5", "--cleanup"),
  )
  assert about.startswith("Quickstart: a small ViT learns to read")
  assert rows(arguments)["demo"] == ["bool", "False"]
  found = rows(keys)
  assert found["lr"] == ["float", "0.5"]  # As the command line has it.
  assert found["total_epochs"] == ["int", "120"]
  assert found["evals.test.type"] == ["str", "classification"]
  assert found["model.patch_size"] == ["tuple", "(4,", "4)"]
  assert not {"model", "evals", "input"} & set(found)  # Their keys are listed.
  text = "\n".join(more)
  assert "config also takes:" in text and "grad_accum_steps (int)" in text
  assert (
    "num_epochs" not in text and "loss_chunk" not in text
  )  # Not this one's.
  words = " ".join(text.split())
  assert "dropout (float = 0.0)" in words and "b1 (float = 0.9)" in words
  assert "lr (float)" not in words  # It is there.


def test_arguments_of_a_docstring(monkeypatch):
  about, arguments, keys, *_ = page(
    monkeypatch, "--config", "configs/transfer.py:model=vit-s16,h_res=64"
  )
  assert "Arguments:" not in about
  assert rows(arguments)["dataset"] == ["str", "cifar10"]
  assert "prepared as `docs/datasets.md` says" in arguments
  # An entry for two names, one that goes on.
  assert arguments.count("before and after the crop") == 2
  text = " ".join(arguments.split())
  assert "ViT then scans over its layers." in text
  assert "resize_small(64)" in keys


def test_arguments_that_configs_share(monkeypatch):
  """Described where they are parsed, or known to everybody."""
  arguments = page(
    monkeypatch,
    "--config=configs/proj/image_text/siglip_pretrain.py",
    module=None,
  )[1]
  found = rows(arguments)
  assert found["token_len"] == ["int", "64"]
  assert "Length of texts in tokens." in arguments
  assert "in 128-256-576." in " ".join(arguments.split())
  assert "For trying it on one machine" in arguments


def test_arguments_that_have_to_be_given(monkeypatch):
  _, keys, arguments, error = page(
    monkeypatch, "--config=configs/transfer.py", "--config.lr=0.5"
  )
  assert "model" in rows(arguments)
  # Of the first command in the docstring.
  assert "model=vit-i21k-augreg-b/32" in keys.splitlines()[0]
  assert rows(keys)["model.variant"] == ["str", "B/32"]
  assert rows(keys)["lr"] == ["float", "0.5"]
  assert "Unknown model: 'vit'" in error


def test_old_layout(monkeypatch):
  keys = page(
    monkeypatch,
    "--config=configs/proj/gsam/vit_i1k_gsam_no_aug.py:B/16",
    module="big_vision.trainers.proj.gsam.train",
  )[2]
  assert rows(keys)["gsam.rho_max"][0] == "float"


def test_no_such_file(monkeypatch):
  with pytest.raises(
    SystemExit, match="no file 'configs/quickstrat.py'.*quicks"
  ):
    page(monkeypatch, "--config=configs/quickstrat.py")


def test_every_config(monkeypatch):
  """Those of the package can all be shown."""
  configs = run_help.package_configs()
  assert len(configs) > 20 and "configs/demo.py" not in configs
  for name, doc in configs.items():
    assert doc, name
    found = page(monkeypatch, f"--config={name}", module=None)
    assert "keys" in found[-1] or "also takes" in found[-1], name


def test_configs_of_the_package_from_anywhere(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr("sys.argv", ["notebook"])  # Not where the flags are from.
  for path in ("configs/quickstart.py", "big_vision/configs/quickstart.py"):
    found = config_flag.find_file(path)
    assert pathlib.Path(found).samefile(ROOT / "configs/quickstart.py")
    values = flags.FlagValues()
    config_flag.define("config", "", values)
    values(["x", f"--config={path}:demo"])
    assert values.config.total_epochs == 120
  # A file of one's own comes first.
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs/quickstart.py").touch()
  assert config_flag.find_file("configs/quickstart.py") == (
    "configs/quickstart.py"
  )
  for path in ("configs/nothing.py", "train.py", "/configs/quickstart.py"):
    assert config_flag.find_file(path) == path


FORK = """
'''A trainer of one's own.'''
from absl import app, flags
from big_vision.training import cli
flags.DEFINE_float("warmth", 0.25, "Of this fork.")
flags.DEFINE_boolean("debug", True, "Of this fork, too.")

def build(setup):
  ...

main = cli.main_for(build)
if __name__ == "__main__":
  app.run(main)
"""


def run(tmp_path, *args):
  (tmp_path / "fork.py").write_text(FORK)
  return subprocess.run(
    [sys.executable, "fork.py", *args],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )


def test_forks(tmp_path):
  """Trainers of others have this help without knowing of it."""
  done = run(tmp_path, "--help")
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.startswith("usage: python fork.py --config FILE.py")
  assert "A trainer of one's own." in done.stdout
  assert "flags of this command" in done.stdout
  assert "Of this fork. (default: 0.25)" in done.stdout
  assert "configs/quickstart.py" in done.stdout


def test_errors(tmp_path):
  """One line; with --debug the traceback, too."""
  wrong = ["--config=configs/quickstart.py:x=1"]
  done = run(tmp_path, *wrong)
  assert done.returncode == 1
  assert len(done.stderr.strip().splitlines()) == 1, done.stderr
  assert done.stderr.startswith("Error: ") and "'x'" in done.stderr
  done = run(tmp_path, *wrong, "--debug")
  assert done.returncode == 1
  assert "Traceback" in done.stderr and "parse_arg" in done.stderr
  assert done.stderr.strip().splitlines()[-1].startswith("Error: ")


def test_unknown_names_do_not_end_the_help(monkeypatch):
  found = page(
    monkeypatch, "--config=configs/quickstart.py", "--config.optax_name=adm"
  )
  assert "config also takes" in "\n".join(found)
