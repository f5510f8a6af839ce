"""The one place that touches private or moving parts of JAX.

The rest of the package uses JAX's public functions. What JAX renames between
releases, such as the parameters of equations in a jaxpr, has one function here
and one test in `tests/test_compat.py`, which runs on the oldest, the usual and
the newest release (`tests/newest/run.sh`).
"""

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import logging
from jax._src import compilation_cache, distributed, lru_cache, xla_bridge
from jax._src import lib as jax_lib
from jax.extend import core
from jax.interpreters import partial_eval, pxla
from jax.sharding import AbstractMesh, AxisType, Mesh

Primitive = core.Primitive
Jaxpr = core.Jaxpr
ClosedJaxpr = core.ClosedJaxpr
Equation = core.JaxprEqn

# Calls of one function, whose arguments are those of the equation.
_CALLS = frozenset(
  "jit pjit closed_call core_call custom_jvp_call custom_vjp_call "
  "custom_vjp_call_jaxpr remat remat2 checkpoint".split()
)


# --- Meshes and devices.


def abstract_mesh(axes: Mapping[str, int]) -> AbstractMesh:
  """Makes a mesh without devices, over which the compiler splits arrays.

  JAX makes all axes of an `AbstractMesh` explicit by default, and a sharding
  constraint on an explicit axis adds nothing to the program that is traced.

  Args:
    axes: axis name -> size.

  Returns:
    AbstractMesh with automatic axes, as those of the meshes of a training.
  """
  kinds = (AxisType.Auto,) * len(axes)
  return AbstractMesh(tuple(axes.values()), tuple(axes), axis_types=kinds)


def active_mesh() -> Mesh | AbstractMesh | None:
  """Finds the mesh over which arrays are split where this is called.

  Returns:
    The mesh of `jax.set_mesh`, or that of the older `with mesh:`. None without
    a mesh, and within a `shard_map`, where arrays are those of one device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if not mesh.empty:
    return None if AxisType.Manual in mesh.axis_types else mesh
  # JAX deprecates `with mesh:` and this attribute together.
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    resources = getattr(pxla, "thread_resources", None)
  if resources is None or resources.env.physical_mesh.empty:
    return None
  return resources.env.physical_mesh


def backends_are_initialized() -> bool:
  """Tells whether JAX has started a backend in this process."""
  return xla_bridge.backends_are_initialized()


def cuda_versions() -> dict[str, str]:
  """Finds the versions of the CUDA libraries that JAX has loaded.

  Returns:
    Of "cuda" and "cudnn" those that are known, for example {"cudnn": "9.10.2"}; {}
    where JAX has no CUDA.
  """
  library: Any = getattr(jax_lib, "cuda_versions", None)
  if library is None:
    return {}
  found = {}
  # 12080 is 12.8 of CUDA; 91002 is 9.10.2 of cuDNN.
  for name, get, units in (
    ("cuda", "cuda_runtime_get_version", (1000, 10)),
    ("cudnn", "cudnn_get_version", (10000, 100, 1)),
  ):
    try:
      number = getattr(library, get)()
    except Exception as e:  # A library that is not there.
      logging.info("The version of %s is not known: %s", name, e)
      continue
    parts = []
    for unit in units:
      parts.append(str(number // unit))
      number %= unit
    found[name] = ".".join(parts)
  return found


# --- Several hosts.


def join_hosts(reach: Callable[[str, int], str], **kw: Any) -> None:
  """Calls `jax.distributed.initialize`, which finds out the coordinator's address.

  Args:
    reach: (address of the coordinator, index of this process) -> the address that
      its client connects to.
    **kw: arguments of `jax.distributed.initialize`.
  """
  library = getattr(distributed, "_jax")  # noqa: B009
  make = library.get_distributed_runtime_client

  def make_client(address: str, index: int, *args: Any, **kw: Any) -> Any:
    return make(reach(address, index), index, *args, **kw)

  library.get_distributed_runtime_client = make_client
  try:
    jax.distributed.initialize(**kw)
  finally:
    library.get_distributed_runtime_client = make


def coordination_client() -> Any:
  """Returns the client of the service that the processes of a run share.

  It carries texts between them without their devices: `key_value_set(key, text)`,
  `blocking_key_value_get(key, timeout_in_ms)`.

  Returns:
    The client of `jax.distributed`; None before `jax.distributed.initialize`.
  """
  return distributed.global_state.client


def wait_for_hosts(name: str, seconds: float) -> None:
  """Waits for all processes, without their devices.

  Args:
    name: of the barrier, used once.
    seconds: after which an error is raised.
  """
  coordination_client().wait_at_barrier(name, int(1000 * seconds))


# --- The compilation cache.


def use_compilation_cache(folder: str) -> None:
  """Makes JAX keep compiled programs on disk, and replace damaged ones.

  Args:
    folder: where, unless JAX has been told where already; `~` is the home.
  """
  # An attribute that JAX makes at run time.
  if not getattr(jax.config, "jax_compilation_cache_dir"):  # noqa: B009
    where = os.path.expanduser(folder)
    jax.config.update("jax_compilation_cache_dir", where)
  # Also what compiles in less than JAX's default of a second: evaluators do.
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  mend_compilation_cache()


def mend_compilation_cache() -> None:
  """Makes JAX replace damaged entries of its compilation cache.

  JAX compiles anew if it cannot read an entry, but never writes over one that is
  there: a program that a kill or a full disk has cut off there would be compiled at
  each start. Entries appear as a whole then, and have a checksum in any case.
  """
  keep = lru_cache.LRUCache.put
  if getattr(keep, "mends", False):
    return

  def put(self: Any, key: str, value: bytes) -> None:
    path = self.path / f"{key}-cache"
    if self.eviction_enabled or "://" in str(self.path):
      path.unlink(missing_ok=True)  # Only what could not be read is put again.
      keep(self, key, value)
      return
    new = self.path / f"{key}-{os.getpid()}.new"
    try:
      new.write_bytes(value)
      os.replace(new, path)
    finally:
      new.unlink(missing_ok=True)

  put.mends = True
  lru_cache.LRUCache.put = put
  zstandard = getattr(compilation_cache, "zstandard", None)
  if zstandard:  # Without it JAX takes zlib, which always has one.
    compilation_cache.compress_executable = lambda executable: (
      zstandard.ZstdCompressor(write_checksum=True).compress(executable)
    )


# --- Traced functions.


@dataclasses.dataclass(frozen=True)
class Scan:
  """Operands of a scan: constants, then carries, then what is sliced.

  Attributes:
    num_consts: operands that each iteration reads whole.
    num_carry: operands that one iteration hands to the next; as many results
      come first, before those that are stacked.
    length: number of iterations.
  """

  num_consts: int
  num_carry: int
  length: int


def jaxpr_of(closed: ClosedJaxpr) -> Jaxpr:
  """Returns a traced function without equations whose results nobody reads.

  Args:
    closed: result of `jax.make_jaxpr`.

  Returns:
    Jaxpr with the same inputs and outputs.
  """
  wanted = [True] * len(closed.jaxpr.outvars)
  return partial_eval.dce_jaxpr(closed.jaxpr, wanted, instantiate=True)[0]


def inner_jaxprs(equation: Equation) -> list[Jaxpr]:
  """Lists the functions in the parameters of an equation, in their order."""
  found = []
  for value in equation.params.values():
    for x in value if isinstance(value, tuple | list) else [value]:
      if isinstance(x, core.Jaxpr | core.ClosedJaxpr):
        found.append(getattr(x, "jaxpr", x))
  return found


def is_literal(variable: Any) -> bool:
  """Tells whether an operand of an equation is a constant in the text."""
  return isinstance(variable, core.Literal)


def called(equation: Equation) -> Jaxpr | None:
  """Returns the function that an equation calls with its own operands.

  Args:
    equation: of a jaxpr.

  Returns:
    The function of a `jit`, of a checkpoint or of a function with gradients of
    its own; None for other equations.
  """
  if equation.primitive.name not in _CALLS:
    return None
  return inner_jaxprs(equation)[0]


def computes_again(equation: Equation) -> bool:
  """Tells whether a call may not reuse what was computed before it."""
  return bool(equation.params.get("prevent_cse"))


def scan_layout(equation: Equation) -> Scan:
  """Reads how the operands of a `scan` equation are divided.

  Args:
    equation: whose primitive is `scan`.

  Returns:
    Scan.
  """
  params = equation.params
  if "ft_in" in params:  # Since JAX 0.11.
    consts, carry, _ = (len(list(g)) for g in params["ft_in"].unpack())
  else:
    consts, carry = params["num_consts"], params["num_carry"]
  return Scan(consts, carry, params["length"])


def while_body(equation: Equation) -> Jaxpr:
  """Returns the body of a `while` equation.

  Args:
    equation: whose primitive is `while`.

  Returns:
    Jaxpr whose inputs are the last operands of the equation.
  """
  body = equation.params["body_jaxpr"]
  return getattr(body, "jaxpr", body)


def oldest_stablehlo(program: bytes) -> bytes:
  """Writes a program in the oldest version of StableHLO that can express it.

  JAX writes that of four weeks before its release, but what runs the program may be
  older than that.

  Args:
    program: portable artifact of StableHLO.

  Returns:
    The same; as it is if it uses what is newer.
  """
  from jax.extend.mlir.dialects import stablehlo

  text = stablehlo.deserialize_portable_artifact_str(program)
  for age in ("MAX", "WEEK_12"):
    requirement = getattr(stablehlo.StablehloCompatibilityRequirement, age)
    version = stablehlo.get_version_from_compatibility_requirement(requirement)
    try:
      return stablehlo.serialize_portable_artifact_str(text, version)
    except (ValueError, RuntimeError) as e:  # It uses what is newer.
      logging.info("StableHLO %s cannot express the program: %s", version, e)
  return program
