"""Arguments of a model that change from step to step.

`config.flexi` has, for each argument of the model's call, the values `v` and the
weights `p` that they are drawn with (None: all alike).
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from big_vision import lookup
from big_vision.training.recipe import Recipe
from big_vision.types import ConfigLike


def mkrng(xid: int, wid: int, step: int) -> np.random.Generator:
  """Makes the random generator of a step.

  Args:
    xid: number of the experiment; negative counts as 0.
    wid: number of the run in it; negative counts as 0.
    step: number of the step; negative counts as 0.

  Returns:
    The generator.
  """
  return np.random.default_rng((max(xid, 0), max(wid, 0), max(step, 0)))


def mkprob(x: Sequence[float] | None) -> np.ndarray | None:
  """Scales weights to probabilities.

  Args:
    x: weights, or None.

  Returns:
    Array with sum 1, or None.
  """
  return None if x is None else np.array(x) / np.sum(x)


def choice(
  values: Sequence[Any],
  ratios: Sequence[float] | None,
  rng: np.random.Generator | None = None,
) -> Any:
  """Draws one of the values.

  Args:
    values: of which to draw.
    ratios: weights that the probabilities are proportional to; None: all alike.
    rng: random generator, by default a new one without seed.

  Returns:
    The value, as a NumPy scalar.
  """
  rng = rng if rng is not None else np.random.default_rng()
  return rng.choice(values, p=mkprob(ratios))


def static_args(
  config: ConfigLike, seed: int = 0
) -> Callable[[int], tuple[Any, ...]]:
  """Makes `Recipe.static_args`: the values of a step, the same on all hosts.

  Args:
    config: `config.flexi`.
    seed: of the run.

  Returns:
    `step -> tuple` of plain values in the order of the sorted names.
  """

  def fn(step):
    rng = mkrng(seed, -1, step)
    drawn = [choice(config[n].v, config[n].p, rng) for n in sorted(config)]
    return tuple(np.asarray(x).item() for x in drawn)

  return fn


def settings(config: ConfigLike) -> ConfigLike:
  """Returns `config.flexi`.

  Args:
    config: of the run.

  Returns:
    Mapping from the arguments of the model's call to their values.

  Raises:
    ConfigError: there is none.
  """
  if not config.get("flexi"):
    raise lookup.ConfigError(
      "config.flexi is required, for example dict(seqhw=dict(v=(5, 10), p=None))."
    )
  return config.flexi


def mkpredictfns(
  predict_fn: Callable[..., Any],
  config: ConfigLike,
  template: str = "predict_{x}",
) -> dict[str, Callable[..., Any]]:
  """Makes a predict function for every combination of values.

  Args:
    predict_fn: function that takes the arguments as keywords.
    config: `config.flexi`.
    template: the name, with {x} for "a=1_b=10".

  Returns:
    Name -> function.
  """
  names = sorted(config)
  fns = {}
  for values in itertools.product(*(config[n].v for n in names)):
    kw = dict(zip(names, values, strict=True))
    x = "_".join(f"{k}={v}" for k, v in kw.items())
    fns[template.format(x=x)] = functools.partial(predict_fn, **kw)
  return fns


def flexible(
  recipe: Recipe,
  config: ConfigLike,
  loss_fn: Callable[..., Any],
  predict_fns: dict[str, Callable[..., Any]],
) -> Recipe:
  """Changes a recipe so that each step calls the model with other arguments.

  Args:
    recipe: of the method that calls its model always in the same way.
    config: of the run; reads `flexi` and `seed`.
    loss_fn: as `Recipe.loss_fn`, and takes the arguments as keywords.
    predict_fns: name -> predict function, see `mkpredictfns`.

  Returns:
    The Recipe.
  """
  names = sorted(config.flexi)

  def with_arguments(params, batch, rng, state, *values):
    kw = dict(zip(names, values, strict=True))
    return loss_fn(params, batch, rng, state, **kw)

  return dataclasses.replace(
    recipe,
    loss_fn=with_arguments,
    predict_fns=predict_fns,
    static_args=static_args(config.flexi, config.get("seed", 0)),
  )
