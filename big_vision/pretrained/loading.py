"""From a name to a model, whatever it is of."""

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from big_vision import checkpoints, lookup
from big_vision.evaluators import build
from big_vision.models.weights.family import (
  GEMMA,
  PALIGEMMA,
  TEXT_MODEL,
  TWO_TOWERS,
)
from big_vision.pretrained import (
  embedder,
  embedder_sources,
  preprocessing,
  published,
  regressor,
  run_files,
  uvim,
  uvim_files,
  uvim_loading,
  vision_language,
)
from big_vision.pretrained.backbone import Backbone, model_key
from big_vision.pretrained.captions import Captions
from big_vision.pretrained.classifier import Classifier
from big_vision.pretrained.image_text import ImageText
from big_vision.pretrained.pixels import Preprocess
from big_vision.pretrained.text_encoder import TextEncoder

_PARTS = {TWO_TOWERS: ("image", "text"), PALIGEMMA: ("img", "llm")}


def load(
  path: str | os.PathLike[str],
  *,
  init: str | None = None,
  params: str = "params",
  pp: str | None = None,
  pp_txt: str | None = None,
  pp_modules: Iterable[str] = (),
  num_classes: int | None = None,
  image_size: int | Sequence[int] | None = None,
  dtype_mm: str | None = None,
  scan: bool | None = None,
  config: ConfigDict | None = None,
  oracle: str | os.PathLike[str] | None = None,
) -> (
  Backbone
  | Classifier
  | ImageText
  | regressor.Regressor
  | TextEncoder
  | uvim.UViM
  | uvim.UViMOracle
  | vision_language.VisionLanguage
):
  """Loads a model, with its preprocessing and classes.

  Of the modules that the config of a run names only those of big_vision are
  imported, and those that you name.

  Args:
    path: a published checkpoint, such as `hf://facebook/dinov2-base`, see
      `models/weights/sources.py`; a checkpoint of this package, such as an `.npz`
      file or a name of `pretrained.list`; or the workdir of a run.
    init: another checkpoint than the last one of the workdir.
    params: "ema" for the average of the parameters, of runs with
      `config.ema_decay`.
    pp: preprocessing of pictures; None is that of the model's processor, or of
      the run's first evaluator of classification or retrieval, see `data.json`.
    pp_txt: preprocessing of texts, see `Embedder`.
    pp_modules: modules of your own, of models or preprocessing ops; they are
      imported, and the config may name them.
    num_classes: outputs of a new head, with random weights, unless the model has
      as many; 0 leaves out the head.
    image_size: side of the pictures in pixels, or (height, width): positions are
      resampled, and `pp` makes pictures of this size.
    dtype_mm: dtype of the computation, such as "bfloat16".
    scan: whether to compile one block instead of all.
    config: of a run of UViM, whose checkpoint `path` is, without its workdir.
    oracle: of a run of UViM's stage II, where stage I is: its workdir, a
      checkpoint of it, or an .npz file; None is `config.oracle.model_init`.

  Returns:
    A `Classifier`, a `Backbone` if the model has no head, a `Regressor`, an
    `ImageText`, or a `TextEncoder` for a text tower alone; a `UViM`, or a
    `UViMOracle` of its stage I; a `VisionLanguage`.

  Raises:
    ValueError: there is no such model or no checkpoint, or it does not fit.
    ConfigError: the config names another module; a file is damaged or unsafe.
  """
  pp_modules = tuple(pp_modules)
  workdir = os.fspath(path)
  if params not in build.PARAMS:
    raise lookup.ConfigError(
      f"params={params!r} is unknown{lookup.did_you_mean(params, build.PARAMS)}"
    )
  changes = _Changes(num_classes, image_size, dtype_mm, scan)
  of_uvim: dict[str, Any] = dict(params=params, pp=pp, pp_modules=pp_modules)
  of_uvim["oracle"] = oracle and os.fspath(oracle)
  if config is not None:
    changes.refuse("a config of UViM")
    if not uvim_loading.is_uvim(config):
      raise lookup.ConfigError(
        "config=...: only configs of UViM are taken here, with `task`, or "
        "`oracle.task`: others are in the workdir of a run."
      )
    init = uvim_files.locate(init or workdir)[1]
    return uvim_loading.load(config, init, **of_uvim)
  if run := published.run_of(workdir):
    workdir, init = run, init or workdir
  elif published.is_checkpoint(workdir):
    if init or oracle or params == build.EMA:
      given = f"init={init!r}" if init else f"params={params!r}"
      given = f"oracle={of_uvim['oracle']!r}" if oracle else given
      raise lookup.ConfigError(
        f"{given} is for workdirs of runs; {path} is a checkpoint itself."
      )
    found = published.describe(workdir, pp)
    return _published(found, pp, pp_txt, changes)
  config = run_files.read_config(workdir)
  init = init or run_files.checkpoint_of(workdir)
  if uvim_loading.is_uvim(config):
    changes.refuse("a run of UViM")
    return uvim_loading.load(config, init, **of_uvim)
  if oracle:
    raise lookup.ConfigError(
      f"oracle={of_uvim['oracle']!r} is for stage II of UViM; {workdir} is another "
      "model."
    )
  if params == build.EMA:
    init = checkpoints.averaged(init)
  if config.get("model_name") in embedder.MODELS:
    changes.apply(config)
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
  if vision_language.is_vision_language(config):
    changes.apply(config)
    with lookup.stored_config(pp_modules):
      lookup.preprocessing({"pp_modules": pp_modules or config.pp_modules})
      pp = pp or vision_language.image_pp(config)
      decode = preprocessing.decoding_of(config, pp, channels=True)[0]
      pixels = Preprocess(changes.sized(pp), decode, config)
      return vision_language.VisionLanguage(
        config, init, pp=pixels, name=workdir
      )
  with lookup.stored_config(pp_modules):
    if pp_modules:
      lookup.preprocessing({"pp_modules": pp_modules})
    stored: str | None = data.get("pp")
    pp = pp or stored or preprocessing.evaluation_pp(config)
    decode = preprocessing.decoding_of(config, pp, channels=True)[0]
    targets = data.get("targets") or regressor.describe(config)
    network = _network(
      config, init, pp, decode, data.get("class_names"), workdir, changes
    )
    if targets and isinstance(network, Classifier):
      return regressor.Regressor(network, targets)
    return network


@dataclasses.dataclass(frozen=True)
class _Changes:
  """Holds what is to be other than in the checkpoint; None leaves it."""

  num_classes: int | None = None
  image_size: int | Sequence[int] | None = None
  dtype_mm: str | None = None
  scan: bool | None = None

  def refuse(self, what: str) -> None:
    """Raises ConfigError if anything is to be changed."""
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value is not None:
        raise lookup.ConfigError(
          f"{field.name}={value!r} does not change {what}: leave it out."
        )

  def apply(self, config: ConfigDict) -> None:
    """Changes the arguments of the model in a config, in place."""
    new = dict(dtype_mm=self.dtype_mm, scan=self.scan)
    new = {k: v for k, v in new.items() if v is not None}
    if not new:
      return
    key = model_key(config)
    given: Any = config.get(key) or {}
    model: dict[str, Any] = {**given}
    parts = _PARTS.get(str(config[f"{key}_name"]))
    if not parts:
      model |= new
    for part in parts or ():
      model[part] = {**(model.get(part) or {}), **new}
    with config.unlocked():
      config[key] = model

  def sized(self, pp: str) -> str:
    """Changes the size of pictures in a preprocessing."""
    return published.with_size(pp, self.image_size) if self.image_size else pp


def _network(config, init, pp, decode, class_names, name, changes, about=None):
  """Loads a model of pictures alone."""
  changes.apply(config)
  old, new = config.get("num_classes"), changes.num_classes
  dont_load: list[str] = []
  if new is not None and (new or None) != (old or None):
    config.num_classes, class_names = new, None
    # What the model does not have need not be named, and is not loaded.
    dont_load = [published.HEAD]
    if new and about is not None:
      config.model, dont_load = about.with_head()
      changes.apply(config)
  kw: dict[str, Any] = dict(
    pp=Preprocess(changes.sized(pp), decode, config),
    name=name,
    dont_load=dont_load,
  )
  classes = changes.num_classes or about is None or about.classifies
  if not config.get("num_classes") or not classes:
    return Backbone(config, init, **kw)
  return Classifier(config, init, class_names=class_names, **kw)


def _published(found, pp, pp_txt, changes):
  """Loads a published checkpoint."""
  config, init = (
    found.config.copy_and_resolve_references(),
    found.config.model_init,
  )
  pp = pp or found.pp
  if config.model_name == TEXT_MODEL:
    changes.apply(config)
    return TextEncoder(
      config,
      init,
      pp_txt=pp_txt or found.pp_txt,
      text_length=found.text_length,
    )
  if config.model_name == TWO_TOWERS:
    if changes.num_classes is not None:
      raise ValueError(
        f"num_classes={changes.num_classes}: {init} has two towers; "
        f"{init + ':img'!r} is that of pictures."
      )
    changes.apply(config)
    found = dataclasses.replace(found, config=config)
    towers = embedder_sources.from_published(
      found, pp_img=changes.sized(pp), pp_txt=pp_txt
    )
    return ImageText(towers)
  if vision_language.is_vision_language(config):
    if changes.num_classes is not None:
      raise ValueError(
        f"num_classes={changes.num_classes}: {init} answers prompts; "
        f"{init + ':img'!r} is its model of pictures."
      )
    changes.apply(config)
    lookup.preprocessing({"pp_modules": published.PROMPT_MODULES})
    pixels = Preprocess(changes.sized(pp), {}, config)
    return vision_language.VisionLanguage(
      config, init, pp=pixels, pp_txt=pp_txt or found.pp_txt
    )
  if config.model_name == GEMMA:
    raise ValueError(
      f"{init} is a model of texts alone, which pretrained.load does not run: "
      f"config.model_name={GEMMA!r} with config.model_init={init!r} does."
    )
  return _network(config, init, pp, {}, found.class_names, init, changes, found)
