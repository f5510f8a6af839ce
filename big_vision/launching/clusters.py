"""Finds out from the environment which process of a run this one is.

`detect` knows explicit variables, Open MPI, Slurm and indexed jobs of Kubernetes.
What only a metadata server knows, as on TPU pods, is left to JAX. Nothing here needs
jax: all is a function of the environment.
"""

import dataclasses
import re
import zlib
from collections.abc import Mapping

from big_vision import lookup

SWITCH = "BV_JAX_INIT"
NUM = "JAX_NUM_PROCESSES"
ID = "JAX_PROCESS_ID"
ADDRESS = "JAX_COORDINATOR_ADDRESS"
DEVICES = "JAX_LOCAL_DEVICE_IDS"
EXPLICIT = (ADDRESS, NUM, ID)
# Slurm has given each process its own GPUs if one of these is set.
_BOUND = ("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_NTASKS_PER_GPU")


@dataclasses.dataclass(frozen=True)
class Place:
  """Tells where a process is in its run; None where only JAX can find out.

  Attributes:
    found: what launched it, for the log.
    num_processes: of the run.
    process_id: number of this one, from 0.
    coordinator: "host:port" where process 0 listens.
    local_id: number of this one among those on its machine, from 0.
    num_local: processes of the run on its machine.
  """

  found: str
  num_processes: int | None = None
  process_id: int | None = None
  coordinator: str | None = None
  local_id: int = 0
  num_local: int = 1

  @property
  def is_known(self) -> bool:
    """Whether JAX has nothing to find out."""
    return self.num_processes is not None


def detect(env: Mapping[str, str]) -> Place | None:
  """Finds the place of this process.

  Args:
    env: environment variables, as `os.environ`.

  Returns:
    The Place; None for a process that runs alone, which has nobody to wait for:
    BV_JAX_INIT is empty or 0, or nothing speaks of other processes. With
    BV_JAX_INIT=1 and an address, a single process has a place, too.

  Raises:
    lookup.ConfigError: variables that contradict each other, or too few of them;
      names them.
  """
  switch = env.get(SWITCH)
  if switch in ("", "0"):
    return None
  explicit = {name: env[name] for name in EXPLICIT if env.get(name)}
  cluster = _open_mpi(env) or _slurm(env) or _indexed_job(env)
  unknown = cluster is None or cluster.num_processes is None
  if unknown and NUM not in explicit and ID not in explicit:
    if switch:  # JAX reads the address itself.
      return Place("what JAX finds out itself")
    if not explicit:
      return None
  place = cluster or Place("explicit variables")
  if explicit:
    also = f", and {place.found}" if cluster else ""
    place = dataclasses.replace(
      place,
      found=f"{', '.join(explicit)}{also}",
      num_processes=_integer(explicit, NUM, place.num_processes),
      process_id=_integer(explicit, ID, place.process_id),
      coordinator=explicit.get(ADDRESS, place.coordinator),
    )
  # Asked for, one process joins itself: its devices then add up as those of several.
  if place.num_processes == 1 and not (switch and ADDRESS in explicit):
    return None
  _check(place)
  return place


def local_devices(
  place: Place, env: Mapping[str, str], num_gpus: int
) -> tuple[int, ...] | None:
  """Tells which of the GPUs that a process sees it takes.

  The processes of a machine divide its GPUs evenly, in their order, unless the
  launcher has done so. This does not matter on CPUs and TPUs.

  Args:
    place: of the process.
    env: environment variables.
    num_gpus: how many GPUs the process sees.

  Returns:
    Their numbers; None for all.

  Raises:
    lookup.ConfigError: JAX_LOCAL_DEVICE_IDS holds other things than numbers.
  """
  if wanted := env.get(DEVICES):
    if not re.fullmatch(r"\d+(,\d+)*", wanted):
      raise lookup.ConfigError(
        f"{DEVICES}={wanted!r}: write numbers of GPUs, for example 0,1."
      )
    return tuple(map(int, wanted.split(",")))
  on_machine = env.get("SLURM_STEP_GPUS") or env.get("SLURM_JOB_GPUS") or ""
  is_bound = any(env.get(name) for name in _BOUND) or (
    num_gpus < len(on_machine.split(",")) if on_machine else False
  )
  share = num_gpus // place.num_local
  if place.num_local == 1 or is_bound or not share:
    return None
  first = place.local_id * share
  return tuple(range(first, first + share))


def first_host(nodes: str) -> str:
  """Returns the first name of a list of nodes as Slurm writes it.

  Args:
    nodes: for example "node[001-015,020],gpu7".

  Returns:
    "node001" for that.
  """
  entry = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodes)
  return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", entry[0] if entry else "")


def tasks_per_node(counts: str) -> list[int]:
  """Expands the numbers of tasks on each node as Slurm writes them.

  Args:
    counts: for example "4(x2),3".

  Returns:
    [4, 4, 3] for that.
  """
  found = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
  return [int(n) for n, times in found for _ in range(int(times or 1))]


def _slurm(env: Mapping[str, str]) -> Place | None:
  """Finds the place in a step of Slurm.

  `srun` starts the processes of a step. A batch script itself is none of them,
  though it has SLURM_NTASKS: it must not wait for others.
  """
  names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID")
  tasks = env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS")
  if not tasks or not all(env.get(name) for name in names):
    return None
  job, nodes, number = (env[name] for name in names)
  step = env.get("SLURM_STEP_ID", "0")
  counts = tasks_per_node(
    env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE", "")
  )
  node = int(env.get("SLURM_NODEID", "0"))
  return Place(
    "Slurm",
    num_processes=int(tasks),
    process_id=int(number),
    coordinator=f"{first_host(nodes)}:{_port(env, f'{job}.{step}')}",
    local_id=int(env.get("SLURM_LOCALID", "0")),
    num_local=counts[node] if node < len(counts) else 1,
  )


def _open_mpi(env: Mapping[str, str]) -> Place | None:
  """Finds the place among what `mpirun` of Open MPI has started."""
  prefix = "OMPI_COMM_WORLD_"
  if not env.get(f"{prefix}SIZE") or not env.get(f"{prefix}RANK"):
    return None
  number = lambda name, default: int(env.get(f"{prefix}{name}", default))
  num, num_local = number("SIZE", "1"), number("LOCAL_SIZE", "1")
  # Before version 5 it tells the addresses of mpirun's machine, which has process 0.
  uri = env.get("OMPI_MCA_orte_hnp_uri", "")
  job = uri.partition(".")[0] or env.get("PMIX_NAMESPACE", "")
  address = re.search(r"tcp://([^,:]+)|tcp6://\[([^,\]]+)", uri)
  host = (address[1] or address[2]) if address else None
  if num_local == num:
    host = "127.0.0.1"
  return Place(
    "Open MPI",
    num_processes=num,
    process_id=number("RANK", "0"),
    coordinator=host and f"{host}:{_port(env, job)}",
    local_id=number("LOCAL_RANK", "0"),
    num_local=num_local,
  )


def _indexed_job(env: Mapping[str, str]) -> Place | None:
  """Finds the number of a pod; Kubernetes does not tell it how many there are.

  Nor whether they are one run: the pods of an indexed job may be many runs.
  """
  if number := env.get("JOB_COMPLETION_INDEX"):
    return Place("an indexed job of Kubernetes", process_id=int(number))
  return None


def _port(env: Mapping[str, str], job: str) -> str:
  """Returns a port that all processes of a job choose, outside the usual ones."""
  chosen = env.get("JAX_COORDINATOR_PORT")
  return chosen or str(61440 + zlib.crc32(job.encode()) % 4096)


def _integer(
  explicit: Mapping[str, str], name: str, default: int | None
) -> int | None:
  """Reads one of the explicit variables."""
  if name not in explicit:
    return default
  if not explicit[name].isdecimal():
    raise lookup.ConfigError(
      f"{name}={explicit[name]!r} in the environment is not a whole number."
    )
  return int(explicit[name])


def _check(place: Place) -> None:
  """Raises an error unless a place of several processes is complete."""
  values = (place.coordinator, place.num_processes, place.process_id)
  missing = [
    name for name, v in zip(EXPLICIT, values, strict=True) if v is None
  ]
  if missing:
    raise lookup.ConfigError(
      f"{place.found} in the environment: a run of several processes, but "
      f"{' and '.join(missing)} missing. Each process needs the address host:port "
      "of process 0, the number of processes, and its own number from 0. "
      f"{SWITCH}=0 runs a process alone."
    )
  n, i, address = place.num_processes, place.process_id, place.coordinator
  assert n is not None and i is not None and address is not None
  if not 0 <= i < n:
    raise lookup.ConfigError(
      f"{ID} = {i} with {NUM} = {n} ({place.found}): numbers run from 0 to {n - 1}."
    )
  if not re.fullmatch(r".+:\d+", address):
    raise lookup.ConfigError(
      f"{ADDRESS}={address!r}: write host:port of process 0."
    )
