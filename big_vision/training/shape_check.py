"""Traces a run's functions on shapes, before data is read or anything compiles.

What does not fit, a model and the size of its images, say, would otherwise show
after the first batches are read, or at the first evaluation. The update step then
compiles while parameters are initialized and evaluators run.
"""

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from big_vision import devices, lookup
from big_vision.evaluators import trial
from big_vision.training import step as step_lib
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup
from big_vision.types import Key, Params, TrainState

# Steps whose static arguments are tried.
_MAX_STEPS = 1000


def check(
  setup: Setup,
  recipe: Recipe,
  shapes: TrainState,
  shardings: TrainState,
  frozen: dict[str, Params],
  update: Callable[..., Any],
  rng: Key,
) -> Callable[..., Any]:
  """Traces the update step and what evaluators compute; compiles the update step.

  JAX keeps the traces, so that the first step does not repeat them. They depend
  on the meshes of the arguments, too. It compiles in a thread of its own.

  Args:
    setup: the Setup.
    recipe: the Recipe.
    shapes: tree of ShapeDtypeStruct of the state.
    shardings: tree of NamedSharding, same structure.
    frozen: the recipe's frozen trees.
    update: the jitted update of `step.make_update`.
    rng: random key of the run.

  Returns:
    `update`; its first call waits for the compilation.

  Raises:
    lookup.ConfigError: names the config keys that do not fit each other.
  """
  state, first = devices.place_shapes(shapes, shardings), None
  with setup.context():
    with explained(setup):
      for static in _static_args(setup, recipe):
        args = state, global_batch(setup), frozen, rng, static
        traced = update.trace(*args)  # pyright: ignore[reportFunctionMemberAccess]
        first = first or traced.lower()
    state = step_lib.with_frozen(state, frozen)
    trial.check(
      setup.config,
      recipe.predict_fns,
      state,
      global_batch(setup),
      setup.devices,
    )
  return _compile_ahead(update, first) if first else update


def _compile_ahead(update, lowered):
  """Compiles the first step in a thread; returns an update that waits for it.

  JAX finds what is compiled by the trace, as long as that is alive.
  """
  pool = concurrent.futures.ThreadPoolExecutor(1, "compile")
  compiled: Any = pool.submit(lowered.compile)
  pool.shutdown(wait=False)

  @functools.wraps(update)
  def call(*args, **kw):
    nonlocal compiled
    if compiled is not None:
      # An error comes again, where it belongs.
      concurrent.futures.wait([compiled])
      compiled = None
    return update(*args, **kw)

  return call


def _static_args(setup: Setup, recipe: Recipe) -> Iterable[tuple[Any, ...]]:
  """Returns the different static arguments of the first steps."""
  if not recipe.static_args or not setup.total_steps:
    return [()] if setup.total_steps else []
  steps = range(1, min(setup.total_steps, _MAX_STEPS) + 1)
  return dict.fromkeys(map(recipe.static_args, steps))


def global_batch(setup: Setup) -> dict[str, Any]:
  """Returns the shapes of a global batch of training.

  Args:
    setup: the Setup.

  Returns:
    Tree of ShapeDtypeStruct, dict of features.
  """
  num = jax.process_count()
  sharding = devices.batch_sharding(setup.devices)

  def whole(x):
    shape = (num * x.shape[0], *x.shape[1:])
    return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)

  return jax.tree.map(whole, setup.batch_shapes)


@contextlib.contextmanager
def explained(setup: Setup) -> Iterator[None]:
  """Says which config keys are to blame for an error about shapes.

  Args:
    setup: the Setup.

  Yields:
    Nothing.

  Raises:
    lookup.ConfigError: in place of such an error, which is its cause.
  """
  try:
    yield
  except Exception as e:
    text = trial.misfit(e)
    if text is None or text.startswith("config."):
      raise
    missing = trial.is_missing(text)
    on_host = _on_host(setup.config) if missing else {}
    batch = trial.describe(setup.batch_shapes, on_host)
    what = "config.model" if missing else "config.model or config.loss"
    raise lookup.ConfigError(
      f"config.input.pp{batch} does not fit {what}: {text}"
    ) from e


def _on_host(config: Any) -> dict[str, str]:
  """Lists the features of training that do not get to devices, and why."""
  source = config.get("input") or {}
  data = source.get("data") or {}
  if not isinstance(data.get("name"), str):
    return {}  # Of a mixture, or of a fork's own pipeline.
  from big_vision.pipeline import abstract  # The TensorFlow wing.

  features = abstract.features(data, source.get("pp"))
  shapes = abstract.batch_shapes(features, 1)
  return {
    k: abstract.why_on_host(v) for k, v in features.items() if k not in shapes
  }
