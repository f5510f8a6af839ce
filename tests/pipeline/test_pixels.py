"""Pixels that devices look up: bit for bit what the host computes."""

import jax
import ml_collections as mlc
import numpy as np
import pytest

from big_vision import input_pipeline as ip
from big_vision.pipeline import failures, pixels
from big_vision.pp import (
  builder,
  ops_general,  # noqa: F401  (Registers its ops.)
  ops_image,  # noqa: F401
)
from big_vision.pp.registry import temporary_ops
from big_vision.pp.utils import InKeyOutKey
from big_vision.tf import tf

pytestmark = pytest.mark.tf

N = 11
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 5, 4, 3), np.uint8)
RANGES = [
  "value_range(-1, 1)",
  "value_range(-2.1, 2.3, 3, 250, clip_values=True)",
  "value_range(0, 1, [1., 2., 3.], [251., 252., 253.])",
  "vgg_value_range",
  "clip_value_range",
]


@pytest.fixture
def wanted(monkeypatch):
  """Switches the look-up on devices on and off."""

  def switch(on):
    monkeypatch.setattr(pixels, "wanted", lambda: on)

  return switch


def raw():
  data = {"image": IMAGES, "n": np.arange(N, dtype=np.int32)}
  return tf.data.Dataset.from_tensor_slices(data)


def train(pp, **kw):
  fn = builder.get_preprocess_fn(pp, log_data=False)
  return ip.make_for_train(raw(), fn, 8, num_parallel_calls=1, **kw)


def on_devices(ds, num, num_devices=1, **kw):
  it = ip.start_global(ds, jax.devices()[:num_devices], 0, **kw)
  return [next(it) for _ in range(num)]


def same(a, b):
  for x, y in zip(a, b, strict=True):
    assert sorted(x) == sorted(y)
    for k in x:
      assert x[k].dtype == y[k].dtype
      np.testing.assert_array_equal(x[k], y[k])


@pytest.mark.parametrize("op", RANGES)
def test_training_is_the_same(wanted, op):
  pp = f'{op}|onehot(N, key="n")|keep("image", "n")'.replace("N", str(N))
  wanted(False)
  ds = train(pp)
  assert pixels.of(ds) == (ds, {})
  want = on_devices(ds, 3)
  assert want[0]["image"].dtype == np.float32

  wanted(True)
  ds = train(pp)
  as_bytes, functions = pixels.of(ds)
  assert as_bytes.element_spec["image"].dtype == tf.uint8
  assert [*functions] == ["image"]
  same(on_devices(ds, 3), want)
  assert ip.shapes(ds.element_spec)["image"].dtype == np.float32
  same(
    [b for _, b in zip(range(3), ds.as_numpy_iterator(), strict=False)], want
  )


def test_another_iterator_compiles_nothing(wanted):
  """Evaluators that cache nothing open one for each evaluation."""
  wanted(True)
  before = pixels._compiled.cache_info()
  for _ in range(3):
    on_devices(train("value_range(0, 0.37)"), 1)
  after = pixels._compiled.cache_info()
  assert after.misses - before.misses == 1


def test_under_transfer_guard(wanted):
  wanted(True)
  with jax.transfer_guard("disallow"):
    (batch,) = on_devices(train("vgg_value_range"), 1)
  assert batch["image"].dtype == np.float32


@pytest.mark.multidevice
def test_several_devices(wanted):
  wanted(True)
  batches = on_devices(train("vgg_value_range"), 2, num_devices=4)
  x = batches[0]["image"]
  assert len(x.addressable_shards) == 4
  assert x.sharding == batches[0]["n"].sharding.with_memory_kind(
    x.sharding.memory_kind
  )
  same(batches, on_devices(train("vgg_value_range"), 2))


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("op", RANGES[:4])
def test_evaluation_is_the_same_and_pads_with_zeros(wanted, op, cache):
  def run(**kw):
    fn = builder.get_preprocess_fn(op, log_data=False)
    ds, steps = ip.make_for_inference(raw(), fn, 4, [N], cache_final=cache)
    return ds, on_devices(ds, 2 * steps, **kw)

  wanted(False)
  _, want = run()
  wanted(True)
  ds, got = run()
  same(got, want)
  as_bytes, _ = pixels.of(ds)
  assert as_bytes.element_spec["image"].dtype == tf.uint8
  assert sorted(got[0]) == ["_mask", "image", "n"]
  assert got[2]["image"][2].any() and not got[2]["image"][3].any()
  same(
    [b for _, b in zip(range(6), ds.as_numpy_iterator(), strict=False)], want
  )
  kept = on_devices(ds, 3, keep_on_cpu={"image"})
  assert isinstance(kept[0]["image"], np.ndarray)
  same(kept, want[:3])


@pytest.mark.parametrize(
  "pp, dtype",
  [
    ("value_range|flip_lr", np.float32),
    ("cast(dtype='float32')|value_range", np.float32),
    ("value_range|value_range(0, 1, -1, 1)", np.float32),
    ('value_range|copy("image", "b")', np.float32),
    ('copy("image", "b")|value_range', np.uint8),
    ("flip_lr|value_range|drop('n')", np.uint8),
  ],
)
def test_what_waits(wanted, pp, dtype):
  wanted(True)
  with temporary_ops(
    cast=InKeyOutKey()(lambda dtype: lambda x: tf.cast(x, dtype))
  ):
    ds = train(pp)
  as_bytes, _ = pixels.of(ds)
  spec = as_bytes.element_spec
  spec = spec["image" if "image" in spec else next(iter(spec))]
  assert spec.dtype == dtype
  wanted(False)
  with temporary_ops(
    cast=InKeyOutKey()(lambda dtype: lambda x: tf.cast(x, dtype))
  ):
    same(on_devices(ds, 2), on_devices(train(pp), 2))


@pytest.mark.parametrize("agree", [True, False])
def test_mixtures(wanted, agree):
  def run():
    pps = "value_range", "value_range" if agree else "value_range(0, 1)"
    data = {"name": "digits", "split": "train[:30]"}
    parts = {
      k: {"data": data, "pp": f'decode|resize(8)|{pp}|keep("image")'}
      for k, pp in zip("ab", pps, strict=True)
    }
    cfg = mlc.ConfigDict({"batch_size": 4, "data": {"a": 1, "b": 1}} | parts)
    return ip.training(cfg)[0]

  wanted(True)
  ds = run()
  assert bool(pixels.of(ds)[1]) == agree
  got = on_devices(ds, 4)
  wanted(False)
  same(got, on_devices(run(), 4))


def test_what_filters_sees_complete_examples(wanted):
  wanted(True)
  keep = lambda x: tf.reduce_min(x["image"]) < 0
  ds = train("value_range", post_filter_fn=keep)
  assert pixels.of(ds)[1] == {}
  assert on_devices(ds, 1)[0]["image"].min() < 0


def test_an_error_names_its_example(wanted):
  def bad(x):
    with tf.control_dependencies(
      [tf.debugging.Assert(x[0, 0, 0] != IMAGES[7, 0, 0, 0], ["seven"])]
    ):
      return tf.identity(x)

  wanted(True)
  with temporary_ops(bad=InKeyOutKey()(lambda: bad)):
    ds = train("bad|value_range")
  with pytest.raises(ValueError, match=r"index 7 .*seven"):
    for _ in failures.iterate(pixels.of(ds)[0]):
      pass
