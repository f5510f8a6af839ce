"""Places of processes, from environments as launchers make them."""

import os
import sys

import pytest

from big_vision import lookup
from big_vision.launching import clusters, local
from big_vision.launching.clusters import Place

SLURM = {
  "SLURM_JOB_ID": "7",
  "SLURM_STEP_ID": "0",
  "SLURM_STEP_NODELIST": "gpu[03-04]",
  "SLURM_STEP_NUM_TASKS": "8",
  "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
  "SLURM_NTASKS": "8",
  "SLURM_PROCID": "5",
  "SLURM_LOCALID": "1",
  "SLURM_NODEID": "1",
}
MPI = {
  "OMPI_COMM_WORLD_SIZE": "4",
  "OMPI_COMM_WORLD_RANK": "3",
  "OMPI_COMM_WORLD_LOCAL_RANK": "1",
  "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
# Open MPI 4: addresses of mpirun. Those of version 5 do not tell it.
URI = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
EXPLICIT = {
  "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
  "JAX_NUM_PROCESSES": "2",
  "JAX_PROCESS_ID": "1",
}


def without(env, *names):
  return {k: v for k, v in env.items() if k not in names}


@pytest.mark.parametrize(
  "env",
  [
    {},
    {"BV_JAX_INIT": ""},
    {"BV_JAX_INIT": "0", **EXPLICIT},
    {"BV_JAX_INIT": "", **SLURM},
    {**EXPLICIT, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
    {"BV_JAX_INIT": "1", "JAX_NUM_PROCESSES": "1"},
    # `srun` with one task, and a batch script of a job with many.
    {"BV_JAX_INIT": "1", **SLURM, "SLURM_STEP_NUM_TASKS": "1"},
    without(SLURM, "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS"),
    {**MPI, "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    {"JOB_COMPLETION_INDEX": "3"},  # Perhaps one of many runs.
    {"JAX_COORDINATOR_ADDRESS": "", "JAX_PROCESS_ID": ""},
  ],
  ids=str,
)
def test_alone(env):
  assert clusters.detect(env) is None


def test_jax_finds_pods():
  place = clusters.detect({"BV_JAX_INIT": "1"})
  assert place == Place("what JAX finds out itself")
  assert not place.is_known
  # It asks Kubernetes, if it can.
  env = {"BV_JAX_INIT": "1", "JOB_COMPLETION_INDEX": "3"}
  assert clusters.detect(env) == place
  env = {"BV_JAX_INIT": "1", "JAX_COORDINATOR_ADDRESS": "a:1"}
  assert clusters.detect(env) == place


@pytest.mark.parametrize("switch", [{}, {"BV_JAX_INIT": "1"}], ids=str)
def test_explicit(switch):
  place = clusters.detect({**switch, **EXPLICIT})
  found = "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID"
  assert place == Place(found, 2, 1, "10.0.0.1:1234")
  assert place.is_known
  assert clusters.local_devices(place, {}, 4) is None  # All of its machine.


@pytest.mark.parametrize("name", sorted(EXPLICIT))
def test_a_half_set(name):
  others = " and ".join(n for n in EXPLICIT if n != name)
  with pytest.raises(lookup.ConfigError, match=f"{others} missing") as e:
    clusters.detect({name: EXPLICIT[name].replace("1234", "99")})
  assert str(e.value).startswith(f"{name} in the environment:")
  with pytest.raises(lookup.ConfigError, match=f"but {name} missing"):
    clusters.detect(without(EXPLICIT, name))


@pytest.mark.parametrize(
  "change, message",
  [
    ({"JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID = 2 .* from 0 to 1"),
    ({"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID='one' .*whole number"),
    ({"JAX_NUM_PROCESSES": "-2"}, "JAX_NUM_PROCESSES='-2'"),
    ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, "ADDRESS='10.0.0.1': write host"),
  ],
)
def test_wrong_values(change, message):
  with pytest.raises(lookup.ConfigError, match=message):
    clusters.detect({**EXPLICIT, **change})


def test_slurm():
  place = clusters.detect(SLURM)
  host, _, port = place.coordinator.partition(":")
  assert place == Place("Slurm", 8, 5, f"{host}:{port}", 1, 4)
  assert host == "gpu03" and 61440 <= int(port) < 65536
  # All processes of a step choose one port; other steps and jobs another.
  other = clusters.detect({**SLURM, "SLURM_PROCID": "0"})
  assert other.coordinator == place.coordinator
  for name in ("SLURM_STEP_ID", "SLURM_JOB_ID"):
    other = clusters.detect({**SLURM, name: "8"})
    assert other.coordinator != place.coordinator
  port = clusters.detect({**SLURM, "JAX_COORDINATOR_PORT": "99"})
  assert port.coordinator == "gpu03:99"


def test_one_process_joins_itself_where_that_is_asked_for():
  """Its devices are connected as those of several processes are."""
  one = {**EXPLICIT, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}
  assert clusters.detect(one) is None
  place = clusters.detect({**one, "BV_JAX_INIT": "1"})
  assert (place.num_processes, place.process_id) == (1, 0)


def test_explicit_variables_win():
  place = clusters.detect({**SLURM, "JAX_COORDINATOR_ADDRESS": "a:1"})
  assert place.found == "JAX_COORDINATOR_ADDRESS, and Slurm"
  assert (place.process_id, place.coordinator) == (5, "a:1")
  # `tools.launch` in a step of one task.
  alone = {**SLURM, "SLURM_STEP_NUM_TASKS": "1"}
  place = clusters.detect({**alone, **EXPLICIT})
  assert (place.num_processes, place.process_id) == (2, 1)


@pytest.mark.parametrize(
  "nodes, want",
  [
    ("node001", "node001"),
    ("node001,host2", "node001"),
    ("node[001-0015],host2", "node001"),
    ("node[007,009-015],host2", "node007"),
    ("rack[2-3]n[10-12]-ib,x", "rack2n10-ib"),
    ("a-b[4]", "a-b4"),
  ],
)
def test_first_host(nodes, want):
  assert clusters.first_host(nodes) == want


@pytest.mark.parametrize(
  "counts, want",
  [("4(x2),3", [4, 4, 3]), ("1", [1]), ("", []), ("2,1", [2, 1])],
)
def test_tasks_per_node(counts, want):
  assert clusters.tasks_per_node(counts) == want


def test_open_mpi():
  place = clusters.detect({**MPI, **URI})
  host, _, port = place.coordinator.partition(":")
  assert place == Place("Open MPI", 4, 3, f"10.96.0.1:{port}", 1, 2)
  assert 61440 <= int(port) < 65536
  six = {"OMPI_MCA_orte_hnp_uri": "13.0;tcp6://[fe80::1,2620::2]:43370"}
  assert clusters.detect({**MPI, **six}).coordinator.startswith("fe80::1:")
  # Of version 5 the address has to be told, unless all are on one machine.
  with pytest.raises(
    lookup.ConfigError, match="but JAX_COORDINATOR_ADDRESS mi"
  ):
    clusters.detect(MPI)
  place = clusters.detect({**MPI, "JAX_COORDINATOR_ADDRESS": "a:1"})
  assert place.coordinator == "a:1" and place.process_id == 3
  place = clusters.detect({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4"})
  assert place.coordinator.startswith("127.0.0.1:")


def test_job_set():
  env = {**without(EXPLICIT, "JAX_PROCESS_ID"), "JOB_COMPLETION_INDEX": "1"}
  place = clusters.detect(env)
  assert (place.num_processes, place.process_id) == (2, 1)
  assert place.found.endswith("and an indexed job of Kubernetes")
  with pytest.raises(lookup.ConfigError, match="JAX_COORDINATOR_ADDRESS miss"):
    clusters.detect(without(env, "JAX_COORDINATOR_ADDRESS"))


@pytest.mark.parametrize(
  "local_id, num_local, env, num_gpus, want",
  [
    (0, 1, {}, 8, None),  # One process takes the machine.
    (1, 4, {}, 4, (1,)),
    (1, 2, {}, 8, (4, 5, 6, 7)),
    (2, 3, {}, 8, (4, 5)),  # Evenly: two GPUs stay idle.
    (1, 2, {}, 0, None),  # CPUs.
    (1, 2, {"JAX_LOCAL_DEVICE_IDS": "0,3"}, 8, (0, 3)),
    # Slurm shows each process its own ones.
    (1, 2, {"SLURM_GPUS_PER_TASK": "2"}, 2, None),
    (1, 2, {"SLURM_TRES_PER_TASK": "cpu=4,gres/gpu=2"}, 2, None),
    (1, 4, {"SLURM_STEP_GPUS": "0,1,2,3"}, 1, None),
    (1, 2, {"SLURM_STEP_GPUS": "0,1,2,3"}, 2, None),
    (1, 2, {"SLURM_STEP_GPUS": "0,1,2,3"}, 4, (2, 3)),
    (1, 4, {}, 1, None),
  ],
)
def test_local_devices(local_id, num_local, env, num_gpus, want):
  place = Place("x", 8, 0, "a:1", local_id, num_local)
  assert clusters.local_devices(place, env, num_gpus) == want


def test_wrong_local_devices():
  with pytest.raises(lookup.ConfigError, match="JAX_LOCAL_DEVICE_IDS='all'"):
    clusters.local_devices(Place("x"), {"JAX_LOCAL_DEVICE_IDS": "all"}, 1)


def test_needs_no_jax_and_knows_what_local_starts():
  script = """
import os, sys
sys.modules["jax"] = None
from big_vision.launching import clusters
place = clusters.detect(os.environ)
print(place.process_id, place.num_processes, place.coordinator[:10])
"""
  lines = []
  root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
  with local.start(
    [sys.executable, "-c", script],
    hosts=2,
    devices=1,
    env={"PYTHONPATH": root},
    write=lines.append,
  ) as group:
    assert group.wait(60) == [0, 0], lines
  assert sorted(lines) == [f"[{i}] {i} 2 127.0.0.1:\n" for i in (0, 1)]
