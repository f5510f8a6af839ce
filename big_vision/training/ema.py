"""`config.ema_decay`: an exponential moving average of the parameters.

The state gets the entry `params_ema`, float32 and sharded like the parameters. It
starts as a copy of the initial parameters, and moves after each step:

  average = d * average + (1 - d) * params

where d is `config.ema_decay`. With `config.ema_warmup = True` it is smaller at
first, so that the initial parameters are forgotten:

  d_t = min(d, 1 - (1 + t / gamma) ** -power)

in step t (from 0), with a power of 2/3 and a gamma of 1; for others,
`config.ema_warmup = dict(power=0.75)`. d_0 is 0. Evaluators with `params="ema"`
measure the average, `checkpoint.bv:params_ema` names it where a checkpoint is read.

References:
  Polyak and Juditsky 1992, https://doi.org/10.1137/0330046
  Wightman, timm, `ModelEmaV3` (the warm-up),
    https://github.com/huggingface/pytorch-image-models
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from big_vision import checkpoints, lookup
from big_vision import optax as bv_optax
from big_vision.evaluators import build as eval_build
from big_vision.models import load_errors
from big_vision.types import Array, ConfigLike, Params, PyTree, TrainState

_WARMUP = {"power": 2 / 3, "gamma": 1.0}


@dataclasses.dataclass(frozen=True)
class Average:
  """Holds the rule of an average.

  Attributes:
    decay: weight of the old average, in (0, 1).
    power: exponent of the warm-up; None: there is no warm-up.
    gamma: steps that stretch the warm-up.
  """

  decay: float
  power: float | None = None
  gamma: float = 1.0

  def update(self, average: Params, params: Params, step: Array) -> Params:
    """Moves an average towards the parameters.

    Args:
      average: the average before the step, float32.
      params: the parameters after the step.
      step: number of steps before this one, [].

    Returns:
      The average after the step, float32.
    """
    weight: Any = 1 - self.decay  # In the 64 bits of Python.
    if self.power is not None:
      warmup = (1 + step / self.gamma) ** -self.power
      weight = jnp.maximum(weight, warmup)

    def move(old, new):
      # Unlike the sum of the two products, it leaves what is equal as it is:
      # rounded to 32 bits, weights such as 0.9999 and 0.0001 do not add up to 1.
      return old + weight * (_as_stored(new) - old)

    return jax.tree.map(move, average, params)

  def of_step(self, state: TrainState, params: Params) -> dict[str, Params]:
    """Moves the average of a state, in a step of training.

    Args:
      state: before the step.
      params: after it.

    Returns:
      Part of the state after it.
    """
    count = bv_optax.get_count(state["opt"], jittable=True)
    average = state[checkpoints.AVERAGE]
    return {checkpoints.AVERAGE: self.update(average, params, count)}


def _as_stored(x: Array) -> Array:
  """Converts to float32; of 16 bits the value that the state has.

  XLA may leave out rounding to 16 bits if 32 bits follow, depending on what it
  fuses. https://openxla.org/xla/operation_semantics#reduceprecision
  """
  wide = x.astype(jnp.float32)
  if x.dtype.itemsize >= wide.dtype.itemsize:
    return wide
  info = jnp.finfo(x.dtype)
  return jax.lax.reduce_precision(wide, info.nexp, info.nmant)


def copy(params: Params) -> Params:
  """Copies parameters, also those that are float32 already.

  Args:
    params: tree of arrays.

  Returns:
    The tree in float32.
  """
  # Both are donated to the step: under jit, too, they must not share memory.
  return jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), params)


def plan(
  config: ConfigLike, shapes: dict[str, PyTree], shardings: dict[str, PyTree]
) -> None:
  """Adds the average to the plan of a state, in place.

  Args:
    config: ConfigDict of the run.
    shapes: tree of shapes of the state.
    shardings: tree of NamedSharding of the state.
  """
  if settings(config):
    shapes[checkpoints.AVERAGE] = jax.eval_shape(copy, shapes["params"])
    # Not by rules, which depend on names and on sizes in bytes.
    shardings[checkpoints.AVERAGE] = shardings["params"]


def start(params: Params, shardings: dict[str, PyTree]) -> dict[str, Params]:
  """Starts the average of a new run.

  Args:
    params: tree of global arrays.
    shardings: tree of NamedSharding of the state, see `plan`.

  Returns:
    Part of the state, empty without an average.
  """
  where = shardings.get(checkpoints.AVERAGE)
  return {} if where is None else {checkpoints.AVERAGE: begin(params, where)}


def begin(params: Params, shardings: PyTree) -> Params:
  """Begins an average with parameters that are on the mesh.

  Args:
    params: tree of global arrays.
    shardings: tree of their NamedSharding.

  Returns:
    The average, float32, in the same shardings.
  """
  return jax.jit(copy, out_shardings=shardings)(params)


def settings(config: ConfigLike) -> Average | None:
  """Reads `config.ema_decay` and `config.ema_warmup`.

  Args:
    config: ConfigDict of the run.

  Returns:
    The Average; None if the run has none.

  Raises:
    lookup.ConfigError: a value is not what it should be.
  """
  decay, warmup = config.get("ema_decay"), config.get("ema_warmup")
  if decay is not None and not (_is_number(decay) and 0 <= decay < 1):
    raise lookup.ConfigError(
      f"config.ema_decay = {decay!r} must be a number from 0 (no average) to below "
      "1, such as 0.9999."
    )
  if warmup and "ema_decay" not in config:
    raise lookup.ConfigError(
      f"config.ema_warmup = {load_errors.plain(warmup)!r} has no effect without "
      "config.ema_decay, for example config.ema_decay = 0.9999."
    )
  found = _warmup(warmup)
  return Average(float(decay), **found) if decay else None


def _warmup(given: Any) -> dict[str, float]:
  """Reads `config.ema_warmup`; {} if there is none."""
  if not given:
    return {}
  if given is True:
    return dict(_WARMUP)
  if not hasattr(given, "keys"):
    raise lookup.ConfigError(
      f"config.ema_warmup = {given!r} must be True, False, or a dict such as "
      "dict(power=0.75)."
    )
  lookup.check_keys(given, _WARMUP, "ema_warmup")
  for key, value in given.items():
    if not _is_number(value) or value <= 0:
      raise lookup.ConfigError(
        f"config.ema_warmup.{key} = {value!r} must be a positive number; the "
        f"default is {_WARMUP[key]:.4g}."
      )
  return {**_WARMUP, **given}


def _is_number(value: Any) -> bool:
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  return is_number and math.isfinite(value)


def check(config: ConfigLike) -> None:
  """Checks the average of a run and the evaluators that measure it.

  Args:
    config: ConfigDict of the run.

  Raises:
    lookup.ConfigError: see `settings`; or there is no average, or an evaluator
      would give it the names of another one's metrics.
  """
  has_average = settings(config) is not None
  prefixes, seen = eval_build.prefixes(config), {}
  for name, cfg in eval_build.entries(config).items():
    eval_build.state_of(
      name, cfg, {checkpoints.AVERAGE: ()} if has_average else {}
    )
    same = {"type": name, **eval_build.as_dict(cfg), "prefix": prefixes[name]}
    for key in ("params", "skip_first", *eval_build.LOG_KEYS):
      same.pop(key, None)
    params = cfg.get("params") or "params"
    other, its_params = seen.setdefault(
      str(sorted(same.items())), (name, params)
    )
    if params != its_params:
      raise lookup.ConfigError(
        f"config.evals.{name}.prefix = {prefixes[name]!r} is that of "
        f"config.evals.{other}, too, so that their metrics have the same names: "
        "choose another one."
      )
