"""From the workdir of a run to its model, whatever it is of."""

import contextlib
import os
from collections.abc import Iterable

from big_vision import checkpoints, lookup
from big_vision.evaluators import build
from big_vision.models.proj.image_text import huggingface_files
from big_vision.pretrained import (
  embedder,
  embedder_sources,
  preprocessing,
  regressor,
  run_files,
)
from big_vision.pretrained.captions import Captions
from big_vision.pretrained.classifier import Classifier
from big_vision.pretrained.image_text import ImageText
from big_vision.pretrained.pixels import Preprocess


def load(
  path: str | os.PathLike[str],
  *,
  init: str | None = None,
  params: str = "params",
  pp: str | None = None,
  pp_txt: str | None = None,
  pp_modules: Iterable[str] = (),
) -> Classifier | ImageText | regressor.Regressor:
  """Loads the model that a run trained, with its preprocessing and classes.

  Of the modules that the config of the run names only those of big_vision are
  imported, and those that you name.

  Args:
    path: workdir of a run; or a SigLIP of Hugging Face, `hf://org/repo` or a
      folder.
    init: another checkpoint than the last one of the workdir.
    params: "ema" for the average of the parameters, of runs with
      `config.ema_decay`.
    pp: preprocessing of pictures; None is that of the run's first evaluator of
      classification or retrieval, see `data.json`.
    pp_txt: preprocessing of texts, see `Embedder`.
    pp_modules: modules of your own, of models or preprocessing ops; they are
      imported, and the config may name them.

  Returns:
    A `Classifier`, a `Regressor`, or an `ImageText`.

  Raises:
    ValueError: there is no such run or no checkpoint, or it does not fit.
    ConfigError: the config names another module.
  """
  pp_modules = tuple(pp_modules)
  workdir = os.fspath(path)
  if params not in build.PARAMS:
    raise lookup.ConfigError(
      f"params={params!r} is unknown{lookup.did_you_mean(params, build.PARAMS)}"
    )
  if huggingface_files.is_checkpoint(workdir):
    if params == build.EMA:
      raise lookup.ConfigError(
        f"params={params!r} is for workdirs of runs with config.ema_decay; "
        f"{workdir} is a checkpoint of Hugging Face."
      )
    return ImageText(
      embedder_sources.load(workdir, init=init, pp_img=pp, pp_txt=pp_txt)
    )
  config = run_files.read_config(workdir)
  init = init or run_files.checkpoint_of(workdir)
  if params == build.EMA:
    init = checkpoints.averaged(init)
  if config.get("model_name") in embedder.MODELS:
    towers = embedder_sources.from_workdir(
      workdir, init=init, pp_modules=pp_modules, pp_img=pp, pp_txt=pp_txt
    )
    captioner = None
    if config.get("captioning"):
      # A checkpoint that the caller names may have the towers only.
      with contextlib.suppress(KeyError), lookup.stored_config(pp_modules):
        captioner = Captions(towers, init)
    return ImageText(towers, captioner)
  data = run_files.read_data(workdir)
  with lookup.stored_config(pp_modules):
    if pp_modules:
      lookup.preprocessing({"pp_modules": pp_modules})
    stored: str | None = data.get("pp")
    pp = pp or stored or preprocessing.evaluation_pp(config)
    decode = preprocessing.decoding_of(config, pp, channels=True)[0]
    network = Classifier(
      config,
      init,
      pp=Preprocess(pp, decode, config),
      class_names=data.get("class_names"),
      name=workdir,
    )
    targets = data.get("targets") or regressor.describe(config)
    return regressor.Regressor(network, targets) if targets else network
