"""Arguments that vary from step to step."""

import ml_collections as mlc
import numpy as np
import pytest

from big_vision.trainers.proj.flexi import common

FLEXI = mlc.ConfigDict(
  {"b": {"v": (10, 20), "p": None}, "a": {"v": (1, 2, 3), "p": (1, 1, 6)}}
)


def test_probabilities():
  assert common.mkprob(None) is None
  np.testing.assert_allclose(common.mkprob((1, 1, 6)), [0.125, 0.125, 0.75])


def test_rng_of_a_step():
  draw = lambda *ids: common.mkrng(*ids).integers(1 << 30)
  assert draw(-1, -1, 5) == np.random.default_rng((0, 0, 5)).integers(1 << 30)
  assert draw(2, 3, 4) == np.random.default_rng((2, 3, 4)).integers(1 << 30)
  assert len({draw(*ids) for ids in [(0, 0, 1), (0, 0, 2), (0, 1, 1)]}) == 3


def test_choice():
  rng = np.random.default_rng(0)
  drawn = [common.choice((5, 7), (1, 3), rng) for _ in range(1000)]
  assert np.mean(np.equal(drawn, 7)) == pytest.approx(0.75, abs=0.04)
  assert common.choice((5,), None) == 5


def test_static_args_depend_on_seed_and_step():
  args = common.static_args(FLEXI)
  for step in (1, 2, 77):
    rng = np.random.default_rng((0, 0, step))
    a = rng.choice((1, 2, 3), p=[0.125, 0.125, 0.75])
    assert args(step) == (a, rng.choice((10, 20)))
    assert all(type(x) is int for x in args(step))
  drawn = [args(step) for step in range(1, 400)]
  assert drawn == [args(step) for step in range(1, 400)]
  assert np.mean([a == 3 for a, _ in drawn]) == pytest.approx(0.75, abs=0.06)
  assert np.mean([b == 10 for _, b in drawn]) == pytest.approx(0.5, abs=0.08)
  other = common.static_args(FLEXI, seed=1)
  assert drawn != [other(step) for step in range(1, 400)]


def test_predict_functions():
  fns = common.mkpredictfns(lambda x, **kw: (x, kw), FLEXI)
  assert sorted(fns) == [
    f"predict_a={a}_b={b}" for a in (1, 2, 3) for b in (10, 20)
  ]
  assert fns["predict_a=2_b=10"]("x") == ("x", {"a": 2, "b": 10})
  assert "s_a=1_b=20_t" in common.mkpredictfns(print, FLEXI, "s_{x}_t")
