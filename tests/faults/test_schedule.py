"""What schedules hold, over many seeds."""

import dataclasses

import pytest

from big_vision import lookup
from big_vision.faults import schedule

STEPS = 40
DRAWN = [schedule.draw(seed, total_steps=STEPS) for seed in range(300)]


def test_a_seed_gives_one_schedule():
  again = [schedule.draw(seed, total_steps=STEPS) for seed in range(300)]
  assert again == DRAWN
  assert len({dataclasses.replace(s, seed=0) for s in DRAWN}) > 290


def test_every_kind_comes_at_every_moment():
  faults = [f for s in DRAWN for life in s.lives for f in life.faults]
  for kind in schedule.KINDS.keys() - {"late", "damage", "hosts"}:
    assert {f.moment for f in faults if f.kind == kind} == set(schedule.MOMENTS)
  assert {f.moment for f in faults if f.kind == "late"} == {"start"}
  damages = {x.damage.kind for s in DRAWN for x in s.lives if x.damage}
  assert damages == set(schedule.DAMAGES)
  assert {s.layout for s in DRAWN} == set(schedule.LAYOUTS)
  assert {x.hosts for s in DRAWN for x in s.lives} == {1, 2, 3, 4}
  assert {len(s.lives) for s in DRAWN} == {2, 3, 4}


def test_lives_end_by_their_last_fault():
  for s in DRAWN:
    *others, last = s.lives
    assert not {f.kind for f in last.faults} & set(schedule.ENDINGS)
    assert last.damage is None
    for life in others:
      ends = [f.kind in schedule.ENDINGS for f in life.faults]
      assert ends.count(True) == 1 and ends[-1]
    for life in s.lives:
      assert all(f.host < life.hosts for f in life.faults)
      assert all(0 < f.step < STEPS or f.kind == "late" for f in life.faults)


def test_layouts():
  for s in DRAWN:
    if s.layout == "processes":
      assert len(s.num_devices) == 1
      assert all(s.num_devices[0] % x.hosts == 0 for x in s.lives)
    else:
      assert all(x.devices == 2 for x in s.lives)


def test_only_some_kinds():
  few = ("kill_all", "late")
  drawn = [
    schedule.draw(seed, total_steps=STEPS, kinds=few, max_hosts=2)
    for seed in range(50)
  ]
  lives = [life for s in drawn for life in s.lives]
  assert {f.kind for life in lives for f in life.faults} == set(few)
  assert {s.layout for s in drawn} == {"same"}
  assert not any(life.damage for life in lives)


def test_errors():
  with pytest.raises(lookup.ConfigError, match="--kinds.*'kill_all'"):
    schedule.draw(0, total_steps=STEPS, kinds=("kil_all",))
  with pytest.raises(lookup.ConfigError, match="--kinds needs one of kill_one"):
    schedule.draw(0, total_steps=STEPS, kinds=("pause",))
