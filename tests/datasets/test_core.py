"""How data sources are found, and what the base class says."""

import sys
import types

import jax
import numpy as np
import pytest

from big_vision import input_pipeline, lookup
from big_vision.datasets import core
from big_vision.tf import tf

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


def test_only_sources_are_offered():
  """Modules beside them, such as `slices`, are no data sources."""
  for name in ("records", "slices", "core", "source", "imagenet", "shapes"):
    with pytest.raises(ValueError, match="input.data.name: unknown dataset"):
      core.get(f"bv:{name}")
  offered = set(lookup.known_modules("datasets", "DataSource"))
  assert offered - {"core", "source"} == {
    "dummy", "folder", "hf", "jsonl", "tfds", "video", "webdataset"
  }  # fmt: skip


class Contract:
  """A source of one's own: three things, and no base class."""

  size = 10  # An attribute of its own.

  def get_tfdata(self, ordered, *, process_split=True, allow_cache=True):
    return tf.data.Dataset.range(self.size).map(lambda n: {"n": n})

  @property
  def total_examples(self):
    return self.size

  def num_examples_per_process(self):
    return [self.size]


@pytest.fixture
def contract(monkeypatch):
  """`bv:contract` is a module with `Contract`."""
  module = types.ModuleType("contract")
  module.DataSource = Contract
  monkeypatch.setitem(sys.modules, "contract", module)
  return {"name": "bv:contract"}


def test_a_source_needs_the_contract_only(contract):
  source = core.get(**contract)
  assert isinstance(source, core.DataSource)
  assert source.total_examples == 10 and source.size == 10
  assert source.num_examples_per_process() == [10]
  assert not source.random_access and source.bad_examples() == []
  assert source.bytes_per_example is None
  ds, read = source.training_order()
  assert read is None and [int(x["n"]) for x in ds] == list(range(10))


def test_trains_and_evaluates_with_the_contract(contract):
  config = dict(data=contract, batch_size=4, shuffle_buffer_size=5)
  input_pipeline.validate(config, process_count=1, device_count=1)
  ds, total = input_pipeline.training(config, seed=1)
  assert total == 10
  got = np.concatenate([b["n"] for b in ds.take(5).as_numpy_iterator()])
  for epoch in got.reshape(2, 10):
    assert sorted(epoch) == list(range(10))
  get_iter, steps = input_pipeline.evaluation(
    contract, "", 4, jax.devices()[:1], cache="raw_data"
  )
  batches = [b for _, b in zip(range(steps), get_iter(), strict=False)]
  assert [b["n"].tolist() for b in batches] == [
    [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]
  ]  # fmt: skip


def test_what_else_a_source_offers_is_used(contract, monkeypatch):
  read = lambda self, index: {"n": index}
  monkeypatch.setattr(Contract, "random_access", True, raising=False)
  monkeypatch.setattr(Contract, "read", read, raising=False)
  monkeypatch.setattr(
    Contract, "bad_examples", lambda self: ["Number 3."], raising=False
  )
  config = dict(data=contract, batch_size=10, shuffle_buffer_size=2)
  with pytest.raises(ValueError, match="1 examples .* Number 3."):
    input_pipeline.training(config)
  ds, _ = input_pipeline.training(dict(config, skip_errors=True))
  (batch,) = ds.take(1).as_numpy_iterator()
  # Shuffled as a whole, which a buffer of two could not do.
  assert sorted(batch["n"]) == list(range(10))
  assert max(abs(batch["n"] - np.arange(10))) > 2


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
