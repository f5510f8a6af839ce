"""The dummy source: constant examples of a given shape."""

import jax
import numpy as np
import pytest

from big_vision import input_pipeline
from big_vision.datasets import dummy

pytestmark = pytest.mark.tf

SPEC = {
  "image": {"shape": (4, 4, 3), "dtype": "uint8"},
  "text": {"shape": [], "dtype": "string"},
  "nested": {"mask": {"shape": [2], "dtype": "bool"}, "n": {"dtype": "int32"}},
}


def test_examples_have_the_spec():
  source = dummy.DataSource(SPEC, num_examples=3)
  examples = list(source.get_tfdata(ordered=True).as_numpy_iterator())
  assert len(examples) == source.total_examples == 3
  for e in examples:
    assert e["image"].shape == (4, 4, 3) and e["image"].dtype == np.uint8
    assert e["text"] == b""
    assert e["nested"]["mask"].tolist() == [False, False]
    assert e["nested"]["n"] == 0 and e["nested"]["n"].dtype == np.int32


def test_is_split_over_processes(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  monkeypatch.setattr(jax, "process_index", lambda: 2)
  source = dummy.DataSource(SPEC, num_examples=7)
  assert source.num_examples_per_process() == [3, 2, 2]
  assert source.get_tfdata(ordered=True).cardinality() == 2
  assert source.get_tfdata(process_split=False).cardinality() == 7


def test_works_as_training_data():
  spec = {"image": {"shape": (2,), "dtype": "float32"}}
  cfg = {"batch_size": 4, "data": {"name": "bv:dummy", "spec": spec}}
  ds, total = input_pipeline.training(cfg)
  assert total == 1024 and next(iter(ds))["image"].shape == (4, 2)


@pytest.mark.parametrize(
  "kw, match",
  [
    ({"spec": {}}, "data.spec"),
    ({"spec": {"x": 3}}, r"data.spec.x=3"),
    (
      {"spec": {"x": {"shape": (), "dtype": "flot"}}},
      "data.spec.x.dtype.*flot",
    ),
    ({"spec": SPEC, "num_examples": 0}, "num_examples=0"),
  ],
)
def test_errors(kw, match):
  with pytest.raises(ValueError, match=match):
    dummy.DataSource(**kw)
