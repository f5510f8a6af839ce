"""The check that lower bounds of requirements are those that are tested."""

import importlib.util
import pathlib

import pytest

PATH = pathlib.Path(__file__).parent / "bounds.py"


@pytest.fixture(scope="module")
def bounds():
  spec = importlib.util.spec_from_file_location("bounds", PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


LINES = ["# Training.", "", "a>=1.2", 'b>=3; sys_platform == "no"', "c>=2.0"]


def test_reached(bounds):
  versions = {"a": "1.2.0", "c": "2"}
  assert bounds.too_new(LINES, versions.__getitem__) == []


def test_not_reached(bounds):
  versions = {"a": "1.3", "c": "2.0"}
  (message,) = bounds.too_new(LINES, versions.__getitem__)
  assert message.startswith("a>=1.2 is not tested: the oldest")
  assert " 1.3. Write that in requirements.txt" in message


def test_requirements_have_one_lower_bound(bounds):
  lines = (bounds.REPO / "requirements.txt").read_text().splitlines()
  assert bounds.too_new(lines, lambda name: "0.0.0")  # All can be read.
