"""Builds the evaluators of a config."""

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from big_vision import checkpoints, lookup, partial
from big_vision import devices as bv_devices
from big_vision import types as bv_types
from big_vision.types import (
  ConfigLike,
  Devices,
  PredictFn,
  PredictFns,
  TrainState,
)

LOG_KEYS = ("log_steps", "log_epochs", "log_examples", "log_percent")
# Keys that every entry of `config.evals` may have.
GENERIC_KEYS = (
  "type", "params", "pred", "pred_kw", "prefix", "skip_first", "batch_size", *LOG_KEYS
)  # fmt: skip
# Values of `params`: what is trained, or its average, see `training/ema.py`.
EMA = "ema"
PARAMS = ("params", EMA)
# Arguments that an evaluator gets from its run if it takes them.
RUN_KEYS = ("workdir", "get_step")


def from_config(
  config: ConfigLike,
  predict_fns: PredictFns,
  write_note: Callable[[str], Any] = lambda note: note,
  get_steps: Callable[[str, dict[str, Any]], Any] = (
    lambda key, cfg: cfg[f"{key}_steps"]
  ),
  devices: Devices | None = None,
  *,
  workdir: str | None = None,
  get_step: Callable[[], int | None] | None = None,
) -> list[tuple[str, bv_types.Evaluator, Any, str]]:
  """Builds all evaluators of `config.evals`.

  Args:
    config: ConfigDict of a run.
    predict_fns: name -> `(train_state, batch, **kw) -> anything`. Evaluators
      compile once per function, so the functions should keep their identity.
    write_note: called with the name of each evaluator before it is built.
    get_steps: `("log", cfg) -> steps` between two runs of an evaluator.
    devices: flat array of devices in the order of the mesh.
    workdir: output folder of the run, "" if it writes nothing; for evaluators
      that take it. None leaves them their default, the flag `workdir`.
    get_step: returns the current step of the run; for evaluators that take it.

  Returns:
    List of `(name, evaluator, log_steps, prefix)` in config order.

  Raises:
    ValueError: an entry asks for something that does not exist.
    RuntimeError: an evaluator of another generation than the caller.
  """
  run_kw = {"workdir": workdir, "get_step": get_step}
  run_kw = {k: v for k, v in run_kw.items() if v is not None}
  evaluators = []
  for name, cfg in entries(config).items():
    write_note(name)
    cfg = as_dict(cfg)
    kind = cfg.pop("type", name)
    pred = cfg.pop("pred", "predict")
    pred_kw = cfg.pop("pred_kw", None)
    params = cfg.pop("params", None)
    cfg.pop("prefix", None)
    cfg.pop("skip_first", None)
    log_steps = get_steps("log", cfg)
    for key in LOG_KEYS:
      cfg.pop(key, None)

    cfg["batch_size"], source = batch_size_of(config, name, cfg)
    module = module_of(kind, name)
    if devices is not None:
      cfg["devices"] = devices
    check_api(module, name, devices)
    if devices is not None and cfg["batch_size"]:
      bv_devices.check_batch_size(cfg["batch_size"], devices, source)
    predict_fn = predict_fn_of(predict_fns, name, pred, pred_kw)
    if run_kw:
      accepted, _ = arguments(module.Evaluator)
      for key in set(run_kw) & (accepted or set()):
        cfg.setdefault(key, run_kw[key])
    evaluator = module.Evaluator(predict_fn, **cfg)
    if params == EMA:
      evaluator = _OfAverage(name, evaluator)
    prefix = prefixes(config)[name]
    evaluators.append((name, evaluator, log_steps, prefix))
  return evaluators


def entries(config: ConfigLike) -> dict[str, ConfigLike]:
  """Lists the evaluators of a config.

  Args:
    config: ConfigDict of a run.

  Returns:
    Name -> its config, without those that are None: so a command line takes
    an evaluator out, `--config.evals.val=None`, or all, `--config.evals=None`.
  """
  evals = config.get("evals") or {}
  return {k: cfg for k, cfg in evals.items() if cfg is not None}


def prefixes(config: ConfigLike) -> dict[str, str]:
  """Lists what the names of metrics begin with.

  Args:
    config: ConfigDict of a run.

  Returns:
    Name of the evaluator -> prefix of its metrics.
  """
  every = entries(config).items()
  return {name: cfg.get("prefix", f"{name}/") for name, cfg in every}


def state_of(name: str, cfg: ConfigLike, train_state: TrainState) -> TrainState:
  """Chooses the parameters that an evaluator measures, by its key `params`.

  Args:
    name: name of the evaluator in `config.evals`.
    cfg: its entry.
    train_state: state of the run, or its shapes.

  Returns:
    The state; for `params="ema"` with the average in place of the parameters.

  Raises:
    lookup.ConfigError: there is no average.
  """
  if cfg.get("params") != EMA:
    return train_state
  if checkpoints.AVERAGE not in train_state:
    raise lookup.ConfigError(
      f"config.evals.{name}.params = 'ema' needs config.ema_decay, for example "
      "config.ema_decay = 0.9999."
    )
  return {**train_state, "params": train_state[checkpoints.AVERAGE]}


class _OfAverage:
  """Has an evaluator measure the average of the parameters."""

  def __init__(self, name: str, evaluator: bv_types.Evaluator):
    self._name, self._evaluator = name, evaluator

  def run(self, train_state: TrainState) -> Iterator[tuple[str, Any]]:
    state = state_of(self._name, {"params": EMA}, train_state)
    return self._evaluator.run(state)


def as_dict(cfg: ConfigLike) -> dict[str, Any]:
  """Copies an evaluator's config so that it can be taken apart.

  Args:
    cfg: ConfigDict or mapping.

  Returns:
    A new dict.
  """
  return cfg.to_dict() if hasattr(cfg, "to_dict") else dict(cfg)


def batch_size_of(
  config: ConfigLike, name: str, cfg: dict[str, Any]
) -> tuple[Any, str]:
  """Finds the global batch size of an evaluator.

  Args:
    config: ConfigDict of a run.
    name: name of the evaluator in `config.evals`.
    cfg: its entry.

  Returns:
    The batch size, None if there is none, and the config key that it is from.
  """
  own = f"config.evals.{name}.batch_size"
  if cfg.get("batch_size"):
    return cfg["batch_size"], own
  candidates = (
    (config.get("batch_size_eval"), "config.batch_size_eval"),
    ((config.get("input") or {}).get("batch_size"), "config.input.batch_size"),
    (config.get("batch_size"), "config.batch_size"),
  )
  for value, source in candidates:
    if value:  # Say both where it is from and where to change it.
      return value, f"{own} (from {source})"
  return None, own


def module_of(kind: str, name: str) -> ModuleType:
  """Imports the module of an evaluator.

  Args:
    kind: name of a module of `big_vision.evaluators`, or the dotted path of a
      user's module.
    name: name of the evaluator in `config.evals`.

  Returns:
    The module.

  Raises:
    ValueError: there is no such module, or it is not one of an evaluator.
  """
  return lookup.module(
    "evaluators",
    kind,
    kind="evaluator",
    key=f"evals.{name}.type",
    needs="Evaluator",
  )


def check_api(module: ModuleType, name: str, devices: Devices | None) -> None:
  """Checks that caller and evaluator are of one generation.

  Args:
    module: module of the evaluator.
    name: name of the evaluator in `config.evals`.
    devices: devices of the caller; None for callers of the past.

  Raises:
    RuntimeError: they are not.
  """
  api = getattr(module, "API", "pmap")
  if api == "pmap" and devices is not None:
    raise RuntimeError(
      f"config.evals.{name}: {module.__name__} does not declare API='jit'; it "
      "is of the pmap generation, which jit trainers cannot run. An evaluator of "
      'today has a line API = "jit".'
    )
  if api == "jit" and devices is None:
    raise RuntimeError(
      f"config.evals.{name}: {module.__name__} needs `devices`, pass "
      "mesh.devices.flatten() to from_config."
    )


def predict_fn_of(
  predict_fns: PredictFns,
  name: str,
  pred: str,
  pred_kw: dict[str, Any] | None,
) -> PredictFn:
  """Finds the predict function of an entry and binds its keywords.

  Args:
    predict_fns: the functions by name.
    name: name of the evaluator in `config.evals`.
    pred: name of the function.
    pred_kw: its keywords, with hashable values.

  Returns:
    The function; with keywords it is equal to others with the same ones.

  Raises:
    ValueError: there is no such function, or a value is not hashable.
  """
  if pred not in predict_fns:
    raise ValueError(
      f"config.evals.{name}.pred: unknown predict function {pred!r}. This "
      f"trainer offers {', '.join(sorted(predict_fns))}."
    )
  if pred_kw is None:
    return predict_fns[pred]
  try:
    return partial.partial(predict_fns[pred], **pred_kw)
  except TypeError as e:
    raise ValueError(
      f"config.evals.{name}.pred_kw={pred_kw}: {e}. Values have to be "
      "hashable, for example tuples in place of lists."
    ) from e


def arguments(
  evaluator: Callable[..., Any],
) -> tuple[set[str] | None, list[str]]:
  """Lists what an evaluator takes by keyword besides its predict function.

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

  forwards: Any = getattr(evaluator, "forwards", None)
  accepted: set[str] = set()
  required: list[str] = []
  for i, (attributes, init, skip) in enumerate(inits):
    names, without_default, more = _signature(init, skip)
    accepted |= names
    required += without_default if i == 0 else []
    if not more:  # What a base class takes cannot be reached from here.
      return accepted, required
    if "forwards" in attributes:
      names, without_default, more = _signature(forwards, 0)
      accepted |= names
      required += without_default if i == 0 else []
      return (None if more else accepted), required
  return (None if inits else accepted), required


def _signature(
  fn: Callable[..., Any], skip: int
) -> tuple[set[str], list[str], bool]:
  """Returns (names, names without default, takes **kw) after `skip` ones."""
  params = list(inspect.signature(fn).parameters.values())[skip:]
  more = any(p.kind == p.VAR_KEYWORD for p in params)
  named = [p for p in params if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
  required = [p.name for p in named if p.default is p.empty]
  return {p.name for p in named}, required, more
