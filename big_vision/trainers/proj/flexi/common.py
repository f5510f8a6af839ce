"""Arguments of a model that change from step to step.

`config.flexi` has, for each argument of the model's call, the values `v` and the
weights `p` that they are drawn with (None: all alike).
"""

import dataclasses
import functools
import itertools

import numpy as np


def mkrng(xid, wid, step):
  """numpy Generator of an experiment, a run of it and a step; negative is 0."""
  return np.random.default_rng((max(xid, 0), max(wid, 0), max(step, 0)))


def mkprob(x):
  """Weights as probabilities: an array with sum 1, or None."""
  return None if x is None else np.array(x) / np.sum(x)


def choice(values, ratios, rng=None):
  """One of the values, drawn with probabilities in the given ratios.

  Args:
    values: sequence.
    ratios: sequence of weights, or None.
    rng: numpy Generator, by default a new one without seed.
  """
  rng = rng if rng is not None else np.random.default_rng()
  return rng.choice(values, p=mkprob(ratios))


def static_args(config, seed=0):
  """`Recipe.static_args`: the values of a step, the same on all hosts.

  Args:
    config: `config.flexi`.
    seed: int, of the run.

  Returns:
    `step -> tuple` of plain values in the order of the sorted names.
  """

  def fn(step):
    rng = mkrng(seed, -1, step)
    drawn = [choice(config[n].v, config[n].p, rng) for n in sorted(config)]
    return tuple(np.asarray(x).item() for x in drawn)

  return fn


def mkpredictfns(predict_fn, config, template="predict_{x}"):
  """A predict function for every combination of values.

  Args:
    predict_fn: function that takes the arguments as keywords.
    config: `config.flexi`.
    template: str, the name, with {x} for "a=1_b=10".

  Returns:
    dict of name -> function.
  """
  names = sorted(config)
  fns = {}
  for values in itertools.product(*(config[n].v for n in names)):
    kw = dict(zip(names, values, strict=True))
    x = "_".join(f"{k}={v}" for k, v in kw.items())
    fns[template.format(x=x)] = functools.partial(predict_fn, **kw)
  return fns


def flexible(recipe, config, loss_fn, predict_fns):
  """A recipe whose model is called with other arguments at every step.

  Args:
    recipe: Recipe of the trainer that has none.
    config: ConfigDict of the run; reads `flexi` and `seed`.
    loss_fn: as `Recipe.loss_fn`, and takes the arguments as keywords.
    predict_fns: dict of name -> predict function, see `mkpredictfns`.

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
