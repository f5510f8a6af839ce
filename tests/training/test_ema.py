"""The average of parameters: values, place, resuming, evaluators."""

import json
import os
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toy
from big_vision import checkpoints
from big_vision.training import config_check, console, ema, loop
from big_vision.training import state as state_lib
from big_vision.training import step as step_lib

pytestmark = pytest.mark.usefixtures("quick_compilation")

RULES = [
  ("params/.*", "fsdp('data', min_size_to_shard_mb=0)"),
  (".*", "replicate"),
]


def run(workdir, recipe=None, devices=None, stop=None, **kw):
  """Trains; the data ends before the step `stop`."""
  os.makedirs(workdir, exist_ok=True)

  def batch(step, size):
    if step + 1 == stop:
      raise KeyboardInterrupt
    return toy.batch(step, size)

  setup = toy.setup(toy.config(**kw), workdir, devices, batch_fn=batch)
  try:
    return loop.run(setup, recipe or toy.make())
  finally:
    setup.writer.close()


def closed_form(values, decay, warmup):
  """float64 average of the parameters after steps 0, 1, …, of each a list."""
  total = np.float64(values[0])
  for t, value in enumerate(values[1:]):
    d = min(decay, 1 - (1 + t) ** (-2 / 3)) if warmup else decay
    total = d * total + (1 - d) * np.float64(value)
  return total


@pytest.fixture
def said(monkeypatch):
  lines = []
  monkeypatch.setattr(console, "note", lines.append)
  return lines


@pytest.mark.parametrize("warmup", [False, True])
def test_closed_form_over_100_steps(tmp_path, warmup):
  setup = toy.setup(
    toy.config(total_steps=100, ema_decay=0.95, ema_warmup=warmup)
  )
  recipe = toy.make()
  plan = state_lib.plan(recipe, setup)
  state = state_lib.initialize(recipe, setup, plan)
  update = step_lib.make_update(
    recipe, plan.tx, setup.config, plan.shardings, plan.replicated
  )
  every = [jax.device_get(state["params"])]
  jax.tree.map(np.testing.assert_array_equal, state["params_ema"], every[0])
  key = jax.random.PRNGKey(0)
  for batch in setup.batches(0):
    old = state
    state, _ = update(state, batch, {}, key)
    every.append(jax.device_get(state["params"]))
  assert len(every) == 101
  assert all(x.is_deleted() for x in jax.tree.leaves(old["params_ema"]))
  want = jax.tree.map(lambda *x: closed_form(x, 0.95, warmup), *every)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7),
    state["params_ema"], want,
  )  # fmt: skip
  if warmup:  # The initial parameters are forgotten in the first step.
    first = ema.Average(0.95, 2 / 3).update(every[0], every[1], jnp.int32(0))
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), first, every[1]
    )


def test_other_powers_and_constants():
  """Weights of 32 bits do not add up to 1; what does not change stays."""
  x = {"a": jnp.full((3,), 0.1, jnp.bfloat16)}
  average = ema.copy(x)
  assert average["a"].dtype == jnp.float32
  for step in range(5):
    got = ema.Average(0.99999).update(average, x, jnp.int32(step))
    np.testing.assert_array_equal(got["a"], average["a"])
  rule = ema.Average(0.9, power=0.5, gamma=4.0)
  got = rule.update({"a": jnp.zeros(())}, {"a": jnp.ones(())}, jnp.int32(12))
  np.testing.assert_allclose(got["a"], 0.5)  # (1 + 12 / 4)^(-1/2)


@pytest.mark.multidevice
def test_sharded_like_the_parameters(tmp_path):
  """On 8 devices, with parameters of 16 bits, accumulation and a frozen part."""

  def init(rng, batch):
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), toy.init(rng, batch))

  frozen = [("head/.*", None), (".*", dict(decay_type="cosine"))]
  kw = dict(
    ema_decay=0.5, grad_accum_steps=2, sharding_strategy=RULES, schedule=frozen,
    keep_ckpt_steps=1, total_steps=4, optax_name="big_vision.muon",
  )  # fmt: skip
  state = run(tmp_path, toy.make(init=init), jax.devices(), **kw)
  for a, b in zip(
    jax.tree.leaves(state["params_ema"]), jax.tree.leaves(state["params"]),
    strict=True,
  ):  # fmt: skip
    assert a.sharding == b.sharding and a.shape == b.shape
    assert a.dtype == jnp.float32 and b.dtype == jnp.bfloat16
  kernel = state["params_ema"]["hidden"]["kernel"]
  assert kernel.addressable_shards[0].data.size == kernel.size // 8
  head = state["params"]["head"]
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, np.float32(b)),
    state["params_ema"]["head"], head,
  )  # fmt: skip
  path = f"{tmp_path}/checkpoint.bv-00000000"
  read = lambda of: [
    np.float32(checkpoints.load_params(f"{path}{s}{of}:hidden/kernel"))
    for s in range(1, 5)
  ]
  params, averages = read(""), read(":params_ema")
  for step in range(3):
    want = 0.5 * averages[step] + 0.5 * params[step + 1]
    np.testing.assert_allclose(averages[step + 1], want, rtol=1e-6, atol=1e-7)
  np.testing.assert_array_equal(averages[-1], kernel)


def test_without_the_key_nothing_changes():
  """The same program, the same tree."""

  def made(**kw):
    setup = toy.setup(toy.config(**kw))
    recipe = toy.make()
    plan = state_lib.plan(recipe, setup)
    update = step_lib.make_update(
      recipe, plan.tx, setup.config, plan.shardings, plan.replicated
    )
    batch = jax.tree.map(jnp.asarray, toy.batch(0, 16))
    lowered = update.lower(plan.shapes, batch, {}, jax.random.PRNGKey(0))
    return plan, lowered

  plan, without = made()
  off, with_zero = made(ema_decay=0.0)
  assert set(plan.shapes) == set(off.shapes) == {"params", "opt"}
  assert without.as_text() == with_zero.as_text()
  on, with_average = made(ema_decay=0.9)
  assert set(on.shapes) == {"params", "opt", "params_ema"}
  # The average is replaced in its own memory.
  a, b = (x.compile().memory_analysis() for x in (without, with_average))
  size = sum(4 * x.size for x in jax.tree.leaves(plan.shapes["params"]))
  assert b.alias_size_in_bytes - a.alias_size_in_bytes == size
  assert b.argument_size_in_bytes - a.argument_size_in_bytes == size


def test_resumes_bit_for_bit(tmp_path):
  kw = dict(ema_decay=0.9, ema_warmup=True, ckpt_steps=3)
  whole = run(tmp_path / "a", **kw)
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / "b", stop=6, **kw)
  assert "params_ema~head~bias" in os.listdir(
    tmp_path / "b/checkpoint.bv-000000003-tmp"
  )
  again = run(tmp_path / "b", **kw)
  assert jax.tree.structure(whole) == jax.tree.structure(again)
  jax.tree.map(np.testing.assert_array_equal, whole, again)
  # What is trained does not depend on the average.
  plain = run(tmp_path / "c")
  whole = {k: whole[k] for k in plain}
  jax.tree.map(np.testing.assert_array_equal, plain, whole)


def test_begins_and_ends_in_the_middle_of_a_run(tmp_path, said):
  run(tmp_path / "a", total_steps=7)
  before = checkpoints.load_params(f"{tmp_path}/a/checkpoint.bv")
  state = run(tmp_path / "a", ema_decay=0.75)
  assert [t for t in said if "no average" in t and "config.ema_decay" in t]
  want = jax.tree.map(
    lambda a, b: 0.75 * np.float64(a) + 0.25 * np.float64(b),
    before, jax.device_get(state["params"]),
  )  # fmt: skip
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
    state["params_ema"], want,
  )  # fmt: skip
  del said[:]
  longer = run(tmp_path / "a", total_steps=9)
  assert [t for t in said if "(params_ema), which is left out" in t]
  assert set(longer) == {"params", "opt"}


@pytest.fixture
def evaluator(monkeypatch):
  """Measures the parameters, and how often it was compiled."""

  class Evaluator:
    def __init__(self, predict_fn, batch_size, devices):
      self._fn = jax.jit(predict_fn)

    def run(self, state):
      yield "bias", self._fn(state, None)

  module = types.ModuleType("bvbias")
  module.API, module.Evaluator = "jit", Evaluator
  monkeypatch.setitem(sys.modules, "bvbias", module)
  predict = lambda state, batch: state["params"]["head"]["bias"][0]
  return toy.make(predict_fns={"predict": predict})


def test_evaluators_measure_what_they_ask_for(evaluator, tmp_path, said):
  evals = dict(
    val=dict(type="bvbias", log_steps=1),
    val_ema=dict(type="bvbias", log_steps=1, params="ema"),
    val_usual=dict(type="bvbias", log_steps=1, params="params"),
  )
  kw = dict(ema_decay=0.9, evals=evals, keep_ckpt_steps=1)
  keep = dict(metric="val_ema/bias", mode="max")
  run(tmp_path, evaluator, keep_best=keep, **kw)
  for step, row in toy.rows(tmp_path).items():
    path = f"{tmp_path}/checkpoint.bv-{step:09d}"
    for name, of in (
      ("val", ""),
      ("val_ema", ":params_ema"),
      ("val_usual", ""),
    ):
      bias = checkpoints.load_params(f"{path}{of}:head/bias")
      assert row[f"{name}/bias"] == bias[0]
  assert row["val/bias"] != row["val_ema/bias"]
  stored = json.loads((tmp_path / "best.bv.json").read_text())
  assert stored["params"] == "ema"
  (value,) = stored["values"].values()
  best = checkpoints.load_params(f"{tmp_path}/best.bv:params_ema:head/bias")
  assert best[0] == value
  assert [t for t in said if "best.bv:params_ema was measured" in t]


VAL = dict(type="mean", params="ema", pred="loss")
BOTH = dict(type="mean", pred="loss", prefix="", log_steps=3)


@pytest.mark.parametrize(
  "kw, message",
  [
    (dict(ema_decay=1.5), r"^config\.ema_decay = 1.5 must be a number .* below 1"),
    (dict(ema_decay=1), r"^config\.ema_decay = 1 must"),
    (dict(ema_decay=-0.1), r"^config\.ema_decay = -0.1 must"),
    (dict(ema_decay="0.9"), r"^config\.ema_decay = '0.9' must"),
    (dict(ema_decay=True), r"^config\.ema_decay = True must"),
    (dict(ema_decay=float("nan")), r"^config\.ema_decay = nan must"),
    (dict(ema_warmup=True), r"ema_warmup = True has no effect without config\.e"),
    (dict(ema_decay=0.9, ema_warmup=3), r"config\.ema_warmup = 3 must be True"),
    (
      dict(ema_decay=0.9, ema_warmup=dict(pwer=1)),
      r"config\.ema_warmup\.pwer .*Did you mean 'power'",
    ),
    (
      dict(ema_decay=0.9, ema_warmup=dict(gamma=0)),
      r"config\.ema_warmup\.gamma = 0 must be a positive",
    ),
    (dict(ema_decy=0.9), r"config\.ema_decy .*Did you mean 'ema_decay'"),
    (
      dict(evals=dict(val=VAL)),
      r"config\.evals\.val\.params = 'ema' needs config\.ema_decay",
    ),
    (
      dict(evals=dict(a={**VAL, "prefix": ""}, b=BOTH), ema_decay=0.9),
      r"config\.evals\.b\.prefix = '' is that of config\.evals\.a, too",
    ),
    (dict(evals=dict(val=VAL), ema_decay=0), r"'ema' needs config\.ema_decay"),
  ],
)  # fmt: skip
def test_bad_input(kw, message):
  with pytest.raises(ValueError, match=message) as e:
    config_check.check_training(toy.config(model_name="vit", **kw))
  assert "\n" not in str(e.value)


def test_settings():
  read = lambda **kw: ema.settings(toy.config(**kw))
  assert read() is read(ema_decay=None) is read(ema_decay=0) is None
  assert read(ema_decay=0.0, ema_warmup=True) is None  # Taken out by a flag.
  assert read(ema_decay=0.5, ema_warmup=False) == ema.Average(0.5)
  assert read(ema_decay=0.5, ema_warmup=dict(power=0.75)) == ema.Average(
    0.5, 0.75, 1.0
  )
  evals = dict(val=BOTH | {"prefix": "val/"}, val_ema=VAL, other=BOTH)
  ema.check(toy.config(ema_decay=0.5, evals=evals))
