"""Missing optional packages are named, with what to install."""

import sys

import pytest

from big_vision import extras, tf
from big_vision.pp import sentencepiece_model

ADVICE = r"is not installed: pip install 'big_vision\[data\]'"


def test_packages_that_are_there():
  assert extras.load("json").dumps([1]) == "[1]"


def test_missing_packages(monkeypatch):
  monkeypatch.setitem(sys.modules, "sentencepiece", None)
  with pytest.raises(ModuleNotFoundError, match=f"sentencepiece {ADVICE}"):
    sentencepiece_model.processor(b"not cached")
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  monkeypatch.setattr(tf, "_modules", {})
  with pytest.raises(ModuleNotFoundError, match=f"tensorflow {ADVICE}") as e:
    tf.tf.constant(1)
  assert extras.advice(e.value) == str(e.value)


def test_other_extras(monkeypatch):
  monkeypatch.setitem(sys.modules, "onnxruntime", None)
  advice = r"onnxruntime is not installed: pip install 'big_vision\[onnx\]'"
  with pytest.raises(ModuleNotFoundError, match=advice):
    extras.load("onnxruntime")


def test_other_errors():
  with pytest.raises(ModuleNotFoundError, match="No module named 'not_there'"):
    extras.load("not_there")
  assert not extras.advice(ModuleNotFoundError("No module", name="not_there"))
  assert not extras.advice(ValueError("tensorflow"))
