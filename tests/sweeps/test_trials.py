"""What the runs of a sweep change: grids, random values, names."""

import math

import numpy as np
import pytest

from big_vision import lookup
from big_vision.sweeps import trials


def test_grids():
  grid = trials.read_grid(
    ["lr=1e-3, 3e-4", "config.model.patch_size=(4,4),(8, 8)", "s='a,b',c"]
  )
  assert grid == {
    "lr": ["1e-3", "3e-4"],
    "model.patch_size": ["(4,4)", "(8, 8)"],
    "s": ["'a,b'", "c"],
  }
  runs = trials.make({k: grid[k] for k in ("lr", "s")}, {}, 0, 0)
  assert runs == [
    {"lr": "1e-3", "s": "'a,b'"},
    {"lr": "1e-3", "s": "c"},
    {"lr": "3e-4", "s": "'a,b'"},
    {"lr": "3e-4", "s": "c"},
  ]


def test_random_values():
  randoms = trials.read_random(
    ["lr=log(1e-4,1e-2)", "wd=uniform(0,0.1)", "d=int(1.5,4)", "o=choice(a,b)"]
  )
  runs = trials.make({}, randoms, 500, 0)
  lr, wd = (np.array([float(r[k]) for r in runs]) for k in ("lr", "wd"))
  assert 1e-4 <= lr.min() and lr.max() <= 1e-2
  assert 0 <= wd.min() and wd.max() <= 0.1
  # Of log-uniform values, half are below the geometric mean.
  assert abs(np.mean(lr < 1e-3) - 0.5) < 4 * math.sqrt(0.25 / 500)
  assert abs(wd.mean() - 0.05) < 4 * 0.1 / math.sqrt(12 * 500)
  assert {r["d"] for r in runs} == {"2", "3", "4"}
  assert {r["o"] for r in runs} == {"a", "b"}


def test_more_trials_and_keys_keep_the_draws():
  lr = trials.read_random(["lr=log(1e-4,1e-2)"])
  both = lr | trials.read_random(["wd=uniform(0,1)"])
  first = trials.make({}, lr, 3, 7)
  assert trials.make({}, lr, 5, 7)[:3] == first
  assert [r["lr"] for r in trials.make({}, both, 3, 7)] == [
    r["lr"] for r in first
  ]
  assert trials.make({}, lr, 3, 8) != first


def test_each_draw_with_each_point_and_no_repetitions():
  grid = trials.read_grid(["seed=0,1"])
  runs = trials.make(grid, trials.read_random(["lr=uniform(0,1)"]), 3, 0)
  assert len(runs) == 6
  assert runs[0]["lr"] == runs[1]["lr"] != runs[2]["lr"]
  assert len(trials.make({}, trials.read_random(["x=choice(a,b)"]), 99, 0)) == 2


def test_names():
  assert (
    trials.name({"lr": "1e-3", "optax.b2": "0.9"}) == "lr=1e-3,optax.b2=0.9"
  )
  names = [trials.name({"v": v}) for v in ("S/16", "S 16", "S_16", "x" * 200)]
  assert names[2] == "v=S_16" and len(set(names)) == 4
  assert all("/" not in n and " " not in n and len(n) < 140 for n in names)


@pytest.mark.parametrize(
  "read, specs, message",
  [
    (trials.read_grid, ["lr"], "--grid lr: should be KEY=VALUES"),
    (trials.read_grid, ["lr="], "KEY=VALUES"),
    (trials.read_grid, ["lr=1,"], "different values"),
    (trials.read_grid, ["lr=1,1"], "different values"),
    (trials.read_grid, ["lr=1", "lr=2"], "lr has a grid already"),
    (trials.read_random, ["lr=0.1"], "uniform.LOW,HIGH"),
    (trials.read_random, ["lr=normal(0,1)"], "uniform.LOW,HIGH"),
    (trials.read_random, ["lr=log(0,1)"], "two numbers above 0"),
    (trials.read_random, ["lr=uniform(2,1)"], "the lower one first"),
    (trials.read_random, ["lr=uniform(1)"], "two numbers"),
    (trials.read_random, ["lr=int(1.2,1.8)"], "no int between"),
    (trials.read_random, ["a=int(1,2)", "a=int(1,3)"], "given twice"),
  ],
)
def test_errors(read, specs, message):
  with pytest.raises(lookup.ConfigError, match=message):
    read(specs)


def test_in_both():
  grid = trials.read_grid(["lr=1"])
  with pytest.raises(lookup.ConfigError, match="--random lr"):
    trials.make(grid, trials.read_random(["lr=uniform(0,1)"]), 2, 0)
