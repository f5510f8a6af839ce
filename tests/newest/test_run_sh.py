"""run.sh with a Python that pretends: no network, no real install."""

import os
import pathlib
import subprocess
import sys

import pytest

RUN = pathlib.Path(__file__).parent / "run.sh"
# The Python of the machine, of the environment, and what they are asked for.
FAKE_PYTHON = r"""#!/usr/bin/env bash
if [[ "$*" == *"import sys, jax"* ]]; then exit; fi
if [[ "$1" == -c ]]; then exec "$REAL_PYTHON" "$@"; fi
case "$*" in
  "-m venv "*) mkdir -p "${!#}/bin" && cp "$0" "${!#}/bin/python" ;;
  "-m pip config "*) exit 1 ;;
  "-m uv pip install "*)
    echo "install ${UV_CONSTRAINT:+$(grep jax= "$UV_CONSTRAINT")}" >>"$FAKE_LOG" ;;
  "-m pytest"* | tests/*) echo "$PWD: $*" >>"$FAKE_LOG" ;;
esac
"""


@pytest.fixture
def start(tmp_path):
  """Runs run.sh with some arguments: (return code, stderr, log lines)."""
  python = tmp_path / "fake_python"
  python.write_text(FAKE_PYTHON)
  python.chmod(0o755)
  log = tmp_path / "log"

  def run(*args, **env):
    log.write_text("")
    default = {
      "BV_NEWEST_PYTHON": str(python),
      "BV_OLDEST_PYTHON": str(python),
      "BV_TEST_CACHE": str(tmp_path / "cache"),
      "REAL_PYTHON": sys.executable,
      "FAKE_LOG": str(log),
    }
    done = subprocess.run(
      ["bash", str(RUN), *args],
      env={**os.environ, **default, **env},
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
    )
    return done.returncode, done.stderr, log.read_text().splitlines()

  return run


def test_whole_suite_and_reuse(start):
  rc, err, lines = start()
  assert rc == 0, err
  suite = f"{RUN.parents[2]}: -m pytest -n 2 --dist loadfile"
  assert lines == ["install ", suite]
  rc, _, lines = start()
  assert rc == 0 and lines == [suite]  # Nothing is installed again.


def test_an_environment_grows_old(start, tmp_path):
  start()
  (stamp,) = (tmp_path / "cache").glob("newest-*/bv_venv/.bv_complete")
  month = 31 * 24 * 3600
  os.utime(stamp, (stamp.stat().st_mtime - month,) * 2)
  assert start()[2][0] == "install "


def test_some_tests(start):
  rc, _, lines = start("--", "tests/test_trees.py", "-x")
  assert rc == 0 and lines[-1].endswith(": -m pytest tests/test_trees.py -x")


def test_oldest(start, tmp_path):
  rc, err, lines = start("--oldest", "--", "-x")
  assert rc == 0, err
  assert lines[0] == "install jax==0.8.2"
  assert [l.split(": ")[1] for l in lines[1:]] == [
    "tests/newest/bounds.py", "-m pytest -x",
  ]  # fmt: skip
  assert [p.name[:6] for p in (tmp_path / "cache").iterdir()] == ["oldest"]


@pytest.mark.parametrize("argument", ["--fast", "tests"])
def test_unknown_argument(start, argument):
  rc, err, lines = start(argument)
  assert rc == 1 and lines == []
  assert err.splitlines() == [
    f"tests/newest/run.sh: unknown argument '{argument}'; see the head of this "
    "file"
  ]


def test_missing_python(start):
  rc, err, _ = start(BV_NEWEST_PYTHON="/no/python")
  assert rc == 1 and "'/no/python' does not run" in err
