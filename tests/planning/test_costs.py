"""Figures of whole steps: recorded ones, and sums of what they consist of.

The recorded figures are the same, within 5%, on all releases of JAX that this
package supports. `test_against_xla.py` says how far they are from the truth.
"""

import pytest

from big_vision import train
from big_vision.planning import chips, costs, partition
from plans import FSDP, RES, TENSOR, make_config

EMBEDDING = [("act_batch", "data"), ("act_emb", "model")]
HEADS = dict(num_heads=4)
MIXER = dict(
  patch_size=(8, 8), num_blocks=2, hidden_dim=192, tokens_mlp_dim=96,
  channels_mlp_dim=768,
)  # fmt: skip


def other_model(name, model, batch=32):
  config = make_config(batch, model_name=name)
  config.model = model
  return config


ONE, DATA, BOTH = {"data": 1}, {"data": 8}, {"data": 4, "model": 2}
# Name: config, mesh.
RUNS = {
  "plain": (make_config(16, dict(depth=3)), ONE),
  "map, adafactor": (
    make_config(
      model=dict(pool_type="map"), optax_name="big_vision.scale_by_adafactor"
    ),
    ONE,
  ),
  "mixup": (
    make_config(model=dict(pool_type="tok", rep_size=True), mixup=dict(p=0.5)),
    ONE,
  ),
  "scan": (make_config(64, dict(scan=True)), ONE),
  "accumulation": (make_config(64, grad_accum_steps=2), DATA),
  "mixer": (other_model("mlp_mixer", MIXER), ONE),
  "bit": (other_model("bit", dict(depth=(1, 1), width=1), 16), ONE),
  "fsdp": (make_config(64, sharding_strategy=FSDP), DATA),
  "fsdp, scan": (
    make_config(64, dict(scan=True), sharding_strategy=FSDP), DATA,
  ),
  "tensor": (make_config(64, HEADS, sharding_strategy=TENSOR), BOTH),
  "constraints": (
    make_config(
      64, HEADS, sharding_strategy=TENSOR, sharding_rules=EMBEDDING
    ),
    BOTH,
  ),
}  # fmt: skip
# MFLOP, thereof in products; kB of arguments, of temporary memory on TPU and
# GPU, of traffic on both; number of collectives, kB that they carry.
RECORDED = {
  "plain": (8907.8, 8759.5, 17636.3, 32092.8, 56616.6, 444089, 561727, 0, 0),
  "map, adafactor": (
    12946.0, 12762.8, 10248.0, 47261.3, 79665.8, 595268, 750682, 0, 0,
  ),
  "mixup": (
    12154.5, 11977.3, 13537.7, 46445.8, 80890.0, 544753, 689730, 0, 0,
  ),
  "scan": (
    29206.9, 28797.1, 14676.4, 60432.8, 93045.1, 1176354, 1592394, 0, 0,
  ),
  "accumulation": (
    3013.9, 2945.3, 11901.5, 11505.1, 14353.2, 238498, 296337, 39, 7670.0,
  ),
  "mixer": (8636.0, 8459.4, 9684.7, 34423.4, 73119.4, 389816, 513106, 0, 0),
  "bit": (5309.5, 5172.2, 6975.7, 39555.7, 43785.9, 413147, 478484, 0, 0),
  "fsdp": (
    2985.2, 2945.3, 1894.1, 14931.6, 22972.1, 142100, 174780, 54, 7647.4,
  ),
  "fsdp, scan": (
    3651.7, 3599.6, 1894.1, 9606.5, 13339.0, 173745, 224047, 38, 11186.3,
  ),
  "tensor": (
    3701.0, 3625.7, 6586.2, 18331.3, 32158.6, 258133, 320274, 55, 24083.3,
  ),
  "constraints": (
    3195.7, 3134.4, 6586.2, 20258.2, 27024.8, 296535, 311305, 64, 30381.2,
  ),
}  # fmt: skip


def estimate(name):
  config, mesh = RUNS[name]
  return costs.estimate(train.build, config, mesh, (RES, RES))


@pytest.mark.parametrize("name", RUNS)
def test_recorded_figures(name):
  c = estimate(name)
  assert c.assumed == {}
  kilo = lambda n: n / 1e3
  got = (
    c.flops / 1e6,
    c.product_flops / 1e6,
    kilo(sum(c.arguments.values())),
    kilo(c.temporary("TPU").total()),
    kilo(c.temporary("GPU").total()),
    kilo(c.traffic("TPU")),
    kilo(c.traffic("GPU")),
    len(c.collectives),
    kilo(sum(x.payload for x in c.collectives)),
  )
  assert got == pytest.approx(RECORDED[name], rel=0.05)
  total = sum(c.arguments.values()) + c.temporary("TPU").total()
  assert c.bytes("TPU") == total


def test_bounds():
  c = estimate("fsdp")
  h100 = chips.CHIPS["h100"]
  seconds = c.seconds(h100)
  assert seconds["compute"] == c.flops / 989e12
  assert seconds["memory"] == c.traffic("GPU") / 3.35e12
  assert seconds["network"] == pytest.approx(
    sum(x.sent for x in c.collectives) / 450e9
  )
  assert c.images_per_second(h100) == 64 / max(seconds.values())
  assert c.fits(h100)


def test_a_reserve_is_kept():
  chip = chips.CHIPS["v5e"]
  assert costs.fits_in(0.9 * 16 * 2**30, chip)
  assert not costs.fits_in(0.91 * 16 * 2**30, chip)


def test_by_kind():
  make = lambda kind, n, devices, times=1: partition.Collective(
    kind, n, devices, times, ("data",)
  )
  rows = costs.by_kind([
    make("all-gather", 80, 8, times=3),
    make("all-reduce", 400, 8),
    make("all-reduce", 40, 8),
    make("all-reduce", 40, 2),
  ])  # fmt: skip
  assert rows == [
    dict(kind="all-reduce", devices=8, count=2, payload=440, sent=770),
    dict(kind="all-gather", devices=8, count=3, payload=240, sent=210),
    dict(kind="all-reduce", devices=2, count=1, payload=40, sent=40),
  ]
