"""From the run of a stage of UViM, or a checkpoint and a config, to its model."""

import re
from collections.abc import Iterable
from typing import Any

from big_vision import checkpoints, fs, lookup
from big_vision.datasets import panoptic_categories
from big_vision.evaluators import build
from big_vision.pretrained import preprocessing, uvim, uvim_files
from big_vision.pretrained.pixels import Preprocess
from big_vision.types import ConfigLike


def is_uvim(config: ConfigLike) -> bool:
  """Tells whether a config is one of UViM.

  Args:
    config: ConfigDict of a run.

  Returns:
    Whether `load` loads its model.
  """
  return _is_stage_two(config) or bool(
    config.get("task") and (config.get("model") or {}).get("inputs")
  )


def _is_stage_two(config):
  return bool((config.get("oracle") or {}).get("task"))


def load(
  config: ConfigLike,
  init: str,
  *,
  params: str = "params",
  pp: str | None = None,
  pp_modules: Iterable[str] = (),
  oracle: str | None = None,
) -> uvim.UViM | uvim.UViMOracle:
  """Loads stage I or II.

  Args:
    config: ConfigDict of the run.
    init: its checkpoint, or an .npz file.
    params: "ema" for the average of the parameters.
    pp: preprocessing of pictures; None is that of the run's evaluators.
    pp_modules: modules of your own that the config may name.
    oracle: of stage II, where stage I is, see `uvim_files.read_oracle`; None is
      `config.oracle.model_init`.

  Returns:
    A `UViM` of stage II, a `UViMOracle` of stage I.

  Raises:
    ConfigError: there is no such checkpoint, or it does not fit the config.
  """
  with lookup.stored_config(pp_modules):
    if pp_modules:
      lookup.preprocessing({"pp_modules": pp_modules})
    pp = pp or evaluation_pp(config)
    decode = preprocessing.decoding_of(config, pp, channels=True)[0]
    preprocess = Preprocess(pp, decode, config)
    if not _is_stage_two(config):
      if oracle:
        raise lookup.ConfigError(
          f"oracle={oracle!r} is for stage II; {init} is stage I itself."
        )
      found = uvim_files.read_oracle(init)
      kw: dict[str, Any] = dict(preprocess=preprocess, name=init)
      own = found.params if params != build.EMA else _params(init, params)
      return uvim.UViMOracle(config, own, found.state, **kw)
    stage_one = _oracle(config, oracle, preprocess)
    stored = _params(init, params)
  return uvim.UViM(
    config,
    stored,
    stage_one,
    preprocess=preprocess,
    name=init,
    class_names=class_names(config),
  )


def _params(init, params):
  """Reads parameters, or their average."""
  path = init if fs.dirname(init) else f"./{init}"
  try:
    return checkpoints.load_params(
      checkpoints.averaged(path) if params == build.EMA else path
    )
  except KeyError as e:
    raise lookup.ConfigError(f"{init}: {e.args[0]}") from e


def _oracle(config, source, preprocess):
  """Loads stage I for stage II."""
  stored = config.oracle.get("model_init")
  try:
    if not (source or stored):
      raise lookup.ConfigError("there is none.")
    found = uvim_files.read_oracle(source or stored)
  except lookup.ConfigError as e:
    if source:
      raise lookup.ConfigError(f"oracle={source!r}: {e}") from e
    raise lookup.ConfigError(
      f"config.oracle.model_init={stored!r} of this run of stage II: {e} If stage "
      "I is elsewhere now, give oracle='<its workdir>', or --oracle to "
      "tools.predict."
    ) from e
  return uvim.UViMOracle(
    config.oracle,
    found.params,
    found.state,
    preprocess=preprocess,
    name=source or stored,
  )


def class_names(config: ConfigLike) -> dict[int, str]:
  """Finds the names of the classes of label maps.

  Args:
    config: ConfigDict of a run, reads `input.data.name`.

  Returns:
    Class, from 1, -> name; empty if they are not known.
  """
  data = (config.get("input") or {}).get("data") or {}
  name = data.get("name")
  known = panoptic_categories.of_known(name) if isinstance(name, str) else ()
  return {i: c.name for i, c in enumerate(known, 1)}


def evaluation_pp(config: ConfigLike) -> str:
  """Finds how a run preprocesses the pictures that it predicts labels of.

  Args:
    config: ConfigDict of a run.

  Returns:
    That of the first evaluator of predictions, else of any, else of training
    without what is random.

  Raises:
    ValueError: there is none.
  """
  for cfg in (config.get("evals") or {}).values():
    if cfg and cfg.get("pp_fn") and cfg.get("pred", "predict") == "predict":
      return cfg["pp_fn"]
  # Labels are as large as the picture: nothing of it may be cut off.
  crop = r"resize_small\(\d+\)\|central_crop\((.*?)\)(?=$|\|)"
  return re.sub(crop, r"resize(\1)", preprocessing.evaluation_pp(config))
