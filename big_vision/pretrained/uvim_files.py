"""Finds and reads the checkpoints of UViM's two stages.

References: Kolesnikov et al. 2022, https://arxiv.org/abs/2205.10337.
"""

import os
from typing import NamedTuple

from ml_collections import ConfigDict

from big_vision import checkpoints, fs, lookup
from big_vision.models.proj.uvim import vit
from big_vision.pretrained import run_files
from big_vision.types import Params


class Oracle(NamedTuple):
  """A trained stage I.

  Attributes:
    config: ConfigDict of its run; None if only a checkpoint is known.
    params: nested dict of NumPy arrays.
    state: nested dict of NumPy arrays: `dictionary` and `counts`; empty if the
      quantizer has no codebook.
  """

  config: ConfigDict | None
  params: Params
  state: Params


def read_oracle(source: str | os.PathLike[str]) -> Oracle:
  """Reads stage I.

  Args:
    source: workdir of its run, a checkpoint of it (`<workdir>/checkpoint.bv`, a
      step's folder), or an .npz file of `params/...` and `state/...`.

  Returns:
    What there is.

  Raises:
    ConfigError: there is no such checkpoint, or it is not of stage I.
  """
  workdir, path = locate(source)
  config = run_files.read_config(workdir) if workdir else None
  try:
    params, state = vit.load(None, path)
  except (ValueError, FileNotFoundError) as e:
    if isinstance(e, lookup.ConfigError):
      raise
    raise lookup.ConfigError(f"{path} cannot be read: {e}") from e
  if "LogitsDense" in (params.get("decoder") or {}):
    raise lookup.ConfigError(
      f"{path} is of stage II, which predicts codes; the oracle is stage I: give "
      "the workdir of a run of trainers/proj/uvim/vqvae.py."
    )
  return Oracle(config, params, state)


def locate(source: str | os.PathLike[str]) -> tuple[str | None, str]:
  """Finds the run and the checkpoint that a user means.

  Args:
    source: workdir, checkpoint or .npz file.

  Returns:
    (workdir or None, path of the checkpoint).

  Raises:
    ConfigError: there is no such thing, or the run has no checkpoint yet.
  """
  path = os.fspath(source).rstrip("/")
  if ".npz" in path:
    if not fs.exists(path):
      raise lookup.ConfigError(f"{path}: there is no such file.")
    return run_files.workdir_of(path), path
  if fs.exists(fs.join(path, "config.json")):
    try:
      return path, run_files.checkpoint_of(path)
    except ValueError as e:
      raise lookup.ConfigError(str(e)) from e
  if checkpoints.latest(path) or fs.isdir(path):
    return run_files.workdir_of(path), path
  raise lookup.ConfigError(
    f"{path}: there is no such workdir or checkpoint. A run of UViM has "
    "config.json and checkpoint.bv-... in its --workdir."
  )
