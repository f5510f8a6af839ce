"""Data of UViM's evaluators: what devices and the host get, in which order."""

import jax
import pytest

from big_vision import devices as bv_devices
from big_vision import lookup
from big_vision.evaluators.proj.uvim import common

pytestmark = pytest.mark.tf

PP = 'resize(16)|value_range(-1, 1)|keep("image")'


def open_shapes(split="validation[:11]", pp_fn=PP, batch_size=8, **kw):
  return common.get_jax_process_dataset(
    "shapes/tiny", split, batch_size, pp_fn, devices=jax.devices(), **kw
  )


@pytest.mark.parametrize("batch_size", [8, 16])
@pytest.mark.parametrize("pp_fn", [PP, f"decode|{PP}"])
def test_rows_and_examples_agree(tfds_data_dir, ops, pp_fn, batch_size):
  data = open_shapes(pp_fn=pp_fn, batch_size=batch_size)
  assert data.steps == -(-11 // batch_size)
  split = bv_devices.batch_sharding(jax.devices())
  fn = jax.jit(lambda b: (b, b["_mask"]), out_shardings=split)
  for _ in range(2):  # Each run is one pass.
    with jax.transfer_guard("disallow"):
      batches = list(common.local_rows(fn(batch) for batch in data))
    rows = [row for batch in batches for row in batch]
    examples = list(data.examples("_id", "panoptic", "image/id"))
    assert len(rows) == len(examples) == 11
    assert [len(b) for b in batches][0] == min(batch_size, 11)
    for row, example in zip(rows, examples, strict=True):
      assert set(example) == {"_id", "panoptic", "image/id"}
      assert row["_id"] == example["_id"]
      assert row["image"].shape == (16, 16, 3)
      assert -1 <= row["image"].min() < row["image"].max() <= 1
      assert example["panoptic"].shape == (32, 32, 2)
  assert isinstance(next(data.examples())["image"], bytes)


def test_what_is_missing(tfds_data_dir, ops):
  with pytest.raises(lookup.ConfigError, match="'shapes/tiny'.*'panoptc'"):
    next(open_shapes().examples("panoptc"))


def test_data_of_a_config():
  cfg = dict(
    dataset="a/b", split="test[:5]", dataset_dir="d", pp_fn="resize(3)"
  )
  data = dict(name="a/b", split="test[:5]", data_dir="d", skip_decode=())
  assert common.data_sources(cfg) == [("dataset", data)]
  assert common.inputs(cfg) == [("pp_fn", data, "resize(3)", None)]
  assert common.data_sources({"split": "train"}) == []
  [(_, data)] = common.data_sources({}, "a", "train")
  assert data == dict(name="a", split="train", skip_decode=())
  encoded = common.data_of(
    "a", "train", pp_fn=" decode_jpeg_and_x(3)|resize(3)"
  )
  assert encoded["skip_decode"] == ("image",)
  assert common.data_of("bv:folder", "") == dict(name="bv:folder", split="")
