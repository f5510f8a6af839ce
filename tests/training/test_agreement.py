"""Processes that differ say so, all of them, before anything is read."""

import importlib.metadata
import os
import pathlib
import re
import shutil
import sys
import time

import jax
import ml_collections as mlc
import pytest

import big_vision
from big_vision.datasets import core
from big_vision.datasets.classes import Classes
from big_vision.launching import local
from big_vision.training import agreement

ROOT = pathlib.Path(__file__).parents[2]

# Compares twice: with configs that are the same, then with those of the test.
SCRIPT = """
import importlib, os, sys, tempfile
import ml_collections as mlc
from big_vision import lookup
from big_vision.training import agreement, hosts
from absl import logging
logging.set_verbosity(logging.INFO)
hosts.join()
me = int(os.environ["JAX_PROCESS_ID"])
config = mlc.ConfigDict(dict(lr=0.1, seed=0, fn=agreement.check))
agreement.check(config, "/w")
print("same")
if me == 2:
  config.lr, config.seed, config.more = 0.2, 1, dict(a=None)
elif me == 1:
  agreement.version = lambda name: "0.1"
try:
  agreement.check(config, f"/w{me // 2}")
except lookup.ConfigError as e:
  print("Error:", e)

def check(data):
  try:
    agreement.check_opened(data)
    print("also same")
  except lookup.ConfigError as e:
    print("Later:", e)

check({"number of examples": "7"})
check({"number of examples": str(me // 2)})
with tempfile.TemporaryDirectory() as folder:
  sys.path.insert(0, folder)
  for name, same in (("mine", 0), ("mine_too", 1)):
    if not (same and me):  # One process alone may import a module.
      with open(f"{folder}/{name}.py", "w") as f:
        f.write(f"x = {0 if same else me}")
      importlib.import_module(name)
  check({})
"""


def test_processes_that_differ():
  lines = []
  with local.start(
    [sys.executable, "-c", SCRIPT],
    hosts=3,
    devices=2,
    env={"PYTHONPATH": str(ROOT)},
    write=lines.append,
  ) as group:
    assert group.wait(300) == [0, 0, 0], lines
  of = lambda i: [line[4:] for line in lines if line.startswith(f"[{i}]")]
  errors = []
  for i in range(3):
    assert "same\n" in of(i)
    errors += [line for line in of(i) if line.startswith("Error:")]
    # The line of `join`.
    [found] = [line for line in of(i) if "Found JAX_COORDINATOR" in line]
    assert f"process {i} of 3, which meet at 127.0.0.1:" in found
    assert "have 6 devices. This one takes 2, all of those" in found
  assert len(errors) == 3 and len(set(errors)) == 1
  one, _, two = errors[0].partition("; ")
  assert re.search(
    r"Process 1 on \S+ has version of jax = 0.1 \(process 0", one
  )
  want = (
    "has --workdir = /w1 (process 0: /w0), config.lr = 0.2 (process 0: 0.1), "
    "config.seed = 1 (process 0: 0), config.more.a = null (process 0: none). Give"
  )
  assert "Process 2 on " in two and want in two
  for i in range(3):
    later = [line for line in of(i) if line.startswith(("also", "Later"))]
    assert later[0] == "also same\n" and len(later) == 3
    assert re.search(
      r"Process 2 on \S+ has number of examples = 1 \(process 0: 0\)", later[1]
    )
    assert re.search(
      r"Process 1 on \S+ has hash of module mine = \w+ \(.*\)\.", later[2]
    )
    assert "mine_too" not in later[2] and later[2].count("hash") == 1


def test_facts_of_data(tfds_data_dir, monkeypatch):
  opened = {
    "a": core.get("digits", split="test"),
    "b": core.get("bv:dummy", spec=dict(x=dict(shape=(), dtype="int32"))),
  }
  assert agreement.facts_of_data(opened) == {}  # A process alone.
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  found = agreement.facts_of_data(opened)
  assert found["number of examples of a"] == "297"
  assert found["classes of a"].startswith("10 (hash ")
  assert "classes of b" not in found
  # Names in another order are other classes.
  opened["a"].classes_of = lambda feature: Classes(10, tuple("9876543210"))
  other = agreement.facts_of_data(opened)
  assert list(agreement.differences(found, other)) == ["classes of a"]


def test_alone_nothing_is_done(monkeypatch):
  monkeypatch.setattr(agreement, "facts", None)
  agreement.check(mlc.ConfigDict(), None)


def test_facts():
  config = mlc.ConfigDict(dict(lr=0.1, model=dict(width=[1, 2]), fn=lambda: 0))
  facts = agreement.facts(config, "/w")
  assert facts["--workdir"] == "/w"
  assert facts["config.lr"] == "0.1" and facts["config.model.width"] == "[1, 2]"
  assert facts["number of local devices"] == "8"
  assert facts["version of jax"] == jax.__version__
  assert facts["version of optax"] == importlib.metadata.version("optax")
  # An object is the same wherever it lies.
  config.fn = lambda: 1
  assert agreement.facts(config, "/w") == facts
  assert agreement.version("no_such_package") == "none"


def test_sources(tmp_path, monkeypatch):
  found = agreement.sources()
  assert {"big_vision/train.py", "big_vision/models/vit.py"} < set(found)
  assert not [path for path in found if "/configs/" in path]
  start = time.process_time()
  agreement.sources()
  assert time.process_time() - start < 1
  # A copy of the package alone, with the environment that setup.sh makes in it.
  for name in ("train.py", "models/vit.py", "bv_venv/lib/x.py"):
    copy = tmp_path / "big_vision" / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "big_vision/train.py", copy)
  monkeypatch.setattr(big_vision, "__path__", [str(tmp_path / "big_vision")])
  copied = agreement.sources()
  assert set(copied) == {"big_vision/train.py", "big_vision/models/vit.py"}
  assert copied["big_vision/train.py"] == found["big_vision/train.py"]
  assert copied["big_vision/models/vit.py"] != found["big_vision/models/vit.py"]
  assert os.path.basename(tmp_path) not in str(copied)


def test_describe():
  first = {"a": "1", "b": "x" * 200, "c": "3"}
  found = agreement.differences(first, {"a": "1", "b": "y", "d": "4"})
  assert found == {
    "b": ("x" * 200, "y"),
    "c": ("3", "none"),
    "d": ("none", "4"),
  }
  text = agreement.describe(found)
  long = "x" * 100
  assert text == (
    f"b = y (process 0: {long}…), c = none (process 0: 3), d = 4 (process 0: none)"
  )
  many = {str(i): ("a", "b") for i in range(20)}
  assert agreement.describe(many).endswith("7 = b (process 0: a) and 12 more")


@pytest.mark.parametrize("num, more", [(4, False), (7, True)])
def test_verdict(num, more):
  text = agreement.verdict([f"Process {i} has x" for i in range(1, num + 1)])
  assert "Process 1 has x; Process 2 has x; " in text
  assert "Process 5" not in text
  assert ("So have 3 other processes." in text) == more
  assert agreement.verdict([]) == ""
