"""How data sources are found, and what the base class says."""

import pytest

from big_vision.datasets import core

pytestmark = pytest.mark.tf


def test_get_by_module_and_by_path():
  spec = {"x": {"shape": (2,), "dtype": "float32"}}
  for name in ("bv:dummy", "bv:big_vision.datasets.dummy"):
    source = core.get(name, spec=spec, num_examples=3)
    assert isinstance(source, core.DataSource)
    assert source.total_examples == 3


def test_get_unknown_module_names_the_nearest():
  with pytest.raises(ValueError, match="'dumy'.*Did you mean 'dummy'"):
    core.get("bv:dumy")


def test_base_class_names_what_is_missing():
  class Half(core.DataSource):
    pass

  half = Half()
  with pytest.raises(RuntimeError, match="Half must override get_tfdata"):
    half.get_tfdata(True)
  with pytest.raises(RuntimeError, match="Half must override total_examples"):
    _ = half.total_examples
  with pytest.raises(RuntimeError, match="Half must override num_examples"):
    half.num_examples_per_process()


def test_training_order_defaults_to_everything_in_order():
  calls = []

  class Source(core.DataSource):
    def get_tfdata(self, ordered, **kw):
      calls.append((ordered, kw))
      return "data"

  assert Source().training_order(5, extra=1) == ("data", None)
  kw = {"process_split": False, "allow_cache": False, "extra": 1}
  assert calls == [(True, kw)]
