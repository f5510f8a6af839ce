"""What is tried, and what is found, for a run that does not fit."""

import pytest

from big_vision import train
from big_vision.planning import advice, chips, costs
from plans import FSDP, make_config


def tried(mesh, batch=64, **kw):
  """[(description, factor)] for a config."""
  config = make_config(batch, **kw)
  rows = list(advice.changes(config, mesh, ("data",)))
  return [(text, factor) for text, factor, *_ in rows], rows


def test_changes():
  texts, rows = tried({"data": 16})
  rule = [(".*", 'fsdp(axis="data")')]
  assert texts == [
    (f"config.sharding_strategy = {rule}", 1),
    ("config.model.scan = True", 1),
    ("config.model.dtype_mm = 'bfloat16'", 1),
    ("config.grad_accum_steps = 2", 2),
    ("config.grad_accum_steps = 4", 4),
    ("--mesh data=32", 2),
    ("--mesh data=64", 4),
  ]
  changed = {text: (config, mesh) for text, _, config, mesh in rows}
  config, mesh = changed["config.model.scan = True"]
  assert config.model.scan and config.model.width == 192
  assert mesh == {"data": 16}
  config, mesh = changed["config.grad_accum_steps = 4"]
  assert config.grad_accum_steps == 4
  assert changed["--mesh data=64"][1] == {"data": 64}


def test_what_a_config_has_is_not_tried():
  texts, _ = tried(
    {"data": 16, "model": 2},
    sharding_strategy=FSDP,
    model=dict(scan=True, dtype_mm="bfloat16"),
    grad_accum_steps=2,
  )
  assert texts == []  # 64 is not a multiple of 2 times 64 devices either.
  texts, _ = tried({"data": 1}, model_name="bit")
  assert not any("fsdp" in text or "model" in text for text, _ in texts)
  texts, _ = tried({"data": 1}, precision="bfloat16")
  assert not any("dtype_mm" in text for text, _ in texts)
  texts, _ = tried({"data": 1}, model_name="mlp_mixer")
  assert [t for t, _ in texts if "model" in t] == [
    "config.model.dtype_mm = 'bfloat16'"
  ]


@pytest.fixture(scope="module")
def large():
  """Activations of 1,024 images of 256 tokens per device, one layer."""
  model = dict(width=1024, depth=1, mlp_dim=4096, num_heads=16)
  config = make_config(4096, model)
  return config, costs.estimate(train.build, config, {"data": 4}, (128, 128))


def test_what_is_found_is_true(large):
  config, now = large[0].copy_and_resolve_references(), large[1]
  chip = chips.CHIPS["v5e"]
  assert not now.fits(chip)
  found = advice.find(
    train.build, config, {"data": 4}, (128, 128), [chip], now
  )["v5e"]
  kinds = {text.partition(" = ")[0]: (text, n) for text, n in found}
  assert all(costs.fits_in(n, chip) for _, n in found)
  # It is true, and half as many micro-batches do not suffice.
  text, planned = kinds["config.grad_accum_steps"]
  steps = int(text.split(" = ")[1])
  for n, fits in ((steps, True), (steps // 2, False)):
    config.grad_accum_steps = n
    again = costs.estimate(train.build, config, {"data": 4}, (128, 128))
    assert again.fits(chip) == fits
    assert (again.bytes("TPU") == planned) == fits
  # More devices instead: the least that suffice.
  assert sum("--mesh" in text for text, _ in found) == 1


def test_what_cannot_help_is_not_planned(large, monkeypatch):
  """The state alone is too large for this chip, however small the rest is."""
  config, now = large
  tiny = chips.Chip("tiny", "TPU", 0.01, 1, 1, 1, group=1)
  planned = []
  monkeypatch.setattr(
    costs, "estimate", lambda build, config, *_: planned.append(config) or now
  )
  found = advice.find(train.build, config, {"data": 4}, (128, 128), [tiny], now)
  assert found == {"tiny": []}
  # Only what may change the state itself: not micro-batches.
  assert planned and not any(c.get("grad_accum_steps") for c in planned)
