"""Every command and every key of README, docs, notebooks and docstrings is real.

Commands are parsed: module, config with its argument, flags. Those of README and docs
that need no network are run by `test_documented_runs.py`.
"""

import argparse
import ast
import copy
import functools
import importlib
import json
import pathlib
import re
import shlex
import sys

import ml_collections as mlc
import pytest
from absl import flags

from big_vision.training import config_flag, config_keys, run_flags

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted(
  [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
)
# In place of those of the hub, and of what other commands have trained.
WEIGHTS = ROOT / "tests/golden/weights/transformers/dinov2_classes"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOURCES = sorted((ROOT / "big_vision").rglob("*.py"))


def text_of(path):
  """What a page, a notebook or the strings of a module say."""
  text = path.read_text(encoding="utf-8")
  if path.suffix == ".ipynb":
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)
  if path.suffix == ".py":
    found = [
      n.value
      for n in ast.walk(ast.parse(text))
      if isinstance(n, ast.Constant) and isinstance(n.value, str)
    ]
    return "\n\n".join(found)
  return text


@functools.cache
def commands():
  """(file, module, arguments) of all commands that run a module of this package."""
  found = []
  start = re.compile(
    r"(?<![\w/.-])(?:python3? -m |setup\.sh\s+|^\s*)"
    r"(big_vision\.(?:train|trainers|tools)\b[\w.]*)(.*)",
    re.MULTILINE,
  )
  for path in (*PAGES, *NOTEBOOKS, *SOURCES):
    text = re.sub(r"\\\n\s*", " ", text_of(path))
    for module, rest in start.findall(text):
      rest = re.sub(r"(--\w+) …", r"\1 PLACE", rest)
      rest = re.sub(
        r"--config (CONFIG|\.\.\.|configs/my_\w+\.py|my_project/config\.py)",
        "--config configs/quickstart.py",
        rest,
      )
      rest = re.sub(r"model=(hf://|workdirs/)[\w/-]+", f"model={WEIGHTS}", rest)
      rest = re.split(r"[`#;|]|&&| …|…$", rest)[0].strip()
      if rest.count('"') % 2:  # The end of a command around it.
        rest = rest.removesuffix('"')
      rest = re.sub(r"(?<!\w)\[|\](?!,)", " ", rest)  # Optional parts.
      if re.match(r"\s*[.,:)]|\s+(?!-)[a-z]+ [a-z]+ ", rest):
        rest = ""  # A sentence goes on.
      found.append((path.relative_to(ROOT), module.rstrip("."), rest.strip()))
  return found


def own_flags(module):
  """The flags that a command has, in a fresh container."""
  values = flags.FlagValues()
  config_flag.define("config", "", values)
  defined = flags.FLAGS.flags_by_module_dict()
  for name in (run_flags.__name__, module.__name__):
    for flag in defined.get(name, ()):
      if flag.name not in values:
        values[flag.name] = copy.deepcopy(flag)
  return values


class _Parsed(Exception):
  pass


def parse(monkeypatch, module, args):
  """Parses a command as its module does."""
  monkeypatch.setattr(sys, "argv", [module.__name__, *args])
  if hasattr(module, "app"):  # Flags of absl, changes of configs among them.
    values = own_flags(module)
    rest = values(sys.argv)
    if "config" in values and values.config is not None:
      config_flag.check_arguments(rest)
      if hasattr(module, "build"):
        keys = values["config"].override_values
        config_flag.check_method(keys, module.build)
    return
  original = argparse.ArgumentParser.parse_args

  def parse_args(self, *a, **kw):
    original(self, *a, **kw)
    raise _Parsed

  monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
  with pytest.raises(_Parsed):
    module.main(args)


def test_there_are_commands():
  names = {module for _, module, _ in commands()}
  assert len(commands()) > 60
  assert {"big_vision.train", "big_vision.tools.plan"} <= names


@pytest.fixture
def pets(tmp_path):
  """What pages call /data/pets: configs open it."""
  for name in ("cat", "dog"):
    (tmp_path / name).mkdir()
    for i in range(10):
      (tmp_path / name / f"{i}.jpg").write_bytes(b"")
  # And /data/pets.csv.
  header = "file,tags,age,weight"
  rows = [f"{tmp_path}/cat/{i}.jpg,cat;sofa,{i},{2 * i}" for i in range(10)]
  pathlib.Path(f"{tmp_path}.csv").write_text("\n".join([header, *rows]))
  rows = [f"cat/{i}.jpg,a cat" for i in range(10)]
  (tmp_path / "pairs.csv").write_text("\n".join(["file,caption", *rows]))
  return str(tmp_path)


@pytest.mark.tf
@pytest.mark.parametrize("module", sorted({m for _, m, _ in commands()}))
def test_commands(monkeypatch, module, pets):
  monkeypatch.chdir(ROOT)
  imported = importlib.import_module(module)
  if module in ("big_vision.tools", "big_vision.tools.demo"):
    imported = importlib.import_module(f"{module}.__main__")
  for path, name, rest in commands():
    if name != module or not rest or rest == "--help":
      continue
    rest = rest.replace("path=/data/pets", f"path={pets}")
    rest = rest.replace("path=/data/pairs.csv", f"path={pets}/pairs.csv")
    with monkeypatch.context() as m:
      try:
        parse(m, imported, shlex.split(rest))
      except SystemExit as e:
        pytest.fail(f"{path}: {module} {rest}: {e}")
      except flags.Error as e:
        pytest.fail(f"{path}: {module} {rest}: {e}")


# Keys.

CONFIGS = (
  "configs/quickstart.py",
  "configs/proj/image_text/siglip_pretrain.py:demo",
  "configs/proj/gsam/vit_i1k_gsam_no_aug.py",
  "configs/proj/distill/bit_i1k.py",
  "configs/load_and_eval.py:name=vit_i1k",
)
# Attributes of ConfigDict, files, and placeholders in messages.
NO_KEYS = set(
  "json py get pop update items keys to_dict lock unlocked config_flags key X x"
  " foo define model_cfg get_config parse_flags_with_absl".split()
)


# What errors say about keys of the past, and what tells of a fork's own.
GONE = {"optim", "weight_decay", "input.filter_fn", "variant", "data"}
SOURCES_OF_DATA = ("folder", "hf", "webdataset", "jsonl", "records")


@functools.cache
def configs():
  """Configs among which there is one for every documented key."""
  found = []
  for spec in CONFIGS:
    path, _, arg = spec.partition(":")
    module = importlib.import_module(
      "big_vision." + path.removesuffix(".py").replace("/", ".")
    )
    found.append(module.get_config(*([arg] if arg else [])))
  for name in SOURCES_OF_DATA:
    found.append(mlc.ConfigDict(dict(input=dict(data=dict(name=f"bv:{name}")))))
  found.append(mlc.ConfigDict(dict(input=dict(data=dict(a=1, b=2)))))
  found.append(mlc.ConfigDict(dict(optax_name="big_vision.muon")))
  return found


def is_known(path):
  """Whether code reads a key, or a config has it."""
  for config in configs():
    node = config
    for i, part in enumerate(path):
      try:
        config_keys.type_of(config, path[: i + 1])
      except ValueError:
        if part not in node:
          break
      node = (node.get(part) if hasattr(node, "get") else None) or {}
    else:
      return True
  return False


def documented_keys(path):
  """Dotted keys `config.a.b` that a text mentions."""
  pattern = (
    r"(?<![\w/.-])(?:--)?config\.([a-z][\w]*(?:\.[a-z]\w*)*)(?![\w(<{*/])"
  )
  return set(re.findall(pattern, text_of(path)))


@pytest.mark.tf
def test_keys():
  unknown = []
  for path in (*PAGES, *NOTEBOOKS, *SOURCES):
    for key in documented_keys(path):
      parts = key.split(".")
      if parts[0] in NO_KEYS or parts[-1] in NO_KEYS or key in GONE:
        continue
      if parts[0] == "evals" and len(parts) == 2:  # Of any name.
        continue
      if not is_known(tuple(parts)):
        unknown.append(f"{path.relative_to(ROOT)}: config.{key}")
  assert not unknown, "\n".join(sorted(unknown))
