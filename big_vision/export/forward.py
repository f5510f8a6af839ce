"""The function that is exported: from named inputs to named outputs.

Parameters are an argument, by name, so that each format can keep them in a file
beside the program, and so that they can be quantized.

Shapes: B pictures, T texts, C classes, E size of embeddings, D of features.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from big_vision import compat, lookup
from big_vision.export import quantize
from big_vision.pretrained import Backbone, Classifier, ImageText, Regressor
from big_vision.types import Params

Arrays = dict[str, Any]
Model = Backbone | Regressor | ImageText  # A Classifier is a Backbone.
TOWERS = ("both", "image", "text")
BATCH, TEXTS = "batch", "texts"  # Names of free sizes.


@dataclasses.dataclass(frozen=True)
class Input:
  """Describes an input.

  Attributes:
    name: of the argument.
    shape: sizes; the first is a number or, if it is free, its name.
    dtype: for example "float32".
  """

  name: str
  shape: tuple[int | str, ...]
  dtype: str


@dataclasses.dataclass(frozen=True)
class Forward:
  """Holds a function, its parameters, and what its users have to know.

  Attributes:
    fn: `(params, {input name: array}) -> {output name: array}`.
    params: name -> array; those of `quantize` are in pairs.
    inputs: in their order.
    info: what is written into `export.json`: classes, preprocessing, ...
  """

  fn: Callable[[Arrays, Arrays], Arrays]
  params: Arrays
  inputs: tuple[Input, ...]
  info: dict[str, Any]

  def specs(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Describes the inputs to JAX; free sizes are symbols.

    Returns:
      Input name -> shape and dtype.
    """
    free = [i.shape[0] for i in self.inputs if isinstance(i.shape[0], str)]
    names = sorted(set(map(str, free)))
    symbols: Mapping[str, Any] = {}
    if names:
      dims = jax.export.symbolic_shape(", ".join(names))
      symbols = dict(zip(names, dims, strict=True))
    return {
      i.name: jax.ShapeDtypeStruct(
        tuple(symbols.get(s, s) if isinstance(s, str) else s for s in i.shape),
        i.dtype,
      )
      for i in self.inputs
    }

  def outputs(self) -> dict[str, tuple[list[int | str], str]]:
    """Describes the outputs.

    Returns:
      Output name -> (sizes, dtype).

    Raises:
      ConfigError: the model does not take a batch of free size.
    """
    params = {
      k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in self.params.items()
    }
    with refuse_free_sizes(self):
      out = jax.eval_shape(self.fn, params, self.specs())
    size = lambda s: s if isinstance(s, int) else str(s)
    return {
      k: ([size(s) for s in x.shape], str(x.dtype)) for k, x in out.items()
    }

  def with_params(self, params: Arrays) -> "Forward":
    """Replaces the parameters.

    Args:
      params: name -> array.

    Returns:
      A new object.
    """
    return dataclasses.replace(self, params=params)


class refuse_free_sizes:
  """Explains the errors of models that need to know the size of the batch."""

  def __init__(self, forward: Forward):
    """Remembers what is traced.

    Args:
      forward: whose inputs tell whether sizes are free.
    """
    self._free = any(isinstance(i.shape[0], str) for i in forward.inputs)

  def __enter__(self) -> None:
    """Does nothing."""

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    """Raises a ConfigError for errors that free sizes cause."""
    free = ("_DimExpr", "inconclusive", "symbolic")
    symbolic = error is not None and (
      type(error).__name__.startswith("InconclusiveDimension")
      or any(word in str(error) for word in free)
    )
    if self._free and symbolic:
      raise lookup.ConfigError(
        "This model does not take batches of free size, since it computes with "
        f"their size ({str(error).splitlines()[0]}): give a number, such as "
        "--batch_size=1."
      ) from error


def of(
  model: Model,
  *,
  batch_size: int | None = None,
  tower: str = "both",
) -> Forward:
  """Takes the forward function out of a trained model.

  Args:
    model: result of `pretrained.load`.
    batch_size: of pictures and of texts; None: free.
    tower: of a model of images and texts, one of `TOWERS`.

  Returns:
    Forward, with preprocessed pictures as inputs.

  Raises:
    ConfigError: there is no such tower, or the model has no towers.
    ValueError: the batch size is not positive.
  """
  if tower not in TOWERS:
    raise lookup.unknown("tower", tower, TOWERS)
  if batch_size is not None and batch_size < 1:
    raise ValueError(
      f"batch_size={batch_size}: it should be at least 1, or free."
    )
  if isinstance(model, ImageText):
    return without_unused(_of_towers(model, batch_size, tower))
  if tower != "both":
    raise lookup.ConfigError(
      f"tower={tower!r} is for models of images and texts; {model.name} is a "
      f"{type(model).__name__}: leave it out."
    )
  return without_unused(_of_network(model, batch_size))


def _of_network(model, batch_size):
  is_backbone = not isinstance(model, Regressor | Classifier)
  network = model.network if isinstance(model, Regressor) else model
  apply, call = model.model.apply, network.call
  loss = getattr(network, "loss", None)
  inputs, join = _inputs("image", model.preprocess.example(), batch_size, BATCH)
  info: dict[str, Any] = {"pp": model.pp}
  if isinstance(model, Regressor):
    info["target_names"] = list(model.target_names)
  elif isinstance(model, Classifier):
    info |= {"class_names": list(model.class_names), "loss": loss}

  def fn(params, arrays):
    logits, out = apply({"params": _tree(params)}, join(arrays), **call)
    logits = logits.astype(jnp.float32)
    if is_backbone:
      outputs = {"features": out.get("pre_logits", logits)}
      if "encoded" in out:
        outputs["tokens"] = out["encoded"]
      return {k: x.astype(jnp.float32) for k, x in outputs.items()}
    if isinstance(model, Regressor):
      outputs = {"values": logits * model.std[None] + model.mean[None]}
    else:
      to_probabilities = jax.nn.sigmoid if loss == "sigmoid" else jax.nn.softmax
      outputs = {"logits": logits, "probabilities": to_probabilities(logits)}
    if "pre_logits" in out:
      outputs["features"] = out["pre_logits"].astype(jnp.float32)
    return outputs

  return Forward(fn, _flat(model.params), inputs, info)


def _of_towers(model, batch_size, tower):
  apply, embedder = model.model.apply, model.embedder
  images, join_image = _inputs(
    "image", model.preprocess.example(), batch_size, BATCH
  )
  example = embedder.example_text
  texts, join_text = _inputs("text", example, batch_size, TEXTS)
  inputs = {"image": images, "text": texts, "both": images + texts}[tower]
  one, zero = np.ones([1, 1]), np.zeros([1, 1])
  bias = float(embedder.logits(zero, one)[0, 0])
  info = {
    "pp": model.pp,
    "pp_txt": embedder.pp_txt,
    "loss": model.loss,
    # Logits are factor * (image_embedding @ text_embedding.T) + bias.
    "factor": float(embedder.logits(one, one)[0, 0]) - bias,
    "bias": bias,
  }

  def fn(params, arrays):
    image = None if tower == "text" else join_image(arrays)
    text = None if tower == "image" else join_text(arrays)
    zimg, ztxt, out = apply({"params": _tree(params)}, image, text)
    z = {"image_embedding": zimg, "text_embedding": ztxt}
    z = {k: x.astype(jnp.float32) for k, x in z.items() if x is not None}
    if tower == "both":
      similarity = z["image_embedding"] @ z["text_embedding"].T
      logits = similarity * out["t"][None]
      z["logits"] = logits + out["b"][None] if "b" in out else logits
    return z

  return Forward(fn, _flat(model.params), inputs, info)


def _inputs(
  name: str, example: Any, batch_size: int | None, free: str
) -> tuple[tuple[Input, ...], Callable[[Arrays], Any]]:
  """Names the arrays of a model's input; also returns how to put them together."""
  leaves, treedef = jax.tree.flatten(example)
  single = jax.tree_util.treedef_is_leaf(treedef)
  names = [name] if single else [f"{name}_{i}" for i in range(len(leaves))]
  size = free if batch_size is None else batch_size
  inputs = tuple(
    Input(n, (size, *np.shape(x)), str(np.asarray(x).dtype))
    for n, x in zip(names, leaves, strict=True)
  )
  join = lambda arrays: jax.tree.unflatten(treedef, [arrays[n] for n in names])
  return inputs, join


def _flat(params: Params) -> Arrays:
  return flax.traverse_util.flatten_dict(params, sep="/")


def _tree(params: Arrays) -> Params:
  """Makes a model's parameters of named arrays, which may be quantized."""
  whole = quantize.dequantize(params)
  return flax.traverse_util.unflatten_dict(whole, sep="/")


def without_unused(forward: Forward) -> Forward:
  """Leaves out the parameters that no output depends on: of another tower, say.

  Args:
    forward: the function.

  Returns:
    The same function of fewer parameters.

  Raises:
    ConfigError: the model does not take a batch of free size.
  """
  specs = {
    k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in forward.params.items()
  }
  with refuse_free_sizes(forward):
    closed = jax.make_jaxpr(forward.fn)(specs, forward.specs())
  jaxpr = compat.jaxpr_of(closed)
  used = {
    v
    for v in (*(v for e in jaxpr.eqns for v in e.invars), *jaxpr.outvars)
    if not compat.is_literal(v)
  }
  names = sorted(specs)  # The order of the leaves of a dict.
  kept = {n for n, v in zip(names, jaxpr.invars, strict=False) if v in used}
  if len(kept) == len(names):
    return forward
  missing = {k: specs[k] for k in names if k not in kept}
  zeros = lambda: {k: jnp.zeros(s.shape, s.dtype) for k, s in missing.items()}
  fn = forward.fn
  return dataclasses.replace(
    forward,
    fn=lambda params, arrays: fn({**params, **zeros()}, arrays),
    params={k: forward.params[k] for k in names if k in kept},
  )
