"""Keeps the checkpoints of the best steps, by a metric of an evaluator.

`config.keep_best = "val/prec@1"` keeps the best one, a dict says more:

  metric: "val/prec@1", or "val/loss": lower is better for names with `loss`,
    `error`, `mae` or `perplexity`.
  mode: "max" or "min", if the name does not tell.
  num: how many to keep, 1.

They are `<workdir>/best.bv-<step>`, like all checkpoints of a run, and
`<workdir>/best.bv` stands for the best of them wherever a checkpoint is named.
`<workdir>/best.bv.json` has their values. If the metric is that of an evaluator with
`params="ema"`, it says so, and `<workdir>/best.bv:params_ema` is what was measured.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax

from big_vision import checkpoints, fs, lookup
from big_vision import metrics as metrics_lib
from big_vision.evaluators import build as eval_build
from big_vision.training import console, hosts, resuming
from big_vision.training.setup import Setup
from big_vision.types import ConfigLike, TrainState

_EXAMPLE = 'for example config.keep_best = "val/prec@1"'


def settings(config: ConfigLike) -> dict[str, Any] | None:
  """Reads `config.keep_best`.

  Args:
    config: ConfigDict of the run.

  Returns:
    Dict of `metric`, `mode`, `num` and the `params` that the metric is of; None if
    nothing is to be kept.

  Raises:
    lookup.ConfigError: wrong keys or values, or a metric of no evaluator.
  """
  given = config.get("keep_best")
  if not given:
    return None
  if isinstance(given, str):
    given = {"metric": given}
  if not isinstance(given, Mapping) and not hasattr(given, "items"):
    raise lookup.ConfigError(
      f"config.keep_best={given!r} should be the name of a metric, {_EXAMPLE}."
    )
  found = dict(given.items())
  for key in found:
    if key not in ("metric", "mode", "num"):
      known = ("metric", "mode", "num")
      raise lookup.unknown("key", key, known, f"keep_best.{key}")
  metric, num = found.get("metric"), found.get("num", 1)
  if not isinstance(metric, str):
    raise lookup.ConfigError(
      f"config.keep_best.metric={metric!r} should be the name of a metric, "
      f"{_EXAMPLE}."
    )
  if not isinstance(num, int) or isinstance(num, bool) or num < 1:
    raise lookup.ConfigError(
      f"config.keep_best.num={num!r} should be how many checkpoints to keep, 1 "
      "or more."
    )
  mode = found.get("mode", "min" if console.lower_is_better(metric) else "max")
  if mode not in ("max", "min"):
    raise lookup.ConfigError(
      f'config.keep_best.mode={mode!r} should be "max" or "min".'
    )
  prefixes = eval_build.prefixes(config)
  owners = [name for name, p in prefixes.items() if metric.startswith(p)]
  if not owners:
    known = f"Their metrics begin with {', '.join(sorted(prefixes.values()))}."
    raise lookup.ConfigError(
      f"config.keep_best: none of config.evals measures {metric!r}. "
      + (known if prefixes else "There are none.")
    )
  owner = eval_build.entries(config)[
    max(owners, key=lambda n: len(prefixes[n]))
  ]
  params = owner.get("params") or "params"
  return {"metric": metric, "mode": mode, "num": num, "params": params}


class Best:
  """Ranks the steps of a run and writes their checkpoints.

  Attributes:
    metric: name of the metric.
    values: step -> value of those that are kept.
  """

  def __init__(
    self,
    workdir: str,
    *,
    metric: str,
    mode: str,
    num: int,
    first_step: int,
    params: str = "params",
  ) -> None:
    """Reads what an earlier part of the run has kept.

    Args:
      workdir: folder of the run.
      metric: name of the metric.
      mode: "max" or "min".
      num: how many to keep.
      first_step: later steps are forgotten, the run makes them again.
      params: which parameters the metric is of, "params" or "ema".
    """
    self.metric, self._sign, self._num = metric, 1 if mode == "max" else -1, num
    self._mode, self._of_average = mode, params == eval_build.EMA
    self._prefix = fs.join(workdir, "best.bv")
    self._file = f"{self._prefix}.json"
    self.values: dict[int, float] = {}
    stored = json.loads(hosts.from_first(self._read))
    if stored.get("metric") == metric and stored.get("mode") == mode:
      every = {int(step): value for step, value in stored["values"].items()}
      self.values = {s: v for s, v in every.items() if s <= first_step}

  def _read(self) -> str:
    """Returns what is stored, of the checkpoints that are complete."""
    if not fs.exists(self._file):
      return "{}"
    with fs.open(self._file) as f:
      stored = json.load(f)
    values = stored["values"].items()
    there = {s: v for s, v in values if fs.isdir(self._folder(int(s)))}
    return json.dumps({**stored, "values": there})

  def _folder(self, step: int) -> str:
    return f"{self._prefix}-{step:09d}"

  def _ranking(self) -> list[int]:
    """Returns the steps that are kept, the best first, of equal ones the first."""
    rank = lambda s: (-self._sign * self.values[s], s)
    return sorted(self.values, key=rank)[: self._num]

  def improves(self, writer: metrics_lib.BigVisionMetricWriter) -> bool:
    """Ranks the step of a writer. All hosts wait for what the first one measured.

    Args:
      writer: has measured at this step, after an evaluation.

    Returns:
      Whether its checkpoint is to be kept, the same on all hosts.

    Raises:
      lookup.ConfigError: the evaluator ran, but did not measure the metric.
    """
    step, metrics = writer.step, writer.step_metrics
    if jax.process_count() > 1:
      known = hosts.from_first(lambda: json.dumps(dict(metrics), default=str))
      metrics = json.loads(known)
    value = metrics.get(self.metric)
    if value is None:
      self._check_measured(metrics)
      return False
    if not isinstance(value, (int, float)) or math.isnan(value):
      return False
    self.values[step] = float(value)
    ranking = self._ranking()
    self.values = {s: self.values[s] for s in ranking}
    return step in ranking

  def _check_measured(self, metrics):
    """Raises if only the last part of the metric's name is wrong."""
    prefix, _, _ = self.metric.rpartition("/")
    near = [k for k in metrics if k.startswith(f"{prefix}/")]
    if prefix and near:
      raise lookup.unknown("metric", self.metric, near, "keep_best")

  def save(
    self,
    manager: checkpoints.CheckpointManager,
    state: TrainState,
    step: int,
    setup: Setup,
  ) -> None:
    """Starts writing the checkpoint of a step that `improves`.

    Args:
      manager: writes in the background.
      state: the state.
      step: number of finished steps.
      setup: the Setup.
    """
    ranking = self._ranking()
    what = f", of which {self._prefix}:{checkpoints.AVERAGE} was measured"
    console.note(
      f"{self.metric} = {self.values[step]:.4g} is number "
      f"{ranking.index(step) + 1} of this run: keeping {self._folder(step)}"
      + (what if self._of_average else "")
    )
    manager.wait_until_finished()
    checkpoints.collect_orphans(self._prefix)
    tree = resuming.with_clock(state, setup)
    checkpoints.save_ranked(manager, tree, self._prefix, step, ranking)
    if jax.process_index() == 0:
      values = {str(s): self.values[s] for s in ranking}
      stored = {"metric": self.metric, "mode": self._mode, "values": values}
      if self._of_average:
        stored["params"] = eval_build.EMA
      with fs.open(self._file, "w") as f:
        json.dump(stored, f)


def start(
  config: ConfigLike, workdir: str | None, first_step: int
) -> Best | None:
  """Begins to rank the steps of a run.

  Args:
    config: ConfigDict of the run.
    workdir: its folder; without one nothing is kept.
    first_step: number of finished steps.

  Returns:
    The Best, or None if there is nothing to do.

  Raises:
    lookup.ConfigError: see `settings`.
  """
  found = settings(config)
  if not workdir or not found:
    return None
  return Best(workdir, first_step=first_step, **found)
