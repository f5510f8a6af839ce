"""What can be said about `config.evals` before data is opened or compiled."""

import inspect
from collections.abc import Mapping

from big_vision import lookup, losses
from big_vision.evaluators import common


def validate(config, predict_names, devices):
  """Checks `config.evals` without opening data or compiling anything.

  Args:
    config: ConfigDict of a run; its `pp_modules` are imported already.
    predict_names: names of the predict functions that evaluators may use; None
      leaves them unchecked, while they are not known.
    devices: sequence of devices that batches are split over.

  Raises:
    ValueError: starts with the key of what is wrong and names the remedy.
  """
  for name, cfg in config.get("evals", {}).items():
    _validate(config, name, common.as_dict(cfg), predict_names, devices)


def _validate(config, name, cfg, predict_names, devices):
  """Checks one entry of `config.evals`, given as a dict."""
  where, kind = f"config.evals.{name}", cfg.get("type", name)
  module = common.module_of(kind, name)
  common.check_api(module, name, devices)
  pred = cfg.get("pred", "predict")
  fns = dict.fromkeys([pred] if predict_names is None else predict_names)
  common.predict_fn_of(fns, name, pred, cfg.get("pred_kw"))

  accepted, required = _arguments(module.Evaluator)
  own = {k: v for k, v in cfg.items() if k not in common.GENERIC_KEYS}
  for key in own if accepted is not None else ():
    if key not in accepted - {"devices"}:
      raise lookup.unknown(
        f"argument of evaluator {kind!r},",
        key,
        (accepted - {"devices"}) | set(common.GENERIC_KEYS),
        f"evals.{name}.{key}",
      )
  missing = [k for k in required if k not in (*own, "devices", "batch_size")]
  if missing:
    raise ValueError(f"{where}: evaluator {kind!r} needs {', '.join(missing)}.")

  batch_size, source = common.batch_size_of(config, name, cfg)
  if batch_size is not None:
    common.check_batch_size(batch_size, devices, source)
  elif "batch_size" in required:
    raise ValueError(
      f"{source} is not set, nor is config.batch_size_eval, "
      "config.input.batch_size or config.batch_size."
    )

  if isinstance(cfg.get("loss_name"), str):
    losses.get(cfg["loss_name"], key=f"evals.{name}.loss_name")
  cache = cfg.get("cache")
  if isinstance(cache, str) and cache.lower() not in common.CACHES:
    raise lookup.unknown("cache", cache, common.CACHES, f"evals.{name}.cache")
  _validate_pp(where, cfg)
  _validate_data(where, module, cfg)


def _validate_pp(where, cfg):
  """Raises ValueError if a preprocessing string can not be built."""
  for key in common.PP_KEYS:
    if not isinstance(cfg.get(key), str):
      continue
    from big_vision.pp import builder as pp_builder  # The TensorFlow wing.

    try:
      pp_builder.get_preprocess_fn(cfg[key], log_data=False)
    except Exception as e:  # Whatever an op raises, the string is to blame.
      raise ValueError(f"{where}.{key}: {_text(e)}") from e


def _validate_data(where, module, cfg):
  """Raises ValueError if a dataset or a split does not exist or is empty."""
  sources = getattr(module, "data_sources", _data_sources)
  try:
    sources = sources(cfg)
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


def _data_sources(cfg):
  """The datasets of an evaluator that does not say which it opens."""
  return [("data", cfg["data"])] if "data" in cfg else []


def _arguments(evaluator):
  """Names that an evaluator takes by keyword besides its predict function.

  Args:
    evaluator: class, or function that returns an evaluator.

  Returns:
    `(accepted, required)`: set of names, or None if it takes anything; list of
    those without default, as far as the class itself tells.
  """
  classes = inspect.getmro(evaluator) if inspect.isclass(evaluator) else ()
  inits = [(vars(c), vars(c)["__init__"], 2) for c in classes
           if "__init__" in vars(c) and c is not object]  # fmt: skip
  if not classes:
    inits = [(vars(evaluator), evaluator, 1)]

  accepted, required = set(), []
  for i, (attributes, init, skip) in enumerate(inits):
    names, without_default, more = _signature(init, skip)
    accepted |= names
    required += without_default if i == 0 else []
    if not more:  # What a base class takes can not be reached from here.
      return accepted, required
    if "forwards" in attributes:
      names, without_default, more = _signature(evaluator.forwards, 0)
      accepted |= names
      required += without_default if i == 0 else []
      return (None if more else accepted), required
  return (None if inits else accepted), required


def _signature(fn, skip):
  """(set of names, names without default, takes **kw) after `skip` ones."""
  params = list(inspect.signature(fn).parameters.values())[skip:]
  more = any(p.kind == p.VAR_KEYWORD for p in params)
  named = [p for p in params if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
  required = [p.name for p in named if p.default is p.empty]
  return {p.name for p in named}, required, more


def _text(e):
  """The message of an exception; `str` puts quotes around a KeyError's."""
  text = str(e.args[0]) if isinstance(e, KeyError) and e.args else str(e)
  known = isinstance(e, ValueError)  # Written for users already.
  return text if known and text else f"{type(e).__name__}: {text}"
