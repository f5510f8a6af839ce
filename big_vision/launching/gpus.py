"""Finds the GPUs of this machine without jax."""

import shutil
import subprocess
from collections.abc import Mapping


def find(env: Mapping[str, str]) -> list[str]:
  """Lists the GPUs that a process would see.

  Args:
    env: its environment variables; JAX_PLATFORMS and CUDA_VISIBLE_DEVICES count.

  Returns:
    Their names as in CUDA_VISIBLE_DEVICES; none if JAX is to use something else,
    or without nvidia-smi.
  """
  platforms = env.get("JAX_PLATFORMS", "")
  if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
    return []
  if (visible := env.get("CUDA_VISIBLE_DEVICES")) is not None:
    # As CUDA does: what follows a number that does not exist is not seen.
    names = [name.strip() for name in visible.partition("-1")[0].split(",")]
    return [name for name in names if name]
  program = shutil.which("nvidia-smi", path=env.get("PATH"))
  if program is None:
    return []
  asked = subprocess.run(
    [program, "--query-gpu=index", "--format=csv,noheader"],
    capture_output=True,
    text=True,
  )
  return asked.stdout.split() if asked.returncode == 0 else []


def driver() -> str | None:
  """Returns the version of the NVIDIA driver; None without nvidia-smi."""
  program = shutil.which("nvidia-smi")
  if program is None:
    return None
  asked = subprocess.run(
    [program, "--query-gpu=driver_version", "--format=csv,noheader"],
    capture_output=True,
    text=True,
  )
  found = asked.stdout.split()
  return found[0] if asked.returncode == 0 and found else None
