"""Builds optimizers from configs; regular expressions select parameters.

The update of a parameter p with gradient g in step c (from 0) is

  -s(c) * (lr * m * d * O(clip(g)) + wd * w * p)

where O is the optimizer `config.optax_name`, s the schedule of the first rule of
`config.schedule` that matches its name, m and w the multipliers of the first
matching rules of `config.lr_mults` and `config.wd_mults`, and d the factor of its
layer, by `config.layer_decay` (1 without, see `layer_decay.py`). Weight decay is
decoupled from the optimizer and from the learning rate. Parameters whose
schedule is None are frozen.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import optax
from absl import logging

from big_vision import (
  clipping,
  layer_decay,
  lookup,
  muon,
  optimizers,
  rules,
  schedules,
  trees,
)
from big_vision.optimizers import momentum_hp as momentum_hp
from big_vision.optimizers import scale_by_adafactor as scale_by_adafactor
from big_vision.types import Array, ConfigLike, PyTree, Schedule


def make(
  config: ConfigLike, params: PyTree, *, sched_kw: Mapping[str, Any]
) -> tuple[optax.GradientTransformation, list[Schedule]]:
  """Builds the gradient transformation and the schedules of a config.

  Args:
    config: mapping with
      optax_name: attribute path in `optax` ("scale_by_adam"), one of
        `big_vision.{scale_by_adafactor,momentum_hp,muon,sgd}`, or the path of a
        function in your own module.
      optax: its keyword arguments, default {}.
      lr: base learning rate.
      lr_mults: list of (regex, multiplier > 0); others have 1.
      layer_decay: ratio of the learning rates of a layer and the next one, for
        example 0.75; a multiplier besides those. Default None: all alike.
      schedule: dict for all parameters or list of (regex, dict or None), which
        must cover all of them; None freezes. See `schedules`; its `mult` is the
        maximum. Default {}: constant.
      wd: weight decay; a falsy value means no decay.
      wd_mults: list of (regex, multiplier), default all kernels; others have
        no decay.
      grad_clip_norm: largest global norm of the gradient; a falsy value does not clip.
      grad_clip_per_example: whether gradients have a leading axis of examples,
        each of which is clipped before they are averaged.
      grad_clip_agc: adaptive gradient clipping, largest norm of the gradient of
        a unit relative to that of its weights, for example 0.01; a falsy
        value does not clip. It comes after the clipping above. See `clipping.py`.
      grad_clip_agc_eps: lower bound of the norm of the weights, default 1e-3.
      grad_clip_agc_mults: list of (regex, multiplier of grad_clip_agc); others
        have 1, and 0 does not clip. Default: not the head.
    params: tree of unboxed parameters or of their shapes.
    sched_kw: dict, more arguments of the schedules: total_steps, batch_size,
      data_size.

  Returns:
    (tx, schedule_fns): optax.GradientTransformation; and the list of functions
    step -> multiplier, in the order of the config without frozen ones.

  Raises:
    ValueError: unknown optimizer, or wrong arguments of it, of a schedule or of
      clipping.
    lookup.ConfigError: a parameter has no schedule, a rule matches no parameter,
      a number is negative, a multiplier of `lr_mults` is not positive, the
      optimizer steps by itself, layers to decay are unknown, or the config has
      keys of earlier versions.
  """
  _check_config(config)
  optimizer = optimizers.make(config)

  # Schedules, and which parameters are frozen.
  sched_rules = _schedule_rules(config.get("schedule", {}))
  masks, scheds = _make_mask_trees(params, sched_rules, "config.schedule")
  _check_rules_used(config, params)
  frozen, masks, scheds = _split_frozen(masks, scheds)
  not_frozen = jax.tree.map(operator.not_, frozen)
  schedule_fns = [_make_schedule(sched, sched_kw) for sched in scheds]
  schedule_txs = [
    optax.masked(optax.scale_by_schedule(fn), mask)
    for fn, mask in zip(schedule_fns, masks, strict=True)
  ]
  if not schedule_txs:  # All is frozen: what counts the steps is still needed.
    counter = optax.scale_by_schedule(lambda step: 0.0)
    schedule_txs = [optax.masked(counter, not_frozen)]

  # Multipliers of the learning rate.
  lr_rules: Sequence[tuple[str, float]] = config.get("lr_mults") or ()
  masks, mults = _make_mask_trees(params, lr_rules, "config.lr_mults")
  lr_txs = [
    optax.masked(optax.scale(mult), mask)
    for mult, mask in zip(mults, masks, strict=True)
  ]

  wd_txs = []
  if wd := config.get("wd"):
    # The top level may have a kernel, too.
    wd_rules = config.get("wd_mults", [("(.*/)?kernel$", 1.0)]) or ()
    masks, mults = _make_mask_trees(params, wd_rules, "config.wd_mults")
    wd_txs = [
      optax.add_decayed_weights(wd * mult, mask)
      for mult, mask in zip(mults, masks, strict=True)
    ]

  # Positions in this chain are part of the names of leaves in checkpoints.
  tx = optax.chain(
    _make_clipping(config, params, frozen, not_frozen),
    optax.masked(optimizer, not_frozen),
    _scale_by_lr(config, params),
    *lr_txs,
    *wd_txs,
    *schedule_txs,
    optax.masked(optax.set_to_zero(), frozen),
    optax.scale(-1.0),
  )
  return tx, schedule_fns


def _scale_by_lr(
  config: ConfigLike, params: PyTree
) -> optax.GradientTransformation:
  """Makes what multiplies by the base learning rate, of each layer its own."""
  if config.get("layer_decay") is None:
    return optax.scale(config["lr"])
  return optax.chain(
    optax.scale(config["lr"]), layer_decay.scale(config, params)
  )


def check(config: ConfigLike) -> None:
  """Checks what needs neither parameters nor the length of the run.

  Args:
    config: mapping, see `make`.

  Raises:
    ValueError: names the key that is wrong, as `make` would.
  """
  _check_config(config)
  optimizers.make(config)
  for _, sched in _schedule_rules(config.get("schedule", {})):
    if sched is not None:
      _check_schedule(sched)


def check_lengths(config: ConfigLike, sched_kw: Mapping[str, Any]) -> None:
  """Checks that the schedules of a config fit into its run.

  Warns of what changes nothing or never takes full effect in so short a run.

  Args:
    config: mapping with `schedule`, see `make`.
    sched_kw: as for `make`; schedules with epochs are left unchecked without
      `data_size`.

  Raises:
    ValueError: for example, the warm-up is as long as the run.
  """
  for _, sched in _schedule_rules(config.get("schedule", {})):
    if sched is None:
      continue
    in_epochs = [k for k in sched if k.endswith("_epochs")]
    if not in_epochs or sched_kw.get("data_size"):
      _make_schedule(sched, sched_kw)
    if sched_kw.get("data_size"):
      _warn_if_cut(sched, sched_kw)


def _warn_if_cut(sched: Mapping[str, Any], sched_kw: Mapping[str, Any]) -> None:
  """Says which parts of a schedule come after the end of the run."""
  total = sched_kw["total_steps"]
  if total <= 1:
    return
  warmup = _duration("warmup", sched, sched_kw)
  cooldown = _duration("cooldown", sched, sched_kw)
  if warmup + cooldown > total:
    logging.warning(
      "config.schedule: warm-up (%d steps) and cool-down (%d steps) overlap in a "
      "run of %d steps, so the learning rate never reaches its full value.",
      warmup, cooldown, total,
    )  # fmt: skip
  late = [s for s in sched.get("steps") or () if s >= total]
  if late and sched.get("decay_type", "stair") == "stair":
    logging.warning(
      "config.schedule.steps: %s are not reached by a run of %d steps.",
      late, total,
    )  # fmt: skip


def _duration(
  prefix: str, sched: Mapping[str, Any], sched_kw: Mapping[str, Any]
) -> Any:
  """Returns the steps of a part of a schedule, 0 if it is absent."""
  names = "data_size", "batch_size", "total_steps"
  kw = {k: sched_kw.get(k) for k in names}
  return schedules.steps(prefix, sched, **kw, default=0, part="schedule.")


def _check_config(config: ConfigLike) -> None:
  """Refuses keys of earlier versions, negative numbers, and unreadable rules."""
  if "optim" in config:
    raise lookup.ConfigError(
      "config.optim is deprecated: use config.optax for the optimizer's "
      "arguments."
    )
  if "weight_decay" in config:
    raise lookup.ConfigError(
      "config.weight_decay is deprecated: use config.wd and config.wd_mults."
    )
  if not config.get("weight_decay_decouple", True):
    raise lookup.ConfigError(
      "config.weight_decay_decouple: coupled weight decay is not supported."
    )
  for key in ("lr", "wd", "grad_clip_norm", "grad_clip_agc"):
    schedules.check_not_negative(config.get(key), f"config.{key}")
  layer_decay.check(config.get("layer_decay"))
  for key in _RULES_OF_NUMBERS:
    if not config.get(key):
      continue
    for regex, mult in rules.check_pairs(config.get(key), f"config.{key}"):
      if key == "lr_mults" and isinstance(mult, (int, float)) and mult <= 0:
        raise lookup.ConfigError(
          f"config.lr_mults: {mult} for {regex!r} must be positive; use the "
          "schedule to freeze parameters: "
          f"config.schedule = [({regex!r}, None), …]."
        )
      where = f"config.{key}, the multiplier of {regex!r}"
      if mult is None:
        raise lookup.ConfigError(f"{where} = None must be a number.")
      schedules.check_not_negative(mult, where)
  if isinstance(config.get("schedule"), (list, tuple)):
    rules.check_pairs(config.get("schedule"), "config.schedule")


# Keys that hold lists of (regex, multiplier).
_RULES_OF_NUMBERS = ("lr_mults", "wd_mults", "grad_clip_agc_mults")


def _check_rules_used(config: ConfigLike, params: PyTree) -> None:
  """Refuses rules that the user wrote and that match no parameter."""
  names = [name for name, _ in trees.tree_flatten_with_names(params)[0]]
  for key in ("schedule", *_RULES_OF_NUMBERS):
    given = config.get(key)
    if not isinstance(given, (list, tuple)):
      continue
    # A config may spell out the default.
    default = dict(clipping.NOT_THE_HEAD) if "agc" in key else {}
    patterns = [regex for regex, _ in given if regex not in default]
    rules.check_used(patterns, names, f"config.{key}")
  if config.get("optax_name") == "big_vision.muon":
    muon.check_rules_used((config.get("optax") or {}).get("rules", ()), params)


def _schedule_rules(schedule: Any) -> list[tuple[str, Any]]:
  """Returns a schedule of a config as a list of (regex, dict or None)."""
  if not isinstance(schedule, (list, tuple)):
    return [(".*", schedule)]
  # An empty list covers no parameter, as does a rule that never matches.
  return [tuple(rule) for rule in schedule] or [("(?!)", {})]


def schedule_fns(
  config: ConfigLike, sched_kw: Mapping[str, Any]
) -> list[Schedule]:
  """Builds the schedules of a config, without frozen ones.

  Args:
    config: mapping with `schedule`, as for `make`.
    sched_kw: as for `make`.

  Returns:
    List of functions step -> multiplier, in the order of the config.
  """
  rules = _schedule_rules(config.get("schedule", {}))
  return [_make_schedule(s, sched_kw) for _, s in rules if s is not None]


def _make_schedule(
  sched: Mapping[str, Any], sched_kw: Mapping[str, Any]
) -> Schedule:
  """Builds the function step -> multiplier of one dict of `config.schedule`."""
  _check_schedule(sched)
  sched = {**sched}
  total = sched_kw["total_steps"]
  cooldown = _duration("cooldown", sched, sched_kw)
  if total > 1 and cooldown > total:
    key = schedules.given("cooldown", sched)
    raise lookup.ConfigError(
      f"config.schedule.{key}: the cool-down of {cooldown} steps is longer than "
      f"the run of {total} steps. Use for example config.schedule.cooldown_steps "
      f"= {total // 5 or 1}, or a longer run."
    )
  base = sched.pop("mult", 1.0)
  return schedules.create_learning_rate_schedule(
    **{**sched_kw, **sched}, base=base
  )


def _check_schedule(sched: Mapping[str, Any]) -> None:
  """Checks one dict of `config.schedule`, as far as it goes without a length."""
  if not isinstance(sched, Mapping) and not hasattr(sched, "keys"):
    raise lookup.ConfigError(
      f"config.schedule: {sched!r} must be a dict such as "
      "dict(decay_type='cosine', warmup_steps=1000), or None to freeze."
    )
  if "base" in sched:
    raise lookup.ConfigError(
      "config.schedule.base: the base learning rate is config.lr; use "
      "config.schedule.mult to scale one schedule."
    )
  schedules.check_schedule(sched)


def _make_clipping(
  config: ConfigLike, params: PyTree, frozen: PyTree, not_frozen: PyTree
) -> optax.GradientTransformation:
  """Builds what clips the gradients of the parameters that are trained."""
  by_norm = _clip_by_norm(config, frozen, not_frozen)
  if not (factor := config.get("grad_clip_agc")):
    return by_norm
  adaptively = clipping.clip_adaptively(
    params,
    factor,
    eps=config.get("grad_clip_agc_eps", 1e-3),
    mults=config.get("grad_clip_agc_mults", clipping.NOT_THE_HEAD) or (),
    trained=not_frozen,
  )
  return optax.chain(by_norm, adaptively)


def _clip_by_norm(
  config: ConfigLike, frozen: PyTree, not_frozen: PyTree
) -> optax.GradientTransformation:
  """Builds the clipping that looks at all parameters together."""
  max_norm = config.get("grad_clip_norm")
  if not max_norm:
    return optax.identity()
  if not config.get("grad_clip_per_example"):
    return optax.masked(optax.clip_by_global_norm(max_norm), not_frozen)
  mean = optax.stateless(
    lambda grads, _: jax.tree.map(lambda g: g.mean(axis=0), grads)
  )
  return optax.chain(
    optax.masked(clip_by_per_example_global_norm(max_norm), not_frozen),
    # The others lose the axis of examples as well.
    optax.masked(mean, frozen),
  )


def _make_mask_trees(
  params: PyTree, patterns_values: Sequence[tuple[str, Any]], log: str | None
) -> tuple[list[PyTree], tuple[Any, ...]]:
  """Marks for each rule the parameters that it is the first to match.

  Args:
    params: tree of parameters.
    patterns_values: sequence of (regex, value).
    log: prefix of the log lines.

  Returns:
    (list of trees of bool, tuple of values).
  """
  patterns = [pattern for pattern, _ in patterns_values]
  values = tuple(value for _, value in patterns_values)
  return trees.make_mask_trees(params, patterns, log=log), values


def _split_frozen(
  masks: Sequence[PyTree], scheds: Sequence[Any]
) -> tuple[PyTree, tuple[PyTree, ...], tuple[Any, ...]]:
  """Separates the rules that freeze from the others.

  Args:
    masks: list of trees of bool, at least one.
    scheds: sequence of schedules, None to freeze.

  Returns:
    (tree of bool that is true where frozen, tuple of masks, tuple of schedules),
    the latter two without the frozen ones.
  """
  covered = jax.tree.map(lambda *m: any(m), *masks)
  uncovered = [
    name for name, c in trees.tree_flatten_with_names(covered)[0] if not c
  ]
  if uncovered:
    raise lookup.ConfigError(
      "All params must be covered by config.schedule (None freezes), these are "
      f"not: {', '.join(uncovered)}"
    )
  rules = list(zip(masks, scheds, strict=True))
  off = jax.tree.map(lambda _: False, covered)
  frozen = [mask for mask, sched in rules if sched is None]
  frozen = jax.tree.map(lambda *m: any(map(bool, m)), off, *frozen)
  rest = [(mask, sched) for mask, sched in rules if sched is not None]
  return (
    frozen,
    tuple(mask for mask, _ in rest),
    tuple(sched for _, sched in rest),
  )


def find_states(opt_state: PyTree, cls: type) -> list[Any]:
  """Finds all states of a class, anywhere in the state of an optimizer.

  Args:
    opt_state: state of a gradient transformation.
    cls: class, for example optax.ScaleByAdamState.

  Returns:
    List of its instances, in flattening order.
  """
  leaves = jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, cls))
  return [s for s in leaves if isinstance(s, cls)]


@overload
def get_count(opt_state: PyTree, jittable: Literal[False] = False) -> int: ...
@overload
def get_count(opt_state: PyTree, jittable: Literal[True]) -> Array: ...
def get_count(opt_state: PyTree, jittable: bool = False) -> int | Array:
  """Returns the number of updates so far, by the counters of the schedules.

  Args:
    opt_state: state of the transformation of `make`.
    jittable: whether to return the first counter as an array, without
      looking at its value.

  Returns:
    int, or [] int32 array if jittable.

  Raises:
    AssertionError: the counters differ.
  """
  counts = [s.count for s in find_states(opt_state, optax.ScaleByScheduleState)]
  if jittable:
    return counts[0]
  values = {int(c) for c in counts}
  if len(values) != 1:
    raise AssertionError(f"Expected exactly 1 count, got {sorted(values)}.")
  return values.pop()


def replace_frozen(
  schedule: Any, pytree: PyTree, replacement: Any, log: str | None = None
) -> PyTree:
  """Replaces the leaves of frozen parameters.

  Args:
    schedule: `config.schedule`; unless it is a list of rules, nothing is
      replaced.
    pytree: tree with the names of the parameters, for example gradients.
    replacement: the new value of the leaves of frozen parameters.
    log: prefix of log lines; None does not log.

  Returns:
    Tree of the same structure.
  """
  if not isinstance(schedule, (list, tuple)):
    return pytree
  masks, scheds = _make_mask_trees(pytree, _schedule_rules(schedule), log)
  frozen, _, _ = _split_frozen(masks, scheds)
  return jax.tree.map(lambda v, f: replacement if f else v, pytree, frozen)


def clip_by_per_example_global_norm(
  max_norm: float,
) -> optax.GradientTransformation:
  """Clips the gradient of each example, then averages over examples.

  Args:
    max_norm: largest L2 norm over all leaves of the gradient of one
      example.

  Returns:
    optax.GradientTransformation for gradients [B, ...] of parameters [...].
    Updates raise ValueError if gradients have no axis B.

  References:
    Abadi et al. 2016, Algorithm 1 (without the noise),
    https://arxiv.org/abs/1607.00133
  """

  def update(grads, params):
    if params is not None:
      jax.tree.map(_check_example_axis, grads, params)
    leaves = jax.tree.leaves(grads)
    if not leaves:
      return grads
    squares = sum(
      jnp.sum(jnp.square(g.astype(jnp.float32)), axis=range(1, g.ndim))
      for g in leaves
    )  # [B]
    norm = jnp.sqrt(squares)
    # Not max_norm / norm, which is inf for a gradient of zero.
    scale = jnp.where(
      norm > max_norm, max_norm / jnp.maximum(norm, max_norm), 1
    )
    return jax.tree.map(
      lambda g: jnp.mean(
        g * scale.astype(g.dtype).reshape(-1, *[1] * (g.ndim - 1)), axis=0
      ),
      grads,
    )

  return optax.stateless(update)


def _check_example_axis(grad, param):
  if grad.shape[1:] != param.shape:
    raise ValueError(
      "config.grad_clip_per_example needs gradients with a leading axis of "
      f"examples, but one has shape {grad.shape} for a parameter of shape "
      f"{param.shape}. Use config.grad_clip_norm alone with trainers that "
      "average over the batch."
    )
