"""Joining the other processes: what JAX is told, what the log says."""

import logging

import pytest

from big_vision import lookup
from big_vision.training import hosts, peers

VARIABLES = ("BV_JAX_INIT", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SLURM = {
  "SLURM_JOB_ID": "7",
  "SLURM_STEP_NODELIST": "gpu[03-04]",
  "SLURM_STEP_NUM_TASKS": "4",
  "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
  "SLURM_PROCID": "3",
  "SLURM_LOCALID": "1",
  "SLURM_NODEID": "1",
  "JAX_COORDINATOR_PORT": "1234",
  "CUDA_VISIBLE_DEVICES": "0,1,2,3",
  "JAX_PLATFORMS": "cuda",
}


@pytest.fixture
def told(monkeypatch):
  """What `jax.distributed.initialize` would be called with, but for times."""
  calls = []
  monkeypatch.setattr(peers, "initialize", lambda **kw: calls.append(kw))
  for name in (*VARIABLES, *SLURM):
    monkeypatch.delenv(name, raising=False)
  return calls


def set_all(monkeypatch, env):
  for name, value in env.items():
    monkeypatch.setenv(name, value)


def test_alone(told):
  hosts.join()
  assert told == []


def test_slurm(told, monkeypatch, caplog):
  set_all(monkeypatch, SLURM)
  with caplog.at_level(logging.INFO, logger="absl"):
    hosts.join()
  assert told == [
    dict(
      coordinator_address="gpu03:1234",
      num_processes=4,
      process_id=3,
      local_device_ids=(2, 3),
      cluster_detection_method="deactivate",
    )
  ]
  # The numbers of processes and devices are those of this test.
  assert caplog.messages == [
    "Found Slurm: process 0 of 1, which meet at gpu03:1234 and have 8 devices. "
    "This one takes 8, numbers 2,3 of those that it sees; JAX_LOCAL_DEVICE_IDS "
    "chooses others."
  ]


def test_jax_finds_out(told, monkeypatch, caplog):
  monkeypatch.setenv("BV_JAX_INIT", "1")
  with caplog.at_level(logging.INFO, logger="absl"):
    hosts.join()
  assert told == [{}]
  [line] = caplog.messages
  assert "JAX finds out itself: process 0 of 1, which meet and have 8" in line


def test_jax_finds_nothing(told, monkeypatch):
  def initialize():
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(peers, "initialize", initialize)
  monkeypatch.setenv("BV_JAX_INIT", "1")
  with pytest.raises(lookup.ConfigError, match="BV_JAX_INIT=1, but nothing te"):
    hosts.join()


def test_hello():
  assert hosts.hello("/w") == (
    "Hello from process 0 of 1 with 8/8 devices (cpu), workdir /w."
  )


def test_from_first_alone():
  assert hosts.from_first(lambda: "text") == "text"
