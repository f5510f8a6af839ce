"""Options of XLA: only those that the compiler knows, only on GPUs."""

import types

import jax
import numpy as np
import pytest

from big_vision import xla_flags


def mesh(platform, num):
  device = types.SimpleNamespace(platform=platform)
  return types.SimpleNamespace(devices=np.array([device] * num, object))


def test_only_on_gpus():
  several, same = (o.name for o in xla_flags.OPTIONS)
  fixed = {"deterministic_reductions": True}
  assert xla_flags.options(fixed, mesh("cpu", 8)) is None
  assert xla_flags.options(fixed, mesh("tpu", 8)) is None
  assert xla_flags.options({}, mesh("gpu", 1)) is None
  assert xla_flags.options({}, mesh("gpu", 8)) == {several: True}
  assert xla_flags.options(fixed, mesh("gpu", 1)) == {same: True}
  assert set(xla_flags.options(fixed, mesh("gpu", 2))) == {several, same}


def test_the_users_flags_win(monkeypatch):
  name = "xla_gpu_enable_latency_hiding_scheduler"
  monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=/tmp/x --{name}=false")
  assert xla_flags.options({}, mesh("gpu", 8)) is None


def test_unknown_ones_are_left_out(caplog):
  name = "xla_gpu_deterministic_ops"
  given = {"xla_gpu_of_the_past": True, name: True}
  with caplog.at_level("WARNING", logger="absl"):
    assert xla_flags.supported(given, "") == {name: True}
  assert "xla_gpu_of_the_past" in caplog.text
  with pytest.raises(jax.errors.JaxRuntimeError):  # Another mistake is said.
    xla_flags.supported({name: "perhaps"}, "")


def test_the_compiler_takes_all():
  every = {o.name: o.value for o in xla_flags.OPTIONS}
  for trial in xla_flags.TRIALS.values():
    every |= trial
  assert xla_flags.supported(every, "") == every
  double = jax.jit(lambda x: 2 * x, compiler_options=every)
  assert double(3) == 6
