"""Further terms for a loss of embeddings, added to its recipe from outside.

An auxiliary loss has parameters, random numbers, state and predict functions of
its own. Its loss is a mean over the examples of the whole batch.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from big_vision import grads
from big_vision.training import loading
from big_vision.training.recipe import Recipe
from big_vision.types import Batch, Key, Params, TrainState


@dataclasses.dataclass(frozen=True)
class AuxLoss:
  """A further term of the loss.

  Attributes:
    name: of its parameters, which stand beside those of the model.
    init: `(rng, params, batch) -> its parameters`; `params` are the model's.
    embed: `(params, batch, out, rng, state) -> tree of arrays [b, ...]` of the
      examples of a micro-batch; `params` are all parameters, `out` is the
      model's for this micro-batch.
    loss: `(tree, state) -> (loss [], measurements)` of all examples. It is
      linear in the loss of an example, and weighted.
    draw: `(rng, batch) -> dict of arrays [B, ...]` to add to the batch. It is
      called before the batch is cut, so that what is drawn does not depend on
      micro-batches.
    extra_state, post_update: as in `Recipe`.
    is_active: `step (1-based) -> bool`. While it is False, nothing is computed.
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


def add(recipe: Recipe, aux: Sequence[AuxLoss]) -> Recipe:
  """Adds auxiliary losses to a recipe.

  Args:
    recipe: its `loss_fn` is a `grads.EmbeddingLoss`; it has no `augment`,
      `extra_state`, `post_update` or `static_args` of its own.
    aux: the further terms.

  Returns:
    The Recipe of the sum of all losses. It also measures `train/contrastive_loss`,
    the loss without the further terms.
  """
  base = recipe.loss_fn
  if not isinstance(base, grads.EmbeddingLoss):
    raise TypeError(f"loss_fn should be an EmbeddingLoss, not {type(base)}.")

  def init(rng: Key, batch: Batch) -> Params:
    params = recipe.init(rng, batch)
    own = {
      a.name: a.init(jax.random.fold_in(rng, i), params, batch)
      for i, a in enumerate(aux, 1)
    }
    return {**params, **own}

  def embed(params, batch, rng, state, active=None):
    z, shared, out = base.embed(params, batch, rng, state)
    own = {
      a.name: a.embed(params, batch, out, jax.random.fold_in(rng, i), state)
      for i, a in enumerate(aux, 1)
      if active is None or active[i - 1]
    }
    return {"base": z, "aux": own}, shared, out

  def compare(z, shared, state):
    value, measured = base.compare(z["base"], shared, state)
    measured = {**measured, "train/contrastive_loss": value}
    for a in aux:
      if a.name in z["aux"]:
        term, more = a.loss(z["aux"][a.name], state)
        value, measured = value + term, measured | more
    return value, measured

  def augment(batch: Batch, rng: Key) -> tuple[Batch, Key]:
    rng, own = jax.random.split(rng)
    for i, a in enumerate(aux, 1):
      batch = {**batch, **a.draw(jax.random.fold_in(own, i), batch)}
    return batch, rng

  def extra_state(params: Params) -> dict[str, Any]:
    state = {}
    for a in aux:
      state |= a.extra_state(params)
    return state

  def post_update(old: TrainState, new: TrainState) -> TrainState:
    for a in aux:
      new = a.post_update(old, new)
    return new

  loss = grads.EmbeddingLoss(embed, compare)
  predict_fns = dict(recipe.predict_fns)
  for a in aux:
    predict_fns.update(a.predict_fns)
  return dataclasses.replace(
    recipe,
    init=init,
    load=loading.without(recipe.load, [a.name for a in aux]),
    loss_fn=loss,
    accumulate=loss.accumulate,
    augment=augment,
    extra_state=extra_state,
    post_update=post_update,
    static_args=lambda step: (tuple(bool(a.is_active(step)) for a in aux),),
    predict_fns=predict_fns,
  )
