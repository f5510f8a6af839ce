"""Commands answer `--help` in one style, before jax and TensorFlow."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

import big_vision
from big_vision import __main__, command_line
from big_vision.tools import __main__ as tools_main

ROOT = pathlib.Path(__file__).parent.parent
TOOLS = sorted(
  f"big_vision.tools.{p.stem}"
  for p in (ROOT / "big_vision/tools").glob("*.py")
  if not p.stem.startswith("_") and "__main__" in p.read_text(encoding="utf-8")
)
TRAINERS = [
  "big_vision.train",
  *(
    ".".join(p.relative_to(ROOT).with_suffix("").parts)
    for p in sorted((ROOT / "big_vision/trainers").rglob("*.py"))
    if "__main__" in p.read_text(encoding="utf-8") and p.stem != "run"
  ),
]
COMMANDS = [
  *TRAINERS,
  "big_vision.trainers.proj.paligemma.run",
  *TOOLS,
  "big_vision.tools",
  "big_vision.tools.demo",
  "big_vision",
]
RUN = """
import contextlib, io, json, runpy, sys
for name in ("jax", "tensorflow", "tensorflow_datasets"):
  sys.modules[name] = None  # Not to be imported.
pages = {}
for module in sys.argv[1:]:
  sys.argv[1:] = ["--help"]
  out = io.StringIO()
  try:
    with contextlib.redirect_stdout(out):
      runpy.run_module(module, run_name="__main__", alter_sys=True)
  except SystemExit as e:
    assert not e.code, (module, e.code)
  pages[module] = out.getvalue()
print(json.dumps(pages))
"""


@pytest.fixture(scope="module")
def pages():
  done = subprocess.run(
    [sys.executable, "-c", RUN, *COMMANDS],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout)


def test_there_are_commands():
  assert len(TRAINERS) >= 7 and len(TOOLS) >= 9


def test_tools_are_commands():
  """What others import lies elsewhere: benchmarks, datasets, models, ..."""
  files = (ROOT / "big_vision/tools").glob("[a-z]*.py")
  assert sorted(f"big_vision.tools.{p.stem}" for p in files) == TOOLS
  folders = {p.parent for p in (ROOT / "big_vision/tools").glob("*/*.py")}
  assert all((folder / "__main__.py").exists() for folder in folders)


@pytest.mark.parametrize("module", COMMANDS)
def test_help(pages, module):
  page = " ".join(pages[module].split())
  assert page.startswith(f"usage: python -m {module} ")
  assert "--help" in page and "--debug" in page
  assert "(default: " in page  # At least that of --debug.
  # Flags of absl and of libraries are none of the package's.
  assert "--logtostderr" not in page and "--jax_" not in page


@pytest.mark.parametrize("module", TRAINERS)
def test_trainers_list_flags_and_configs(pages, module):
  page = pages[module]
  for flag in ("config", "workdir", "cleanup", "config_changed", "profile"):
    assert f"\n  --{flag}" in page
  quickstart = "configs/quickstart.py +Quickstart: a small ViT learns to read"
  assert re.search(rf"\n  {quickstart}", page)
  assert "configs/proj/image_text/siglip_pretrain.py " in page
  assert "configs/common.py" not in page  # It is no config.


def test_own_configs_come_first(pages):
  page = pages["big_vision.trainers.proj.gsam.train"]
  first = page.index("configs/proj/gsam/vit_i1k_gsam_no_aug.py ", 800)
  assert first < page.index("configs of python -m big_vision.train:")


def test_tools_show_their_defaults(pages):
  assert "--port" in pages["big_vision.tools.demo"]
  assert "(default: 8000)" in pages["big_vision.tools.demo"]
  plan = " ".join(pages["big_vision.tools.plan"].split())
  assert "--mesh" in plan and "(default: True)" in plan
  assert "(default: v3,v4,v5e" in plan
  assert "--cleanup" not in plan  # It writes no workdir.


def test_list_of_tools(capsys):
  assert tools_main.main([]) == 0
  lines = capsys.readouterr().out.splitlines()
  names = [line.split()[2] for line in lines]
  assert names == sorted([*TOOLS, "big_vision.tools.demo"])
  assert all(len(line.split()) > 5 for line in lines)  # What each does.


def test_make_parser(capsys):
  parser = command_line.make_parser("a.b", "What it does.\n\n  a command\n")
  parser.add_argument("--size", type=int, default=3, help="Of it.")
  parser.add_argument("--path", help="Where (default: here).")
  assert parser.parse_args(["--debug"]).debug
  with pytest.raises(SystemExit) as e:
    parser.parse_args(["--help"])
  assert e.value.code == 0
  text = capsys.readouterr().out
  assert "What it does.\n\n  a command\n" in text
  assert "Of it. (default: 3)" in text
  assert "Where (default: here).\n" in text and "None" not in text


def test_wants_debug():
  assert command_line.wants_debug(["--config", "x", "--debug"])
  assert not command_line.wants_debug(["--config", "--nodebug", "--debugger"])


def test_the_package_says_which_commands_there_are(capsys):
  assert __main__.main([]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == f"big_vision {big_vision.__version__}"
  modules = [line.split()[2] for line in lines[2:]]
  assert modules == ["big_vision.train", "big_vision.train", "big_vision.tools"]
