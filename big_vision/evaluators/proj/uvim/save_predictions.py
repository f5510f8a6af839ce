"""Saves a dataset and what a predict function makes of it into an npz file."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from big_vision import fs
from big_vision.evaluators import save
from big_vision.evaluators.proj.uvim import common
from big_vision.types import Batch, Devices, PredictFn, TrainState

API = "jit"

data_sources, inputs = common.data_sources, common.inputs


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  fn = common.bind(predict_fn, cfg.get("predict_kwargs"))
  return save.trial(fn, train_state, batch, cfg)


class Evaluator(save.Evaluator):
  """Writes inputs and outputs; yields no metrics."""

  def __init__(
    self,
    predict_fn: PredictFn,
    pp_fn: str,
    dataset: str,
    split: str,
    batch_size: int,
    outfile: str,
    predict_kwargs: Mapping[str, Any] | None = None,
    dataset_dir: str | None = None,
    *,
    outputs: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    keep_on_cpu: Sequence[str] = (),
    devices: Devices,
    workdir: str | None = None,
    get_step: Callable[[], int | None] | None = None,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch, **predict_kwargs) -> tree of [B, ...]`.
      pp_fn: preprocessing string.
      dataset: name as in `data.name`.
      split: its split.
      batch_size: global batch size.
      outfile: path of the file in the workdir, or a whole path; may have {step}.
      predict_kwargs: keywords for the predict function.
      dataset_dir: folder of TFDS; None means the default.
      outputs: see `save.Evaluator`.
      inputs: see `save.Evaluator`.
      keep_on_cpu: see `save.Evaluator`.
      devices: flat array of devices in the order of the mesh.
      workdir: output folder of the run; None means the flag.
      get_step: returns the step of the run.
    """
    super().__init__(
      common.bind(predict_fn, predict_kwargs),
      common.data_of(dataset, split, dataset_dir, pp_fn),
      pp_fn,
      batch_size,
      # A path that is complete stays as it is.
      outfile if "{workdir}" in outfile else fs.join("{workdir}", outfile),
      outputs=outputs,
      inputs=inputs,
      keep_on_cpu=keep_on_cpu,
      devices=devices,
      workdir=workdir,
      get_step=get_step,
    )
