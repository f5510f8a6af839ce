"""Optimizers by their name in a config, and those of this library.

A config composes its update itself: learning rate, decay, schedule and sign come
from `big_vision.optax`. What `config.optax_name` names only rescales gradients,
as `optax.scale_by_adam` does; a whole optimizer, `optax.adamw`, would be turned
around by that and climb.
"""

import inspect
import re
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vision import lookup, muon
from big_vision.types import ConfigLike, DType

# Updates to wait for one that is not zero: warm-ups start with 0.
_MAX_TRIES = 20
_climbing: dict[tuple[Any, str], bool] = {}  # What has been tried.


def make(config: ConfigLike) -> optax.GradientTransformation:
  """Builds the optimizer `config.optax_name` with arguments `config.optax`.

  Args:
    config: mapping with these keys, see `big_vision.optax.make`.

  Returns:
    The transformation of gradients, which does not change their sign.

  Raises:
    ValueError: unknown optimizer or wrong arguments of it.
    lookup.ConfigError: its updates already point downhill, or it is something
      else than an optimizer.
  """
  name = config["optax_name"]
  factory = find(name)
  kw = {**(config.get("optax") or {})}
  try:
    inspect.signature(factory).bind(**kw)
  except TypeError as e:
    raise ValueError(f"config.optax does not fit {name!r}: {e}.") from e
  try:
    tx: Any = factory(**kw)
  except (TypeError, ValueError) as e:  # Such as the name of a dtype.
    raise lookup.ConfigError(
      f"config.optax = {kw} does not fit config.optax_name={name!r}: {e}"
    ) from e
  if not (hasattr(tx, "init") and hasattr(tx, "update")):
    raise lookup.ConfigError(
      f"config.optax_name={name!r} is not an optimizer but returns "
      f"{type(tx).__name__}; use for example 'scale_by_adam'."
    )
  known = factory, str(kw)  # It is made to be checked, then to be used.
  if known not in _climbing:
    _climbing[known] = _climbs(tx, name)
  if _climbing[known]:
    raise lookup.ConfigError(
      f"config.optax_name={name!r} already steps against the gradient, which "
      "the learning rate of config.lr would turn uphill. Use what only "
      f"rescales gradients, for example {_without_step(str(name))!r}; learning "
      "rate and weight decay are config.lr and config.wd."
    )
  return tx


def find(name: str) -> Callable[..., Any]:
  """Looks up `config.optax_name`.

  Args:
    name: see `big_vision.optax.make`.

  Returns:
    The function that makes the optimizer.

  Raises:
    ValueError: there is none; names the nearest ones.
  """
  if name in _OPTIMIZERS:
    return _OPTIMIZERS[name]
  found = optax
  for part in str(name).split("."):
    found = getattr(found, part, None)
  if found is None:  # A function in a user's own module.
    found = lookup.attribute(str(name))
  if not callable(found):
    known = [n for n in dir(optax) if n.startswith("scale_by_")]
    raise lookup.unknown(
      "optimizer", name, [*_OPTIMIZERS, *known, "identity"], "optax_name"
    )
  return found


def _climbs(tx: optax.GradientTransformation, name: str) -> bool:
  """Tells whether the first update points against the gradient.

  That is where a minus, which follows in the chain, turns it uphill. Tries it
  out on a tiny network.

  Args:
    tx: the optimizer.
    name: what the config calls it.

  Returns:
    Whether it does; False if it cannot be tried out.

  Raises:
    lookup.ConfigError: it needs more than gradients and parameters.
  """
  random = np.random.default_rng(0)
  with (
    jax.ensure_compile_time_eval(),  # Whoever calls may be tracing.
    jax.transfer_guard("allow"),
    jax.default_device(jax.local_devices(backend="cpu")[0]),
  ):
    grads = {
      "kernel": jnp.asarray(random.normal(size=(4, 4)), jnp.float32),
      "bias": jnp.asarray(random.normal(size=4), jnp.float32),
    }
    # Of zeros, so that nothing decays.
    params = jax.tree.map(jnp.zeros_like, grads)

    @jax.jit  # One small program instead of one for each operation.
    def first(state):
      updates, state = tx.update(grads, state, params)
      products = jax.tree.map(lambda g, u: (g * u).sum(), grads, updates)
      return sum(jax.tree.leaves(products)), state

    try:
      state, along = jax.jit(tx.init)(params), 0.0
      for _ in range(_MAX_TRIES):
        along, state = first(state)
        if along:
          break
    except Exception as e:  # noqa: BLE001
      missing = re.search(r"missing \d+ required keyword-only .*", str(e))
      if missing and isinstance(e, TypeError):
        raise lookup.ConfigError(
          f"config.optax_name={name!r} needs more than gradients and parameters "
          f"({missing[0]}); use for example 'scale_by_adam'."
        ) from e
      # Of parameters with other names, perhaps; the real ones will show it.
      return False
  return float(along) < 0


def _without_step(name: str) -> str:
  """Returns what is nearest to an optimizer and does not step itself."""
  last = name.rpartition(".")[-1]
  if f"big_vision.{last}" in _OPTIMIZERS:
    return f"big_vision.{last}"
  steps = ("scale_by_schedule", "scale_by_learning_rate")
  known = [n for n in dir(optax) if n.startswith("scale_by_")]
  known = [n for n in known if n not in steps]
  stem = lambda n: n.rpartition("scale_by_")[-1]
  near = [n for n in (*_OPTIMIZERS, *known) if last.startswith(stem(n))]
  return max(near, key=lambda n: len(stem(n)), default="scale_by_adam")


def scale_by_adafactor(
  min_dim_size_to_factor: int = 32,
  decay_rate: float = 0.8,
  decay_offset: int = 0,
  beta2_cap: float = 0.999,
  clipping_threshold: float | None = None,
  momentum: float | None = 0.9,
  dtype_momentum: DType = jnp.bfloat16,
  eps: float = 1e-30,
) -> optax.GradientTransformation:
  """Scales updates as the Adafactor of "Scaling Vision Transformers".

  Args:
    min_dim_size_to_factor: the two largest dimensions must have this size
      for second moments to be factored.
    decay_rate: second moments decay as 1 - (i + 1)^-decay_rate.
    decay_offset: subtracted from the number of updates to obtain i.
    beta2_cap: upper bound of that decay.
    clipping_threshold: largest root mean square of the update of a
      parameter; a falsy value does not clip.
    momentum: decay of the average of updates; a falsy value does not average.
    dtype_momentum: dtype in which that is stored.
    eps: added to squared gradients.

  Returns:
    optax.GradientTransformation.

  References:
    Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235
    Zhai et al. 2021, section 3.4, https://arxiv.org/abs/2106.04560
  """

  def decay(i, exponent):
    i = jnp.asarray(i, jnp.float32)
    return jnp.minimum(beta2_cap, 1.0 - (i + 1.0) ** (-exponent))

  rms = optax.scale_by_factored_rms(
    factored=True,
    decay_rate=decay_rate,
    step_offset=decay_offset,
    min_dim_size_to_factor=min_dim_size_to_factor,
    epsilon=eps,
    decay_rate_fn=decay,
  )
  clip, average = optax.identity(), optax.identity()
  if clipping_threshold:
    clip = optax.clip_by_block_rms(clipping_threshold)
  if momentum:
    average = optax.ema(
      momentum, debias=False, accumulator_dtype=dtype_momentum
    )
  return optax.chain(rms, clip, average)


def momentum_hp(
  momentum: float = 0.9, dtype: DType = jnp.bfloat16, nesterov: bool = False
) -> optax.GradientTransformation:
  """Adds heavy-ball momentum with an accumulator of low precision.

  Args:
    momentum: the accumulator t becomes g + momentum * t.
    dtype: dtype of t.
    nesterov: whether to look one step ahead.

  Returns:
    optax.GradientTransformation.
  """
  return optax.trace(decay=momentum, nesterov=nesterov, accumulator_dtype=dtype)


_OPTIMIZERS = {
  "big_vision.scale_by_adafactor": scale_by_adafactor,
  "big_vision.momentum_hp": momentum_hp,
  "big_vision.muon": muon.muon,
  "big_vision.sgd": optax.identity,
}

# For code that looks there; `_find` uses the table.
optax.big_vision = types.SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
  **{name.removeprefix("big_vision."): f for name, f in _OPTIMIZERS.items()}
)
