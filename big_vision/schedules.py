"""Computes durations of configs, learning rates, and when to do things.

A duration `<prefix>` is given in one of four units, by the name of its key:
`<prefix>_steps`, `_examples`, `_epochs`, or `_percent` (a fraction in [0, 1]
of all steps). Steps are counted from 0 in schedules, from 1 in the loop.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import core

from big_vision import guards, lookup
from big_vision.types import ConfigLike, Schedule

_UNITS = ("steps", "examples", "epochs", "percent")
_DECAYS = ("linear", "polynomial", "cosine", "rsqrt", "stair", "wsd")
_COOLDOWN_SHAPES = ("linear", "1-sqrt")


def _is_negative(key: str, value: Any) -> bool:
  """Tells whether a duration is below 0; raises if it is not a number."""
  try:
    return not value >= 0  # Also NaN.
  except TypeError as e:
    raise lookup.ConfigError(
      f"config.{key} = {value!r} must be a number."
    ) from e


def given(prefix: str, config: ConfigLike, part: str = "") -> str | None:
  """Finds the key of a config that sets the duration `prefix`.

  Args:
    prefix: name of the duration, for example "total".
    config: mapping.
    part: where that stands in the config, for errors: "schedule." for example.

  Returns:
    The one of `<prefix>_{steps,examples,epochs,percent}` that counts, None if
    there is none.

  Raises:
    lookup.ConfigError: there are several, a value is not a number, or a percent
      is above 1.
  """
  keys = [f"{prefix}_{unit}" for unit in _UNITS]
  # Asked for in each step; `get` of a ConfigDict looks for similar keys first.
  keys = [k for k in keys if k in config and config[k] is not None]
  # Negative is the same as absent, so that a sweep can disable an entry.
  keys = [k for k in keys if not _is_negative(f"{part}{k}", config[k])]
  if len(keys) > 1:
    raise lookup.ConfigError(
      f"Only one of {', '.join(f'config.{part}{k}' for k in keys)} can be set; "
      "set the others to None or -1."
    )
  if not keys:
    return None
  if keys[0].endswith("_percent") and config[keys[0]] > 1:
    raise lookup.ConfigError(
      f"config.{part}{keys[0]} = {config[keys[0]]} is a fraction of all steps, "
      "so it must lie in [0, 1]."
    )
  return keys[0]


def steps(
  prefix: str,
  config: ConfigLike,
  data_size: float | None = None,
  batch_size: int | None = None,
  total_steps: float | None = None,
  default: Any = ValueError,
  part: str = "",
) -> Any:
  """Returns the number of steps of the duration `prefix` of a config.

  Args:
    prefix: name of the duration, for example "total" or "log_training".
    config: mapping that may hold one of `<prefix>_{steps,examples,epochs,
      percent}`. None and negative values count as absent.
    data_size: number of examples of an epoch; needed for epochs.
    batch_size: number of examples of a step; needed for examples, epochs.
    total_steps: number of steps of the run; needed for percent.
    default: result if the config has no such key, or if the size that its unit
      needs is not given.
    part: where the mapping stands in the config, see `given`.

  Returns:
    `<prefix>_steps` as it is. For the other units an int: 0 stays 0, all else
    is rounded (half to even) and at least 1.

  Raises:
    ValueError: nothing applies and `default` is the class ValueError.
    lookup.ConfigError: more than one key is given, one is not a number, or
      a percent is above 1.
  """
  key = given(prefix, config, part)
  if key:
    value = config[key]
    unit = key.removeprefix(f"{prefix}_")
    if unit == "steps":
      return value
    exact = None
    if unit == "examples" and batch_size:
      exact = value / batch_size
    elif unit == "epochs" and batch_size and data_size:
      exact = value * data_size / batch_size
    elif unit == "percent" and total_steps is not None:
      exact = value * total_steps
    if exact is not None:
      return max(1, round(exact)) if exact else 0

  if default is ValueError:
    raise ValueError(
      f"Cannot tell the number of steps of {prefix!r}: one of "
      f"{', '.join(f'config.{part}{prefix}_{u}' for u in _UNITS)} is needed, and "
      f"what it depends on: {data_size=}, {batch_size=}, {total_steps=}. Keys: "
      f"{', '.join(map(str, config.keys()))}."
    )
  return default


def itstime(
  step: int,
  every_n_steps: float | None,
  total_steps: int,
  host: int | None = None,
  last: bool = True,
  first: bool = True,
  drop_close_to_last: float | None = 0.25,
) -> bool:
  """Tells whether something periodic happens after this step.

  Args:
    step: number of completed steps.
    every_n_steps: how often; None or 0 means never.
    total_steps: number of steps of the run.
    host: the only process on which it happens; None means all.
    last: whether it happens after the last step.
    first: whether it happens after the first step.
    drop_close_to_last: a regular occasion is dropped if it is closer to
      the last step than this fraction of the interval; 0 or None drops none.

  Returns:
    Whether it happens.
  """
  if not every_n_steps:
    return False
  if host is not None and jax.process_index() != host:
    return False
  close_to_last = drop_close_to_last and (
    abs(step - total_steps) < drop_close_to_last * every_n_steps
  )
  regular = step % every_n_steps == 0 and not close_to_last
  at_last = last and step == total_steps
  at_first = first and step == 1
  return bool(regular or at_last or at_first)


def check_schedule(schedule: ConfigLike, key: str = "schedule") -> None:
  """Finds misspelt names in the schedule that a user wrote.

  `create_learning_rate_schedule` itself ignores what it does not know, since
  the optimizer factory hands it more than it needs.

  Args:
    schedule: mapping, `config.schedule` or one entry of the list of them.
    key: the config key that holds it.

  Raises:
    ValueError: unknown key or unknown `decay_type`; lists the nearest names.
  """
  known = ["base", "mult", "decay_type", "scale_with_batchsize"]
  known += ["power", "end", "linear_end"]  # linear, polynomial; wsd: end
  known += ["timescale", "shift"]  # rsqrt
  known += ["steps", "mults"]  # stair
  known += ["cooldown_shape"]
  for prefix in ("warmup", "cooldown", "timescale", "shift"):
    known += [f"{prefix}_{unit}" for unit in _UNITS]
  for name in schedule.keys():
    if name in [f"decay_{unit}" for unit in _UNITS]:
      raise lookup.ConfigError(
        f"config.{key}.{name}: the steps at the end of a run in which the "
        "learning rate falls are "
        f"config.{key}.{name.replace('decay', 'cooldown')}."
      )
    if name not in known:
      raise lookup.unknown("setting", name, known, key)
  decay_type = schedule.get("decay_type", "stair")
  if decay_type not in _DECAYS:
    raise lookup.unknown("decay type", decay_type, _DECAYS, f"{key}.decay_type")
  shape, shapes = schedule.get("cooldown_shape", "linear"), _COOLDOWN_SHAPES
  if shape not in shapes:
    raise lookup.unknown("shape", shape, shapes, f"{key}.cooldown_shape")
  if decay_type == "wsd" and not given("cooldown", schedule, f"{key}."):
    raise lookup.ConfigError(
      f"config.{key}: decay_type='wsd' needs the length of its decay, for "
      f"example config.{key}.cooldown_percent = 0.2; 0 keeps the learning rate "
      "until the end, for a run from which others cool down."
    )
  # A learning rate below zero climbs.
  for name in ("mult", "end", "linear_end", "timescale", "shift"):
    check_not_negative(schedule.get(name), f"config.{key}.{name}")
  for name in ("timescale", *(f"timescale_{unit}" for unit in _UNITS)):
    if schedule.get(name) == 0:
      raise lookup.ConfigError(f"config.{key}.{name} = 0 must be positive.")
  for mult in schedule.get("mults") or ():
    check_not_negative(mult, f"config.{key}.mults")
  stairs = list(schedule.get("steps") or ())
  if decay_type == "stair" and stairs != sorted(stairs):
    raise lookup.ConfigError(
      f"config.{key}.steps = {stairs} must be in order: `mults` are those from "
      "each of these steps on."
    )


def check_not_negative(value: Any, key: str) -> None:
  """Refuses numbers below zero, NaN, and what cannot be compared with zero.

  Args:
    value: number; None stands for an absent key. Traced ones are left alone.
    key: what holds it, for the error message.

  Raises:
    lookup.ConfigError: it is negative or not a number.
  """
  if value is None or isinstance(value, core.Tracer):
    return
  try:
    allowed = bool(value >= 0)
  except TypeError:
    allowed = False
  if not allowed:
    raise lookup.ConfigError(f"{key} = {value!r} must be a number, at least 0.")


def create_learning_rate_schedule(
  total_steps: int,
  batch_size: int | None = None,
  data_size: int | None = None,
  base: float = 1.0,
  decay_type: str = "stair",
  scale_with_batchsize: bool = False,
  **kw: Any,
) -> Schedule:
  """Builds a learning rate schedule: warm-up, decay, cool-down.

  With W warm-up steps, C cool-down steps, T total steps and the progress
  q = clip((step - W) / (T - W), 0, 1), the decay types are

    linear, polynomial: from base to `end` (or `linear_end`, or 0) as
      (1 - q)^`power`, 1 by default.
    cosine: base * (1 + cos(pi q)) / 2.
    rsqrt: base / sqrt(1 + (max(step - W, 0) + `shift`) / `timescale`), by
      default 0 and 10 000 steps; both may be durations, `timescale_epochs`.
    stair: base * `mults`[i] from step `steps`[i] on, and base before that.
    wsd: warm-up, stable, decay: base until the cool-down, which leads to `end`,
      0 by default: base - (base - end) * (1 - c).

  The result is multiplied by min(1, step / W) and, other than for wsd, by c. That
  falls from 1 to 0 during the cool-down: with p = min(1, (T - step) / C) it is p,
  or 1 - sqrt(1 - p) for `cooldown_shape="1-sqrt"`.

  Args:
    total_steps: T.
    batch_size: examples per step, for durations in examples or epochs.
    data_size: examples per epoch, for durations in epochs.
    base: the value after the warm-up.
    decay_type: see above; the default without steps is a constant.
    scale_with_batchsize: whether to multiply `base` with
      batch_size / 256.
    **kw: the settings above and the durations `warmup_*` and `cooldown_*`, see
      `steps`. Others are ignored; `check_schedule` finds misspelt ones.

  Returns:
    `step_fn(step)` -> [] float32, for Python and traced steps from 0 on. It
    raises ValueError if the decay type is unknown.

  Raises:
    ValueError: fewer `mults` than `steps`, or a duration in a unit that needs a
      size that is not given.
    lookup.ConfigError: the warm-up takes all of the steps, a run of wsd cannot
      hold warm-up and cool-down, or a duration is given twice.

  References:
    Hu et al. 2024 (wsd), https://arxiv.org/abs/2404.06395
    Hägele et al. 2024 (1-sqrt), https://arxiv.org/abs/2405.18392
  """

  def duration(prefix, default):
    # A duration in a unit that cannot be resolved must not become the default.
    default = ValueError if given(prefix, kw, "schedule.") else default
    return steps(
      prefix, kw, data_size, batch_size, total_steps, default, "schedule."
    )

  warmup, cooldown = duration("warmup", 0), duration("cooldown", 0)
  if total_steps > 1 and not warmup < total_steps:
    key = given("warmup", kw)
    raise lookup.ConfigError(
      f"config.schedule.{key}: the warm-up of {warmup} steps must be shorter "
      f"than the run of {total_steps} steps. Use for example "
      f"config.schedule.warmup_steps = {total_steps // 10}, or a longer run."
    )
  if decay_type == "wsd" and 1 < total_steps < warmup + cooldown:
    keys = [given(prefix, kw) for prefix in ("warmup", "cooldown")]
    raise lookup.ConfigError(
      f"{' and '.join(f'config.schedule.{k}' for k in keys if k)}: a run of "
      f"{total_steps} steps cannot hold a warm-up of {warmup} steps and a "
      f"cool-down of {cooldown}. Make them shorter, or the run longer."
    )
  if scale_with_batchsize:
    if not batch_size:
      raise ValueError(
        "config.schedule.scale_with_batchsize needs the batch size, which is "
        f"{batch_size}."
      )
    base = base * batch_size / 256.0

  end = kw.get("end", kw.get("linear_end", 0))
  power = kw.get("power", 1)
  timescale = duration("timescale", kw.get("timescale", 10_000))
  shift = duration("shift", kw.get("shift", 0))
  # On the host: where transfers are disallowed, only explicit ones may happen.
  boundaries = np.asarray(kw.get("steps", []), np.float32)
  mults = np.asarray([1.0, *kw.get("mults", [])], np.float32)
  if decay_type == "stair" and len(mults) <= len(boundaries):
    raise ValueError(
      f"config.schedule.mults has {len(mults) - 1} entries; it needs one for "
      f"each of the {len(boundaries)} config.schedule.steps."
    )

  def progress(step):
    if total_steps == warmup:  # At most one step: there is nothing in between.
      return jnp.where(step < warmup, 0.0, 1.0)
    q = (step - warmup) / (total_steps - warmup)
    return jnp.clip(q, 0.0, 1.0)

  def falling(step):
    if not cooldown:
      return 1.0
    left = jnp.minimum(1.0, (total_steps - step) / cooldown)
    is_sqrt = kw.get("cooldown_shape", "linear") == "1-sqrt"
    return 1.0 - jnp.sqrt(1.0 - left) if is_sqrt else left

  @guards.transfers
  def step_fn(step):
    step = jnp.asarray(step, jnp.float32)
    if decay_type in ("linear", "polynomial"):
      lr = end + (base - end) * (1.0 - progress(step)) ** power
    elif decay_type == "cosine":
      lr = base * 0.5 * (1.0 + jnp.cos(jnp.pi * progress(step)))
    elif decay_type == "rsqrt":
      since = jnp.maximum(step - warmup, 0.0)
      lr = base / jnp.sqrt(1.0 + (since + shift) / timescale)
    elif decay_type == "stair":
      lr = base * jnp.asarray(mults)[jnp.sum(boundaries <= step)]
    elif decay_type == "wsd":
      # In this form it is exactly `base` while nothing falls.
      lr = base - (base - end) * (1.0 - falling(step))
    else:
      raise lookup.unknown(
        "decay type", decay_type, _DECAYS, "schedule.decay_type"
      )
    if warmup:
      lr = lr * jnp.minimum(1.0, step / warmup)
    if cooldown and decay_type != "wsd":
      lr = lr * falling(step)
    return jnp.asarray(lr, jnp.float32)

  return step_fn
