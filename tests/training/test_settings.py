"""Settings from a part of a config."""

import dataclasses

import ml_collections as mlc
import pytest

from big_vision.training import settings


@dataclasses.dataclass(frozen=True)
class Settings:
  weight: float = settings.number(1.0)
  rate: float = settings.number(0.5, low=0.1, high=1)
  name: str = "x"


OLD = {"factor": "weight"}


def make(**kw):
  return settings.make(Settings, mlc.ConfigDict(kw), "part", OLD)


def test_defaults_and_values():
  assert make() == Settings(1.0, 0.5, "x")
  assert make(rate=1, name="y") == Settings(1.0, 1, "y")


def test_old_names():
  assert make(factor=3.0) == Settings(weight=3.0)
  with pytest.raises(ValueError, match="config.part.factor is the old name"):
    make(factor=3.0, weight=2.0)


@pytest.mark.parametrize(
  "kw, message",
  [
    (dict(rate=0.05), "config.part.rate = 0.05 must be a number from 0.1 to 1"),
    (dict(weight=-1), "config.part.weight = -1"),
    (dict(weight="1"), "config.part.weight = '1'"),
    (dict(rat=1), "config.part.rat is not a known key. Did you mean 'rate'"),
  ],
)
def test_mistakes(kw, message):
  with pytest.raises(ValueError, match=message):
    make(**kw)
