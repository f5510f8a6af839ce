"""LoRA: trains a product of two thin matrices beside each frozen kernel.

The kernel W of a layer, as a matrix [I, O], becomes W + alpha / rank * A B with A
[I, rank] and B [rank, O]. A starts random and B with zeros, so that the model starts
as it was. Beside `query/kernel` stand `query/lora_a` and `query/lora_b`; kernels of
attention with an axis of heads count as matrices, blocks that `scan` stacks have one
pair each, and so have the matrices that share an array in Gemma. Beside `mlp/linear`,
which has no name of its own, stand `mlp/linear_lora_a` and `mlp/linear_lora_b`.

References:
  Hu et al. 2021, https://arxiv.org/abs/2106.09685
"""

import dataclasses
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import lookup, muon, rules, trees
from big_vision.types import AnyArray, Array, ConfigLike, Key, Params

# Words for `config.lora.targets`, besides regexes.
TARGETS = {
  "attention": r"(.*/)?((query|key|value|out)/kernel"
  r"|(q|kv|qkv|attn_vec)_einsum/w)",
  "mlp": r"(.*/)?((MlpBlock_\d+|mlp|\w+_mixing)/(Dense_\d+|up)/kernel"
  r"|mlp/(gating_einsum|linear))",
  **{w: rf"(.*/)?{w}/kernel" for w in ("query", "key", "value", "out")},
}
A, B = "lora_a", "lora_b"
DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Settings:
  """Holds `config.lora`.

  Attributes:
    rank: columns of A and rows of B.
    alpha: products have the factor alpha / rank; None is `rank`.
    targets: which kernels are adapted, words of `TARGETS` or regexes of names.
    train: regexes of further parameters that are trained, and stored, as a whole;
      so are all that the checkpoint does not have.
    dtype: of the parameters that are not trained, such as "bfloat16"; None is that
      of the model.
  """

  rank: int
  alpha: float | None = None
  targets: tuple[str, ...] = ("attention", "mlp")
  train: tuple[str, ...] = ("head/.*",)
  dtype: str | None = None

  @property
  def scale(self) -> float:
    """The factor of the products."""
    return 1.0 if self.alpha is None else self.alpha / self.rank


def settings(config: ConfigLike) -> Settings | None:
  """Reads `config.lora`.

  Args:
    config: ConfigDict of a run.

  Returns:
    The Settings; None if there are none.

  Raises:
    lookup.ConfigError: a key or its value is wrong.
  """
  given = config.get("lora")
  if not given:
    return None
  if not hasattr(given, "keys"):
    raise lookup.ConfigError(
      f"config.lora = {given!r} must be a dict such as dict(rank=8), or None."
    )
  names = [f.name for f in dataclasses.fields(Settings)]
  lookup.check_keys(given, names, "lora")
  kw = {k: given[k] for k in names if given.get(k) is not None}
  rank, alpha = kw.get("rank"), kw.get("alpha", 1)
  if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
    raise lookup.ConfigError(
      f"config.lora.rank = {rank!r} must be a positive int, for example 8."
    )
  if not isinstance(alpha, (int, float)) or not 0 < alpha < float("inf"):
    raise lookup.ConfigError(
      f"config.lora.alpha = {alpha!r} must be a positive number, for example "
      f"{rank}."
    )
  if kw.get("dtype") not in (None, *DTYPES):
    raise lookup.unknown(
      "dtype", kw["dtype"], DTYPES, "lora.dtype", lookup.ConfigError
    )
  for key in ("targets", "train"):
    if key in kw:
      value = [kw[key]] if isinstance(kw[key], str) else kw[key]
      if isinstance(value, (list, tuple)):
        rules.check_pairs([(v, None) for v in value], f"config.lora.{key}")
        kw[key] = tuple(value)
        continue
      raise lookup.ConfigError(
        f"config.lora.{key} = {value!r} must be a list of regexes."
      )
  return Settings(**kw)


def find(shapes: Mapping[str, Any], targets: Iterable[str]) -> list[str]:
  """Finds the kernels to adapt.

  Args:
    shapes: name -> what has the shape, of the parameters that may be adapted.
    targets: see `Settings`.

  Returns:
    Their names.

  Raises:
    lookup.ConfigError: a target matches none of them, or what is not a matrix.
  """
  where = "config.lora.targets"
  found: dict[str, None] = {}
  words = [t for t in targets if t in TARGETS]
  patterns = [t for t in targets if t not in TARGETS]
  rules.check_used(patterns, shapes, where)
  for pattern in patterns:
    for name in filter(re.compile(pattern).fullmatch, shapes):
      if matrix(name, shapes[name].shape) is None:
        raise lookup.ConfigError(
          f"{where}: {pattern!r} matches {name} {shapes[name].shape}, which is not "
          "the kernel of a layer: adapters are for kernels, without the head."
        )
      found[name] = None
  for name, x in shapes.items():
    if any(re.fullmatch(TARGETS[w], name) for w in words):
      if matrix(name, x.shape) is not None:
        found[name] = None
  if not found:
    raise lookup.ConfigError(
      f"{where} = {list(targets)}: the model has no such kernels in its "
      "checkpoint. Give regexes of names, for example '.*/conv2/kernel'."
    )
  return [name for name in shapes if name in found]


class Matrix(NamedTuple):
  """Tells how a kernel is a matrix.

  Attributes:
    front: sizes of the axes in front, each with a matrix.
    num_in: I.
    num_out: O.
    axes: a letter for each axis of the kernel: b(atch), i(nput), o(utput).
  """

  front: tuple[int, ...]
  num_in: int
  num_out: int
  axes: str

  def kernel(self, product: Array, shape: tuple[int, ...]) -> Array:
    """Brings a matrix into the layout of the kernel.

    Args:
      product: [..., I, O].
      shape: of the kernel.

    Returns:
      The array of this shape.
    """
    # "oio" [N, D, H] is first [D, N, H].
    order = sorted(range(len(shape)), key=lambda i: "bio".index(self.axes[i]))
    product = product.reshape([shape[i] for i in order])
    return jnp.transpose(product, np.argsort(order))


def matrix(name: str, shape: tuple[int, ...]) -> Matrix | None:
  """Tells how a kernel is a matrix.

  Args:
    name: of the kernel.
    shape: of the kernel.

  Returns:
    The Matrix; None if it is not one.
  """
  axes = muon.axes_of(name, len(shape))
  if axes is None or not re.fullmatch("b*[io]+", axes):
    return None
  size = lambda letter: int(
    np.prod([n for n, a in zip(shape, axes, strict=True) if a == letter])
  )
  front = tuple(shape[: axes.count("b")])
  return Matrix(front, size("i"), size("o"), axes)


def names_of(kernel: str) -> tuple[str, str]:
  """Names the adapter of a kernel.

  Args:
    kernel: its name.

  Returns:
    Names of A and B.
  """
  folder, slash, last = kernel.rpartition("/")
  own = "" if last in ("kernel", "w") else f"{last}_"
  return f"{folder}{slash}{own}{A}", f"{folder}{slash}{own}{B}"


def init(rng: Key, name: str, shape: tuple[int, ...], rank: int) -> Params:
  """Initializes the adapter of a kernel.

  A is uniform in +-1 / sqrt(I): Kaiming's initialization with a slope of sqrt(5), as
  in the authors' code. B is zero.

  Args:
    rng: random key of the model.
    name: of the kernel.
    shape: of the kernel.
    rank: of the adapter.

  Returns:
    {name of A: float32 [..., I, rank], name of B: float32 [..., rank, O]}.
  """
  found = matrix(name, shape)
  assert found is not None  # `find` has asked.
  front, num_in, num_out, _ = found
  key = jax.random.fold_in(rng, zlib.crc32(name.encode()))
  bound = 1 / np.sqrt(num_in)
  a = jax.random.uniform(
    key, (*front, num_in, rank), minval=-bound, maxval=bound
  )
  name_a, name_b = names_of(name)
  return {name_a: a, name_b: jnp.zeros((*front, rank, num_out))}


def is_adapter(name: str) -> bool:
  """Tells whether a parameter of this name belongs to an adapter."""
  last = name.rpartition("/")[2]
  return last in (A, B) or last.endswith((f"_{A}", f"_{B}"))


def merge(base: Params, trained: Params, scale: float) -> Params:
  """Makes the parameters of the model.

  Args:
    base: nested dict, what is not trained.
    trained: nested dict, adapters and other parameters.
    scale: factor of the products.

  Returns:
    Nested dict without adapters, kernels in the dtype of `base`.
  """
  own = dict(trees.tree_flatten_with_names(trained)[0])
  every = dict(trees.tree_flatten_with_names(base)[0])
  every |= {n: x for n, x in own.items() if not is_adapter(n)}
  for kernel in list(every):
    name_a, name_b = names_of(kernel)
    if name_a in own:
      every[kernel] = _sum(
        kernel, every[kernel], own[name_a], own[name_b], scale
      )
  return trees.tree_unflatten(every.items())


def _sum(
  name: str, kernel: AnyArray, a: AnyArray, b: AnyArray, scale: float
) -> Array:
  """Computes W + scale * A B, in float32."""
  found = matrix(name, kernel.shape)
  assert found is not None  # It has an adapter.
  product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
  product = found.kernel(product, kernel.shape)
  total = jnp.asarray(kernel, jnp.float32) + scale * product
  return total.astype(kernel.dtype)


def fingerprint(params: Params) -> dict[str, list[float]]:
  """Computes two numbers per array, which tell other values but not rounding.

  Args:
    params: nested dict of arrays.

  Returns:
    Name -> [root of the mean square, mean product with a fixed wave].
  """
  wave = np.cos(np.arange(1 << 16, dtype=np.float64))
  out = {}
  for name, x in trees.tree_flatten_with_names(params)[0]:
    flat = np.asarray(x).reshape(-1)
    square = product = 0.0
    for i, start in enumerate(range(0, flat.size, wave.size)):
      part = flat[start : start + wave.size].astype(np.float64)
      square += part @ part
      product += (part @ wave[: part.size]) * np.cos(i)
    num = max(flat.size, 1)
    out[name] = [float(np.sqrt(square / num)), float(product / np.sqrt(num))]
  return out


def check_same(
  expected: Mapping[str, Iterable[float]], params: Params, what: str
) -> None:
  """Refuses another base than the one that adapters were trained for.

  Args:
    expected: the fingerprint of that one.
    params: nested dict of the arrays of this one.
    what: names this one in the error.

  Raises:
    lookup.ConfigError: a parameter is missing or has other values.
  """
  found = fingerprint(params)
  wrong = [n for n in expected if n not in found] + [
    n
    for n, values in found.items()
    if n not in expected or not _alike(list(expected[n]), values)
  ]
  if wrong:
    more = f" and {len(wrong) - 3} more" if wrong[3:] else ""
    raise lookup.ConfigError(
      f"{what} is not what the adapters were trained for: {', '.join(wrong[:3])}"
      f"{more} of {len(found)} parameters differ. Give the checkpoint that the run "
      "started from."
    )


def _alike(a: list[float], b: list[float]) -> bool:
  # The wave's product is about as large as the root of the mean square.
  close = 1e-4 * max(a[0], b[0])
  return abs(a[0] - b[0]) <= close and abs(a[1] - b[1]) <= close
