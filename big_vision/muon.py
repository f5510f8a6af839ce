"""Muon: matrices by orthogonal updates, all other parameters by Adam.

Muon replaces the momentum of a matrix by one with the same singular vectors whose
singular values are about one (Newton-Schulz iterations bring them between 0.7 and
1.2). What the matrix of a kernel is follows from its name: `optax.contrib.muon` takes
only arrays of two axes for matrices, and would leave the kernels of attention and of
convolutions to Adam.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import optax
import optax.contrib
from absl import logging

from big_vision import lookup, schedules, trees
from big_vision import rules as rules_lib
from big_vision.types import DType, PyTree

# What the axes of parameters are: i(nput) and o(utput) axes together are the rows
# and columns of a matrix, each entry of b(atch) axes is a matrix of its own, g are the
# outputs of g(roups), each of as many as it has inputs in the axis before; None leaves
# it to Adam. The first that matches the name and has the right number of axes counts;
# one more axis in front is the layers of `scan`.
RULES = (
  (r"(.*/)?(head|logits)/kernel", None),
  (r"(.*/)?stage\d+/block\d+/conv[23]/kernel", "iiig"),  # Of NFNet.
  (r"(.*/)?(query|key|value)/kernel", "ioo"),  # [D, heads, D / heads]
  (r"(.*/)?out/kernel", "iio"),  # [heads, D / heads, D]
  (r"(.*/)?q_einsum/w", "oio"),  # Of Gemma: [heads, D, size of a head]
  (r"(.*/)?(kv|qkv)_einsum/w", "boio"),
  (r"(.*/)?attn_vec_einsum/w", "iio"),
  (r"(.*/)?mlp/gating_einsum", "bio"),
  (r"(.*/)?mlp/linear", "io"),
  (r"(.*/)?kernel", "io"),
  (r"(.*/)?kernel", "iiio"),  # Patches, convolutions: [h, w, C_in, C_out]
)


def muon(
  beta: float = 0.95,
  nesterov: bool = True,
  ns_steps: int = 5,
  consistent_rms: float | None = None,
  mu_dtype: DType | None = None,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  rules: Sequence[tuple[str, str | None]] = (),
) -> optax.GradientTransformation:
  """Scales updates of kernels by Muon, and those of other parameters by Adam.

  A kernel is taken as a matrix of `i` inputs and `o` outputs. Singular values of its
  update are about sqrt(max(1, o / i)), or, if `consistent_rms` is given, about
  consistent_rms * sqrt(max(i, o)). The latter has elements of that root mean square,
  whatever the shape: with 0.2, about that of Adam, learning rates and weight decays
  of Adam fit.

  Args:
    beta: decay of the momentum of kernels.
    nesterov: whether that looks one step ahead.
    ns_steps: number of Newton-Schulz iterations.
    consistent_rms: see above.
    mu_dtype: dtype of momentum and of Adam's first moment.
    b1: decay of Adam's first moment.
    b2: decay of Adam's second moment.
    eps: added to Adam's denominator.
    rules: list of (regex, axes or None), which come before `RULES`.

  Returns:
    optax.GradientTransformation.

  Raises:
    lookup.ConfigError: `rules` cannot be read, or `consistent_rms` is negative.

  References:
    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon
    Liu et al. 2025 (consistent_rms), https://arxiv.org/abs/2502.16982
  """
  table = (*_check(rules), *RULES)
  where = "config.optax.consistent_rms"
  schedules.check_not_negative(consistent_rms, where)

  def matrices(name, x):
    return _split_groups(axes_of(name, x.ndim, table), x.shape)

  def scale_by_muon(tree):
    return optax.contrib.scale_by_muon(
      beta=beta,
      nesterov=nesterov,
      ns_steps=ns_steps,
      mu_dtype=mu_dtype,
      weight_dimension_numbers=trees.tree_map_with_names(
        lambda name, x: _dimensions(*matrices(name, x)), tree
      ),
    )

  def split(tree):
    return trees.tree_map_with_names(
      lambda name, x: x.reshape(matrices(name, x)[1]), tree
    )

  def update(updates, state, params=None):
    del params
    out, state = scale_by_muon(updates).update(split(updates), state)
    return jax.tree.map(lambda u, x: u.reshape(x.shape), out, updates), state

  def scale(updates, params):
    del params
    return trees.tree_map_with_names(
      lambda name, x: x * _scale(*matrices(name, x)), updates
    )

  def _scale(axes, shape):
    i, o = (_size(axes, shape, letter) for letter in "io")
    if consistent_rms is None:
      return math.sqrt(max(1, o / i))
    return consistent_rms * math.sqrt(max(i, o))

  def labels(params):
    return trees.tree_map_with_names(
      lambda name, x: "muon" if axes_of(name, x.ndim, table) else "adam",
      nn.unbox(params),
    )

  tx = optax.partition(
    {
      "muon": optax.chain(
        optax.GradientTransformation(
          lambda params: scale_by_muon({}).init(split(params)), update
        ),
        optax.stateless(scale),
      ),
      "adam": optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype),
    },
    labels,
  )

  def init(params):
    _log(nn.unbox(params), table)
    return tx.init(params)

  return tx._replace(init=init)


def axes_of(
  name: str, ndim: int, rules: Sequence[tuple[str, str | None]] = RULES
) -> str | None:
  """Finds what the axes of a parameter are.

  Args:
    name: of the parameter, with slashes.
    ndim: number of its axes.
    rules: list of (regex, axes or None), see `RULES`.

  Returns:
    A letter for each axis, for example "bioo", see `RULES`; None if Adam takes it.
  """
  for regex, axes in rules:
    if re.fullmatch(regex, name):
      if axes is None:
        return None
      if ndim - len(axes) in (0, 1):
        return axes.rjust(ndim, "b")
  return None


def _split_groups(axes, shape):
  """Returns axes and shape with an axis of groups in front of their outputs.

  [h, w, C, g * C] -> [h, w, C, g, C]. Where `g` does not divide, there are no groups.
  """
  if not axes or "g" not in axes:
    return axes, shape
  at = axes.index("g")
  num, rest = divmod(shape[at], shape[at - 1])
  if rest:
    return axes.replace("g", "o"), shape
  groups = (*shape[:at], num, shape[at - 1], *shape[at + 1 :])
  return axes.replace("g", "bo"), groups


def _dimensions(axes, shape):
  """Makes the dimension numbers that optax expects."""
  i, o = ([n for n, a in enumerate(axes) if a == letter] for letter in "io")
  # The result is the same for the transposed matrix. optax before 0.2.7 multiplies
  # by sqrt(max(1, columns / rows)), later versions do not: 1 if taken like this.
  if _size(axes, shape, "i") < _size(axes, shape, "o"):
    i, o = o, i
  return optax.contrib.MuonDimensionNumbers(tuple(i), tuple(o))


def _size(axes, shape, letter):
  """Returns the number of rows ("i") or columns ("o") of a parameter."""
  return math.prod(n for n, a in zip(shape, axes, strict=True) if a == letter)


def _check(given: Any) -> list[tuple[str, Any]]:
  """Reads the rules of a user."""
  pairs = rules_lib.check_pairs(given, "config.optax.rules")
  for regex, axes in pairs:
    if axes is not None and not re.fullmatch(r"b*(i+o+|o+i+|i+g)", str(axes)):
      raise lookup.ConfigError(
        f"config.optax.rules: {axes!r} for {regex!r} must have a letter per axis, "
        "b(atch), then i(nput) and o(utput) in either order, for example 'ioo', "
        "or g(roups) last, 'iiig'; or None for Adam."
      )
  return pairs


def check_rules_used(given: Any, params: PyTree) -> None:
  """Refuses rules of a user that are without effect.

  Args:
    given: `config.optax.rules`.
    params: all parameters, or their shapes.

  Raises:
    lookup.ConfigError: a rule matches no parameter, or none with so many axes.
  """
  pairs, key = _check(given), "config.optax.rules"
  named = trees.tree_flatten_with_names(nn.unbox(params))[0]
  rules_lib.check_used([r for r, _ in pairs], [n for n, _ in named], key)
  for regex, axes in pairs:
    found = [(n, x.ndim) for n, x in named if re.fullmatch(regex, n)]
    if axes and found and not any(d - len(axes) in (0, 1) for _, d in found):
      name, ndim = found[0]
      raise lookup.ConfigError(
        f"{key}: {axes!r} for {regex!r} has {len(axes)} letters, but {name} has "
        f"{ndim} axes."
      )


def _log(params: PyTree, table: Sequence[tuple[str, str | None]]) -> None:
  """Names the matrices that are left to Adam, which may not be meant."""
  names = [
    name
    for name, x in trees.tree_flatten_with_names(params)[0]
    if x.ndim > 1
    and not axes_of(name, x.ndim, table)
    and not re.fullmatch(r"(.*/)?(bias|scale)", name)
  ]
  if names:
    logging.info("big_vision.muon: Adam updates %s", ", ".join(names))
