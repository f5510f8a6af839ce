"""Checks `config.evals` before data is opened or anything compiles."""

from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from big_vision import devices as bv_devices
from big_vision import extras, lookup, losses, schedules
from big_vision.evaluators import build
from big_vision.pipeline import evaluation
from big_vision.types import ConfigLike, Devices

# Arguments of evaluators that are preprocessing strings.
PP_KEYS = ("pp_fn", "pp_train", "pp_eval", "pp_img", "pp_txt")


def validate(
  config: ConfigLike, predict_names: Iterable[str] | None, devices: Devices
) -> None:
  """Checks `config.evals` without opening data or compiling anything.

  Args:
    config: ConfigDict of a run; its `pp_modules` are imported already.
    predict_names: names of the predict functions that evaluators may use; None
      leaves them unchecked, while they are not known.
    devices: sequence of devices that batches are split over.

  Raises:
    ValueError: starts with the key of what is wrong and names the remedy.
  """
  for name, cfg in build.entries(config).items():
    _validate(config, name, build.as_dict(cfg), predict_names, devices)


def _validate(
  config: ConfigLike,
  name: str,
  cfg: dict[str, Any],
  predict_names: Iterable[str] | None,
  devices: Devices,
) -> None:
  """Checks one entry of `config.evals`, given as a dict."""
  where, kind = f"config.evals.{name}", cfg.get("type", name)
  module = build.module_of(kind, name)
  build.check_api(module, name, devices)
  params = cfg.get("params")
  if params is not None and params not in build.PARAMS:
    raise lookup.unknown(
      "choice of parameters", params, build.PARAMS, f"evals.{name}.params"
    )
  pred = cfg.get("pred", "predict")
  names = [pred] if predict_names is None else predict_names
  # The functions themselves do not matter here.
  fns: dict[str, Any] = dict.fromkeys(names)
  build.predict_fn_of(fns, name, pred, cfg.get("pred_kw"))

  own = {k: v for k, v in cfg.items() if k not in build.GENERIC_KEYS}
  schedules.given("log", cfg, f"evals.{name}.")
  given_by_run = {"devices", "batch_size", *build.RUN_KEYS}
  accepted, required = build.arguments(module.Evaluator)
  for key in own:
    if accepted is not None and key not in accepted - {"devices"}:
      raise lookup.unknown(
        f"argument of evaluator {kind!r},",
        key,
        (accepted - given_by_run) | set(build.GENERIC_KEYS),
        f"evals.{name}.{key}",
      )
  missing = [k for k in required if k not in own and k not in given_by_run]
  if missing:
    raise ValueError(f"{where}: evaluator {kind!r} needs {', '.join(missing)}.")

  batch_size, source = build.batch_size_of(config, name, cfg)
  if batch_size is not None:
    bv_devices.check_batch_size(batch_size, devices, source)
  elif "batch_size" in required:
    raise ValueError(
      f"{source} is not set, nor is config.batch_size_eval, "
      "config.input.batch_size or config.batch_size."
    )

  if isinstance(cfg.get("loss_name"), str):
    losses.get(cfg["loss_name"], key=f"evals.{name}.loss_name")
  ahead = cfg.get("prefetch")
  if isinstance(ahead, int) and ahead < 0:
    raise lookup.ConfigError(
      f"{where}.prefetch = {ahead} must not be negative: how many batches to put "
      "on the devices ahead, 0 for none."
    )
  cache = cfg.get("cache")
  if isinstance(cache, str) and cache.lower() not in evaluation.CACHES:
    raise lookup.unknown(
      "cache", cache, evaluation.CACHES, f"evals.{name}.cache"
    )
  _validate_pp(where, cfg)
  _validate_data(where, module, cfg)


def _validate_pp(where: str, cfg: dict[str, Any]) -> None:
  """Raises ValueError if a preprocessing string cannot be built."""
  for key in PP_KEYS:
    if not isinstance(cfg.get(key), str):
      continue
    from big_vision.pp import builder as pp_builder  # The TensorFlow wing.

    try:
      pp_builder.get_preprocess_fn(cfg[key], log_data=False)
    except Exception as e:  # Whatever an op raises, the string is to blame.
      raise ValueError(f"{where}.{key}: {_text(e)}") from e


def _validate_data(where: str, module: ModuleType, cfg: dict[str, Any]) -> None:
  """Raises ValueError if a dataset or a split does not exist or is empty."""
  data_sources: Callable = getattr(module, "data_sources", _data_sources)
  try:
    sources = data_sources(cfg)
  except (TypeError, ValueError) as e:
    raise ValueError(f"{where}.{_text(e)}") from e
  for key, data in sources:
    if not isinstance(data, Mapping) or "name" not in data:
      raise ValueError(
        f"{where}.{key}={data!r} should be a dict with `name` and usually "
        "`split`, the arguments of datasets.core.get."
      )
    from big_vision.datasets import core as ds_core  # The TensorFlow wing.

    try:
      num_examples = ds_core.get(**data).total_examples
    except Exception as e:  # Sources raise what their libraries raise.
      text, usual = _text(e), "config.input.data"
      if text.startswith(usual + "."):  # They name the key of training.
        raise ValueError(f"{where}.{key}{text.removeprefix(usual)}") from e
      raise ValueError(f"{where}.{key}: {text}") from e
    if not num_examples:
      raise ValueError(f"{where}.{key}: {dict(data)} has no examples.")


def _data_sources(cfg: dict[str, Any]) -> list[tuple[str, Any]]:
  """Lists the datasets of an evaluator that does not do it itself."""
  return [("data", cfg["data"])] if "data" in cfg else []


def _text(e: Exception) -> str:
  """Returns the message of an exception, a KeyError's without quotes."""
  if advice := extras.advice(e):
    return advice
  text = str(e.args[0]) if isinstance(e, KeyError) and e.args else str(e)
  known = isinstance(e, ValueError)  # Written for users already.
  return text if known and text else f"{type(e).__name__}: {text}"
