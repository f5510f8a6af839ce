"""Building evaluators from configs, and what they accept."""

import dataclasses
import sys
import types

import jax
import ml_collections as mlc
import pytest

from big_vision.evaluators import build, common, validate


def predict(state, batch):
  image = batch["image"]
  return image.reshape(len(image), -1) @ state, {}


@pytest.fixture
def spy(monkeypatch):
  """An evaluator module that keeps what it is built with."""

  @dataclasses.dataclass
  class Evaluator:
    predict_fn: object
    batch_size: int
    devices: object = None
    extra: object = None

  module = types.ModuleType("users_own_evaluator")
  module.__spec__ = types.SimpleNamespace(name=module.__name__)
  module.Evaluator, module.API = Evaluator, "jit"
  monkeypatch.setitem(sys.modules, module.__name__, module)
  return module


def config(**evals):
  return mlc.ConfigDict({"input": {"batch_size": 16}, "evals": evals})


def make(cfg, **kw):
  kw = {"devices": jax.devices(), **kw}
  return common.from_config(cfg, {"predict": predict, "other": max}, **kw)


def test_from_config(spy):
  cfg = config(
    b={"type": spy.__name__, "log_steps": 3, "skip_first": True},
    a=dict(
      type=spy.__name__,
      log_percent=0.1,
      log_epochs=2,
      pred="other",
      pred_kw={"key": "k", "nested": {"x": 1}},
      prefix="",
      batch_size=24,
      extra=(1, 2),
    ),
  )
  notes, asked = [], []

  def get_steps(key, cfg):
    asked.append((key, sorted(k for k in cfg if k.startswith("log"))))
    return 5

  a, b = make(cfg, write_note=notes.append, get_steps=get_steps)
  assert notes == ["a", "b"]
  assert asked == [
    ("log", ["log_epochs", "log_percent"]),
    ("log", ["log_steps"]),
  ]
  assert (a[0], *a[2:]) == ("a", 5, "")
  assert (b[0], *b[2:]) == ("b", 5, "b/")
  assert b[1].predict_fn is predict and b[1].batch_size == 16
  assert a[1].batch_size == 24 and a[1].extra == (1, 2)
  assert a[1].devices == jax.devices()
  assert a[1].predict_fn == make(cfg, get_steps=get_steps)[0][1].predict_fn
  assert hash(a[1].predict_fn) is not None
  assert common.from_config(mlc.ConfigDict(), {}) == []


def test_evaluators_that_are_none_are_left_out(spy):
  cfg = config(a=None, b=dict(type=spy.__name__, log_steps=1))
  assert [name for name, *_ in make(cfg)] == ["b"]
  validate.validate(cfg, ["predict"], jax.devices())
  cfg.evals = None
  assert make(cfg) == []


def test_default_steps(spy):
  cfg = config(a={"type": spy.__name__, "log_steps": 3})
  assert make(cfg)[0][2] == 3


def test_batch_size_falls_back(spy):
  size = lambda cfg: make(cfg)[0][1].batch_size
  cfg = config(a={"type": spy.__name__, "log_steps": 1})
  assert size(cfg) == 16
  cfg.batch_size_eval = 32
  cfg.batch_size = 40
  assert size(cfg) == 32
  del cfg.batch_size_eval
  del cfg.input
  assert size(cfg) == 40
  del cfg.batch_size
  assert size(cfg) is None


def test_generations(spy):
  cfg = config(a={"type": spy.__name__, "log_steps": 1})
  with pytest.raises(RuntimeError, match="devices"):
    make(cfg, devices=None)
  del spy.API
  with pytest.raises(RuntimeError, match="pmap"):
    make(cfg)
  assert make(cfg, devices=None)[0][1].devices is None


@pytest.mark.parametrize(
  "entry,message",
  [
    ({"pred": "predct"}, r"config\.evals\.a\.pred.*'predct'.*other, predict"),
    ({"batch_size": 33}, r"config\.evals\.a\.batch_size=33 .* 8.*32 or 40"),
    ({"batch_size": 3}, r"batch_size=3 .* Use for example 8\."),
    ({"batch_size": 8.5}, r"batch_size=8\.5 is not a positive integer"),
    ({"pred_kw": {"x": [1]}}, r"config\.evals\.a\.pred_kw.*tuples"),
    ({"type": "clasification"}, r"config\.evals\.a\.type.*'classification'"),
    ({"type": "json"}, r"evals\.a\.type: unknown evaluator 'json'"),
    ({"type": "common"}, r"unknown evaluator 'common'.*classification.*mean"),
    ({"type": "build"}, r"unknown evaluator 'build'.*classification.*mean"),
    ({"type": "validate"}, r"unknown evaluator 'validate'.*mean"),
  ],
)
def test_bad_entries(spy, entry, message):
  cfg = config(a={"type": spy.__name__, "log_steps": 1, **entry})
  with pytest.raises(ValueError, match=message):
    make(cfg)
  with pytest.raises(ValueError, match=message):
    validate.validate(cfg, ["predict", "other"], jax.devices())


def test_batch_size_of_another_key(spy):
  cfg = config(a={"type": spy.__name__, "log_steps": 1})
  cfg.batch_size_eval = 20
  with pytest.raises(ValueError, match="from config.batch_size_eval.*=20"):
    make(cfg)


def test_only_evaluators_are_offered(spy):
  cfg = config(a={"type": "iteration", "log_steps": 1})
  with pytest.raises(ValueError) as e:
    make(cfg)
  known = str(e.value).partition("Known: ")[2].rstrip(".").split(", ")
  assert "mean" in known and "proj.distill.cka" in known
  for name in known:  # Each is one, and the message offers all of them.
    assert build.module_of(name, "a").API == "jit"
  assert not {"common", "iteration", "files"} & set(known)


def test_workdir_and_step_of_the_run(spy):
  """Evaluators that take them get them; a config may set the workdir."""

  @dataclasses.dataclass
  class Writer(spy.Evaluator):
    workdir: str | None = None
    get_step: object = None

  cfg = config(a={"type": spy.__name__, "log_steps": 1})
  run = dict(workdir="/w", get_step=lambda: 5)
  assert make(cfg, **run)[0][1] == make(cfg)[0][1]  # It takes neither.
  spy.Evaluator = Writer
  [(_, evaluator, *_)] = make(cfg, **run)
  assert evaluator.workdir == "/w" and evaluator.get_step() == 5
  assert make(cfg)[0][1].workdir is None
  cfg.evals.a.workdir = "/other"
  validate.validate(cfg, ["predict"], jax.devices())
  assert make(cfg, **run)[0][1].workdir == "/other"


def test_arguments():
  """What a class takes follows its bases and where they forward to."""

  class Base:
    forwards = staticmethod(lambda data, *, cache="none": None)

    def __init__(self, predict_fn, loss, **kw):
      pass

  class Derived(Base):
    def __init__(self, predict_fn, *args, extra, opt=1, **kw):
      pass

  class Closed(Base):
    def __init__(self, predict_fn, opt=1):
      pass

  class Anything:
    def __init__(self, predict_fn, a, **kw):
      pass

  def factory(predict_fn, a, b=2):
    pass

  args = build.arguments
  assert args(Base) == ({"loss", "data", "cache"}, ["loss", "data"])
  assert args(Derived) == (
    {"extra", "opt", "loss", "data", "cache"}, ["extra"]
  )  # fmt: skip
  assert args(Closed) == ({"opt"}, [])
  assert args(Anything) == (None, ["a"])
  assert args(factory) == ({"a", "b"}, ["a"])
