"""The wheel and the sdist: what is in them, and that what they install works.

The quick tests install the wheel into an empty environment that sees the packages of
this one, but not the repository. The slow one installs what `pip install` does.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest

import big_vision
import trained_run

ROOT = pathlib.Path(__file__).parents[1]
BUILD = """
import sys
from setuptools import build_meta
_, out, *kinds = sys.argv  # Setuptools changes it.
for kind in kinds:
  getattr(build_meta, f"build_{kind}")(out)
"""
ADVICE = "is not installed: pip install 'big_vision[data]', or use setup.sh.\n"
# Runs a module where the packages of the extra are missing.
WITHOUT_EXTRA = """
import runpy, sys
for name in ("datasets", "sentencepiece", "sklearn", "tensorflow",
             "tensorflow_datasets"):
  sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run(*command, **kw):
  """Runs a command to its end; returns (exit status, stdout, stderr)."""
  done = subprocess.run(command, capture_output=True, text=True, **kw)
  return done.returncode, done.stdout, done.stderr


def check(*command, **kw):
  """Runs a command that has to succeed; returns its stdout."""
  code, out, err = run(*command, **kw)
  assert code == 0, err[-3000:]
  return out


def tracked(folder="."):
  """Paths of the files of a clone: no build, no environment, no cache."""
  out = check(
    "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard",
    folder, cwd=ROOT,
  )  # fmt: skip
  return [p for p in out.split("\0") if p and (ROOT / p).exists()]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """Paths of the wheel, of the sdist, and of a wheel of the sdist."""
  if not (ROOT / ".git").exists():
    pytest.skip("needs a clone")
  root = tmp_path_factory.mktemp("built")
  for path in tracked():
    target = root / "clone" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(ROOT / path, target, follow_symlinks=False)
  make = (sys.executable, "-c", BUILD)
  check(*make, str(root / "a"), "sdist", "wheel", cwd=root / "clone")
  (sdist,), (wheel,) = (root / "a").glob("*.tar.gz"), (root / "a").glob("*.whl")
  with tarfile.open(sdist) as tar:
    tar.extractall(root, filter="data")
  check(*make, str(root / "b"), "wheel", cwd=root / sdist.name[:-7])
  (again,) = (root / "b").glob("*.whl")
  return wheel, sdist, again


def contents(wheel):
  """Name -> bytes of the files of a wheel, but for the list of these."""
  with zipfile.ZipFile(wheel) as f:
    names = [n for n in f.namelist() if not n.endswith("/RECORD")]
    return {name: f.read(name) for name in names}


def test_wheel_has_all_files_of_the_package(built):
  names = {n for n in contents(built[0]) if ".dist-info/" not in n}
  assert names == set(tracked("big_vision"))


def test_sdist_installs_the_same(built):
  wheel, sdist, again = built
  assert contents(wheel) == contents(again)
  with tarfile.open(sdist) as tar:
    names = {name.partition("/")[2] for name in tar.getnames()}
  assert {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml"} <= names
  assert not [n for n in names if n.startswith(("tests", "bv_venv", "docs"))]


def test_metadata(built):
  files = contents(built[0])
  (name,) = (n for n in files if n.endswith(".dist-info/METADATA"))
  metadata = files[name].decode().splitlines()
  assert f"Version: {big_vision.__version__}" in metadata
  assert "Provides-Extra: data" in metadata
  base = [
    l for l in metadata if l.startswith("Requires-Dist") and "extra" not in l
  ]
  assert len(base) > 8 and not any("tensorflow" in l for l in base)
  assert any(n.endswith("/LICENSE") for n in files)


class Installed:
  """An environment with the wheel, and an empty folder to work in."""

  def __init__(self, folder, wheel, *options):
    venv.create(folder / "venv", symlinks=True)
    self.python = str(folder / "venv/bin/python")
    check(
      sys.executable, "-m", "pip", "--python", self.python, "install", "-qq",
      "--disable-pip-version-check", *options, str(wheel),
    )  # fmt: skip
    self.cwd = folder / "empty"
    self.cwd.mkdir()
    self.env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

  def run(self, *args, **env):
    return run(self.python, *args, cwd=self.cwd, env={**self.env, **env})

  def check(self, *args, **env):
    return check(self.python, *args, cwd=self.cwd, env={**self.env, **env})


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
  """The wheel alone, beside the packages of this environment."""
  folder = tmp_path_factory.mktemp("installed")
  new = Installed(folder, built[0], "--no-deps", "--no-compile")
  (site,) = folder.glob("venv/lib/python*/site-packages")
  paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
  (site / "others.pth").write_text("\n".join(sorted(paths)))
  return new


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pets")
  trained_run.pictures(folder, num=6)
  return folder


def test_import(installed):
  out = installed.check(
    "-c",
    "import big_vision; print(big_vision.__version__, big_vision.__file__)",
  )
  version, path = out.split()
  assert version == big_vision.__version__
  assert pathlib.Path(path).is_relative_to(installed.cwd.parent / "venv")


@pytest.mark.parametrize("prefix", ["", "big_vision/"])
def test_configs_are_found_from_anywhere(installed, prefix):
  config = f"--config={prefix}configs/quickstart.py"
  out = installed.check("-m", "big_vision.train", config, "--help")
  assert out.startswith("Quickstart: ")


@pytest.mark.tf
def test_own_pictures_from_training_to_prediction(installed, pets):
  config = f"configs/quickstart.py:source=folder,path={pets}"
  installed.check(
    "-m", "big_vision.train", f"--config={config}", "--workdir=w",
    "--config.total_steps=2", "--config.schedule.warmup_steps=1",
    "--config.input.batch_size=8",
    "--config.model.depth=1", "--config.evals=None",
  )  # fmt: skip
  assert (installed.cwd / "w/checkpoint.bv-LAST").exists()
  installed.check("-m", "big_vision.tools.plot", "w")
  assert (installed.cwd / "w/plot.html").stat().st_size > 10_000
  out = installed.check(
    "-c", WITHOUT_EXTRA, "big_vision.tools.predict", "--from=w", str(pets)
  )
  assert out.count("red panda") > 10


def test_missing_extras_are_named(installed, pets):
  train = ("big_vision.train", "--workdir=none")
  for command in (
    (*train, "--config=configs/quickstart.py"),
    (
      *train,
      f"--config=configs/transfer.py:model=vit-s16,source=folder,path={pets}",
    ),
    ("big_vision.tools.convert_dataset", "digits"),
  ):
    code, _, err = installed.run("-c", WITHOUT_EXTRA, *command)
    assert code == 1 and err.endswith(ADVICE) and "Traceback" not in err, err
  assert not (installed.cwd / "none").exists()


@pytest.mark.slow
def test_installation_without_tensorflow(built, pets, tmp_path):
  """`pip install` of the wheel: whatever it needs is declared."""
  new = Installed(tmp_path, built[0])
  assert new.run("-c", "import tensorflow")[0]
  # All but the readers of data.
  code = """
import importlib, pkgutil
import big_vision
for m in pkgutil.walk_packages(big_vision.__path__, "big_vision."):
  if not m.name.startswith("big_vision.datasets."):
    importlib.import_module(m.name)
"""
  new.check("-c", code)
  plan = (
    "big_vision.tools.plan",
    "--config=configs/quickstart.py",
    "--mesh=data=8",
  )
  assert "MiB" in new.check("-m", *plan)
  workdir, _ = trained_run.make(tmp_path / "run")
  predict = ("big_vision.tools.predict", f"--from={workdir}", str(pets))
  assert new.check("-m", *predict).count("red panda") > 10
  code, _, err = new.run(
    "-m", "big_vision.train", "--config=configs/quickstart.py"
  )
  assert code == 1 and err.endswith(ADVICE)
