"""Terms that `siglip` can add to its contrastive loss, and how they join it.

An addition has parameters, random numbers, state and a loss of its own, a mean
over the examples of the whole batch. It is on where the config has its key.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Addition:
  """A further term of the loss.

  Attributes:
    name: str, of its parameters, next to those of the towers.
    init: `(rng, params, batch) -> its parameters`; `params` are the model's.
    embed: `(params, batch, out, rng, state) -> tree of arrays [b, ...]`, of the
      examples of a micro-batch; `params` are all there are, `out` is that of the
      model for this micro-batch.
    loss: `(tree, state) -> (loss [], measurements)` of all examples. Linear in
      the loss of an example, and weighted.
    draw: `(rng, batch) -> dict of arrays [B, ...]` that are added to the batch
      before it is cut, so that micro-batches do not change what is drawn.
    extra_state, post_update: as in `Recipe`.
    is_active: `step (1-based) -> bool`. While it is not, nothing is computed.
    predict_fns: as in `Recipe`.
  """

  name: str
  init: Callable[..., Any]
  embed: Callable[..., Any]
  loss: Callable[..., Any]
  draw: Callable[..., Any]
  extra_state: Callable[..., Any] = lambda params: {}
  post_update: Callable[..., Any] = lambda old, new: new
  is_active: Callable[[int], bool] = lambda step: True
  predict_fns: Mapping[str, Callable[..., Any]] = dataclasses.field(
    default_factory=dict
  )


def init(added, rng, params, batch):
  """Parameters of the model and, under their names, those of additions.

  Args:
    added: list of Addition.
    rng: random key.
    params: dict, parameters of the model.
    batch: dict of arrays, as the Recipe's `init` gets it.

  Returns:
    dict.
  """
  own = {
    a.name: a.init(jax.random.fold_in(rng, i), params, batch)
    for i, a in enumerate(added, 1)
  }
  return {**params, **own}


def load(added, load_model):
  """`Recipe.load`: additions are no part of a checkpoint of the model."""
  if load_model is None or not added:
    return load_model
  names = [a.name for a in added]

  def fn(params):
    model = {k: v for k, v in params.items() if k not in names}
    return {**params, **load_model(model)}

  return fn


def embed(added, active, params, batch, out, rng, state):
  """What the losses of additions need of each example, by name.

  Args:
    added: list of Addition.
    active: tuple of bool, those to compute; None is all.
    params, batch, out, rng, state: see `Addition.embed`.

  Returns:
    dict of trees.
  """
  return {
    a.name: a.embed(params, batch, out, jax.random.fold_in(rng, i), state)
    for i, a in enumerate(added, 1)
    if active is None or active[i - 1]
  }


def add_losses(added, value, z, state):
  """The sum of all losses.

  Args:
    added: list of Addition.
    value: [] contrastive loss.
    z: dict, what `embed` returns, for the whole batch.
    state: the training state.

  Returns:
    (loss [], measurements): the latter are empty without additions.
  """
  measured = {"train/contrastive_loss": value} if added else {}
  for a in added:
    if a.name in z:
      term, more = a.loss(z[a.name], state)
      value, measured = value + term, measured | more
  return value, measured


def predict_fns(added, **fns):
  """`fns` and those of additions, by name."""
  for a in added:
    fns.update(a.predict_fns)
  return fns


def recipe_fields(added):
  """Further fields of the Recipe; none without additions."""
  if not added:
    return {}

  def augment(batch, rng):
    rng, own = jax.random.split(rng)
    for i, a in enumerate(added, 1):
      batch = {**batch, **a.draw(jax.random.fold_in(own, i), batch)}
    return batch, rng

  def extra_state(params):
    state = {}
    for a in added:
      state |= a.extra_state(params)
    return state

  def post_update(old, new):
    for a in added:
      new = a.post_update(old, new)
    return new

  return dict(
    augment=augment,
    extra_state=extra_state,
    post_update=post_update,
    static_args=lambda step: (tuple(bool(a.is_active(step)) for a in added),),
  )
