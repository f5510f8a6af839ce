"""What `--suggest` finds, against trying everything, and what it says."""

import dataclasses
import itertools
import sys

import ml_collections as mlc
import pytest
from absl import flags

from big_vision import sharding, train
from big_vision.planning import candidates, chips, costs, suggest, suggest_text
from big_vision.planning.candidates import Candidate
from big_vision.tools import plan
from big_vision.training import config_flag
from plans import make_config

# Activations are what matters, of layers with kernels that fsdp splits; so many
# layers that it saves memory to compute them again.
N, SIZE = 8, (1024, 1024)
MODEL = dict(width=1024, depth=3, mlp_dim=2048, num_heads=4)


def toy_chip(hbm, link_speed=1000.0, **kw):
  """A chip of so many GiB."""
  default = dict(kind="TPU", tflops=10, hbm_speed=50, group=N)
  return chips.Chip("toy", hbm=hbm, link_speed=link_speed, **{**default, **kw})


@pytest.fixture(scope="module")
def config():
  return make_config(2 * N, MODEL)


@pytest.fixture(scope="module")
def everything(config):
  """The costs of all candidates, each traced by itself."""
  chip = toy_chip(1)
  table = {}
  for layout, remat in itertools.product(
    candidates.layouts(config, N, chip),
    [*candidates.remats(config), candidates.without_remat(config)],
  ):
    for accum in candidates.accums(config, N):
      c = Candidate(layout, remat, accum)
      if remat is candidates.without_remat(config) and (
        layout.name != "replicated" or accum > 1
      ):
        continue
      changed = candidates.apply(config, c)
      table[c] = costs.estimate(train.build, changed, c.mesh, SIZE)
  return table


@pytest.fixture
def known(everything, monkeypatch):
  """Lets a search look costs up, and notes what it asks for."""
  asked = []

  def estimate(self, candidate):
    asked.append(candidate)
    return everything[candidate]

  monkeypatch.setattr(suggest._Search, "estimate", estimate)
  # The costs of other numbers of chips are not known.
  monkeypatch.setattr(suggest, "_chips_needed", lambda *_: None)
  return asked


def times(everything, config, chip, split=True):
  """Candidate -> seconds, of those that fit."""
  return {
    c: max(x.seconds(chip).values())
    for c, x in everything.items()
    if x.fits(chip)
    and c.remat in candidates.remats(config)
    and (split or "model" not in c.mesh)
  }


@pytest.mark.parametrize("link_speed", [0.01, 0.5, 1000])
def test_optimum(everything, known, config, link_speed):
  """The best of all that fit, for devices of all sizes that matter."""
  needs = sorted({x.bytes("TPU") for x in everything.values()})
  assert len(needs) > 10
  kinds = set()
  for nbytes in needs:
    chip = toy_chip(
      nbytes * (1 + 1e-9) / (1 - costs.RESERVE) / 2**30, link_speed
    )
    known.clear()
    found = suggest.search(train.build, config, SIZE, chip, N)
    possible = times(everything, config, chip)
    assert len(set(known)) == len(known) < len(everything)
    assert bool(found.options) == bool(possible)
    if not possible:
      continue
    best = found.options[0]
    kinds.add(best.candidate)
    assert best.fits and best.bytes <= chip.bytes * (1 - costs.RESERVE)
    assert best.candidate in possible
    assert best.time <= min(possible.values()) * (1 + suggest.SAME)
    later = [o.time for o in found.options[1:]]
    assert later == sorted(later)
  assert len(kinds) >= 3  # Room decides.


def test_the_simplest_of_equals(known, config):
  """With room and a fast network nothing needs to be split."""
  found = suggest.search(train.build, config, SIZE, toy_chip(100), N)
  best = found.options[0].candidate
  assert (best.layout.name, best.remat.name, best.accum) == (
    "replicated",
    "-",
    1,
  )
  assert candidates.flags(config, best) == []
  assert candidates.apply(config, best).model.to_dict() == {
    **config.model.to_dict(), "scan": False,
  }  # fmt: skip
  assert not any("model" in c.mesh for c in known)
  # All layouts are in the table, once for each kind of recomputation.
  rows = [
    (o.candidate.layout.name, o.candidate.remat.name) for o in found.options
  ]
  assert len(set(rows)) == len(rows) == 2 * 3


def test_traces_are_shared(config, everything):
  """Layouts which differ in the split of parameters are traced once."""
  traces = {}
  chip = toy_chip(1, group=4)
  remat = candidates.remats(config)[-1]
  layouts = candidates.layouts(config, N, chip, candidates.SIMPLE)
  assert [x.name for x in layouts] == [
    "replicated", "fsdp", "fsdp in groups of 4",
  ]  # fmt: skip
  for layout in layouts:
    c = Candidate(layout, remat, 2)
    changed = candidates.apply(config, c)
    got = costs.estimate(train.build, changed, c.mesh, SIZE, traces)
    want = everything.get(c) or costs.estimate(
      train.build, changed, c.mesh, SIZE
    )
    assert got.bytes("TPU") == want.bytes("TPU")
    assert got.traffic("TPU") == want.traffic("TPU")
    assert got.flops == want.flops and got.arguments == want.arguments
    assert costs.by_kind(got.collectives) == costs.by_kind(want.collectives)
  assert len(traces) == 1
  # Groups of 4 share the parameters; sums go over all.
  devices = {c.kind: c.devices for c in got.collectives}
  assert devices["all-gather"] == devices["reduce-scatter"] == 4


CONFIG = """
import ml_collections as mlc
def get_config():
  return mlc.ConfigDict({config})
"""


def test_flags_can_be_pasted(everything, config, tmp_path, monkeypatch):
  """Their config has the costs that were promised."""
  file = tmp_path / "config.py"
  file.write_text(CONFIG.format(config=config.to_dict()), "utf-8")
  chip = toy_chip(1)
  remats = candidates.remats(config)
  for layout, remat in (
    (candidates.layouts(config, N, chip)[1], remats[1]),
    (candidates.layouts(config, N, chip, candidates.SPLIT)[0], remats[2]),
  ):
    c = Candidate(layout, remat, 2)
    pasted = [_unquoted(f) for f in candidates.flags(config, c)]
    argv = ["x", f"--config={file}", *pasted]
    monkeypatch.setattr(sys, "argv", argv)
    values = flags.FlagValues()
    config_flag.define("config", "", values)
    values(argv)
    got = values["config"].value
    mesh = plan.parse_mesh(None, got.get("mesh"), N)
    assert mesh == c.mesh
    again = costs.estimate(train.build, got, mesh, SIZE)
    assert again.bytes("TPU") == everything[c].bytes("TPU")
    assert again.seconds(chip) == everything[c].seconds(chip)
    # It is like that now.
    assert candidates.flags(got, c) == []


def _unquoted(flag):
  """What a shell makes of a flag; there are no other quotes in it."""
  assert flag.count("'") in (0, 2)
  return flag.replace("'", "")


def test_groups(config):
  """Those in a fast network, and smaller ones; only of whole devices."""
  names = lambda n, chip: [
    x.name for x in candidates.layouts(config, n, chip, candidates.SIMPLE)
  ]
  assert names(1, toy_chip(1)) == ["replicated"]
  assert names(8, toy_chip(1)) == ["replicated", "fsdp"]
  assert names(96, chips.CHIPS["h100"]) == [
    "replicated", "fsdp", "fsdp in groups of 8",
  ]  # fmt: skip
  assert names(512, chips.CHIPS["v5e"])[2:] == [
    f"fsdp in groups of {g}" for g in (8, 64, 256)
  ]
  layout = candidates.layouts(config, 512, chips.CHIPS["v5e"])[-1]
  assert layout.mesh == (("data", 128), ("model", 4))
  c = Candidate(
    candidates.layouts(config, 64, chips.CHIPS["h100"])[2],
    candidates.remats(config)[0],
    1,
  )
  assert candidates.flags(config, c) == [
    """'--config.mesh=[("replica", -1), ("data", 8)]'""",
    r"""'--config.sharding_strategy=[(".*", "fsdp(axis=\"data\")")]'""",
    """'--config.sharding_rules=[("act_batch", ("replica", "data"))]'""",
  ]


def test_apply(config):
  layout = candidates.layouts(config, N, toy_chip(1))[-1]
  c = Candidate(layout, candidates.remats(config)[1], 4)
  got = candidates.apply(config, c)
  assert got.mesh == [("data", -1), ("model", 4)]
  assert got.grad_accum_steps == 4
  # Of examples, hidden units and heads, as the strategy needs them.
  assert sharding.axis_rules(got) == [
    ("act_batch", "data"), ("act_mlp", "model"), ("act_heads", "model"),
  ]  # fmt: skip
  (rule,) = got.sharding_strategy
  assert rule == (".*", 'tensor_parallel(axis="model")|fsdp(axis="data")')
  assert got.model.scan and got.model.remat_policy.startswith("dots")
  assert got.model.width == 1024 and "scan" not in config.model


def test_models_without_recomputation():
  config = make_config(8, model_name="mlp_mixer")
  config.model = dict(patch_size=(8, 8), num_blocks=1, hidden_dim=32)
  assert [r.name for r in candidates.remats(config)] == ["-"]
  c = Candidate(
    candidates.layouts(config, 1, toy_chip(1))[0], *candidates.remats(config), 4
  )
  assert candidates.flags(config, c) == ["--config.grad_accum_steps=4"]
  assert "scan" not in candidates.apply(config, c).model


def test_more_chips_or_none(config, everything):
  """Twice as many until it fits, of those that divide the batch."""
  least = min(x.bytes("TPU") for c, x in everything.items() if c.accum == 2)
  chip = toy_chip(least * 0.999 / (1 - costs.RESERVE) / 2**30, group=2 * N)
  got = suggest.figures(train.build, config, SIZE, chip, N)
  assert got["options"] == [] and got["flags"] is None
  assert got["chips_needed"] == 2 * N
  text = suggest_text.show(got, config)
  assert "Does not fit on 8 x toy: the least that a device needs is" in text
  assert text.endswith("It fits with --chips toy=16.")
  tiny = dataclasses.replace(chip, hbm=1e-3)
  got = suggest.figures(train.build, config, SIZE, tiny, 2 * N)
  assert got["chips_needed"] is None
  assert "take chips with more memory" in suggest_text.show(got, config)


def test_what_a_trainer_refuses():
  """It is told, and the rest is tried."""

  def build(setup):
    if setup.config.get("grad_accum_steps", 1) > 1:
      raise ValueError("config.grad_accum_steps: not with this loss.")
    return train.build(setup)

  one = make_config(2, MODEL)
  got = suggest.search(build, one, SIZE, toy_chip(100), 1)
  assert got.refused == {} and len(got.options) == 3
  # Those of one of the two examples have room.
  strongest = candidates.remats(one)[-1]
  (least,) = (o for o in got.options if o.candidate.remat == strongest)
  room = least.bytes - 0.4 * least.activations
  small = toy_chip(room / (1 - costs.RESERVE) / 2**30)
  got = suggest.figures(build, one, SIZE, small, 1)
  assert got["options"] == []
  text = suggest_text.show(got, one)
  assert text.endswith(
    "Not possible here: micro-batches. config.grad_accum_steps: not with this loss."
  )

  def broken(setup):
    raise ValueError("config.lr is wrong")

  with pytest.raises(ValueError, match="config.lr is wrong"):
    suggest.search(broken, one, SIZE, toy_chip(1), 1)


@pytest.mark.parametrize(
  "text, message",
  [
    (None, "--chips= is a kind of chip.*--chips v5p=256.*v5p"),
    ("v5p", "--chips=v5p is a kind of chip"),
    ("v5p=0", "--chips=v5p=0 is a kind of chip"),
    ("v5p=-8", "is a kind of chip"),
    ("v5p=8,h100=8", "is a kind of chip"),
    ("cpu=4", "--chips=cpu=4: there are no figures of CPUs. Chips: v2"),
    ("h10=8", "--chips: unknown chip 'h10'.*'h100'"),
  ],
)
def test_bad_chips(text, message):
  with pytest.raises(ValueError, match=message):
    suggest.parse_chips(text)


def test_chips():
  assert suggest.parse_chips("v5p=256") == (chips.CHIPS["v5p"], 256)
  assert suggest.parse_chips("a100-40=1") == (chips.CHIPS["a100-40"], 1)


@pytest.mark.parametrize(
  "batch, chip, count, message",
  [
    (
      4096, "v5p", 192,
      "=4096 is not divisible by the 192 devices of --chips=v5p=192.*"
      "batch_size=4032 or --config.input.batch_size=4224, or --chips=v5p=128",
    ),
    (12, "v3", 4, "by the 8 devices of --chips=v3=4.*=8 or .*=16.*v3=3"),
    (3, "h100", 8, "Use for example --config.input.batch_size=8, or .*h100=3"),
  ],
)  # fmt: skip
def test_batches_that_cannot_be_split(batch, chip, count, message):
  config = mlc.ConfigDict(dict(input=dict(batch_size=batch)))
  with pytest.raises(ValueError, match=message):
    suggest.check_batch(config, chips.CHIPS[chip], count)
  suggest.check_batch(config, chips.CHIPS["h100"], 1)


def test_text(known, config):
  """The table, the flags, and what limits."""
  fast = toy_chip(100, tflops=0.01)
  got = suggest.figures(train.build, config, SIZE, fast, N)
  text = suggest_text.show(got, config)
  assert "The first row is the config as it is." in text
  assert "Compute limits, as it should" in text
  row = text.splitlines()[3].split()
  assert row[:4] == ["replicated", "-", "1", "2"] and row[-1] == "compute"
  best = got["options"][0]
  # All but products is little: nearly all of the peak.
  assert 0.9 < best["mfu"] <= 1 and row[5] == f"{best['mfu']:.0%}"
  assert best["images_per_second"] == 2 * N / best["step_seconds"]

  slow = toy_chip(100, link_speed=0.01)
  got = suggest.figures(train.build, config, SIZE, slow, N)
  text = suggest_text.show(got, config)
  assert suggest_text.limit(got["options"][0]) == "network"
  assert "The network limits: " in text
  assert any("model" in c.mesh for c in known)

  got = suggest.figures(train.build, config, SIZE, toy_chip(100), N)
  text = suggest_text.show(got, config)
  assert suggest_text.limit(got["options"][0]) == "memory traffic"
  assert "--config.model.dtype_mm=bfloat16" in text
  half = make_config(2 * N, {**MODEL, "dtype_mm": "bfloat16"})
  assert "chips with faster memory" in suggest_text.further(got, half)
  half = make_config(2 * N, MODEL)
  half.precision = "bfloat16"
  assert "chips with faster memory" in suggest_text.further(got, half)


def test_text_of_little_room(known, config, everything):
  needs = [x.bytes("TPU") for c, x in everything.items() if c.accum == 2]
  hbm = min(needs) * 1.001 / (1 - costs.RESERVE) / 2**30
  got = suggest.figures(train.build, config, SIZE, toy_chip(hbm), N)
  text = suggest_text.show(got, config)
  assert "Take the first row:\n  " in text
  assert "--config.grad_accum_steps=2" in text
  assert "All activations together do not have room in" in text
