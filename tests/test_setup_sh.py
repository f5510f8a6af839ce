"""setup.sh with a Python that pretends: no network, no real install."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

REPO = pathlib.Path(__file__).resolve().parents[1]

# Stands for both the system's Python and the one of bv_venv. Logs what it is
# asked for and answers `-c` (facts, lock) with the real Python.
FAKE_PYTHON = r"""#!/usr/bin/env bash
if [[ "$1" == -c ]]; then exec "$REAL_PYTHON" "$@"; fi
echo "$*" >>"$FAKE_LOG"
case "$*" in
  "-m venv "*) mkdir -p "${!#}/bin" && cp "$0" "${!#}/bin/python" ;;
  "-m pip config "*) exit 1 ;;
  "-m pip install -qq uv") exit "${FAKE_NO_UV:-0}" ;;
  "-m uv pip install "* | "-m pip install "*)
    if [[ -n "${FAKE_BLOCK:-}" ]]; then touch "$FAKE_BLOCK"; sleep 30; fi
    if [[ -n "${FAKE_SLOW:-}" ]]; then sleep "$FAKE_SLOW"; fi
    exit "${FAKE_INSTALL_RC:-0}" ;;
  "-m shows"*) echo "cwd=$PWD path=$PYTHONPATH init=${BV_JAX_INIT-unset}"
    echo "start=$BV_START"
    printf '<%s>' "$@" ;;
  "-m fails") exit 7 ;;
esac
"""


class Clone:
  """A clone with the fake Python, and what it was asked for."""

  def __init__(self, path):
    self.path = path
    self.home = path / "repo"
    (self.home / "big_vision").mkdir(parents=True)
    for name in ("setup.sh", "requirements.txt"):
      shutil.copy(REPO / name, self.home / name)
    (self.home / "big_vision" / "train.py").touch()
    self.bin = path / "bin"
    self.bin.mkdir()
    self.python = self.script("python3", FAKE_PYTHON)
    self.script("nvidia-smi", "#!/bin/sh\nexit 1\n")
    self.log = path / "log"
    self.log.touch()
    self.env = {
      "PATH": f"{self.bin}:{os.environ['PATH']}",
      "HOME": str(path),
      "REAL_PYTHON": sys.executable,
      "FAKE_LOG": str(self.log),
      "BV_JAX": "cpu",
    }

  def script(self, name, text):
    path = self.bin / name
    path.write_text(text)
    path.chmod(0o755)
    return path

  def start(self, *args, script=None, cwd=None, **env):
    return subprocess.Popen(
      ["bash", str(script or self.home / "setup.sh"), *args],
      cwd=cwd or self.home,
      env={**self.env, **env},
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  def run(self, *args, **kw):
    process = self.start(*args, **kw)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err

  def installs(self):
    lines = self.log.read_text().splitlines()
    return [l for l in lines if "pip install" in l and "-r " in l]


@pytest.fixture
def clone(tmp_path):
  return Clone(tmp_path)


def test_runs_the_module_in_the_callers_folder(clone, tmp_path):
  (tmp_path / "else where").mkdir()
  rc, out, err = clone.run(
    "shows", "a b", "", "--x=$y", cwd=tmp_path / "else where"
  )
  assert rc == 0, err
  assert f"cwd={tmp_path}/else where path={clone.home} init=unset" in out
  assert out.endswith("<-m><shows><a b><><--x=$y>")


def test_commands_are_shown_as_they_are_typed(clone, tmp_path):
  _, out, _ = clone.run("shows", cwd=tmp_path, script="repo/setup.sh")
  assert "start=bash repo/setup.sh\n" in out


def test_the_environment_knows_the_package(clone):
  clone.run(cwd="/")
  (file,) = (clone.home / "bv_venv/lib").glob("python3*/site-packages/*.pth")
  assert file.read_text() == f"{clone.home}\n"


def test_no_arguments_only_sets_up(clone):
  rc, out, _ = clone.run()
  assert (rc, out) == (0, "")
  assert len(clone.installs()) == 1
  assert (clone.home / "bv_venv" / ".bv_complete").exists()


def test_exit_status_of_the_module(clone):
  assert clone.run("fails")[0] == 7


def test_installs_once(clone):
  for _ in range(3):
    assert clone.run("shows")[0] == 0
  assert len(clone.installs()) == 1


def test_an_install_compiles_what_runs_import(clone):
  clone.run("shows")
  clone.run("shows")
  asked = clone.log.read_text().splitlines()
  assert asked.count("-m big_vision.bytecode") == 1
  first = asked.index("-m big_vision.bytecode")
  assert first > asked.index(clone.installs()[-1])


def test_changed_requirements_install_again(clone):
  clone.run()
  requirements = clone.home / "requirements.txt"
  requirements.write_text(requirements.read_text() + "\nmore\n")
  clone.run()
  clone.run()
  assert len(clone.installs()) == 2


def test_changed_jax_build_installs_again(clone):
  clone.run()
  clone.run(BV_JAX="cuda12")
  assert ["jax[cuda12]" in l for l in clone.installs()] == [False, True]


def test_failed_install_is_reported_and_repaired(clone):
  rc, out, _ = clone.run("shows", FAKE_INSTALL_RC="3")
  assert rc != 0 and out == ""  # The module did not run.
  rc, out, _ = clone.run("shows")
  assert rc == 0 and "<shows>" in out


def test_killed_install_is_repaired(clone, tmp_path):
  blocked = tmp_path / "blocked"
  process = clone.start("shows", FAKE_BLOCK=str(blocked))
  deadline = time.monotonic() + 20
  while not blocked.exists() and time.monotonic() < deadline:
    time.sleep(0.02)
  os.killpg(process.pid, signal.SIGKILL)
  process.communicate()
  (clone.home / "bv_venv" / "half").touch()
  rc, out, _ = clone.run("shows")
  assert rc == 0 and "<shows>" in out
  assert not (clone.home / "bv_venv" / "half").exists()


def test_two_at_once_install_once(clone):
  processes = [clone.start("shows", str(i), FAKE_SLOW="0.5") for i in range(3)]
  outs = [p.communicate(timeout=30)[0] for p in processes]
  assert [p.returncode for p in processes] == [0, 0, 0]
  assert [re.findall(r"<(\d)>", out) for out in outs] == [["0"], ["1"], ["2"]]
  assert len(clone.installs()) == 1


def test_without_uv_pip_installs(clone):
  rc, _, _ = clone.run(FAKE_NO_UV="1")
  assert rc == 0
  assert [l.startswith("-m pip") for l in clone.installs()] == [True]


@pytest.mark.parametrize(
  "smi, version, want",
  [
    ("535.104.05, 8.0", "3.11.7", "cuda12"),
    ("580.65.06, 9.0\n580.65.06, 9.0", "3.11.7", "cuda13"),
    ("580.65.06, 7.0", "3.11.7", "cuda12"),  # CUDA 13 has no Volta.
    ("580.65.06, [N/A]", "3.12.1", "cuda12"),
  ],
)
def test_jax_build_of_a_gpu(clone, smi, version, want):
  clone.script("nvidia-smi", f"#!/bin/sh\nprintf '%s\\n' '{smi}'\n")
  text = FAKE_PYTHON.replace(
    'exec "$REAL_PYTHON" "$@"',
    f'[[ "$2" == *fcntl* ]] || echo "{version} hash"; exit 0',
  )
  clone.script("python3", text)
  assert clone.run(BV_JAX="")[0] == 0
  assert f"jax[{want}]" in clone.installs()[0]


def test_tpu_hosts_join_the_pod(clone):
  assert "init=1" in clone.run("shows", BV_JAX="tpu")[1]
  assert "jax[tpu]" in clone.installs()[0]
  assert "init=\n" in clone.run("shows", BV_JAX="tpu", BV_JAX_INIT="")[1]


def test_own_jax(clone):
  assert clone.run(BV_JAX="none")[0] == 0
  log = clone.log.read_text()
  assert "-m venv --system-site-packages" in log and "uv" not in log


def test_unknown_jax_build(clone):
  rc, _, err = clone.run(BV_JAX="gpu")
  assert rc == 1 and "BV_JAX='gpu'" in err and "cuda12" in err


@pytest.mark.parametrize("version", ["3.9.18", "3.10.1", "3.14.0", "3.20.1"])
def test_wrong_python(clone, version):
  clone.script("other", f"#!/bin/sh\necho {version} hash\n")
  rc, _, err = clone.run(BV_PYTHON="other")
  assert rc == 1 and len(err.splitlines()) == 1
  assert f"Python 3.11 to 3.13 needed, 'other' is {version}" in err
  assert "BV_PYTHON" in err and clone.installs() == []


@pytest.mark.parametrize("version", ["(3, 9, 18)", "(3, 14, 0)"])
def test_another_python_beside_a_wrong_one(clone, version):
  pretends = f"import sys; sys.version_info = {version}\n"
  wrong = '#!/bin/sh\nexec "$REAL_PYTHON" -c "$PRETEND$2"\n'
  clone.script("python3", wrong)
  clone.script("python3.13", "#!/bin/sh\nexit 1\n")
  clone.script("python3.12", FAKE_PYTHON)
  rc, _, err = clone.run("shows", PRETEND=pretends)
  assert rc == 0, err
  assert "-m venv" in clone.log.read_text()


def test_python_of_the_system_packages(clone):
  """If none is right, apt-get is asked for the newest that is."""
  for name in ("python3", "python3.13", "python3.12", "python3.11"):
    clone.script(name, "#!/bin/sh\nexit 1\n")
  python = clone.script("fake_python", FAKE_PYTHON)
  clone.script("sudo", '#!/bin/sh\nexec "$@"\n')
  clone.script(
    "apt-get",
    f"""#!/usr/bin/env bash
echo "apt-get $*" >>"$FAKE_LOG"
case "$*" in
  *python3.12-venv) cp {python} {clone.bin}/python3.12 ;;
  *install*) exit 1 ;;
esac
""",
  )
  rc, out, err = clone.run("shows")
  assert rc == 0 and "<shows>" in out, err
  asked = [l for l in clone.log.read_text().splitlines() if "install -y" in l]
  assert [l.split()[-1] for l in asked] == [
    "python3.13-venv", "python3.12-venv",
  ]  # fmt: skip


def test_no_python_at_all(clone):
  for name in ("python3", "python3.13", "python3.12", "python3.11", "apt-get"):
    clone.script(name, "#!/bin/sh\nexit 1\n")
  rc, _, err = clone.run("shows")
  assert rc == 1
  assert "set BV_PYTHON to a Python of 3.11 to 3.13" in err.splitlines()[-1]


def test_missing_python(clone):
  rc, _, err = clone.run(BV_PYTHON="/no/python")
  assert rc == 1 and "BV_PYTHON" in err


def test_link_in_the_package_uses_the_environment_of_the_clone(clone):
  link = clone.home / "big_vision" / "setup.sh"
  link.symlink_to("../setup.sh")
  _, out, _ = clone.run("shows", script=link)
  assert f"path={clone.home} " in out
  assert (clone.home / "bv_venv").exists()


def test_package_copied_without_the_repository(clone, tmp_path):
  package = tmp_path / "host" / "big_vision"
  shutil.copytree(clone.home / "big_vision", package)
  for name in ("setup.sh", "requirements.txt"):
    shutil.copy(REPO / "big_vision" / name, package / name)
  _, out, _ = clone.run(
    "shows", script="big_vision/setup.sh", cwd=tmp_path / "host"
  )
  assert f"path={tmp_path / 'host'} " in out
  assert (package / "bv_venv").exists()


def test_python_path_is_kept(clone):
  _, out, _ = clone.run("shows", PYTHONPATH="/mine")
  assert f"path={clone.home}:/mine " in out


def test_requirements_cover_the_package():
  """requirements.txt has every requirement of pyproject.toml, same bounds."""
  normal = lambda l: l.replace("'", '"').strip()
  text = (REPO / "pyproject.toml").read_text()
  text = text[text.index("dependencies = [") : text.index("[tool.")]
  declared = {normal(m) for m in re.findall(r'^  "(.*)",$', text, re.M)}
  lines = (REPO / "requirements.txt").read_text().splitlines()
  listed = {normal(l) for l in lines if l and not l.startswith("#")}
  assert len(declared) > 15
  assert declared == listed
