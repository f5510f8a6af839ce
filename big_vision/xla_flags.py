"""Options of XLA for GPUs, each with its reason. No other file sets any.

They are compiler options of the train step, not the variable XLA_FLAGS: an
unknown name there ends the process, here it is left out and logged. What the user
has in XLA_FLAGS wins. TPUs and CPUs get none.

`TRIALS` are on nowhere: `tools.benchmark_gpu --parts flags` measures them.
"""

import dataclasses
import functools
import os
from typing import Any

import jax
from absl import logging

from big_vision.types import ConfigLike


@dataclasses.dataclass(frozen=True)
class Option:
  """An option and when it is set.

  Attributes:
    name: as in XLA_FLAGS, without dashes.
    value: what it is set to.
    where: "several": on more than one GPU; "deterministic": with
      `config.deterministic_reductions`.
    reason: why.
  """

  name: str
  value: Any
  where: str
  reason: str


OPTIONS = (
  Option(
    "xla_gpu_enable_latency_hiding_scheduler",
    True,
    "several",
    "Orders operations so that all-reduces and all-gathers run while layers "
    "compute. JAX's notes on the speed of GPUs name it first.",
  ),
  Option(
    "xla_gpu_deterministic_ops",
    True,
    "deterministic",
    "Sums without atomics, and kernels that are not chosen by timing them: two "
    "starts of a run compute the same bits. It costs speed.",
  ),
)
# Name -> options to be measured; what helps may become one of `OPTIONS`.
TRIALS: dict[str, dict[str, Any]] = {
  "no triton gemm": {"xla_gpu_enable_triton_gemm": False},
  "triton gemm for all": {"xla_gpu_triton_gemm_any": True},
  "more tilings": {"xla_gpu_exhaustive_tiling_search": True},
  "no command buffers": {"xla_gpu_enable_command_buffer": ""},
  "cublaslt": {"xla_gpu_enable_cublaslt": True},
  "cudnn layer norm": {"xla_gpu_enable_cudnn_layer_norm": True},
  "latency hiding": {"xla_gpu_enable_latency_hiding_scheduler": True},
  "deterministic": {"xla_gpu_deterministic_ops": True},
}


def options(
  config: ConfigLike, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh
) -> dict[str, Any] | None:
  """Chooses the compiler options of a run's train step.

  Args:
    config: mapping; reads `deterministic_reductions`.
    mesh: of the devices that it runs on.

  Returns:
    Options for `jax.jit(compiler_options=...)`; None without any.
  """
  if isinstance(mesh, jax.sharding.AbstractMesh):
    return None
  devices = mesh.devices.flatten()
  if devices[0].platform not in ("gpu", "cuda"):
    return None
  true = {
    "several": devices.size > 1,
    "deterministic": bool(config.get("deterministic_reductions")),
  }
  chosen = {o.name: o.value for o in OPTIONS if true[o.where]}
  return supported(chosen) or None


def supported(
  chosen: dict[str, Any], flags: str | None = None
) -> dict[str, Any]:
  """Leaves out what the installed compiler lacks and what the user has set.

  Args:
    chosen: name -> value.
    flags: the user's; None reads the variable XLA_FLAGS.

  Returns:
    The others.
  """
  if flags is None:
    flags = os.environ.get("XLA_FLAGS", "")
  given = {flag.lstrip("-").partition("=")[0] for flag in flags.split()}
  return {
    name: value
    for name, value in chosen.items()
    if name not in given and _is_known(name, value)
  }


@functools.cache
def _is_known(name: str, value: Any) -> bool:
  """Asks the compiler whether it has an option."""
  try:
    jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
  except jax.errors.JaxRuntimeError as e:
    if "No such compile option" not in str(e):
      raise
    logging.warning("This jaxlib does not know %s: it is left out.", name)
    return False
  return True
